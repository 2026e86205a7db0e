"""Each refusal with its status, code and members, and their order: the first that fits is the answer (RULES.md C)."""

import contextlib
import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import tokens
from tests.ends import Message
from tests.gateways import Gateway, child_of, problem, until
from tests.upstreams import Upstream
from tolsey.errors import STATUSES
from tolsey.ledger.events import Granted, Open, Reserve, Void
from tolsey.ledger.rules import MAX_OPEN_HOLDS
from tolsey.store.keyring import Keyring
from tolsey.store.sqlite import SqliteLedger
from tolsey.token.chain import ADMIN, CAPABILITY, Chain, write_identifier
from tolsey.token.macaroon import Macaroon, prefix_id
from tolsey.token.verifier import Verifier

CONFIG = """
[server]
[[upstream]]
name = "search"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/search"
methods = ["GET", "POST"]
upstream = "search"
price = "0.01 USD"
[[route]]
path = "/dear"
methods = ["GET"]
upstream = "search"
price = "3 USD"
[[route]]
path = "/sats"
methods = ["GET"]
upstream = "search"
price = "5 sat"
"""


@pytest.fixture(autouse=True)
def _nothing_is_forwarded_that_is_refused(upstream: Upstream) -> Iterator[None]:
    """Whatever a test calls `/search?refused`, `/dear` or `/sats` must never be heard upstream."""
    before = len(upstream.heard)
    yield
    assert [m.line for m in upstream.heard[before:] if m.target != "/search"] == []


def refused(answer: Message, status: int, code: str) -> dict[str, Any]:
    """The document of a refusal, whose status and headers are those of its code."""
    document = problem(answer)
    assert (answer.status, document["code"]) == (status, code), document
    assert (document["status"], document["title"]) == STATUSES[code]
    assert ("www-authenticate" in answer) is (status == 401)
    assert ("retry-after" in answer) is (status in (429, 503))
    assert ("allow" in answer) is (status == 405)
    assert "tolsey-cost" not in answer
    return document


def chain_of(gateway: Gateway, token: str) -> Chain:
    """The verified chain of a token."""
    keyring = Keyring.open(gateway.keys)
    return Verifier(CAPABILITY, lambda key_id: keyring.derived(CAPABILITY, key_id)).verify(token)


@contextlib.contextmanager
def another_worker(gateway: Gateway) -> Iterator[SqliteLedger]:
    """Another owner that writes to the same ledger."""
    ledger = SqliteLedger(gateway.ledger, now=time.time_ns(), new_id="", create=False)
    ledger.register(secrets.token_hex(8), time.time_ns())
    try:
        yield ledger
    finally:
        ledger.close()


# --- 400 and 401


@pytest.mark.parametrize("path", ["//search", "/search/..", "/./search", "/s%65arch", "/sea%2Frch", "/a%", "/a\\b"])
def test_a_path_that_is_not_canonical(gateway: Gateway, path: str) -> None:
    refused(gateway.ask("GET", path, token=gateway.token()), 400, "path_invalid")


def test_an_upgrade(gateway: Gateway) -> None:
    token = gateway.token()
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: AAAA", "Sec-WebSocket-Version: 13")
    with gateway.client() as client:
        client.ask("GET", "/search?refused", *upgrade, token=token)
        refused(client.answer(), 400, "request_invalid")
    gateway.stands(token, spent="0", calls=0)


def test_a_token_that_is_not_genuine_leaves_no_trace(gateway: Gateway) -> None:
    token = Macaroon.deserialize(gateway.token())
    key_id, secret = Keyring.open(gateway.keys).current(CAPABILITY)
    flipped = token.signature[:-1] + bytes([token.signature[-1] ^ 1])
    entries = len(gateway.entries())
    admin = write_identifier(ADMIN, key_id, tokens.NONCE, 1)
    for name, forged in {
        "a bit of the signature": Macaroon(token.location, token.identifier, token.caveats, flipped),
        "a caveat taken away": Macaroon(token.location, token.identifier, token.caveats[:-1], token.signature),
        "a root key of their own": tokens.mint("budget = 1 USD", key_id=key_id),
        "a key id that nobody has": tokens.mint("budget = 1 USD", key_id="nobodys"),
        "our key, for another kind of token": Macaroon.mint(root_key=secret, identifier=admin).attenuate(
            "budget = 1 USD"
        ),
        "our key, for an identifier of another's": Macaroon.mint(root_key=secret, identifier=b"another's"),
    }.items():
        for _ in range(3):
            document = refused(gateway.ask("GET", "/search?refused", token=forged.to_text()), 401, "token_forged")
            assert "link" not in document, name
    assert len(gateway.entries()) == entries


def test_a_token_that_has_expired(gateway: Gateway) -> None:
    token = gateway.token("expires = 2020-01-01")
    document = refused(gateway.ask("GET", "/search?refused", token=token), 401, "token_expired")
    assert document["caveat"] == "expires = 2020-01-01"
    assert document["link"]["label"] == "team"


# --- 403


@pytest.mark.parametrize(
    ("caveat", "method", "target"),
    [
        ("scope = /other", "GET", "/search?refused"),
        ("scope = /search/*", "GET", "/search?refused"),
        ("scope = /search?source=arxiv", "GET", "/search?refused"),
        ("scope = /search?source=arxiv", "GET", "/search?source=other"),
        ("scope = /search?source=arxiv", "GET", "/search?source=arxiv&source=arxiv"),
        ("scope = /search?source=arxiv", "GET", "/search?source=arxiv&Source=x"),
        ("scope = /search?source=arxiv", "GET", "/search?source=arxiv;x"),
        ("method = POST", "GET", "/search?refused"),
        ("method = GET", "HEAD", "/search?refused"),
        ("upstream = other*", "GET", "/search?refused"),
        ("peer = 10.0.0.0/8", "GET", "/search?refused"),
        ("max-price = 0.009 USD", "GET", "/search?refused"),
        ("max-price = 5 sat", "GET", "/search?refused"),
    ],
)
def test_a_caveat_refuses_and_is_named(gateway: Gateway, caveat: str, method: str, target: str) -> None:
    parent = gateway.token()
    child = child_of(parent, "label = narrow x", caveat)
    opening = Macaroon.deserialize(parent).attenuate("label = narrow x")

    answer = gateway.ask(method, target, token=child)
    if method == "HEAD":
        assert answer.status == 403
        answer = gateway.ask("POST", target, token=child)
    document = refused(answer, 403, "caveat_refused")

    assert document["caveat"] == caveat
    assert document["link"] == {"label": "narrow", "prefix_id": prefix_id(opening.signature)}
    gateway.stands(parent, spent="0", calls=0)


def test_depth_counts_the_links_after_it(gateway: Gateway) -> None:
    token = gateway.token("depth = 1")
    one = child_of(token, "label = one n")
    assert gateway.ask("GET", "/search", token=one).status == 200
    document = refused(
        gateway.ask("GET", "/search?refused", token=child_of(one, "label = two n")), 403, "caveat_refused"
    )
    assert (document["link"]["label"], document["caveat"]) == ("team", "depth = 1")


@pytest.mark.parametrize(
    "caveat",
    [
        *(
            "colour = red",
            "tool = [x]",
            "tool = [x]",
            "budget = 5 USD/year",
            "calls = 5/minute",
            "rate = 60",
            "scope =",
            "x",
        ),
        *("Scope = /search", "budget = -1 USD", "budget = 1e400 USD", "expires = never", "label = ", "method = get"),
    ],
)
def test_a_caveat_that_is_not_understood_refuses(gateway: Gateway, caveat: str) -> None:
    document = refused(
        gateway.ask("GET", "/search?refused", token=child_of(gateway.token(), caveat)), 403, "caveat_unknown"
    )
    assert document["caveat"] == caveat


def test_a_discharge_is_asked_for(gateway: Gateway) -> None:
    root = tokens.ask(Macaroon.deserialize(gateway.token()))
    good, wrong = tokens.answer("purpose = approved"), tokens.answer(key=b"not the approver's")

    refused(gateway.ask("GET", "/search?refused", token=root.to_text()), 403, "discharge_missing")
    for bad in (tokens.text_of(root, wrong), tokens.text_of(root, good, good), root.to_text() + "," + good.to_text()):
        refused(gateway.ask("GET", "/search?refused", token=bad), 403, "discharge_invalid")
    assert gateway.ask("GET", "/search", token=tokens.text_of(root, good)).status == 200


# --- 402, 429, 503


def test_a_budget_that_is_spent(gateway: Gateway) -> None:
    team = gateway.token(budget="0.025 USD")
    worker = child_of(team, "label = worker w", "budget = 50 USD")
    for _ in range(2):
        assert gateway.ask("GET", "/search", token=worker).status == 200
    gateway.stands(worker, spent="0.02", calls=2)

    document = refused(gateway.ask("GET", "/search?refused", token=worker), 402, "budget_exhausted")

    assert document["link"] == {"label": "team", "prefix_id": prefix_id(Macaroon.deserialize(team).signature)}
    money = {key: document[key] for key in ("unit", "limit", "spent", "held", "remaining", "resets_at")}
    wanted = {"unit": "USD", "limit": "0.025", "spent": "0.02", "held": "0", "remaining": "0.005", "resets_at": None}
    assert money == wanted
    assert "caveat" not in document


def test_a_budget_that_never_could_pay(gateway: Gateway) -> None:
    for token in (gateway.token(budget="2.999999999 USD"), gateway.token(budget="0 USD")):
        refused(gateway.ask("GET", "/dear", token=token), 402, "budget_exhausted")
        gateway.stands(token, spent="0", calls=0)


def test_no_budget_in_the_unit_of_the_price(gateway: Gateway) -> None:
    for token in (
        gateway.token(budget=None),
        gateway.token(budget="10 USD"),
        child_of(gateway.token(budget=None), "label = x n", "budget = 1000000 sat"),
    ):
        document = refused(gateway.ask("GET", "/sats", token=token), 402, "budget_missing")
        assert document["unit"] == "sat"
    appended = child_of(gateway.token(), "label = x n", "budget = 5 EUR")
    document = refused(gateway.ask("GET", "/search?refused", token=appended), 402, "budget_missing")
    assert (document["link"]["label"], document["caveat"]) == ("x", "budget = 5 EUR")


def test_too_many_open_holds(gateway: Gateway) -> None:
    token = gateway.token()
    purse = chain_of(gateway, token).purse("USD")
    holds = [f"other-{n}" for n in range(MAX_OPEN_HOLDS)]
    with another_worker(gateway) as ledger:
        outcomes = ledger.run([Reserve(hold, purse, 1) for hold in holds], time.time_ns())
        assert all(isinstance(outcome, Granted) for outcome in outcomes)

        answer = gateway.ask("GET", "/search?refused", token=token)
        document = refused(answer, 429, "too_many_holds")
        assert (answer["retry-after"], document["link"]["label"]) == ("1", "team")
        assert gateway.ask("GET", "/search", token=child_of(token, "label = x n", "budget = 1 USD")).status == 200

        ledger.run([Void(hold) for hold in holds], time.time_ns())
    assert gateway.ask("GET", "/search", token=token).status == 200
    gateway.stands(token, spent="0.02", calls=2)


def test_a_ledger_that_says_otherwise(gateway: Gateway) -> None:
    token = gateway.token()
    (account,) = chain_of(gateway, token).purse("USD")
    with another_worker(gateway) as ledger:
        ledger.run([Open(account._replace(limit=1))], time.time_ns())
    answer = gateway.ask("GET", "/search?refused", token=token)
    refused(answer, 503, "ledger_conflict")


# --- the order


def test_the_first_refusal_is_the_answer(gateway: Gateway) -> None:
    expired, outside, unknown = "expires = 2020-01-01", "scope = /other", "colour = red"
    forged = gateway.token()[:-4] + "AAAA"
    two = ("X-Api-Key: tolsey_!", f"Authorization: Bearer {forged}")
    for request, code in (
        (("GET", "/nothing/../x", *two), "path_invalid"),
        (("POST", "/nothing", *two), "route_missing"),
        (("DELETE", "/search", *two), "method_not_allowed"),
        (("GET", "/search?refused", *two), "credentials_ambiguous"),
        (("GET", "/search?refused", "X-Api-Key: tolsey_!"), "token_malformed"),
        (("GET", "/search?refused", f"X-Api-Key: {child_of(forged, expired)}"), "token_forged"),
    ):
        answer = gateway.ask(*request)
        assert problem(answer)["code"] == code, request
    for caveats, target, code in (
        ((expired, outside, unknown), "/dear", "token_expired"),
        ((outside, expired, unknown), "/dear", "caveat_refused"),
        ((unknown, expired, outside), "/dear", "caveat_unknown"),
        (("max-price = 1 USD", expired), "/dear", "token_expired"),
        (("max-price = 1 USD",), "/dear", "caveat_refused"),
        (("label = x n", "budget = 1 EUR", "max-price = 1 USD"), "/dear", "caveat_refused"),
        (("label = x n", "budget = 1 EUR"), "/dear", "budget_missing"),
        (("label = x n", "budget = 1 EUR"), "/search?refused", "budget_missing"),
        (("label = x n", "budget = 1 USD"), "/dear", "budget_exhausted"),
    ):
        token = child_of(gateway.token(budget="2 USD"), *caveats)
        assert problem(gateway.ask("GET", target, token=token))["code"] == code, caveats


# --- disclose


def test_disclose_none_hides_the_figures_of_the_accounts_above(gateway: Gateway) -> None:
    team = gateway.token(budget="0.01 USD")
    worker = child_of(team, "label = worker w", "budget = 50 USD")
    assert gateway.ask("GET", "/search", token=worker)["tolsey-remaining"] == "0 USD"
    poor = child_of(gateway.token(), "label = poor p", "budget = 0.001 USD")
    shown = gateway.file.read_text()
    try:
        gateway.reload(shown.replace("[server]", '[server]\ndisclose = "none"'))
        until(lambda: len(gateway.accounts(worker)) == 1, "the worker took up the config")

        above = refused(gateway.ask("GET", "/search?refused", token=worker), 402, "budget_exhausted")
        own = refused(gateway.ask("GET", "/search?refused", token=poor), 402, "budget_exhausted")
        itself = refused(gateway.ask("GET", "/search?refused", token=team), 402, "budget_exhausted")
        served = gateway.ask("GET", "/search", token=child_of(gateway.token(), "label = worker v"))

        assert (above["link"]["label"], above["unit"]) == ("team", "USD")
        assert not {"limit", "spent", "held", "remaining"} & set(above)
        assert (served.status, served.all("tolsey-remaining")) == (200, [])
        assert (own["limit"], own["spent"], own["held"], own["remaining"]) == ("0.001", "0", "0", "0.001")
        assert (itself["limit"], itself["spent"], itself["remaining"]) == ("0.01", "0.01", "0")
        assert [account["label"] for account in gateway.accounts(worker)] == ["worker"]
        assert [account["label"] for account in gateway.accounts(team)] == ["team"]
    finally:
        gateway.reload(shown)
    until(lambda: len(gateway.accounts(worker)) == 2, "the worker took up the config")


# --- the HTTP library's own


def test_headers_beyond_what_the_library_takes(gateway: Gateway) -> None:
    with gateway.client() as client:
        client.ask("GET", "/search?refused", *(f"X-{n}: {n}" for n in range(200)), token=gateway.token())
        assert client.answer().status == 431
    with gateway.client() as client:
        client.ask("GET", "/search?refused", "X-Big: " + "a" * 500_000, token=gateway.token())
        assert client.answer().status == 431


def test_every_refusal_of_the_gateway_is_json_with_a_closed_code(gateway: Gateway) -> None:
    body = gateway.ask("GET", "/nothing").body
    assert set(json.loads(body)) == {"type", "title", "status", "detail", "code"}
