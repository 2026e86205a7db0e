"""An agent hands on a token and calls with it, against a real gateway: `Delegation`, `tolsey.httpx.Auth`, and the
exceptions of `tolsey.refusals`.
"""

import json
import pickle
import subprocess
import sys
from decimal import Decimal
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tolsey.httpx
from tests.gateways import Gateway
from tests.tokens import answer, ask, mint, text_of
from tests.upstreams import Upstream
from tolsey import CaveatWider, Delegation, TokenError, TokenMalformed, TokenMissing, refusals
from tolsey.errors import STATUSES, Refusal
from tolsey.gateway.problems import members
from tolsey.gateway.problems import response as response_of
from tolsey.refusals import BY_CODE, MAX_DOCUMENT, Refused, raise_for_refusal, read_refusal

CONFIG = """
[server]
[[upstream]]
name = "api"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/api/v1/*"
methods = ["GET"]
upstream = "api"
price = "0.01 USD"
"""
TOKEN = mint("label = team n", "budget = 10 USD").to_text()
SEARCH = "/api/v1/search"


@pytest.fixture
def parent(gateway: Gateway) -> Delegation:
    return Delegation(gateway.token(budget="0.05 USD"))


def base(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.port}"


def get(gateway: Gateway, holder: Delegation | str, path: str = SEARCH) -> None:
    """One call; raises what the gateway refuses."""
    raise_for_refusal(httpx.get(base(gateway) + path, auth=tolsey.httpx.Auth(holder, base(gateway))))


# --- Delegation


def test_a_child_spends_from_its_parent_and_no_more_than_it_was_given(gateway: Gateway, parent: Delegation) -> None:
    with parent.delegate("search-worker", budget="0.02 USD", scope=SEARCH) as child:
        get(gateway, child)
        get(gateway, child)
        with pytest.raises(refusals.BudgetExhausted) as spent:
            get(gateway, child)
        with pytest.raises(refusals.CaveatRefused):
            get(gateway, child, "/api/v1/ingest")
        assert [account["spent"] for account in gateway.accounts(child.token)] == ["0.02", "0.02"]
    assert (spent.value.label, spent.value.prefix_id) == ("search-worker", child.prefix_id)
    with parent.delegate("reader") as rest:
        for _ in range(3):
            get(gateway, rest)
        with pytest.raises(refusals.BudgetExhausted) as over:
            get(gateway, rest)
    assert over.value.label == "team"


def test_delegations_nest(gateway: Gateway, parent: Delegation) -> None:
    with parent.delegate("lead", budget="0.03 USD") as lead, lead.delegate("worker", budget="0.02 USD") as worker:
        get(gateway, worker)
        assert [(a["label"], a["spent"]) for a in gateway.accounts(worker.token)] == [
            ("team", "0.01"),
            ("lead", "0.01"),
            ("worker", "0.01"),
        ]
        with pytest.raises(CaveatWider):
            worker.delegate("greedy", budget="0.03 USD")


def test_a_delegation_whose_block_has_ended_is_of_no_more_use(gateway: Gateway) -> None:
    with Delegation(TOKEN) as parent:
        child = parent.delegate("child")
    auth = tolsey.httpx.Auth(parent, base(gateway))
    for use in (
        lambda: parent.token,
        lambda: parent.delegate("x"),
        parent.environment,
        lambda: httpx.get(base(gateway) + SEARCH, auth=auth),
    ):
        with pytest.raises(TokenMissing):
            use()
    assert repr(parent) == f"<Delegation {parent.prefix_id}, ended>"
    assert child.token


def test_a_delegation_shows_no_token() -> None:
    delegation = Delegation(f" {TOKEN}\n")
    assert delegation.token == TOKEN
    assert repr(delegation) == f"<Delegation {delegation.prefix_id}>"
    assert TOKEN not in str(vars(tolsey.httpx.Auth(delegation, "https://gateway.example")))


def test_the_environment_carries_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLSEY_TOKEN", f"{TOKEN}\n")
    parent = Delegation.from_environment()
    assert parent.token == TOKEN
    child = parent.delegate("child", budget="1 USD")
    program = "import os, sys; sys.stdout.write(os.environ['TOLSEY_TOKEN'])"
    done = subprocess.run([sys.executable, "-c", program], env=child.environment(), capture_output=True, check=True)
    assert done.stdout.decode() == child.token


@pytest.mark.parametrize(("value", "error"), [(None, TokenMissing), ("  ", TokenMissing), ("x", TokenMalformed)])
def test_an_environment_without_a_token(monkeypatch: pytest.MonkeyPatch, value: str | None, error: type) -> None:
    monkeypatch.delenv("TOLSEY_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("TOLSEY_TOKEN", value)
    with pytest.raises(error):
        Delegation.from_environment()


def test_a_token_with_its_discharge_can_be_held_and_not_handed_on() -> None:
    """A discharge is bound to what was signed when it was given."""
    root = ask(mint("budget = 1 USD"))
    held = Delegation(text_of(root, answer()))
    assert held.token
    with pytest.raises(TokenMalformed):
        held.delegate("child")


# --- tolsey.httpx.Auth


async def test_every_client_sends_the_token_to_the_gateway(gateway: Gateway) -> None:
    auth: Any = tolsey.httpx.Auth(gateway.token(), base(gateway))
    with httpx.Client(auth=auth) as one, httpx2.Client(auth=auth) as two:
        for each in (one, two):
            assert each.get(base(gateway) + SEARCH).headers["tolsey-cost"] == "0.01 USD"
    async with httpx.AsyncClient(auth=auth) as three, httpx2.AsyncClient(auth=auth) as four:
        assert (await three.get(base(gateway) + SEARCH)).headers["tolsey-cost"] == "0.01 USD"
        assert (await four.get(base(gateway) + SEARCH)).headers["tolsey-cost"] == "0.01 USD"


def test_the_token_goes_to_the_gateway_alone(gateway: Gateway, upstream: Upstream) -> None:
    auth: Any = tolsey.httpx.Auth(gateway.token(), base(gateway))
    with Upstream() as other:
        place = f"http://127.0.0.1:{other.port}/elsewhere"
        found = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"
        upstream.answers["/api/v1/away"] = found.encode()
        for client in (httpx.Client(auth=auth, follow_redirects=True), httpx2.Client(auth=auth, follow_redirects=True)):
            with client:
                assert client.get(place).status_code == 200
                assert client.get(base(gateway) + "/api/v1/away").url == place
                assert client.get(place, headers={"X-Mine": "1"}).status_code == 200
        assert [message.target for message in other.heard] == ["/elsewhere"] * 6
        assert not any("authorization" in message for message in other.heard)


def test_a_redirect_on_the_gateway_itself_keeps_the_token(gateway: Gateway, upstream: Upstream) -> None:
    location = f"http://127.0.0.1:{upstream.port}/api/v1/there"
    upstream.answers["/api/v1/here"] = f"HTTP/1.1 307 T\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    auth = tolsey.httpx.Auth(gateway.token(), base(gateway))
    answered = httpx.get(base(gateway) + "/api/v1/here", auth=auth, follow_redirects=True)
    assert (answered.status_code, answered.url.path) == (200, "/api/v1/there")


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://gateway.example/x", True),
        ("https://GATEWAY.example:443/x", True),
        ("http://[::1]:8402/x", True),
        ("http://gateway.example/x", False),
        ("https://gateway.example:8443/x", False),
        ("https://gateway.example.evil.example/x", False),
        ("https://gateway.example@evil.example/x", False),
        ("https://evil.example/https://gateway.example/", False),
        ("http://[::1]/x", False),
    ],
)
def test_what_is_the_gateway(url: str, sent: bool) -> None:
    auth = tolsey.httpx.Auth(TOKEN, "https://gateway.example/v1", "http://[::1]:8402")
    request = auth(httpx.Request("GET", url))
    assert request.headers.get("authorization") == (f"Bearer {TOKEN}" if sent else None)


@pytest.mark.parametrize(
    "url",
    ["", "gateway.example", "gateway.example:8402", "ftp://gateway.example", "https://", "http://x:y"],
)
def test_what_cannot_be_a_gateway(url: str) -> None:
    with pytest.raises(ValueError, match="is given as its URL"):
        tolsey.httpx.Auth(TOKEN, url)


# --- refusals


def whole(code: str) -> Refusal:
    """A refusal with every member that there is."""
    money = ("USD", 2_000_000_000, 1, 3, "2026-04-02T00:00:00Z", 7)
    return Refusal(code, "the reason", "worker", "ab" * 16, "scope = /a", *money)


def answered(refusal: Refusal) -> httpx.Response:
    status, headers, body = response_of(refusal)
    return httpx.Response(status, headers=headers, content=body)


OF_THE_TOKEN = {"token_missing", "token_malformed", "token_forged", "discharge_missing", "discharge_invalid"}


@pytest.mark.parametrize("code", STATUSES)
def test_every_code_has_its_exception(code: str) -> None:
    kind = getattr(refusals, "".join(word.capitalize() for word in code.split("_")))
    with pytest.raises(Refused) as caught:
        raise_for_refusal(answered(whole(code)))
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.status, error.title) == (code, *STATUSES[code])
    assert (error.detail, error.label, error.prefix_id) == ("the reason", "worker", "ab" * 16)
    assert (error.caveat, error.unit, error.resets_at) == ("scope = /a", "USD", "2026-04-02T00:00:00Z")
    assert (error.limit, error.spent, error.held) == (Decimal(2), Decimal("0.000000001"), Decimal("0.000000003"))
    assert (error.remaining, error.retry_after) == (Decimal("1.999999996"), 7)
    assert str(error) == f"{code}: the reason (caveat: scope = /a)"
    assert isinstance(error, TokenError) == (code in OF_THE_TOKEN)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.remaining) == (kind, str(error), error.remaining)


def test_what_a_refusal_does_not_say_is_none(gateway: Gateway) -> None:
    with pytest.raises(refusals.TokenMissing) as caught:
        raise_for_refusal(httpx.get(base(gateway) + SEARCH))
    error = caught.value
    assert (error.label, error.prefix_id, error.caveat, error.unit, error.resets_at) == (None,) * 5
    assert (error.limit, error.spent, error.held, error.remaining, error.retry_after) == (None,) * 5
    assert str(error) == f"token_missing: {error.detail}"


def test_a_code_of_a_later_gateway_is_a_refusal_too() -> None:
    error = read_refusal(b'{"type": "urn:tolsey:problem:too_loud", "status": 420, "code": "too_loud"}', "soon")
    assert type(error) is Refused
    assert (error.code, error.status, error.title, error.retry_after) == ("too_loud", 420, None, None)


def test_there_is_no_exception_without_a_code() -> None:
    assert list(BY_CODE) == list(STATUSES)


def test_what_is_no_refusal_is_let_pass(gateway: Gateway) -> None:
    for status, kind, body in (
        (200, "application/json", b"{}"),
        (500, "text/html", b"<h1>"),
        (404, "application/problem+json", b'{"type": "about:blank", "status": 404}'),
        (404, "application/json", response_of(whole("route_missing"))[2]),
    ):
        raise_for_refusal(httpx.Response(status, headers={"Content-Type": kind}, content=body))
    raise_for_refusal(httpx.Response(204))
    get(gateway, gateway.token())


def test_a_streamed_refusal_is_read_first(gateway: Gateway) -> None:
    with httpx.stream("GET", base(gateway) + SEARCH) as streamed:
        with pytest.raises(httpx.ResponseNotRead):
            raise_for_refusal(streamed)
        streamed.read()
        with pytest.raises(refusals.TokenMissing):
            raise_for_refusal(streamed)


GOOD = members(whole("budget_exhausted"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 30_000,
        b'{"code": "budget_exhausted", "status": 402}',
        b'{"code": 1, "status": 402, "type": "urn:tolsey:problem:1"}',
        b'{"code": "budget_exhausted", "status": "402", "type": "urn:tolsey:problem:budget_exhausted"}',
        b'{"code": "budget_exhausted", "status": true, "type": "urn:tolsey:problem:budget_exhausted"}',
        b'{"code": "budget_exhausted", "status": 402, "type": "urn:tolsey:problem:calls_exhausted"}',
        b'{"code": "error", "status": 402, "type": "error"}',
        response_of(whole("budget_exhausted"))[2] + b" " * MAX_DOCUMENT,
    ],
)
def test_what_is_no_problem_document_is_none(body: bytes) -> None:
    assert read_refusal(body) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["1e9", "NaN", "0.5", "-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "label"]), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), JSON), st.none() | st.text())
def test_whatever_a_document_says_is_read_or_not(members: dict[str, Any], after: str | None) -> None:
    """Members of the wrong kind are as if they were not there; none raises."""
    head = {name: GOOD[name] for name in ("type", "status", "code")}
    error = read_refusal(json.dumps(members | head).encode(), after)
    assert type(error) is refusals.BudgetExhausted
    for amount in (error.limit, error.spent, error.held, error.remaining):
        assert amount is None or amount.is_finite()
    assert all(isinstance(text, str | None) for text in (error.label, error.caveat, error.unit, error.resets_at))
    read_refusal(json.dumps(members).encode(), after)


@given(st.binary(max_size=200), st.none() | st.text(max_size=20))
def test_any_bytes_are_read_or_not(body: bytes, after: str | None) -> None:
    assert read_refusal(body, after) is None
