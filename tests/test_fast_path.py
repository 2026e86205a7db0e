"""The fast path: which calls take it, that no plan outlives what it stands on, and that none is another call's."""

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from tests import cli, swarm
from tests.ends import Broken, Client, Message
from tests.fast_paths import (
    answer_to,
    counted,
    fresh_gateway,
    in_pieces,
    needs_wire,
    request,
    resolution,
    serving_fast,
    twice,
)
from tests.gateways import Gateway, child_of, problem, until
from tests.upstreams import OK, Upstream
from tolsey.store.keyring import Keyring
from tolsey.token.chain import CAPABILITY

pytestmark = needs_wire


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving_fast(tmp_path_factory.mktemp("fast"), upstream) as running:
        yield running


numbers = itertools.count()


@pytest.fixture
def place() -> str:
    """The beginning of the paths of a route at 0.01 USD that no other test calls."""
    return f"/p{next(numbers):02}"


@pytest.fixture
def fresh(upstream: Upstream, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with one route, /x/*, that was not started yet."""
    with fresh_gateway(tmp_path, upstream) as found:
        yield found


# --- what takes it


PARENT: Final = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
KNOWN: Final[list[tuple[str, tuple[str, ...], bytes]]] = [
    ("GET", (), b""),
    ("HEAD", ("Accept: */*",), b""),
    ("POST", ("Content-Type: text/plain",), b"some body"),
    ("PUT", ("Content-Length: 0",), b""),
    ("GET", (PARENT, "tracestate: a=1"), b""),
    ("DELETE", ("Connection: keep-alive, X-Hop", "X-Hop: 1", "X-Forwarded-For: 1.2.3.4", "X_u: 1"), b""),
]


def test_a_second_call_with_the_same_bytes(gateway: Gateway, upstream: Upstream, place: str) -> None:
    hold = ""
    for method, headers, body in KNOWN:
        token = gateway.token()
        before = len(upstream.heard)
        first, second = twice(gateway, request(method, f"{place}/x?y=1", token, *headers, body=body))
        assert (first.status, second.status) == (200, 200)
        assert (second["tolsey-cost"], second["tolsey-remaining"]) == ("0.01 USD", "9.98 USD")
        hold = second["tolsey-hold"]
        assert first["tolsey-hold"] != hold
        one, other = upstream.heard[before:]
        assert (one, other.target, other.body) == (other, f"{place}/x?y=1", body)
        gateway.stands(token, spent="0.02", calls=2)
    line = gateway.line_of(hold)
    assert (line["method"], line["path"], line["upstream"]) == ("DELETE", f"{place}/x", "plain")
    assert (line["status"], line["cost"], line["note"], line["trace"]) == (200, "0.01 USD", "200", None)
    assert PARENT[16:48] in gateway.out.read_text()
    assert counted(gateway, f"{place}/*", 12) == 12


def test_a_token_with_every_caveat_that_says_which_calls(gateway: Gateway, upstream: Upstream, place: str) -> None:
    caveats = ("tag = team=* project=*", "peer = 127.0.0.0/8", f"scope = {place}/*", "upstream = pl*", "method = GET")
    token = gateway.token(*caveats, "max-price = 0.01 USD", "expires = 2099-01-01", "calls = 10", "rate = 9/second")
    child = child_of(token, "label = child n", "budget = 1 USD", "depth = 0")
    first, second = twice(gateway, request("GET", f"{place}/x", child, "Tolsey-Tag: project=apollo, team=a"))
    assert (first.status, second.status) == (200, 200)
    assert "tolsey-tag" not in upstream.last()
    gateway.accounts(child)
    note = next(entry.note for entry in gateway.entries() if entry.hold == second["tolsey-hold"])
    assert note == f"GET {place}/x #project=apollo team=a"
    assert counted(gateway, f"{place}/*", 2) == 2


# --- what does not


def test_a_head_that_comes_in_pieces_takes_the_passage(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token = gateway.token()
    whole = request("POST", f"{place}/x", token, body=b"some body")
    for at in (1, 20, len(whole) - 10):
        assert in_pieces(gateway, whole[:at], whole[at:]).status == 200
        assert (upstream.last().target, upstream.last().body) == (f"{place}/x", b"some body")
    gateway.stands(token, spent="0.03", calls=3)
    assert counted(gateway, f"{place}/*", 3) == 0


def test_a_body_may_come_right_behind_its_head(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token = gateway.token()
    whole = request("POST", f"{place}/x", token, body=b"some body")
    # A machine that is busy may let one or another come too late.
    for calls in range(2, 100, 2):
        for at in (len(whole) - 9, len(whole) - 3):
            assert in_pieces(gateway, whole[:at], whole[at:]).status == 200
            assert upstream.last().body == b"some body"
        if counted(gateway, f"{place}/*", calls) > 0:
            break
    assert counted(gateway, f"{place}/*", calls) > 0


def test_a_body_that_comes_later_goes_up_as_it_comes(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token = gateway.token()
    for began in (0, 4):
        with gateway.client() as client:
            client.say(request("POST", f"{place}/talk", token, body=b"some body")[: began - 9])
            talk = upstream.hear()
            assert talk.exactly(began) == b"some body"[:began]
            client.say(b"some body"[began:])
            assert talk.exactly(9 - began) == b"some body"[began:]
            talk.answers()
            assert client.answer().status == 200
    gateway.stands(token, spent="0.02", calls=2)
    assert counted(gateway, f"{place}/*", 2) == 0


def test_requests_at_once_take_the_passage_in_their_order(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token = gateway.token()
    for number in range(5):
        upstream.answers[f"{place}/{number}"] = OK.replace(b"{}", b"%02d" % number)
    with gateway.client() as client:
        client.say(*(request("GET", f"{place}/{number}", token) for number in range(5)))
        assert [client.answer().body for _ in range(5)] == [b"%02d" % number for number in range(5)]
        client.say(request("GET", f"{place}/0", token))
        assert client.answer().body == b"00"
    gateway.stands(token, spent="0.06", calls=6)
    assert counted(gateway, f"{place}/*", 6) == 0


def test_a_request_that_comes_while_another_is_under_way(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token = gateway.token()
    with gateway.client() as client:
        client.say(request("GET", f"{place}/talk", token))
        talk = upstream.hear()
        with upstream.hears_nothing():
            client.say(request("GET", f"{place}/x", token))
            assert client.is_silent(0.1)
        talk.answers()
        assert [client.answer().status for _ in range(2)] == [200, 200]
    assert counted(gateway, f"{place}/*", 2) == 2


def test_expect_waits_for_its_continue(gateway: Gateway, upstream: Upstream, place: str) -> None:
    with gateway.client() as client:
        client.ask("POST", f"{place}/x", "Expect: 100-continue", "Content-Length: 3", token=gateway.token())
        assert client.head().status == 100
        client.say("abc")
        assert client.answer().status == 200
    assert upstream.last().body == b"abc"
    assert counted(gateway, f"{place}/*", 1) == 0


ODD: Final[list[tuple[tuple[str, ...], bytes]]] = [
    (("Transfer-Encoding: chunked",), b"3\r\nabc\r\n0\r\n\r\n"),
    (('Idempotency-Key: "a"',), b""),
    (("traceparent: 00-0-0-01",), b""),
    ((PARENT, PARENT), b""),
    (("Connection: Upgrade", "Upgrade: h2c"), b""),
    (("Content-Length: 70000",), b"a" * 70_000),
]


def test_headers_that_take_the_passage(gateway: Gateway, place: str) -> None:
    for headers, body in ODD:
        token = gateway.token()
        first, second = twice(gateway, request("POST", f"{place}/x", token, *headers) + body)
        assert (first.status, second.status) == (200, 200)
        is_repeated = "Idempotency" in headers[0]
        assert ("tolsey-replayed" in second) == is_repeated
        gateway.stands(token, spent="0.01" if is_repeated else "0.02", calls=1 if is_repeated else 2)
    assert counted(gateway, f"{place}/*", 12) == 0


def test_http_1_0_takes_the_passage(gateway: Gateway, place: str) -> None:
    token = gateway.token()
    answers = twice(gateway, f"GET {place}/x HTTP/1.0\r\nConnection: keep-alive\r\nX-Api-Key: {token}\r\n\r\n".encode())
    assert [answer["connection"] for answer in answers] == ["keep-alive"] * 2
    assert counted(gateway, f"{place}/*", 2) == 0


def test_routes_that_take_the_passage(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    names = ("open", "free", "timed", "sized")
    for name in names:
        assert [answer.status for answer in twice(gateway, request("GET", f"/{name}/x", token))] == [200, 200]
        assert upstream.last().target == f"/{name}/x"
    assert [counted(gateway, f"/{name}/*", 2) for name in names] == [0] * 4


def test_what_is_refused_takes_the_passage(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token, elsewhere = gateway.token(), gateway.token("scope = /elsewhere/*")
    with upstream.hears_nothing():
        refused = [
            *twice(gateway, request("GET", f"{place}/x", token, f"X-Api-Key: {token}")),
            *twice(gateway, request("GET", f"{place}/x", "nonsense")),
            *twice(gateway, request("GET", f"{place}/x", elsewhere)),
            *twice(gateway, request("GET", "/nowhere/x", token)),
            *twice(gateway, request("POST", "/small/x", token, body=b"more than ten bytes")),
        ]
    codes = ["credentials_ambiguous", "token_malformed", "caveat_refused", "route_missing", "body_too_large"]
    assert [problem(answer)["code"] for answer in refused] == [code for code in codes for _ in range(2)]
    assert counted(gateway, f"{place}/*", 6) == 0


# --- no plan outlives what it stands on


def until_refused(client: Client, asked: bytes) -> tuple[list[Message], Message]:
    """Make a call again and again until it is refused: all answers before, and the refusal."""
    served = []
    while (answer := answer_to(client, asked)).status == 200:
        served.append(answer)
        time.sleep(0.005)
    return served, answer


def test_it_ends_with_the_token(gateway: Gateway, upstream: Upstream, place: str) -> None:
    ends = (time.time_ns() // 1_000_000 + 700) * 1_000_000
    moment = datetime.fromtimestamp(ends // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    token = gateway.token(f"expires = {moment}.{ends % 1_000_000_000:09}Z")
    with gateway.client() as client:
        served, refused = until_refused(client, request("GET", f"{place}/x", token))
    assert time.time_ns() >= ends
    assert (refused.status, problem(refused)["code"]) == (401, "token_expired")
    assert gateway.line_of(served[-1]["tolsey-hold"])["at"] < ends
    assert len(served) > 1
    assert [message.target for message in upstream.heard].count(f"{place}/x") == len(served)
    assert counted(gateway, f"{place}/*", len(served) + 1) == len(served)


def test_it_ends_when_the_token_is_revoked(gateway: Gateway, upstream: Upstream, place: str) -> None:
    """So does a call that is under way, where that is wanted."""
    token = gateway.token()
    child = child_of(token, "label = child n", "budget = 1 USD")
    with gateway.client() as client, gateway.client() as waiting, gateway.client() as streaming:
        for _ in range(2):
            assert answer_to(client, request("GET", f"{place}/x", child)).status == 200
        talks = []
        for each in (waiting, streaming):
            each.say(request("GET", f"{place}/talk", child))
            talks.append(upstream.hear())
        talks[1].say("HTTP/1.1 200 OK\r\n\r\none")
        head = streaming.head()
        assert streaming.chunk() == b"one"
        cli.answer("revoke", "-", "-c", str(gateway.file), stdin=token)
        assert problem(waiting.answer())["code"] == "token_revoked"
        refused = answer_to(client, request("GET", f"{place}/x", child))
        assert (refused.status, problem(refused)["code"]) == (403, "token_revoked")
        with pytest.raises(Broken):
            streaming.with_body(head)
        for talk in talks:
            assert talk.is_left()
            talk.close()
    assert counted(gateway, f"{place}/*", 5) == 4
    until(lambda: gateway.open_holds() == 0, "what was cut is settled")
    assert resolution(gateway) == ("settle", 10_000_000, "the token was revoked")


def test_it_ends_with_another_config_and_with_its_key(fresh: Gateway, upstream: Upstream, more: Upstream) -> None:
    """The price, the upstream, the key, the route: each is the new one with the next call on an open connection."""
    fresh.begin()
    before = fresh.file.read_text()
    keyring = Keyring.open(fresh.keys)
    (old,) = keyring.key_ids(CAPABILITY)
    asked = request("GET", "/x/y", fresh.token())
    with fresh.client() as client, fresh.client() as other:
        assert {answer_to(client, asked)["tolsey-cost"] for _ in range(3)} == {"0.01 USD"}
        fresh.reload(before.replace("0.01 USD", "0.03 USD"))
        until(lambda: answer_to(client, asked)["tolsey-cost"] == "0.03 USD", "the price is the new one")
        assert {answer_to(client, asked)["tolsey-cost"] for _ in range(3)} == {"0.03 USD"}
        fresh.reload(before.replace(f":{upstream.port}", f":{more.port}"))
        until(lambda: answer_to(client, asked)["tolsey-cost"] == "0.01 USD", "the config is the new one")
        with upstream.hears_nothing():
            assert {answer_to(client, asked).status for _ in range(3)} == {200}
            keyring.rotate(CAPABILITY)
            keyring.drop(old)
            _, refused = until_refused(client, asked)
            assert (refused.status, problem(refused)["code"]) == (401, "token_forged")
            asked = request("GET", "/x/y", fresh.token())
            assert {answer_to(other, asked).status for _ in range(3)} == {200}
        calls = len([message for message in (*upstream.heard, *more.heard) if message.target == "/x/y"])
        assert counted(fresh, "/x/*", calls + 1) == calls
        fresh.reload(before.replace('"/x/*"', '"/other/*"'))
        until(lambda: answer_to(other, asked).status == 404, "the route is gone")
        assert answer_to(other, asked.replace(b"/x/y", b"/other/y")).status == 200


# --- no plan is another call's


def test_a_token_with_another_byte_is_another_token(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token = gateway.token()
    twice(gateway, request("GET", f"{place}/x", token))
    with upstream.hears_nothing():
        for at in (0, 7, 20, len(token) // 2, len(token) - 2):
            other = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
            assert {answer.status for answer in twice(gateway, request("GET", f"{place}/x", other))} == {401}
    gateway.stands(token, spent="0.02", calls=2)
    assert counted(gateway, f"{place}/*", 12) == 2


def test_each_call_is_priced_sent_and_charged_as_it_is(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token, other = gateway.token(), gateway.token()
    before = len(upstream.heard)
    asked = [
        request("GET", f"{place}/x", token, "X: 1"),
        request("GET", f"{place}/y", token, "X: 1"),
        request("GET", f"{place}/x?y", token, "X: 1"),
        request("GET", f"{place}/x", token, "X: 2"),
        request("GET", f"{place}/x", other, "X: 1"),
        request("HEAD", f"{place}/x", other, "X: 1"),
        request("GET", "/dear/x", other, "X: 1"),
    ]
    costs = [answer["tolsey-cost"] for answer in twice(gateway, *asked)]
    assert costs == ["0.01 USD", "0.01 USD", "0.01 USD", "0.01 USD", "0.01 USD", "0.01 USD", "0.02 USD"] * 2
    seen = [(message.line, message["x"]) for message in upstream.heard[before:]]
    lines = [each.decode().split("\r\n")[0] for each in asked]
    assert seen == list(zip(lines, ["1", "1", "1", "2", "1", "1", "1"], strict=True)) * 2
    gateway.stands(token, spent="0.08", calls=8)
    gateway.stands(other, spent="0.08", calls=6)
    assert (counted(gateway, f"{place}/*", 12), counted(gateway, "/dear/*", 2)) == (12, 2)


def test_the_same_bytes_from_another_address(gateway: Gateway, upstream: Upstream, place: str) -> None:
    here, anywhere = gateway.token("peer = 127.0.0.1"), gateway.token()
    for _ in range(2):
        for address, status in (("127.0.0.1", 200), ("127.0.0.2", 403)):
            with Client(gateway.port, source=address) as client:
                assert answer_to(client, request("GET", f"{place}/x", anywhere)).status == 200
                assert upstream.last()["x-forwarded-for"] == address
                assert answer_to(client, request("GET", f"{place}/x", here)).status == status
    assert counted(gateway, f"{place}/*", 8) == 6


def test_a_body_is_that_of_its_request(gateway: Gateway, upstream: Upstream, place: str) -> None:
    token = gateway.token()
    with gateway.client() as client:
        for body in (b"one", b"two", b"\r\n\r", b"GET", b"one"):
            assert answer_to(client, request("POST", f"{place}/x", token, body=body)).status == 200
            assert upstream.last().body == body
    assert counted(gateway, f"{place}/*", 5) == 5


# --- what the ledger says


@pytest.mark.parametrize(
    ("caveat", "status", "code"),
    [
        ("label = child n", 402, "budget_exhausted"),
        ("calls = 2", 402, "calls_exhausted"),
        ("rate = 2/day", 429, "rate_limited"),
    ],
)
def test_it_is_refused_as_in_the_passage(
    gateway: Gateway, upstream: Upstream, place: str, caveat: str, status: int, code: str
) -> None:
    """And then the connection goes on."""
    token = gateway.token(caveat, budget="0.02 USD" if code.startswith("budget") else "10 USD")
    asked = request("GET", f"{place}/x", token)
    assert [answer.status for answer in twice(gateway, asked)] == [200, 200]
    gateway.accounts(token)
    with gateway.client() as client:
        with upstream.hears_nothing():
            refused = [answer_to(client, asked) for _ in range(2)]
            plain = in_pieces(gateway, asked[:9], asked[9:])
        assert [answer.status for answer in (*refused, plain)] == [status] * 3
        assert problem(plain) == problem(refused[0]) == problem(refused[1])
        assert problem(plain)["code"] == code
        assert sorted(name for name, _ in plain.headers) == sorted(name for name, _ in refused[0].headers)
        assert answer_to(client, request("GET", f"{place}/x", gateway.token())).status == 200
    assert gateway.accounts(token)[0]["calls"] == 2
    assert counted(gateway, f"{place}/*", 6) == 5


async def test_many_at_once_never_spend_more_than_there_is(gateway: Gateway, place: str) -> None:
    token = gateway.token(budget="0.5 USD")
    calls = iter([(token, f"{place}/x")] * 150)
    statuses: list[int] = []
    await swarm.load(gateway.port, 16, lambda: next(calls, None), lambda _, answer: statuses.append(answer.status))
    assert (statuses.count(200), statuses.count(402)) == (50, 100)
    gateway.stands(token, spent="0.5", calls=50)
    assert counted(gateway, f"{place}/*", 150) == 150
