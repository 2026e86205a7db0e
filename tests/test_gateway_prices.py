"""Calls whose price depends on what they ask and get, through a real gateway: what is held, charged and noted."""

import gzip
import json
from typing import Any

import pytest

from tests.ends import Broken
from tests.gateways import Gateway, child_of, problem, until
from tests.upstreams import Upstream

CONFIG = """
[server]
[[upstream]]
name = "one"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/by-rule/*"
methods = ["GET", "POST"]
upstream = "one"
[[route.rule]]
path = "/by-rule/search?depth=full"
price = "0.05 USD"
[[route.rule]]
methods = ["POST"]
price = "0.02 USD"
[[route.rule]]
headers = { X-Tier = "gold" }
price = "0.03 USD"
[[route]]
path = "/down/*"
methods = ["GET"]
upstream = "one"
price = "0.01 USD"
price_per_response_mb = "1 USD"
[[route]]
path = "/up/*"
methods = ["POST"]
upstream = "one"
price_per_request_mb = "1 USD"
[[route]]
path = "/capped/*"
methods = ["GET"]
upstream = "one"
price_per_response_mb = "1 USD"
at_most = "0.5 USD"
[[route]]
path = "/header/*"
methods = ["GET"]
upstream = "one"
reported = { header = "X-Cost", each = "1.2 USD" }
at_most = "2 USD"
[[route]]
path = "/json/*"
methods = ["GET"]
upstream = "one"
price = "0.1 USD"
reported = { json = "/usage/units", each = "0.01 USD" }
at_most = "2 USD"
[[route]]
path = "/v1/*"
methods = ["GET", "POST"]
upstream = "one"
llm = "openai"
max_body = 100_000
timeout = 0.5
[[route]]
path = "/any/v1/*"
methods = ["POST"]
upstream = "one"
llm = "openai"
at_most = "0.5 USD"
[[model]]
name = "own-*"
input = "1 USD"
output = "2 USD"
context = 1000
max_output = 100
"""
CHAT = "/v1/chat/completions"
JSON = "Content-Type: application/json"


def answer(body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 200 OK\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def charged(gateway: Gateway, token: str) -> str:
    (account,) = gateway.accounts(token)
    assert account["held"] == "0"
    return str(account["spent"])


def note(gateway: Gateway) -> str:
    """The note of the last call that was settled."""
    return [entry.note for entry in gateway.entries() if entry.kind == "settle"][-1]


# --- which price


@pytest.mark.parametrize(
    ("method", "target", "headers", "cost"),
    [
        ("GET", "/by-rule/search?depth=full", (), "0.05"),
        ("POST", "/by-rule/search?depth=full", (), "0.05"),
        ("POST", "/by-rule/search", (), "0.02"),
        ("GET", "/by-rule/search", ("X-Tier: gold",), "0.03"),
    ],
)
def test_the_first_rule_that_fits(
    gateway: Gateway, upstream: Upstream, method: str, target: str, headers: tuple[str, ...], cost: str
) -> None:
    token = gateway.token()
    got = gateway.ask(method, target, *headers, token=token)
    assert (got.status, got["tolsey-cost"]) == (200, f"{cost} USD")
    assert charged(gateway, token) == cost


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/by-rule/search", ()),
        ("/by-rule/search?depth=basic&depth=full", ()),
        ("/by-rule/search?DEPTH=full", ()),
        ("/by-rule/search", ("X-Tier: gold", "X-Tier: none")),
    ],
)
def test_a_call_whose_price_is_not_clear_is_not_made(
    gateway: Gateway, upstream: Upstream, target: str, headers: tuple[str, ...]
) -> None:
    token = gateway.token()
    with upstream.hears_nothing():
        refused = gateway.ask("GET", target, *headers, token=token)
    assert (refused.status, problem(refused)["code"]) == (422, "unpriceable")
    assert gateway.balance(token)[0]["calls"] == 0


# --- bytes


def test_an_answer_is_paid_for_by_its_bytes(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    upstream.answers["/down/a"] = answer(b"x" * 50_000)
    got = gateway.ask("GET", "/down/a", token=token)
    assert (got["tolsey-quote"], got.all("tolsey-cost")) == ("1.01 USD", [])
    assert charged(gateway, token) == "0.06"


def test_a_long_answer_extends_its_hold_before_it_goes_on(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    upstream.answers["/down/b"] = answer(b"x" * 2_500_000)
    got = gateway.ask("GET", "/down/b", token=token)
    assert len(got.body) == 2_500_000
    assert charged(gateway, token) == "2.51"
    assert [entry.kind for entry in gateway.entries()].count("extend") == 2


def test_an_answer_that_the_budget_does_not_cover_breaks_off_before_it(gateway: Gateway, upstream: Upstream) -> None:
    rich = gateway.token()
    for caveat in ("budget = 1.5 USD", "max-price = 1.5 USD"):
        poor = child_of(rich, "label = poor n", caveat)
        upstream.answers["/down/c"] = answer(b"x" * 3_000_000)
        with gateway.client() as client:
            client.ask("GET", "/down/c", token=poor)
            with pytest.raises(Broken) as broken:
                client.answer()
        assert len(broken.value.got) <= 1_000_000 + 1000
        until(lambda token=poor: gateway.balance(token)[-1]["held"] == "0", "the call is settled")  # type: ignore[misc]  # mypy reads the default as untyped
        assert gateway.balance(poor)[-1]["spent"] in ("1.01", "2.02")


def test_at_most_is_the_end_of_what_an_answer_costs(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    upstream.answers["/capped/a"] = answer(b"x" * 2_000_000)
    got = gateway.ask("GET", "/capped/a", token=token)
    assert (got["tolsey-quote"], len(got.body)) == ("0.5 USD", 2_000_000)
    assert charged(gateway, token) == "0.5"
    assert note(gateway) == "200"


def test_a_request_is_paid_for_by_its_bytes(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    got = gateway.ask("POST", "/up/a", token=token, body=b"x" * 20_000)
    assert got["tolsey-cost"] == "0.02 USD"
    chunked = b"4e20\r\n" + b"x" * 20_000 + b"\r\n"
    with gateway.client() as client:
        client.say(f"POST /up/b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n")
        client.say("Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(60):
            client.say(chunked)
        client.say("0\r\n\r\n")
        got = client.answer()
    assert (got.status, got["tolsey-quote"]) == (200, "1 USD")
    assert charged(gateway, token) == "1.22"


# --- what the upstream says

REPORTS: list[tuple[str, bytes, str, str]] = [
    ("/header/a", answer(b"", "X-Cost: 0.25"), "0.3", "200"),
    ("/header/b", answer(b"", "X-Cost: -5"), "2", "unmetered: 200: the header x-cost is negative"),
    ("/header/c", answer(b"", "X-Cost: NaN"), "2", "unmetered: 200: the header x-cost is not a number"),
    ("/header/d", answer(b""), "2", "unmetered: 200: the header x-cost is missing"),
    ("/header/e", answer(b"", "X-Cost: 1", "X-Cost: 1"), "2", "unmetered: 200: the header x-cost is repeated"),
    ("/header/f", answer(b"", "X-Cost: 1e9"), "2", "unmetered: 200: more was reported than the route's at_most"),
    ("/json/a", answer(b'{"usage": {"units": 40}}'), "0.5", "200"),
    ("/json/b", answer(b'{"usage": {"units": "x"}}'), "2", "unmetered: 200: the reported field is not a number"),
    ("/json/c", answer(b"{}"), "2", "unmetered: 200: the reported field is missing"),
    ("/json/d", answer(b'{"usage": {"units": 1, "units": 1}}'), "2",
     "unmetered: 200: the answer cannot be read: an object in it has a key twice"),
    ("/json/e", answer(gzip.compress(b'{"usage": {"units": 1}}'), "Content-Encoding: gzip"), "2",
     "unmetered: 200: the answer is compressed"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "said", "cost", "noted"), REPORTS)
def test_what_the_upstream_reports(
    gateway: Gateway, upstream: Upstream, target: str, said: bytes, cost: str, noted: str
) -> None:
    token = gateway.token()
    upstream.answers[target] = said
    got = gateway.ask("GET", target, "Accept-Encoding: gzip", token=token)
    assert (got.status, got["tolsey-quote"]) == (200, "2 USD")
    assert charged(gateway, token) == cost
    assert note(gateway) == noted
    assert upstream.last().all("accept-encoding") == (["identity"] if target.startswith("/json") else ["gzip"])


def test_an_answer_that_breaks_off_is_charged_the_worst_case(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    with gateway.client() as client:
        client.ask("GET", "/json/talk", token=token)
        talk = upstream.hear()
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", '{"usage": {"units": 1}')
        talk.close()
        assert client.answer().status == 502
    assert charged(gateway, token) == "2"
    assert note(gateway).startswith("unmetered")


# --- LLM calls


def asking(**body: object) -> bytes:
    return json.dumps({"model": "own-1", "messages": [{"role": "user", "content": "hi"}]} | body).encode()


NOT_TAKEN: list[tuple[bytes, tuple[str, ...], int, str]] = [
    (b"not JSON", (), 400, "request_invalid"),
    (b'{"model": "own-1", "model": "gpt-5-pro"}', (), 400, "request_invalid"),
    (asking(model="m" * 10_240), (), 400, "request_invalid"),
    (asking(model="unheard-of"), (), 422, "unpriceable"),
    (gzip.compress(asking()), ("Content-Encoding: gzip",), 422, "unpriceable"),
    (asking(messages="x" * 100_000), (), 413, "body_too_large"),
]


@pytest.mark.parametrize(("body", "headers", "status", "code"), NOT_TAKEN, ids=range(len(NOT_TAKEN)))
def test_a_body_that_has_no_price_is_not_sent(
    gateway: Gateway, upstream: Upstream, body: bytes, headers: tuple[str, ...], status: int, code: str
) -> None:
    token = gateway.token()
    with upstream.hears_nothing():
        refused = gateway.ask("POST", CHAT, JSON, *headers, token=token, body=body)
    assert (refused.status, problem(refused)["code"]) == (status, code)
    assert gateway.balance(token)[0]["calls"] == 0


def test_a_body_of_a_hundred_megabytes_is_refused_by_its_announced_size(gateway: Gateway, upstream: Upstream) -> None:
    with upstream.hears_nothing(), gateway.client() as client:
        client.say(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token()}\r\n")
        client.say("Content-Length: 100000000\r\n\r\n")
        assert client.answer().status == 413


def test_a_body_in_chunks_is_refused_where_it_grows_too_large(gateway: Gateway, upstream: Upstream) -> None:
    with upstream.hears_nothing(), gateway.client() as client:
        client.say(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token()}\r\n")
        client.say("Transfer-Encoding: chunked\r\n\r\n")
        client.say(b"186a1\r\n" + b" " * 100_001 + b"\r\n")
        assert client.answer().status == 413


def test_a_body_is_not_read_for_a_token_that_does_not_verify(gateway: Gateway, upstream: Upstream) -> None:
    with upstream.hears_nothing(), gateway.client() as client:
        client.say(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer nope\r\nContent-Length: 90000\r\n\r\n")
        assert client.answer().status == 401


def test_a_body_in_chunks_goes_up_whole(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    body = asking()
    upstream.answers[CHAT] = answer(b'{"usage": {"prompt_tokens": 10, "completion_tokens": 5}}', JSON)
    with gateway.client() as client:
        client.say(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n")
        client.say("Transfer-Encoding: chunked\r\n\r\n")
        for byte in body:
            client.say(b"1\r\n" + bytes([byte]) + b"\r\n")
        client.say("0\r\n\r\n")
        assert client.answer().status == 200
    heard = upstream.last()
    assert (heard.body, heard["content-length"]) == (body, str(len(body)))
    assert charged(gateway, token) == "0.00002"


def test_what_has_no_price_takes_the_stated_maximum(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    upstream.answers["/any/v1/chat/completions"] = answer(b"{}", JSON)
    gateway.ask("POST", "/any/v1/chat/completions", JSON, token=token, body=asking(model="unheard-of"))
    gateway.ask("POST", "/any/v1/unheard/of", JSON, token=token, body=b"not JSON at all")
    assert charged(gateway, token) == "1"
    assert note(gateway).startswith("unmetered: 200: no price")


def test_a_repeated_llm_call_is_charged_once(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    stream = b'data: {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}\n\n'
    said = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    upstream.answers[CHAT] = said + b"%x\r\n%b\r\n0\r\n\r\n" % (len(stream), stream)
    key = 'Idempotency-Key: "llm-1"'
    first, again = (gateway.ask("POST", CHAT, JSON, key, token=token, body=asking(stream=True)) for _ in range(2))
    assert json.loads(upstream.last().body)["stream_options"] == {"include_usage": True}
    assert (first.body, again.body) == (b"", b"")
    assert again["tolsey-replayed"] == "true"
    other = gateway.ask("POST", CHAT, JSON, key, token=token, body=asking(stream=True, n=1))
    assert problem(other)["code"] == "idempotency_mismatch"
    assert charged(gateway, token) == "0.00002"


def test_the_entry_names_the_config_that_priced_it(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    upstream.answers[CHAT] = answer(b'{"usage": {"prompt_tokens": 10, "completion_tokens": 5}}', JSON)
    gateway.ask("POST", CHAT, JSON, token=token, body=asking())
    charged(gateway, token)
    assert note(gateway) == "200: own-1: 10 tokens in, 5 out, the config"


def test_a_client_that_stops_in_the_middle_of_its_body_is_let_go(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    with upstream.hears_nothing(), gateway.client() as client:
        client.say(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 90\r\n\r\nx")
        assert client.is_left()
    assert gateway.balance(token)[0]["calls"] == 0


def test_a_client_that_leaves_in_the_middle_of_its_body_costs_nothing(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    with upstream.hears_nothing():
        with gateway.client() as client:
            client.say(
                f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 90\r\n\r\nx"
            )
        found: list[dict[str, Any]] = gateway.accounts(token)
    assert found[0]["calls"] == 0
