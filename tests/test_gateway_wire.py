"""The wire itself: what is not HTTP/1.1, what could be read in two ways, several requests on one connection."""

import contextlib

import pytest

from tests.ends import Broken, Client, Message
from tests.gateways import Gateway, problem
from tests.upstreams import OK, Upstream

CONFIG = """
[server]
[[upstream]]
name = "plain"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/*"
methods = ["*"]
upstream = "plain"
price = "0.01 USD"
"""


@pytest.fixture
def token(gateway: Gateway) -> str:
    return gateway.token()


def request(token: str, line: str = "GET /x HTTP/1.1", *headers: str, body: str = "") -> str:
    """A request with a token, as text."""
    return "\r\n".join([line, "Host: x", f"X-Api-Key: {token}", *headers, "", body])


CHUNKED = "Transfer-Encoding: chunked"
TWO_WAYS = {
    "a length and an encoding": (("Content-Length: 5", CHUNKED), "0\r\n\r\n"),
    "an encoding and a length": ((CHUNKED, "Content-Length: 5"), "0\r\n\r\n"),
    "two lengths": (("Content-Length: 5", "Content-Length: 6"), "abcdef"),
    "one length twice": (("Content-Length: 5", "Content-Length: 5"), "abcde"),
    "a list of lengths": (("Content-Length: 5, 5",), "abcde"),
    "a length with a sign": (("Content-Length: +5",), "abcde"),
    "a negative length": (("Content-Length: -5",), "abcde"),
    "a length in hex": (("Content-Length: 0x5",), "abcde"),
    "a length without a number": (("Content-Length:",), "abcde"),
    "a length beyond 64 bits": (("Content-Length: 18446744073709551616",), "abcde"),
    "a length beyond 18 digits": (("Content-Length: 1000000000000000000",), "abcde"),
    "a space before the colon": (("Content-Length : 5",), "abcde"),
    "chunked not at the end": (("Transfer-Encoding: chunked, gzip",), "3\r\nabc\r\n0\r\n\r\n"),
    "chunked not alone": (("Transfer-Encoding: gzip, chunked",), "3\r\nabc\r\n0\r\n\r\n"),
    "chunked twice": ((CHUNKED, CHUNKED), "3\r\nabc\r\n0\r\n\r\n"),
    "chunked in a way": (("Transfer-Encoding: xchunked",), "3\r\nabc\r\n0\r\n\r\n"),
    "chunked in quotes": (('Transfer-Encoding: "chunked"',), "3\r\nabc\r\n0\r\n\r\n"),
    "chunked and a tab": (("Transfer-Encoding: chunked\x0b",), "3\r\nabc\r\n0\r\n\r\n"),
    "identity": (("Transfer-Encoding: identity",), "abc"),
    "a folded header": ((" Content-Length: 5", "X: a", " b"), "abcde"),
    "a folded encoding": (("X: a", "\tTransfer-Encoding: chunked"), "0\r\n\r\n"),
    "a header without a colon": (("X",), ""),
    "a header without a name": ((": x",), ""),
    "a name with a space": (("X y: x",), ""),
    "a name that is no token": (("X\xe9: x",), ""),
    "a NUL in a value": (("X: a\0b",), ""),
    "a bare CR in a value": (("X: a\rTransfer-Encoding: chunked",), ""),
}


@pytest.mark.parametrize("case", TWO_WAYS)
def test_what_could_be_read_in_two_ways_is_refused(gateway: Gateway, upstream: Upstream, token: str, case: str) -> None:
    headers, body = TWO_WAYS[case]
    hidden = request(token, "GET /hidden HTTP/1.1")
    with upstream.hears_nothing(), gateway.client() as client:
        client.say(request(token, "POST /x HTTP/1.1", *headers, body=body), hidden)
        answer = client.answer()
        assert (answer.status, problem(answer)["code"]) == (400, "request_invalid")
        assert client.is_left(3)
    gateway.stands(token, spent="0", calls=0)


def test_two_hosts_are_refused_and_the_next_request_is_not(gateway: Gateway, upstream: Upstream, token: str) -> None:
    """Where it ends is plain, so that what comes behind it is the next request."""
    before = len(upstream.heard)
    with gateway.client() as client:
        client.say(request(token, "GET /x HTTP/1.1", "Host: y"), request(token, "GET /next HTTP/1.1"))
        answer = client.answer()
        assert (answer.status, problem(answer)["code"]) == (400, "request_invalid")
        assert client.answer().status == 200
    assert [message.line for message in upstream.heard[before:]] == ["GET /next HTTP/1.1"]
    gateway.stands(token, spent="0.01", calls=1)


@pytest.mark.parametrize(
    "body", ["3\nabc\n0\n\n", "-3\r\nabc\r\n", "3\r\nabcd\r\n0\r\n\r\n", "g\r\n", "3 \r\nabc\r\n", "\r\n"]
)
def test_chunks_that_are_none(gateway: Gateway, upstream: Upstream, token: str, body: str) -> None:
    with gateway.client() as client:
        client.ask("POST", "/talk", CHUNKED, token=token)
        talk = upstream.hear()
        client.say(body)
        assert b"\r\n0\r\n" not in b"\r\n" + talk.rest()
        answer = client.answer()
        assert (answer.status, problem(answer)["code"]) == (400, "request_invalid")
        assert client.is_left()
    gateway.stands(token, spent="0.01", calls=1)


@pytest.mark.parametrize(
    "line",
    [
        *("GET /x", "GET /x HTTP/0.9", "GET /x HTTP/1.2", "GET /x HTTP/2.0", "GET /x HTTP/1.1 x", "GET /x http/1.1"),
        *("GET\t/x HTTP/1.1", "GET /x\tHTTP/1.1", "GET /\xe9 HTTP/1.1", "GET /x\0y HTTP/1.1", "GET", "/x HTTP/1.1"),
        *("PRI * HTTP/2.0", "G\xc9T /x HTTP/1.1", "G(T /x HTTP/1.1", "\x16\x03\x01\x02"),
    ],
)
def test_a_first_line_that_is_none(gateway: Gateway, upstream: Upstream, token: str, line: str) -> None:
    with upstream.hears_nothing(), gateway.client() as client:
        client.say(request(token, line))
        assert client.answer().status == 400
    gateway.stands(token, spent="0", calls=0)


def test_line_feeds_alone(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with upstream.hears_nothing(), gateway.client() as client:
        client.say(request(token).replace("\r\n", "\n"))
        assert client.answer().status == 400


def test_http_1_0(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.say(f"GET /x HTTP/1.0\r\nX-Api-Key: {token}\r\n\r\n")
        assert client.answer().body == b"{}"
        assert client.is_left()
    with gateway.client() as client:
        for _ in range(2):
            client.say(f"GET /x HTTP/1.0\r\nConnection: keep-alive\r\nX-Api-Key: {token}\r\n\r\n")
            assert client.answer()["connection"] == "keep-alive"
    with upstream.hears_nothing(), gateway.client() as client:
        client.say(f"POST /x HTTP/1.0\r\n{CHUNKED}\r\nX-Api-Key: {token}\r\n\r\n0\r\n\r\n")
        assert client.answer().status == 400


def test_http_1_1_without_a_host(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with upstream.hears_nothing(), gateway.client() as client:
        client.say(f"GET /x HTTP/1.1\r\nX-Api-Key: {token}\r\n\r\n")
        assert problem(client.answer())["code"] == "request_invalid"


def test_chunks_that_are_none_after_the_answer_began(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("POST", "/talk", CHUNKED, token=token)
        talk = upstream.hear()
        talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        head = client.head()
        assert client.chunk() == b"one"
        client.say("zz\r\n")
        with pytest.raises(Broken):
            client.with_body(head)
        assert talk.rest() == b""
        talk.close()
    gateway.stands(token, spent="0.01", calls=1)


# --- heads beyond every limit


def test_a_head_that_is_too_large(gateway: Gateway, upstream: Upstream, token: str) -> None:
    for headers in ([f"X-{n}: {n}" for n in range(200)], ["X-Big: " + "a" * 70_000], ["X: " + "a" * 5000] * 20):
        with upstream.hears_nothing(), gateway.client() as client:
            client.ask("GET", "/x", *headers, token=token)
            answer = client.answer()
            assert (answer.status, problem(answer)["code"]) == (431, "headers_too_large")
            assert client.is_left(5)
    with upstream.hears_nothing(), gateway.client() as client:
        client.ask("GET", "/" + "a" * 70_000, token=token)
        assert client.answer().status == 431
    large = gateway.ask("GET", "/x?" + "a" * 30_000, "X: " + "b" * 30_000, token=token)
    assert large.status == 200


@pytest.mark.parametrize(
    "start", ["X: ", "GET /", "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: "]
)
def test_what_never_ends_is_not_kept(gateway: Gateway, start: str) -> None:
    """A header value, a target, a trailer: none of them grows without bound in the worker's memory."""
    (worker,) = gateway.workers()
    before = worker.memory_info().rss
    with gateway.client() as client, contextlib.suppress(ConnectionError):
        client.say(f"GET /x HTTP/1.1\r\nHost: x\r\n{start}" if start == "X: " else start)
        client.pour(b"a" * 1024 * 1024, 64)
        assert client.answer().status in (401, 431)
    assert worker.memory_info().rss - before < 16 * 1024 * 1024


# --- several requests on one connection


def answers(client: Client, count: int) -> list[Message]:
    return [client.answer() for _ in range(count)]


def test_requests_one_after_the_other(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        for number in range(5):
            client.ask("POST", f"/{number}", token=token, body=b"a" * number)
            assert "connection" not in client.answer()
            assert (upstream.last().target, upstream.last().body) == (f"/{number}", b"a" * number)
        client.ask("GET", "/missing")
        assert client.answer().status == 401
        client.ask("GET", "/x", "Connection: close", token=token)
        assert client.answer()["connection"] == "close"
        assert client.is_left()
    gateway.stands(token, spent="0.06", calls=6)


def test_pipelined_requests_are_answered_in_order(gateway: Gateway, upstream: Upstream, token: str) -> None:
    for number in range(30):
        upstream.answers[f"/p{number}"] = f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{number:02}".encode()
    before = len(upstream.heard)
    with gateway.client() as client:
        client.say(*(request(token, f"GET /p{number} HTTP/1.1") for number in range(30)))
        assert [int(answer.body) for answer in answers(client, 30)] == list(range(30))
    assert [message.target for message in upstream.heard[before:]] == [f"/p{number}" for number in range(30)]
    gateway.stands(token, spent="0.3", calls=30)


def test_what_follows_a_last_request_is_not_answered(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.say(request(token, "GET /x HTTP/1.1", "Connection: close"), request(token))
        assert client.answer()["connection"] == "close"
        assert client.rest() == b""
    gateway.stands(token, spent="0.01", calls=1)


def test_a_slow_first_call_holds_the_next_one_back(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.say(request(token, "GET /talk HTTP/1.1"), request(token, "POST /x HTTP/1.1", CHUNKED, body="1\r\na\r\n"))
        talk = upstream.hear()
        with upstream.hears_nothing():
            assert client.is_silent(0.1)
        talk.answers()
        assert client.answer().status == 200
        client.say("0\r\n\r\n")
        assert client.answer().status == 200
        assert upstream.last().body == b"a"


@pytest.mark.parametrize(
    "bad", ["BREW /x HTTP/1.1", "get /x HTTP/1.1", "GET /x HTTP/1.1 x", "GET", "CONNECT x:1 HTTP/1.1"]
)
def test_a_bad_request_behind_a_good_one(gateway: Gateway, upstream: Upstream, token: str, bad: str) -> None:
    """The good one is answered, and neither it nor what came before is read again."""
    before = len(upstream.heard)
    with gateway.client() as client:
        client.say(
            request(token), request(token, "POST /y HTTP/1.1", "Content-Length: 3", body="a b"), request(token, bad)
        )
        first, second, third = answers(client, 3)
        assert (first.status, second.status) == (200, 200)
        assert third.status in (400, 405)
    assert [message.target for message in upstream.heard[before:]] == ["/x", "/y"]
    gateway.stands(token, spent="0.02", calls=2)


def test_a_good_request_behind_a_bad_one(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.say(request(token, "BREW /x HTTP/1.1", "Content-Length: 1", body="a"), request(token))
        first, second = answers(client, 2)
        assert (first.status, first["allow"], second.status) == (
            405,
            "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
            200,
        )
    gateway.stands(token, spent="0.01", calls=1)


def test_more_requests_at_once_than_may_wait(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.say(request(token, "GET /talk HTTP/1.1"), *(request(token) for _ in range(200)))
        upstream.hear().answers()
        statuses = [client.answer().status for _ in range(65)]
        assert client.is_left()
    assert statuses == [200] * 64 + [400]
    gateway.stands(token, spent="0.64", calls=64)


def test_an_upgrade_is_not_taken_up(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.say(request(token, "GET /x HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket"), request(token))
        first, second = answers(client, 2)
    assert (first.status, problem(first)["code"], second.status) == (400, "request_invalid", 200)
    gateway.stands(token, spent="0.01", calls=1)
    h2c = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    with gateway.client() as client:
        client.say(request(token, "GET /x HTTP/1.1", *h2c))
        assert client.answer().status == 200
    assert not {"upgrade", "http2-settings", "connection"} & {name for name, _ in upstream.last().headers}


# --- an upstream that cannot be trusted with the client's connection


BAD_ANSWERS = {
    "two lengths": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "a length and an encoding": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an encoding and a length": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "an encoding of its own": "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a split header": "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\n{}",
    "a folded header": "HTTP/1.1 200 OK\r\nX: a\r\n Set-Cookie: b\r\nContent-Length: 2\r\n\r\n{}",
    "a switch of protocols": "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "another protocol": "SSH-2.0-OpenSSH_9.9\r\n",
    "headers without an end": "HTTP/1.1 200 OK\r\n" + "X: a\r\n" * 60_000 + "\r\n",
    "a header without an end": "HTTP/1.1 200 OK\r\nX: " + "a" * 2_000_000,
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_an_answer_that_could_be_read_in_two_ways(gateway: Gateway, upstream: Upstream, token: str, case: str) -> None:
    with gateway.client() as client:
        client.ask("GET", "/talk", token=token)
        talk = upstream.hear()
        try:
            talk.say(BAD_ANSWERS[case])
        except ConnectionError:
            assert "without an end" in case
        answer = client.answer()
        assert (answer.status, problem(answer)["code"]) == (502, "upstream_failed")
        assert "set-cookie" not in answer
        assert talk.is_left()
        talk.close()
        client.ask("GET", "/x", token=token)
        assert client.answer().body == b"{}"
    gateway.stands(token, spent="0.02", calls=2)


@pytest.mark.parametrize("status", ["200 OK", "304 Not Modified"])
def test_a_second_answer_that_nobody_asked_for(gateway: Gateway, upstream: Upstream, token: str, status: str) -> None:
    """It is never given to anybody: not as a part of the first, not as the answer to a next request."""
    evil = b"HTTP/1.1 200 OK\r\nSet-Cookie: evil=1\r\nContent-Length: 4\r\n\r\nevil"
    upstream.answers["/twice"] = OK.replace(b"200 OK", status.encode()) + evil
    with gateway.client() as client:
        for _ in range(3):
            client.ask("GET", "/twice", token=token)
            answer = client.answer()
            assert (answer.status, "set-cookie" in answer) == (int(status[:3]), False)
            assert answer.body == (b"{}" if answer.status == 200 else b"")
            client.ask("HEAD", "/twice", token=token)
            assert client.answer(to_head=True).status == int(status[:3])
            client.ask("GET", "/x", token=token)
            assert client.answer().body == b"{}"


def test_an_answer_before_its_question(gateway: Gateway, upstream: Upstream, token: str) -> None:
    """What an upstream says on an idle connection is not the answer to whoever comes next."""
    for evil in (OK.replace(b"{}", b"!!"), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", b"\r\n"):
        with gateway.client() as client:
            client.ask("GET", "/talk", token=token)
            talk = upstream.hear()
            talk.answers()
            assert client.answer().body == b"{}"
            talk.say(evil)
            assert talk.is_left()
            client.ask("GET", "/x", token=token)
            assert client.answer().body == b"{}"
    gateway.stands(token, spent="0.06", calls=6)


def test_chunks_of_an_upstream_that_are_none_break_the_answer_off(
    gateway: Gateway, upstream: Upstream, token: str
) -> None:
    for end in ("zz\r\n", "5\r\nhellox\r\n0\r\n\r\n", "-1\r\n", ""):
        with gateway.client() as client:
            client.ask("GET", "/talk", token=token)
            talk = upstream.hear()
            talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", end)
            talk.close()
            head = client.head()
            with pytest.raises(Broken):
                client.with_body(head)
    gateway.stands(token, spent="0.04", calls=4)
