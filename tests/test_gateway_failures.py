"""What fails, is late or goes away: the upstream, the client. Each with the ledger right afterwards."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.ends import Broken, Client
from tests.gateways import Gateway, problem, serving
from tests.ports import free_port
from tests.upstreams import OK, Talk, Upstream

CONFIG = """
[server]
[[upstream]]
name = "hasty"
url = "http://127.0.0.1:<port>"
timeout = 0.6
[[upstream]]
name = "patient"
url = "http://127.0.0.1:<port>"
timeout = 30.0
[[upstream]]
name = "gone"
url = "http://127.0.0.1:<gone>"
[[upstream]]
name = "full"
url = "http://127.0.0.1:<full>"
connect_timeout = 0.5
[[upstream]]
name = "sealed"
url = "https://127.0.0.1:<deaf>"
[[route]]
path = "/sealed/*"
methods = ["*"]
upstream = "sealed"
price = "0.01 USD"
[[route]]
path = "/hasty/*"
methods = ["*"]
upstream = "hasty"
price = "0.01 USD"
[[route]]
path = "/patient/*"
methods = ["*"]
upstream = "patient"
price = "0.01 USD"
[[route]]
path = "/lenient/*"
methods = ["*"]
upstream = "patient"
price = "0.01 USD"
charge = "success"
[[route]]
path = "/gone/*"
methods = ["*"]
upstream = "gone"
price = "0.01 USD"
[[route]]
path = "/full/*"
methods = ["*"]
upstream = "full"
price = "0.01 USD"
"""


@pytest.fixture(scope="module")
def full() -> Iterator[int]:
    """A port whose queue of connections is full: the next one is never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()


@pytest.fixture(scope="module")
def deaf() -> Iterator[int]:
    """A port where somebody answers a TLS handshake in plain text."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1024)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, full: int, deaf: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("failures")
    with serving(folder, CONFIG, port=upstream.port, gone=free_port(), full=full, deaf=deaf) as running:
        yield running


@pytest.fixture
def token(gateway: Gateway) -> str:
    return gateway.token()


def resolution(gateway: Gateway) -> tuple[str, str]:
    """How the latest hold was resolved, and what is noted of it."""
    entry = [entry for entry in gateway.entries() if entry.kind not in ("open", "reserve")][-1]
    return entry.kind, entry.note


# --- the upstream


def test_an_upstream_that_refuses_the_connection_costs_nothing(gateway: Gateway, token: str) -> None:
    answer = gateway.ask("POST", "/gone/x", token=token, body=b"abc")
    assert (answer.status, problem(answer)["code"]) == (502, "upstream_failed")
    assert "tolsey-cost" not in answer
    gateway.stands(token, spent="0", calls=0)
    assert resolution(gateway)[0] == "void"


def test_an_upstream_that_does_not_accept_in_time_costs_nothing(gateway: Gateway, token: str) -> None:
    began = time.monotonic()
    answer = gateway.ask("GET", "/full/x", token=token)
    assert 0.4 < time.monotonic() - began < 2
    assert (answer.status, problem(answer)["code"]) == (504, "upstream_timeout")
    gateway.stands(token, spent="0", calls=0)
    assert resolution(gateway)[0] == "void"


def test_an_upstream_that_no_tls_is_to_be_had_with_costs_nothing(gateway: Gateway, token: str) -> None:
    answer = gateway.ask("GET", "/sealed/x", token=token)
    assert (answer.status, problem(answer)["code"]) == (502, "upstream_failed")
    gateway.stands(token, spent="0", calls=0)


@pytest.mark.parametrize(
    "end",
    [
        Talk.close,
        Talk.reset,
        lambda talk: (talk.say("HTTP/1.1 200 OK\r\nContent-Le"), talk.close()),
        lambda talk: (talk.say("HTTP/1.1 100 Continue\r\n\r\n"), talk.close()),
    ],
    ids=["closed", "reset", "in its head", "after an interim answer"],
)
def test_an_upstream_that_breaks_off_before_it_answers_is_paid(
    gateway: Gateway, upstream: Upstream, token: str, end: Callable[[Talk], object]
) -> None:
    with gateway.client() as client:
        client.ask("GET", "/patient/talk", token=token)
        talk = upstream.hear()
        end(talk)
        talk.close()
        answer = client.answer()
        assert (answer.status, problem(answer)["code"]) == (502, "upstream_failed")
        assert answer["tolsey-hold"]
    gateway.stands(token, spent="0.01", calls=1)
    kind, note = resolution(gateway)
    assert (kind, note.split(":")[0]) == ("settle", "unmetered")
    line = gateway.line_of(answer["tolsey-hold"])
    assert (line["status"], line["cost"], note) == (None, "0.01 USD", f"unmetered: {line['note']}")


@pytest.mark.parametrize(
    "head", ["Content-Length: 100000\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
@pytest.mark.parametrize("end", [Talk.close, Talk.reset], ids=["closed", "reset"])
def test_an_answer_that_breaks_off_half_way_is_seen_to(
    gateway: Gateway, upstream: Upstream, token: str, head: str, end: Callable[[Talk], None]
) -> None:
    with gateway.client() as client:
        client.ask("GET", "/patient/talk", token=token)
        talk = upstream.hear()
        talk.say(f"HTTP/1.1 200 OK\r\n{head}")
        found = client.head()
        assert found["tolsey-cost"] == "0.01 USD"
        assert (client.chunk() if "transfer-encoding" in found else client.exactly(4)) == b"half"
        end(talk)
        with pytest.raises(Broken):
            client.with_body(found)
    gateway.stands(token, spent="0.01", calls=1)


def test_a_short_answer_that_breaks_off_half_way_becomes_a_refusal(
    gateway: Gateway, upstream: Upstream, token: str
) -> None:
    with gateway.client() as client:
        client.ask("GET", "/patient/talk", token=token)
        talk = upstream.hear()
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        talk.close()
        answer = client.answer()
        assert (answer.status, problem(answer)["code"]) == (502, "upstream_failed")
        client.ask("GET", "/patient/x", token=token)
        assert client.answer().status == 200
    gateway.stands(token, spent="0.02", calls=2)


def test_an_upstream_that_is_silent_is_left(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        began = time.monotonic()
        client.ask("POST", "/hasty/talk", token=token, body=b"abc")
        talk = upstream.hear()
        answer = client.answer()
        assert 0.5 < time.monotonic() - began < 3
        assert (answer.status, problem(answer)["code"]) == (504, "upstream_timeout")
        talk.body()
        assert talk.is_left()
        talk.close()
        client.ask("GET", "/hasty/x", token=token)
        assert client.answer().status == 200
    gateway.stands(token, spent="0.02", calls=2)


def test_an_answer_that_falls_silent_is_broken_off(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("GET", "/hasty/talk", token=token)
        talk = upstream.hear()
        talk.say("HTTP/1.1 200 OK\r\n\r\nhalf")
        head = client.head()
        assert client.chunk() == b"half"
        with pytest.raises(Broken):
            client.with_body(head)
        assert talk.is_left()
        talk.close()
    gateway.stands(token, spent="0.01", calls=1)


def test_an_answer_that_is_slow_but_moves_is_waited_for(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("GET", "/hasty/talk", token=token)
        talk = upstream.hear()
        talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.head()
        for _ in range(4):
            time.sleep(0.3)
            talk.say("1\r\na\r\n")
            assert client.chunk() == b"a"
        talk.say("0\r\n\r\n")
        talk.over()
        assert client.chunk() == b""


def test_a_kept_connection_that_the_upstream_closed_is_not_used(
    gateway: Gateway, upstream: Upstream, token: str
) -> None:
    for _ in range(3):
        with gateway.client() as client:
            client.ask("GET", "/patient/talk", token=token)
            talk = upstream.hear()
            talk.say(OK)
            assert client.answer().status == 200
            talk.close()
            time.sleep(0.05)
            client.ask("GET", "/patient/x", token=token)
            assert client.answer().status == 200
    gateway.stands(token, spent="0.06", calls=6)


@pytest.mark.parametrize(
    ("route", "status", "spent"),
    [
        ("lenient", 500, "0"),
        ("lenient", 503, "0"),
        ("lenient", 404, "0.01"),
        ("lenient", 302, "0.01"),
        ("patient", 500, "0.01"),
        ("patient", 404, "0.01"),
    ],
)
def test_what_a_status_costs(
    gateway: Gateway, upstream: Upstream, token: str, route: str, status: int, spent: str
) -> None:
    upstream.answers[f"/{route}/{status}"] = OK.replace(b"200 OK", f"{status} x".encode())
    answer = gateway.ask("GET", f"/{route}/{status}", token=token)
    assert (answer.status, answer.body, answer["tolsey-cost"]) == (status, b"{}", f"{spent} USD")
    gateway.stands(token, spent=spent, calls=1)


def test_no_answer_is_no_failure_that_is_free(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("GET", "/lenient/talk", token=token)
        upstream.hear().close()
        assert client.answer().status == 502
    gateway.stands(token, spent="0.01", calls=1)


# --- the client


@pytest.mark.parametrize("end", [Client.close, Client.reset], ids=["closed", "reset"])
def test_a_client_that_leaves_before_the_answer(
    gateway: Gateway, upstream: Upstream, token: str, end: Callable[[Client], None]
) -> None:
    client = gateway.client()
    client.ask("POST", "/patient/talk", token=token, body=b"abc")
    talk = upstream.hear()
    assert talk.body() == b"abc"
    gateway.stands(token, spent="0", held="0.01", calls=0)
    end(client)
    assert talk.is_left(2)
    gateway.stands(token, spent="0.01", calls=1)
    talk.close()


def test_a_client_that_leaves_in_the_middle_of_the_answer(gateway: Gateway, upstream: Upstream, token: str) -> None:
    client = gateway.client()
    client.ask("GET", "/patient/talk", token=token)
    talk = upstream.hear()
    talk.say("HTTP/1.1 200 OK\r\n\r\nevent")
    client.head()
    assert client.chunk() == b"event"
    client.close()
    assert talk.is_left(2)
    gateway.stands(token, spent="0.01", calls=1)
    talk.close()


def test_a_client_that_leaves_while_much_is_on_its_way(gateway: Gateway, upstream: Upstream, token: str) -> None:
    client = gateway.client()
    client.ask("GET", "/patient/talk", token=token)
    talk = upstream.hear()
    talk.say("HTTP/1.1 200 OK\r\n\r\n")
    client.head()
    assert talk.fill(0.2) > 0
    client.close()
    with pytest.raises(Broken):
        talk.fill(5)
    gateway.stands(token, spent="0.01", calls=1)
    talk.close()


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: 100"])
def test_a_client_that_leaves_in_the_middle_of_its_body(
    gateway: Gateway, upstream: Upstream, token: str, framing: str
) -> None:
    """What the upstream has of the body must not look like the whole."""
    client = gateway.client()
    client.ask("POST", "/patient/talk", framing, token=token)
    talk = upstream.hear()
    client.say("4\r\nhalf\r\n")
    got = talk.chunk() if "chunked" in framing else talk.exactly(9)
    assert got in (b"half", b"4\r\nhalf\r\n")
    client.close()
    assert talk.rest() == b""
    gateway.stands(token, spent="0.01", calls=1)
    talk.close()


def test_a_client_that_falls_silent_in_the_middle_of_its_body(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("POST", "/hasty/talk", "Content-Length: 100", token=token)
        talk = upstream.hear()
        client.say("half")
        assert talk.exactly(4) == b"half"
        assert client.answer().status == 504
        assert talk.rest() == b""
        assert client.is_left(5)
        talk.close()
    gateway.stands(token, spent="0.01", calls=1)


def test_a_client_that_leaves_while_the_gateway_connects_pays_nothing(gateway: Gateway, token: str) -> None:
    client = gateway.client()
    client.ask("GET", "/full/x", token=token)
    gateway.stands(token, spent="0", held="0.01", calls=0)
    client.close()
    gateway.stands(token, spent="0", calls=0)
    assert resolution(gateway)[0] == "void"
