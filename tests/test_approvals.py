"""Approvals: what is sealed and discharged, and a call that somebody has to say yes to."""

import asyncio
import base64
import json
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PrivateKey, SealedBox

from tests.cli import answer as cli
from tests.cli import refusal
from tests.ends import Message
from tests.gateways import Gateway, child_of, problem, serving
from tests.ledgers import database
from tests.postgres import Server
from tests.reading import fsck
from tests.upstreams import Upstream
from tolsey import attenuate, inspect
from tolsey.approval import approved
from tolsey.errors import CaveatInvalid, DischargeInvalid
from tolsey.gateway.approving import MAX_QUESTION
from tolsey.ledger.approving import MAX_OPEN_EACH, OPEN_NS, Asked, Question
from tolsey.refusals import DischargeMissing
from tolsey.store.contract import Ledger, Snapshot
from tolsey.store.embedded import EmbeddedLedger
from tolsey.store.postgres import open_postgres
from tolsey.store.postgres_snapshot import PostgresSnapshot
from tolsey.store.sqlite import SqliteLedger
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.token.approvals import (
    MAX_TICKET,
    Approver,
    Ticket,
    parse_approver,
    parse_condition,
    public_key,
    seal,
    unseal,
)
from tolsey.token.caveats import parse_expiry
from tolsey.token.macaroon import Macaroon
from tolsey.token.once import Once, call_digest, parse_once
from tolsey.token.wire import bytes_to_text
from tolsey.units import Amount

CONFIG = """
[server]
[[upstream]]
name = "one"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/dear/*"
methods = ["GET", "POST"]
upstream = "one"
price = "7 USD"
[[route]]
path = "/*"
methods = ["GET", "POST"]
upstream = "one"
price = "1 USD"
[[route]]
path = "/free"
methods = ["GET"]
upstream = "one"
price = "0 USD"
"""
SECRET = bytes(range(32))
APPROVER = Approver("http://127.0.0.1:8402", "0badcafe", public_key(SECRET))
FIVE = Amount(5 * 10**9, "USD")


# --- tickets


def test_a_ticket_is_a_sealed_box_as_libsodium_has_it() -> None:
    sealed = seal(Ticket(b"k" * 32, FIVE), APPROVER, b"e" * 32)
    prefix, _, box = sealed.decode().rpartition(":")
    assert prefix == "tolsey-approval:1:0badcafe"
    data = base64.urlsafe_b64decode(box + "=" * (-len(box) % 4))
    content = json.loads(SealedBox(PrivateKey(SECRET)).decrypt(data))
    assert content == {"key": base64.urlsafe_b64encode(b"k" * 32).decode().rstrip("="), "free": "5 USD"}
    assert unseal(sealed, SECRET) == Ticket(b"k" * 32, FIVE)
    theirs = SealedBox(PrivateKey(SECRET).public_key).encrypt(json.dumps(content | {"free": ""}).encode())
    text = base64.urlsafe_b64encode(theirs).decode().rstrip("=")
    assert unseal(f"{prefix}:{text}".encode(), SECRET) == Ticket(b"k" * 32, None)


@pytest.mark.parametrize("at", [0, 28, 60, 100, -1])
def test_a_ticket_that_was_touched_is_not_read(at: int) -> None:
    sealed = bytearray(seal(Ticket(b"k" * 32, FIVE), APPROVER, b"e" * 32))
    sealed[at] = ord("A") if sealed[at] != ord("A") else ord("B")
    # The last character of base64 has bits that mean nothing.
    sealed[-2] = ord("A") if at == -1 and sealed[-2] != ord("A") else sealed[-2]
    with pytest.raises(DischargeInvalid):
        unseal(bytes(sealed), SECRET)


def test_a_ticket_for_another_is_not_read() -> None:
    with pytest.raises(DischargeInvalid):
        unseal(seal(Ticket(b"k" * 32, FIVE), APPROVER, b"e" * 32), b"x" * 32)


@given(st.binary(max_size=MAX_TICKET + 10))
def test_any_bytes_are_no_ticket(data: bytes) -> None:
    for sealed in (data, b"tolsey-approval:1:k:" + data):
        with pytest.raises(DischargeInvalid):
            unseal(sealed, SECRET)


@pytest.mark.parametrize("text", ["above 5 USD", "always"])
def test_conditions(text: str) -> None:
    assert parse_condition(text) == (None if text == "always" else FIVE)


@pytest.mark.parametrize(
    "text", ["", "above", "above 5", "above NaN USD", "above -1 USD", "below 5 USD", "Always", "above 1e9 USD"]
)
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(CaveatInvalid, match="approval"):
        parse_condition(text)


def test_an_approver_is_written_as_it_is_read() -> None:
    assert parse_approver(f"{APPROVER}\n") == APPROVER
    for wrong in ("", "http://x", "ftp://x#k." + "A" * 43, "http://x#k." + "A" * 42, "http://x#k k." + "A" * 43):
        with pytest.raises(CaveatInvalid, match="tolsey approver"):
            parse_approver(wrong)


def test_once_is_for_one_call() -> None:
    digest = call_digest("GET", "/a", "")
    assert parse_once("A" * 22 + " " + digest) == Once("A" * 22, digest)
    assert digest != call_digest("GET", "/a", "x=1") != call_digest("POST", "/a", "x=1")
    for wrong in (
        "A" * 21 + " " + digest,
        "A" * 22 + "  " + digest,
        "A" * 22,
        digest,
        "A" * 22 + " " + digest.upper() + "g",
    ):
        with pytest.raises(CaveatInvalid, match="once"):
            parse_once(wrong)


def test_the_budget_stays_last_and_inspect_says_who_is_asked() -> None:
    root = Macaroon.mint(root_key=b"k", identifier=b"tolsey:1:cafe0000:AAAAAAAAAAAAAAAAAAAAAA:0").to_text()
    token = attenuate(root, label="buyer", budget="20 USD", approval="above 5 USD", approver=str(APPROVER))
    assert str(Macaroon.deserialize(token).caveats[-1]) == "budget = 20 USD"
    assert inspect(token).third_parties == ("http://127.0.0.1:8402",)


# --- through a gateway


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("approvals"), CONFIG, port=upstream.port) as running:
        yield running


@pytest.fixture(scope="module")
def approver(gateway: Gateway) -> str:
    return str(cli("approver", f"http://127.0.0.1:{gateway.port}", "-c", str(gateway.file))["approver"])


@pytest.fixture
def token(gateway: Gateway, approver: str) -> str:
    parent = gateway.token(budget="30 USD")
    return attenuate(parent, label="buyer", budget="20 USD", approval="above 5 USD", approver=approver)


def ask(gateway: Gateway, token: str, path: str = "/dear/a", price: str = "7 USD", **more: object) -> Message:
    body = {"method": "GET", "path": path, "price": price} | more
    return gateway.ask("POST", "/.tolsey/approvals", token=token, body=json.dumps(body).encode())


def document(answer: Message, status: int) -> dict[str, Any]:
    assert answer.status == status, answer.body
    found: dict[str, Any] = json.loads(answer.body)
    return found


def with_discharge(token: str, discharge: str) -> str:
    root = Macaroon.deserialize(token)
    return bytes_to_text(root.serialize() + root.bind(Macaroon.deserialize(discharge)).serialize())


def test_nobody_is_asked_about_a_small_call(gateway: Gateway, token: str) -> None:
    assert problem(gateway.ask("GET", "/a", token=token))["code"] == "discharge_missing"
    given_ = document(ask(gateway, token, "/a", "5 USD"), 200)
    small = with_discharge(token, given_["discharge"])
    for path in ("/a", "/b"):
        assert gateway.ask("GET", path, token=small).status == 200
    refused = problem(gateway.ask("GET", "/dear/a", token=small))
    assert (refused["code"], refused["caveat"]) == ("caveat_refused", "max-price = 5 USD")


def test_a_dear_call_is_made_once_when_somebody_said_yes(gateway: Gateway, token: str) -> None:
    c = ("-c", str(gateway.file))
    waiting = document(ask(gateway, token, query="x=1", purpose="the yearly report\x1b[2J"), 202)
    polled = document(gateway.ask("GET", waiting["poll"], token=token), 202)
    # The ledger keeps the question by its own clock, which may have gone on to the next second.
    ends = [parse_expiry(each.pop("until")) for each in (polled, waiting)]
    assert (polled, 0 <= ends[0] - ends[1] <= 10**9) == (waiting, True)
    (shown,) = cli("approvals", *c)["approvals"]
    assert (shown["id"], shown["labels"], shown["price"]) == (waiting["approval"], "team/buyer", "7 USD")
    said = cli("approve", waiting["approval"], "--reason", "it is due", *c)
    assert (said["granted"], said["reason"]) == (True, "it is due")
    assert cli("approvals", *c)["approvals"] == []

    given_ = document(gateway.ask("GET", waiting["poll"], token=token), 200)
    assert document(gateway.ask("GET", waiting["poll"], token=token), 200) == given_
    allowed = with_discharge(token, given_["discharge"])
    for target in ("/dear/a", "/dear/a?x=1&y=2", "/dear/b?x=1", "/a?x=1"):
        assert problem(gateway.ask("GET", target, token=allowed))["code"] == "caveat_refused"
    assert problem(gateway.ask("POST", "/dear/a?x=1", token=allowed))["code"] == "caveat_refused"
    assert gateway.ask("GET", "/dear/a?x=1", token=allowed).status == 200
    again = problem(gateway.ask("GET", "/dear/a?x=1", token=allowed))
    assert (again["code"], again["link"]["label"]) == ("calls_exhausted", "(approval)")
    (entry,) = [entry for entry in gateway.entries() if entry.hold == waiting["approval"]]
    assert (entry.kind, entry.amount) == ("approve", 7 * 10**9)
    assert "it is due: team/buyer: GET /dear/a?x=1" in entry.note


def test_two_at_once_make_it_once(gateway: Gateway, token: str) -> None:
    waiting = document(ask(gateway, token), 202)
    cli("approve", waiting["approval"], "--reason", "yes", "-c", str(gateway.file))
    allowed = with_discharge(token, document(gateway.ask("GET", waiting["poll"], token=token), 200)["discharge"])
    found: list[int] = []
    calls = [
        threading.Thread(target=lambda: found.append(gateway.ask("GET", "/dear/a", token=allowed).status))
        for _ in "1234"
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert sorted(found) == [200, 402, 402, 402]


def test_a_discharge_is_of_no_use_to_another_token(gateway: Gateway, token: str, approver: str) -> None:
    given_ = document(ask(gateway, token, "/a", "1 USD"), 200)
    other = attenuate(gateway.token(), label="buyer", budget="9 USD", approval="above 5 USD", approver=approver)
    assert (
        problem(gateway.ask("GET", "/a", token=with_discharge(other, given_["discharge"])))["code"]
        == "discharge_missing"
    )
    unbound = bytes_to_text(
        Macaroon.deserialize(token).serialize() + Macaroon.deserialize(given_["discharge"]).serialize()
    )
    assert problem(gateway.ask("GET", "/a", token=unbound))["code"] == "discharge_invalid"


def test_what_was_denied_stays_shut(gateway: Gateway, token: str) -> None:
    c = ("-c", str(gateway.file))
    waiting = document(ask(gateway, token), 202)
    cli("deny", waiting["approval"], "--reason", "too dear", *c)
    refused = problem(gateway.ask("GET", waiting["poll"], token=token))
    assert (refused["code"], refused["detail"]) == ("discharge_missing", "it was denied")
    assert refusal("approve", waiting["approval"], "--reason", "after all", *c)["code"] == "question_unknown"
    assert refusal("approve", "0" * 24, "--reason", "which", *c)["code"] == "question_unknown"
    shown = [asked for asked in cli("approvals", "--all", *c)["approvals"] if asked["id"] == waiting["approval"]]
    assert shown[0]["state"] == "denied"
    assert shown[0]["note"].endswith(": too dear")


@pytest.mark.slow
def test_the_sdk_waits_for_the_answer(gateway: Gateway, token: str) -> None:
    c = ("-c", str(gateway.file))
    url = f"http://127.0.0.1:{gateway.port}"

    def said(word: str) -> None:
        while not (asked := cli("approvals", *c)["approvals"]):
            pass
        cli(word, asked[0]["id"], "--reason", "seen", *c)

    for word in ("approve", "deny"):
        person = threading.Thread(target=said, args=(word,))
        person.start()
        try:
            if word == "deny":
                with pytest.raises(DischargeMissing, match="denied"):
                    approved(token, url=url, method="GET", path="/dear/z", price="7 USD")
            else:
                allowed = approved(token, url=url, method="GET", path="/dear/z", price="7 USD", purpose="x")
                assert gateway.ask("GET", "/dear/z", token=allowed).status == 200
        finally:
            person.join()


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"method": "GET", "path": "/a"}', "price"),
        (b'{"method": "GET", "path": "/a", "price": 7}', "cannot be read"),
        (b'{"method": "GET", "path": "/a", "price": "NaN USD"}', "price"),
        (b'{"method": "GET", "path": "/a", "price": "-1 USD"}', "price"),
        (b'{"method": "GET", "path": "/../a", "price": "1 USD"}', ".."),
        (b'{"method": "GET", "path": "/\xc3\xa9", "price": "1 USD"}', ""),
        (b'{"method": "BREW", "path": "/a", "price": "1 USD"}', "BREW"),
        (b'{"method": "GET", "path": "/a", "price": "1 USD", "more": 1}', "more"),
        (b'{"method": "GET", "path": "/a", "price": "1 USD", "ticket": "x"}', "no such caveat"),
        (b'{"method": "GET", "path": "/a", "price": "1 USD", "purpose": "' + b"x" * 513 + b'"}', "512"),
    ],
)
def test_a_question_that_cannot_be_asked(gateway: Gateway, token: str, body: bytes, part: str) -> None:
    refused = problem(gateway.ask("POST", "/.tolsey/approvals", token=token, body=body))
    assert refused["code"] == "request_invalid"
    assert part in refused["detail"]


def test_a_question_is_as_long_as_it_may_be(gateway: Gateway, token: str) -> None:
    body = b'{"method": "GET", "path": "/a", "price": "1 USD"}'
    longest = body.ljust(MAX_QUESTION)
    assert gateway.ask("POST", "/.tolsey/approvals", token=token, body=longest).status == 200
    refused = gateway.ask("POST", "/.tolsey/approvals", token=token, body=longest + b" ")
    assert (refused.status, problem(refused)["code"]) == (413, "body_too_large")


def test_the_token_goes_to_nobody_else(gateway: Gateway, upstream: Upstream, token: str) -> None:
    """Whoever answers in the gateway's place with a redirect does not get the token sent on."""
    upstream.answers["/.tolsey/approvals"] = (
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/elsewhere\r\nContent-Length: 0\r\n\r\n" % upstream.port
    )
    with pytest.raises(HTTPError, match="302"):
        approved(token, url=f"http://127.0.0.1:{upstream.port}", method="GET", path="/a", price="1 USD")
    assert upstream.last().target == "/.tolsey/approvals"


def test_who_may_ask(gateway: Gateway, token: str) -> None:
    assert problem(ask(gateway, gateway.token()))["detail"].startswith("the token has no such caveat")
    forged = Macaroon.mint(root_key=b"k", identifier=b"tolsey:1:cafe0000:AAAAAAAAAAAAAAAAAAAAAA:0").to_text()
    assert problem(ask(gateway, forged))["code"] == "token_forged"
    assert problem(gateway.ask("POST", "/.tolsey/approvals", body=b"{}"))["code"] == "token_missing"
    assert problem(ask(gateway, child_of(token, "expires = 2020-01-01")))["code"] == "token_expired"
    assert problem(gateway.ask("GET", "/.tolsey/approvals", token=token))["code"] == "method_not_allowed"
    waiting = document(ask(gateway, token), 202)
    assert problem(gateway.ask("GET", waiting["poll"], token=gateway.token()))["code"] == "route_missing"
    assert problem(gateway.ask("POST", waiting["poll"], token=token))["code"] == "method_not_allowed"


def test_a_root_has_only_so_many_open_questions(gateway: Gateway, token: str, approver: str) -> None:
    for n in range(MAX_OPEN_EACH):
        assert ask(gateway, token, f"/dear/{n}").status == 202
    refused = ask(gateway, child_of(token, "label = another n"), "/dear/more")
    assert (problem(refused)["code"], refused["retry-after"]) == ("rate_limited", "60")
    other = attenuate(gateway.token(), label="buyer", approval="always", approver=approver)
    assert ask(gateway, other).status == 202


def test_a_ticket_of_a_holder_s_own_making_opens_nothing(gateway: Gateway, token: str) -> None:
    """Whoever appends a caveat with a key that he knows can discharge it himself, and is no better off."""
    own = Macaroon.deserialize(token).attenuate_third_party(
        location="here", key=b"k" * 32, identifier=b"mine", nonce=secrets.token_bytes(24)
    )
    discharge = Macaroon.mint(root_key=b"k" * 32, identifier=b"mine")
    both = bytes_to_text(own.serialize() + own.bind(discharge).serialize())
    assert problem(gateway.ask("GET", "/a", token=both))["code"] == "discharge_missing"
    for text in ("once = " + "A" * 22 + " " + call_digest("GET", "/a", ""), "calls = 1"):
        alone = gateway.token("label = x n")
        mine = Macaroon.deserialize(alone).attenuate_third_party(
            location="here", key=b"k" * 32, identifier=b"mine", nonce=secrets.token_bytes(24)
        )
        answered = mine.bind(Macaroon.mint(root_key=b"k" * 32, identifier=b"mine").attenuate(text))
        sent = bytes_to_text(mine.serialize() + answered.serialize())
        statuses = [gateway.ask("GET", "/a", token=sent).status for _ in "12"]
        assert statuses == ([200, 402] if text.startswith("once") else [403, 403])


def test_once_may_only_stand_in_a_discharge(gateway: Gateway) -> None:
    token = gateway.token("once = " + "A" * 22 + " " + call_digest("GET", "/a", ""))
    assert problem(gateway.ask("GET", "/a", token=token))["code"] == "caveat_unknown"


# --- in the ledger


def asked_now(id_: str) -> Question:
    now = time.time_ns()
    return Question(id_, now, now + OPEN_NS, "root", "pre", "a/b", "t", "GET", "/a", "", 7 * 10**9, "USD", "why")


async def check(ledger: Ledger) -> None:
    """A question is answered once, and its answer is an entry."""
    await ledger.register("o1")
    assert await ledger.ask(asked_now("q1"))
    found = await ledger.asked("q1")
    assert found is not None
    assert found.question._replace(at=0, until=0) == asked_now("q1")._replace(at=0, until=0)
    assert await ledger.asked("q2") is None
    assert await ledger.answer("q1", granted=True, note="approved by x: y") == found
    after = await ledger.asked("q1")
    assert after is not None
    assert (after.granted, after.note) == (True, "approved by x: y")
    assert await ledger.answer("q1", granted=False, note="denied") == after
    assert await ledger.answer("q2", granted=False, note="denied") is None
    await ledger.close()


def check_reading(snapshot: Snapshot) -> None:
    with snapshot:
        (asked,) = snapshot.questions()
        assert asked.granted
        assert [(entry.kind, entry.hold) for entry in snapshot.entries()] == [("approve", "q1")]
    assert fsck(snapshot).difference is None


async def test_questions_in_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    file = SqliteLedger(path, durability="full", now=time.time_ns(), new_id="l1", create=True)
    await check(EmbeddedLedger(file, timeout=5, now=time.time_ns))
    check_reading(SqliteSnapshot(path))
    with database(path, lawless=True) as db:
        db.execute("UPDATE question SET granted = 0")
    assert fsck(path).difference == "the answer to question q1 is not as the journal has it"


async def test_questions_in_postgresql(postgres: Server) -> None:
    url = postgres.database()
    await check(await open_postgres(url, durability="full", seconds=5, now=time.time_ns, new_id="l1", create=True))
    await asyncio.to_thread(check_reading, PostgresSnapshot(url))


def test_a_question_is_over_on_the_edge() -> None:
    asked = Asked(asked_now("q"))
    assert asked.is_open(asked.question.until - 1)
    assert not asked.is_open(asked.question.until)
    assert not asked._replace(granted=False).is_open(asked.question.at)
