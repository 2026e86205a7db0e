"""Calls on the fast path, to their end: upstreams that fail, clients that leave, what goes down of an answer and what
does not, large answers, and the end of the gateway.
"""

import itertools
import os
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests import swarm
from tests.ends import Broken, Client, End, Message
from tests.fast_paths import (
    answer_to,
    counted,
    fresh_gateway,
    needs_wire,
    request,
    resolution,
    serving_fast,
    twice,
)
from tests.gateways import Gateway, problem, until
from tests.upstreams import OK, Talk, Upstream

pytestmark = needs_wire

PRICE: Final = 10_000_000
MIB: Final = 1024 * 1024


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving_fast(tmp_path_factory.mktemp("fast"), upstream) as running:
        yield running


numbers = itertools.count()


@pytest.fixture
def place() -> str:
    """The beginning of the paths of a route at 0.01 USD that no other test calls."""
    return f"/p{next(numbers):02}"


def failed(answer: Message) -> tuple[int, str]:
    return answer.status, problem(answer)["code"]


def wait_until_closed(gateway: Gateway, port: int) -> None:
    """Wait until the worker has closed its connection from this port of its own."""
    (worker,) = gateway.workers()
    until(lambda: all(each.laddr.port != port for each in worker.net_connections()), "it is closed")


# --- the upstream fails


def test_an_upstream_that_refuses_the_connection_costs_nothing(gateway: Gateway, token: str) -> None:
    for answer in twice(gateway, request("POST", "/gone/x", token, body=b"abc")):
        assert failed(answer) == (502, "upstream_failed")
        assert (answer["tolsey-hold"] != "", "tolsey-cost" in answer) == (True, False)
    gateway.stands(token, spent="0", calls=0)
    assert resolution(gateway) == ("void", 0, "the upstream cannot be reached")
    assert counted(gateway, "/gone/*", 2) == 2


def test_an_upstream_that_does_not_accept_in_time_costs_nothing(gateway: Gateway, token: str) -> None:
    """Nor does it cost a client anything that leaves while it is waited for."""
    client = gateway.client()
    client.say(request("GET", "/full/x", token))
    gateway.stands(token, spent="0", held="0.01", calls=0)
    client.close()
    gateway.stands(token, spent="0", calls=0)
    assert resolution(gateway) == ("void", 0, "the client went away")
    with gateway.client() as other:
        assert failed(answer_to(other, request("GET", "/full/x", token))) == (504, "upstream_timeout")
    gateway.stands(token, spent="0", calls=0)
    assert resolution(gateway)[0] == "void"
    assert counted(gateway, "/full/*", 2) == 2


def test_an_upstream_that_breaks_off_before_it_answers_is_paid(
    gateway: Gateway, upstream: Upstream, token: str, place: str
) -> None:
    ends: list[Callable[[Talk], object]] = [
        Talk.close,
        Talk.reset,
        lambda talk: talk.say("HTTP/1.1 200 OK\r\nContent-Le"),
        lambda talk: talk.say("HTTP/1.1 103 Early Hints\r\n\r\n"),
        lambda talk: talk.say("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 9\r\n\r\nhalf"),
        lambda talk: talk.say("HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n", "a" * 60_000),
    ]
    with gateway.client() as client:
        for end in ends:
            client.say(request("GET", f"{place}/talk", token))
            talk = upstream.hear()
            end(talk)
            talk.close()
            answer = client.answer()
            assert failed(answer) == (502, "upstream_failed")
        assert answer_to(client, request("GET", f"{place}/x", token)).status == 200
    gateway.stands(token, spent="0.07", calls=7)
    assert sum(entry.note.startswith("unmetered: the upstream broke off") for entry in gateway.entries()) == 4
    assert counted(gateway, f"{place}/*", 7) == 7


def test_an_answer_that_breaks_off_half_way_is_seen_to(
    gateway: Gateway, upstream: Upstream, token: str, place: str
) -> None:
    heads = (
        "Content-Length: 100000\r\n\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "Transfer-Encoding: chunked\r\nLocation: /x\r\n\r\n9\r\nhalf",
    )
    for head, end in itertools.product(heads, (Talk.close, Talk.reset)):
        with gateway.client() as client:
            client.say(request("GET", f"{place}/talk", token))
            talk = upstream.hear()
            talk.say("HTTP/1.1 200 OK\r\n", head)
            found = client.head()
            assert found["tolsey-cost"] == "0.01 USD"
            assert (client.chunk() if "transfer-encoding" in found else client.exactly(4)) == b"half"
            end(talk)
            with pytest.raises(Broken):
                client.with_body(found)
        talk.close()
    gateway.stands(token, spent="0.06", calls=6)
    assert resolution(gateway) == ("settle", PRICE, "the upstream broke off in the middle of its answer")
    assert counted(gateway, f"{place}/*", 6) == 6


def test_an_upstream_that_falls_silent_is_left(gateway: Gateway, upstream: Upstream, token: str) -> None:
    """Before its answer with a refusal; in the middle of it by breaking it off."""
    with gateway.client() as client:
        client.say(request("POST", "/hasty/talk", token, body=b"abc"))
        talk = upstream.hear()
        assert failed(client.answer()) == (504, "upstream_timeout")
        assert talk.body() == b"abc"
        assert talk.is_left()
        talk.close()
        client.say(request("POST", "/hasty/talk", token, body=b"abc"))
        talk = upstream.hear()
        assert talk.body() == b"abc"
        talk.say("HTTP/1.1 200 OK\r\n\r\nhalf")
        head = client.head()
        assert client.chunk() == b"half"
        with pytest.raises(Broken):
            client.with_body(head)
        assert talk.is_left()
        talk.close()
    gateway.stands(token, spent="0.02", calls=2)
    assert resolution(gateway) == ("settle", PRICE, "nothing moved for too long, upstream or downstream")
    assert counted(gateway, "/hasty/*", 2) == 2


def test_a_connection_to_the_upstream_is_used_again(
    gateway: Gateway, upstream: Upstream, token: str, place: str
) -> None:
    """But not one that the upstream closed, or said something on that nobody asked for."""
    ends: list[Callable[[Talk], object]] = [
        Talk.close,
        lambda talk: talk.say(OK.replace(b"{}", b"!!")),
        lambda talk: talk.say("HTTP/1.1 200 OK\r\n"),
    ]
    with gateway.client() as client:
        assert answer_to(client, request("GET", f"{place}/x", token)).status == 200
        before = upstream.connections
        for _ in range(5):
            assert answer_to(client, request("GET", f"{place}/x", token)).status == 200
        assert upstream.connections == before
        for end in ends:
            client.say(request("GET", f"{place}/talk", token))
            talk = upstream.hear()
            port = talk.socket.getpeername()[1]
            talk.say(OK)
            assert client.answer().body == b"{}"
            end(talk)
            wait_until_closed(gateway, port)
            talk.close()
            assert answer_to(client, request("GET", f"{place}/x", token)).body == b"{}"
    gateway.stands(token, spent="0.12", calls=12)
    assert counted(gateway, f"{place}/*", 12) == 12


# --- the client leaves


def test_a_client_that_leaves_before_the_answer(gateway: Gateway, upstream: Upstream, token: str, place: str) -> None:
    for end in (Client.close, Client.reset):
        client = gateway.client()
        client.say(request("POST", f"{place}/talk", token, body=b"abc"))
        talk = upstream.hear()
        assert talk.body() == b"abc"
        end(client)
        assert talk.is_left()
        talk.close()
    gateway.stands(token, spent="0.02", calls=2)
    assert resolution(gateway) == ("settle", PRICE, "unmetered: the client went away")
    assert counted(gateway, f"{place}/*", 2) == 2


def test_a_client_that_leaves_in_the_middle_of_the_answer(
    gateway: Gateway, upstream: Upstream, token: str, place: str
) -> None:
    """While nothing comes, and while more comes than it takes."""
    for is_much in (False, True):
        client = gateway.client()
        client.say(request("GET", f"{place}/talk", token))
        talk = upstream.hear()
        talk.say("HTTP/1.1 200 OK\r\n\r\nevent")
        client.head()
        assert client.chunk() == b"event"
        if is_much:
            assert talk.fill(0.2) > 0
        client.close()
        assert talk.is_left()
        talk.close()
    gateway.stands(token, spent="0.02", calls=2)
    assert resolution(gateway) == ("settle", PRICE, "the client went away")
    assert counted(gateway, f"{place}/*", 2) == 2


# --- the answer


def down(gateway: Gateway, upstream: Upstream, target: str, token: str, *lines: str, method: str = "GET") -> Message:
    """What a client gets of an answer, the second time."""
    prefix = "/v2" if target.startswith("/prefixed") else ""
    upstream.answers[prefix + target] = "\r\n".join(lines).encode("latin-1")
    first, second = twice(gateway, request(method, target, token))
    assert (first.status, first.body) == (second.status, second.body)
    return second


def test_answers_without_a_body(gateway: Gateway, upstream: Upstream, token: str, place: str) -> None:
    cases: list[tuple[str, str, list[str], list[str]]] = [
        ("HEAD", "200 OK", ["5"], ["5"]),
        ("HEAD", "200 OK", [], []),
        ("GET", "304 Not Modified", ["5"], ["5"]),
        ("GET", "204 No Content", ["5"], []),
        ("GET", "204 No Content", [], []),
    ]
    for number, (method, status, lengths, found) in enumerate(cases):
        lines = [f"HTTP/1.1 {status}", *(f"Content-Length: {length}" for length in lengths), 'ETag: "a"', "", ""]
        answer = down(gateway, upstream, f"{place}/{number}", token, *lines, method=method)
        assert (answer.line, answer["etag"]) == (f"HTTP/1.1 {status}", '"a"')
        assert (answer.all("content-length"), answer.all("transfer-encoding")) == (found, [])
        assert answer["tolsey-cost"] == "0.01 USD"
    gateway.stands(token, spent="0.1", calls=10)
    assert counted(gateway, f"{place}/*", 10) == 10


def test_how_a_body_is_framed(gateway: Gateway, upstream: Upstream, token: str, place: str) -> None:
    """Interim answers, extensions and trailers end here; what ends with the connection goes on in chunks."""
    chunks = "3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nX-Trailer: y\r\n\r\n"
    cases = (
        ("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Trailer: X-Trailer", "", chunks),
        ("HTTP/1.1 103 Early Hints", "Link: </a>", "", "HTTP/1.1 200 OK", "Content-Length: 5", "", "hello"),
    )
    for number, lines in enumerate(cases):
        answer = down(gateway, upstream, f"{place}/{number}", token, *lines)
        assert (answer.status, answer.body) == (200, b"hello")
        assert ("transfer-encoding" in answer) == (number == 0)
        assert not {"link", "trailer", "x-trailer"} & {name for name, _ in answer.headers}
    with gateway.client() as client:
        for _ in range(2):
            client.say(request("GET", f"{place}/talk", token))
            talk = upstream.hear()
            talk.say("HTTP/1.1 200 OK\r\n\r\nhel")
            head = client.head()
            assert (head["transfer-encoding"], client.chunk()) == ("chunked", b"hel")
            talk.say("lo")
            talk.close()
            assert client.with_body(head).body == b"lo"
    assert counted(gateway, f"{place}/*", 6) == 6


def test_which_headers_go_down(gateway: Gateway, upstream: Upstream, token: str) -> None:
    lines = (
        *("HTTP/1.1 201 Created", f"Location: http://127.0.0.1:{upstream.port}/v2/y?z", "Connection: X-Hop, close"),
        *("X-Hop: 1", "Keep-Alive: timeout=5", "Tolsey-Cost: 0 USD", "TOLSEY-OTHER: x", "Set-Cookie: a=\xe9"),
        *("Set-Cookie: b=2", "X-End: 1", "Date: Sun, 06 Nov 1994 08:49:37 GMT", "Content-Length: 2", "", "{}"),
    )
    answer = down(gateway, upstream, "/prefixed/x", token, *lines)
    assert (answer.line, answer["location"], answer["tolsey-cost"]) == ("HTTP/1.1 201 Created", "/y?z", "0.01 USD")
    assert (answer.all("set-cookie"), answer["x-end"]) == (["a=\xe9", "b=2"], "1")
    assert answer["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert not {"connection", "x-hop", "keep-alive", "tolsey-other"} & {name for name, _ in answer.headers}
    assert upstream.last().target == "/v2/prefixed/x"
    assert counted(gateway, "/prefixed/*", 2) == 2


def test_a_failure_that_is_free(gateway: Gateway, upstream: Upstream, token: str) -> None:
    for status, cost in ((500, "0 USD"), (599, "0 USD"), (404, "0.01 USD")):
        lines = (f"HTTP/1.1 {status} x", "Content-Length: 4", "", "oops")
        answer = down(gateway, upstream, f"/lenient/{status}", token, *lines)
        assert (answer.status, answer.body, answer["tolsey-cost"]) == (status, b"oops", cost)
        assert gateway.line_of(answer["tolsey-hold"])["cost"] == cost
    with gateway.client() as client:
        client.say(request("GET", "/lenient/talk", token))
        upstream.hear().close()
        assert failed(client.answer()) == (502, "upstream_failed")
    gateway.stands(token, spent="0.03", calls=7)
    assert counted(gateway, "/lenient/*", 7) == 7


# --- large answers, and memory

BLOCK: Final = os.urandom(MIB)


def grown(gateway: Gateway, before: int = 0) -> int:
    """How much memory the worker has, beyond so much."""
    (worker,) = gateway.workers()
    return int(worker.memory_info().rss) - before


def test_a_large_answer_to_a_client_that_is_slow(gateway: Gateway, upstream: Upstream, token: str, place: str) -> None:
    blocks = 64
    with gateway.client() as client:
        client.say(request("GET", f"{place}/talk", token))
        talk = upstream.hear()
        before, sent = grown(gateway), [0]

        def pour() -> None:
            talk.say(f"HTTP/1.1 200 OK\r\nContent-Length: {blocks * MIB}\r\n\r\n")
            for _ in range(blocks * 16):
                talk.socket.sendall(BLOCK[: MIB // 16])
                sent[0] += MIB // 16

        pouring = threading.Thread(target=pour)
        pouring.start()
        seen = -1
        while seen < sent[0]:
            seen = sent[0]
            time.sleep(0.3)
        assert seen < blocks * MIB
        assert grown(gateway, before) < 4 * MIB
        assert client.head()["content-length"] == str(blocks * MIB)
        for _ in range(blocks * 16):
            assert zlib.crc32(client.exactly(MIB // 16)) == zlib.crc32(BLOCK[: MIB // 16])
        pouring.join()
        talk.over()
        assert answer_to(client, request("GET", f"{place}/x", token)).status == 200
    assert grown(gateway, before) < 8 * MIB
    gateway.stands(token, spent="0.02", calls=2)
    assert counted(gateway, f"{place}/*", 2) == 2


def test_a_large_answer_that_is_there_all_at_once(gateway: Gateway, upstream: Upstream, token: str) -> None:
    """Its head is decided in Python, and once that is done no socket may have any more news. The worker sleeps while
    the answer arrives; its size is what is read of an answer in one turn, and a little more.
    """
    (worker,) = gateway.workers()
    body = BLOCK + BLOCK[:100_000]
    for _ in range(16):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MIB)
            sock.connect(("127.0.0.1", gateway.port))
            client = End(sock)
            client.say(request("GET", "/brisk/talk", token))
            talk = upstream.hear()
            worker.suspend()
            head = f"HTTP/1.1 200 OK\r\nLocation: /x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            saying = threading.Thread(target=talk.say, args=(head + body,))
            saying.start()
            saying.join(0.02)
            worker.resume()
            assert client.head()["location"] == "/x"
            assert zlib.crc32(client.exactly(len(body))) == zlib.crc32(body)
            saying.join()
            talk.over()
    gateway.stands(token, spent="0.16", calls=16)


def test_requests_that_never_repeat_leave_nothing_behind(gateway: Gateway, token: str, place: str) -> None:
    """Such as those whose bodies come a moment later."""
    padded = itertools.count()

    def some() -> int:
        for _ in range(250):
            asked = request("POST", f"{place}/x", token, f"X: {next(padded):060000}", body=b"abc")
            with gateway.client() as client:
                client.say(asked[:-3])
                time.sleep(0.002)
                assert answer_to(client, asked[-3:]).status == 200
        # So many connections more that what these left to be collected is collected.
        for _ in range(600):
            with gateway.client() as client:
                assert answer_to(client, request("GET", f"{place}/x", "nonsense")).status == 401
        return grown(gateway)

    sizes = [some() for _ in range(3)]
    # Chance has its part in what is collected when, but not twice.
    assert min(second - first for first, second in itertools.pairwise(sizes)) < 8 * MIB


# --- the end


def test_calls_under_way_are_finished_when_the_gateway_ends(upstream: Upstream, tmp_path: Path) -> None:
    """Also: what is refused has a date, before anything was handed to the server."""
    with fresh_gateway(tmp_path, upstream) as gateway:
        gateway.begin()
        assert gateway.process is not None
        token, poor = gateway.token(), gateway.token(budget="0.001 USD")
        with gateway.client() as idle, gateway.client() as slow, gateway.client() as stream:
            assert answer_to(idle, request("GET", "/x/y", token)).status == 200
            refused = answer_to(idle, request("GET", "/x/y", poor))
            slow.say(request("GET", "/x/talk", token))
            slow_talk = upstream.hear()
            stream.say(request("GET", "/x/talk", token))
            stream_talk = upstream.hear()
            stream_talk.say("HTTP/1.1 200 OK\r\n\r\none")
            head = stream.head()
            assert stream.chunk() == b"one"
            assert counted(gateway, "/x/*", 2) == 2
            gateway.process.send_signal(signal.SIGTERM)
            until(lambda: not swarm.answers(gateway.port), "no new connection is taken")
            assert idle.is_left()
            assert slow.is_silent(0.2)
            slow_talk.answers()
            answer = slow.answer()
            assert (answer.status, answer["connection"], answer["tolsey-cost"]) == (200, "close", "0.01 USD")
            assert slow.is_left()
            stream_talk.say(" two")
            stream_talk.close()
            assert stream.with_body(head).body == b" two"
            assert stream.is_left()
        assert gateway.ends() == 0, gateway.said()
        assert sum(row.spent for row in gateway.trail()) == 3 * PRICE
        assert gateway.fsck().open_holds == 0
        assert "Traceback" not in gateway.said()
        assert failed(refused) == (402, "budget_exhausted")
        assert refused["date"]
