"""Bodies, both ways: as they come, piece by piece, large, slow, too large, empty. In flat memory."""

import threading
import time
import zlib

import psutil
import pytest

from tests.ends import Client
from tests.gateways import Gateway, problem
from tests.upstreams import OK, Upstream

CONFIG = """
[server]
[[upstream]]
name = "plain"
url = "http://127.0.0.1:<port>"
timeout = 20.0
[[route]]
path = "/small/*"
methods = ["*"]
upstream = "plain"
price = "0.01 USD"
max_body = 1000
[[route]]
path = "/*"
methods = ["*"]
upstream = "plain"
price = "0.01 USD"
"""
MIB = 1024 * 1024
SIZES = [64 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.slow)]
FLAT = 40 * MIB
"""By how much a worker may grow while it carries one large body."""


@pytest.fixture
def token(gateway: Gateway) -> str:
    return gateway.token()


# --- up


def test_a_chunked_request_goes_up_piece_by_piece(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("POST", "/talk", "Transfer-Encoding: chunked", "Trailer: X-After", token=token)
        talk = upstream.hear()
        assert talk.request.all("transfer-encoding") == ["chunked"]
        assert "content-length" not in talk.request
        client.say("5;extension=1\r\nhello\r\n")
        assert talk.chunk() == b"hello"
        client.say("6\r\n world\r\n")
        assert talk.chunk() == b" world"
        client.say("0\r\nX-After: dropped\r\n\r\n")
        assert talk.until(b"\r\n\r\n") == b"0\r\n\r\n"
        talk.answers()
        assert client.answer().status == 200
    gateway.stands(token, spent="0.01", calls=1)


def test_a_request_with_a_length_goes_up_while_it_comes(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("PUT", "/talk", "Content-Length: 10", token=token)
        talk = upstream.hear()
        assert talk.request.all("content-length") == ["10"]
        assert "transfer-encoding" not in talk.request
        for piece in (b"abc", b"defg", b"hij"):
            assert talk.is_silent(0.02)
            client.say(piece)
            assert talk.exactly(len(piece)) == piece
        talk.answers()
        assert client.answer().status == 200


def test_expect_100_continue(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("POST", "/talk", "Expect: 100-continue", "Content-Length: 3", token=token)
        assert client.head().line == "HTTP/1.1 100 Continue"
        talk = upstream.hear()
        assert "expect" not in talk.request
        client.say("abc")
        assert talk.body() == b"abc"
        talk.answers()
        assert client.answer().status == 200


def test_a_refused_request_is_not_told_to_continue(gateway: Gateway, upstream: Upstream) -> None:
    with upstream.hears_nothing(), gateway.client() as client:
        client.ask("POST", "/x", "Expect: 100-continue", "Content-Length: 3")
        answer = client.answer()
        assert (answer.status, answer["connection"]) == (401, "close")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_an_empty_body_is_said_to_be_empty(gateway: Gateway, upstream: Upstream, token: str, method: str) -> None:
    for headers in (("Content-Length: 0",), ()):
        assert gateway.ask(method, "/x", *headers, token=token).status == 200
        assert upstream.last().all("content-length") == ["0"]
        assert "transfer-encoding" not in upstream.last()


def test_a_get_has_a_body_only_if_the_client_sends_one(gateway: Gateway, upstream: Upstream, token: str) -> None:
    gateway.ask("GET", "/x", token=token)
    assert "content-length" not in upstream.last()
    assert "transfer-encoding" not in upstream.last()
    gateway.ask("GET", "/x", token=token, body=b"abc")
    assert (upstream.last()["content-length"], upstream.last().body) == ("3", b"abc")


# --- too large


def test_a_body_that_is_announced_too_large_costs_nothing(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with upstream.hears_nothing():
        answer = gateway.ask("POST", "/small/x", token=token, body=b"a" * 1001)
    assert (answer.status, problem(answer)["code"]) == (413, "body_too_large")
    gateway.stands(token, spent="0", calls=0)
    assert gateway.ask("POST", "/small/x", token=token, body=b"a" * 1000).status == 200


def test_a_body_that_grows_too_large_is_cut_and_charged(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("POST", "/small/talk", "Transfer-Encoding: chunked", token=token)
        talk = upstream.hear()
        client.say("3e8\r\n", "a" * 1000, "\r\n")
        assert talk.chunk() == b"a" * 1000
        client.say("1\r\na\r\n")
        answer = client.answer()
        assert (answer.status, problem(answer)["code"]) == (413, "body_too_large")
        assert answer["tolsey-hold"]
        assert talk.rest() == b""
    gateway.stands(token, spent="0.01", calls=1)


def test_a_client_that_is_refused_in_the_middle_of_its_body_sees_why(
    gateway: Gateway, upstream: Upstream, token: str
) -> None:
    body = b"a" * (5 * MIB)
    with upstream.hears_nothing():
        assert problem(gateway.ask("POST", "/x", body=body))["code"] == "token_missing"
        assert problem(gateway.ask("POST", "/small/x", token=token, body=body))["code"] == "body_too_large"
        with gateway.client() as client:
            client.say("POST /x HTTP/1.1\r\nContent-Length: 5, 6\r\nHost: x\r\n\r\n", body)
            assert problem(client.answer())["code"] == "request_invalid"


def drip(client: Client) -> None:
    """Send a byte now and then."""
    for _ in range(100):
        client.say("a")
        time.sleep(0.1)


def test_a_client_that_never_ends_its_refused_body_is_left(gateway: Gateway) -> None:
    with gateway.client() as client:
        client.ask("POST", "/x", "Content-Length: 1000000")
        assert client.answer().status == 401
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            drip(client)
        assert 1 < time.monotonic() - began < 5


# --- down


def test_a_chunked_answer_comes_down_piece_by_piece(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("GET", "/talk", token=token)
        talk = upstream.hear()
        talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-After\r\n\r\n5\r\nhello\r\n")
        head = client.head()
        assert head.all("transfer-encoding") == ["chunked"]
        assert client.chunk() == b"hello"
        talk.say("6\r\n world\r\n")
        assert client.chunk() == b" world"
        assert client.is_silent(0.02)
        talk.say("0\r\nX-After: dropped\r\n\r\n")
        talk.over()
        assert client.until(b"\r\n\r\n") == b"0\r\n\r\n"
        client.ask("GET", "/x", token=token)
        assert client.answer().status == 200


def test_events_come_one_by_one(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("GET", "/talk", "Accept: text/event-stream", token=token)
        talk = upstream.hear()
        talk.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert client.head()["content-type"] == "text/event-stream"
        for number in range(20):
            event = f"id: {number}\ndata: {'x' * number}\n\n".encode()
            talk.say(b"%x\r\n%b\r\n" % (len(event), event))
            assert client.chunk() == event
        gateway.stands(token, spent="0", held="0.01", calls=0)
        talk.say("0\r\n\r\n")
        talk.over()
        assert client.chunk() == b""
    gateway.stands(token, spent="0.01", calls=1)


def test_a_long_answer_with_a_length_comes_down_while_it_comes(
    gateway: Gateway, upstream: Upstream, token: str
) -> None:
    with gateway.client() as client:
        client.ask("GET", "/talk", token=token)
        talk = upstream.hear()
        talk.say("HTTP/1.1 206 Partial\r\nContent-Length: 100000\r\n\r\n", "a" * 1000)
        assert client.head()["content-length"] == "100000"
        assert client.exactly(1000) == b"a" * 1000
        talk.say("b" * 99_000)
        talk.over()
        assert client.exactly(99_000) == b"b" * 99_000


def test_an_answer_that_ends_with_its_connection(gateway: Gateway, upstream: Upstream, token: str) -> None:
    for version, framing in (("1.1", "chunked"), ("1.0", "")):
        with gateway.client() as client:
            client.say(f"GET /talk HTTP/{version}\r\nHost: x\r\nX-Api-Key: {token}\r\n\r\n")
            talk = upstream.hear()
            talk.say("HTTP/1.0 200 OK\r\n\r\nhello")
            talk.close()
            head = client.head()
            assert head.all("transfer-encoding") == ([framing] if framing else [])
            body = client.with_body(head).body if framing else client.rest()
            assert body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("length", ["", "Content-Length: 5\r\n"])
def test_an_answer_without_a_body(gateway: Gateway, upstream: Upstream, token: str, status: int, length: str) -> None:
    upstream.answers["/none"] = f"HTTP/1.1 {status} x\r\nEtag: a\r\n{length}\r\n".encode()
    with gateway.client() as client:
        client.ask("GET", "/none", token=token)
        answer = client.answer()
        assert (answer.status, answer["etag"], answer["tolsey-cost"]) == (status, "a", "0.01 USD")
        assert "transfer-encoding" not in answer
        assert answer.all("content-length") == (["5"] if length and status == 304 else [])
        client.ask("GET", "/x", token=token)
        assert client.answer().body == b"{}"
    gateway.stands(token, spent="0.02", calls=2)


def test_interim_answers_are_kept_to_oneself(gateway: Gateway, upstream: Upstream, token: str) -> None:
    upstream.answers["/hints"] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n" + OK
    answer = gateway.ask("GET", "/hints", token=token)
    assert (answer.status, answer.body, "link" in answer) == (200, b"{}", False)


def test_upstream_connections_are_used_again(gateway: Gateway, upstream: Upstream, token: str) -> None:
    gateway.ask("GET", "/x", token=token)
    before = upstream.connections
    for number in range(10):
        assert gateway.ask("POST", "/x", token=token, body=b"a" * number).status == 200
    assert upstream.connections == before


# --- large and slow


class Peak:
    """The most that the worker grew by since this was made."""

    def __init__(self, gateway: Gateway) -> None:
        (worker,) = gateway.workers()
        self._worker = psutil.Process(worker.pid)
        self._before = self._worker.memory_info().rss
        self.bytes = 0

    def look(self) -> None:
        self.bytes = max(self.bytes, self._worker.memory_info().rss - self._before)


BLOCK = bytes(range(256)) * 4096


@pytest.mark.parametrize("size", SIZES)
def test_a_large_upload_in_flat_memory(gateway: Gateway, upstream: Upstream, token: str, size: int) -> None:
    with gateway.client() as client:
        client.ask("POST", "/talk", f"Content-Length: {size}", token=token)
        talk = upstream.hear()
        peak = Peak(gateway)
        sending = threading.Thread(target=client.pour, args=(BLOCK, size // MIB))
        sending.start()
        for _ in range(size // MIB):
            assert zlib.crc32(talk.exactly(MIB)) == zlib.crc32(BLOCK)
            peak.look()
        sending.join()
        talk.answers()
        assert client.answer().status == 200
    assert peak.bytes < FLAT
    gateway.stands(token, spent="0.01", calls=1)


@pytest.mark.parametrize("size", SIZES)
def test_a_large_download_in_flat_memory(gateway: Gateway, upstream: Upstream, token: str, size: int) -> None:
    with gateway.client() as client:
        client.ask("GET", "/talk", token=token)
        talk = upstream.hear()
        talk.say(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")
        peak = Peak(gateway)
        sending = threading.Thread(target=talk.pour, args=(BLOCK, size // MIB))
        sending.start()
        assert client.head()["content-length"] == str(size)
        for _ in range(size // MIB):
            assert zlib.crc32(client.exactly(MIB)) == zlib.crc32(BLOCK)
            peak.look()
        sending.join()
        talk.over()
    assert peak.bytes < FLAT
    gateway.stands(token, spent="0.01", calls=1)


def test_a_slow_client_stalls_the_upstream(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("GET", "/talk", token=token)
        talk = upstream.hear()
        talk.say("HTTP/1.1 200 OK\r\n\r\n")
        peak = Peak(gateway)
        sent = talk.fill()
        peak.look()
        assert sent < 64 * MIB
        assert peak.bytes < 8 * MIB
        gateway.stands(token, spent="0", held="0.01", calls=0)
        talk.close()
        assert client.head().status == 200
        got = b""
        while piece := client.chunk():
            got = (got + piece)[-MIB:]
            sent -= len(piece)
        assert sent == 0
    gateway.stands(token, spent="0.01", calls=1)


def test_a_slow_upstream_stalls_the_client(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("POST", "/talk", f"Content-Length: {1024 * MIB}", token=token)
        talk = upstream.hear()
        peak = Peak(gateway)
        sent = client.fill()
        peak.look()
        assert sent < 64 * MIB
        assert peak.bytes < 8 * MIB
        client.close()
        assert len(talk.rest()) <= sent
    gateway.stands(token, spent="0.01", calls=1)
