"""Revoked tokens at a gateway of two workers: refused within a second, whatever is appended, over restarts, and while
calls are under way.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.admins import Api, admin_token
from tests.cli import answer
from tests.ends import Broken, Message
from tests.foreign import LIBRARIES, library
from tests.gateways import Gateway, child_of, problem, serving, until
from tests.payers import PURSE, buy
from tests.upstreams import Upstream
from tolsey import attenuate
from tolsey.store.revocations import FRESH_SECONDS
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.store.tallies import tallies
from tolsey.token.macaroon import Macaroon

OFFERED = 'offers = ["purse"]\n'
ROUTES = f"""
{PURSE.replace("<more>", "").replace(OFFERED, "")}
[[upstream]]
name = "one"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/free/*"
methods = ["GET"]
upstream = "one"
price = "0 USD"
[[route]]
path = "/watched/*"
methods = ["GET"]
upstream = "one"
price = "0.25 USD"
mode = "observe"
[[route]]
path = "/open/*"
methods = ["GET"]
upstream = "one"
mode = "public"
[[route]]
path = "/bytes/*"
methods = ["GET"]
upstream = "one"
price_per_response_mb = "1 USD"
[[route]]
path = "/v1/*"
methods = ["POST"]
upstream = "one"
llm = "openai"
[[route]]
path = "/search"
methods = ["GET"]
upstream = "one"
price = "300 sat"
offers = ["purse"]
[[route]]
path = "/*"
methods = ["GET", "POST"]
upstream = "one"
price = "0.01 USD"
[[model]]
name = "own-*"
input = "1 USD"
output = "2 USD"
context = 1000
max_output = 1000
"""
CONFIG = f"[server]\nworkers = 2\n{ROUTES}"
CUTTING = f'[server]\nrevoked_calls = "cut"\n{ROUTES}'
STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MEGABYTE = b"f4240\r\n" + bytes(1_000_000) + b"\r\n"


def change(gateway: Gateway, command: str, what: str, *words: str) -> dict[str, Any]:
    """Revoke, or take it back, by the command line, and let the second pass that every worker has to hear of it."""
    found = answer(command, what if len(what) == 32 else "-", "-c", str(gateway.file), *words, stdin=what)
    done = time.monotonic()
    until(lambda: time.monotonic() > done + FRESH_SECONDS, "a second is over")
    return found


def refused(answer: Message) -> dict[str, Any]:
    """The document of a call whose token was revoked."""
    document = problem(answer)
    assert (answer.status, document["code"]) == (403, "token_revoked")
    return document


def statuses(gateway: Gateway, token: str, target: str = "/x", calls: int = 6) -> set[int]:
    """What calls on connections of their own are answered with: of several, some come to each worker."""
    return {gateway.ask("GET", target, token=token).status for _ in range(calls)}


def test_a_token_its_children_and_nobody_else(gateway: Gateway, upstream: Upstream) -> None:
    team = gateway.token()
    worker = attenuate(team, label="worker", budget="5 USD")
    helper = attenuate(worker, label="helper", expires="2099-01-01")
    sibling = attenuate(team, label="worker", budget="5 USD")
    for token in (team, worker, helper, sibling):
        assert statuses(gateway, token, calls=3) == {200}
    found = change(gateway, "revoke", worker, "--reason", "found in a log")
    assert (found["label"], found["link"], found["until"]) == ("worker", 2, None)
    later = attenuate(helper, label="later", budget="1 USD")
    with upstream.hears_nothing():
        for token in (worker, helper, later, child_of(worker, "method = GET"), child_of(worker, "label = worker n")):
            for target in ("/x", "/free/x", "/.tolsey/balance", "/.tolsey/holds/none", "/.tolsey/approvals/none"):
                assert statuses(gateway, token, target) == {403}
        document = refused(gateway.ask("GET", "/x", token=later))
        assert document["link"] == {"label": "worker", "prefix_id": found["prefix_id"]}
        assert "found in a log" not in json.dumps(document), "why is not for the bearer to know"
    for token in (team, sibling):
        assert statuses(gateway, token) == {200}


@pytest.mark.parametrize("name", LIBRARIES)
def test_w1_appending_a_caveat_does_not_give_a_token_back(gateway: Gateway, name: str) -> None:
    """A ban was on the last signature: whoever held a banned token appended anything, and children went on."""
    token = gateway.token()
    change(gateway, "revoke", token)
    for caveat in (b"purpose = x", b"label = fresh n", b"label = team n", b"budget = 1 USD"):
        binary = library(name).attenuate(Macaroon.deserialize(token).serialize(), [caveat])
        refused(gateway.ask("GET", "/x", token=Macaroon.deserialize(binary).to_text()))


def test_a_prefix_id_of_the_trail_or_of_the_root(gateway: Gateway) -> None:
    team = gateway.token()
    worker = attenuate(team, label="worker", budget="5 USD")
    assert statuses(gateway, worker, calls=1) == {200}
    account = gateway.accounts(worker)[-1]["id"]
    change(gateway, "revoke", account.upper())
    assert (statuses(gateway, worker), statuses(gateway, team)) == ({403}, {200})
    change(gateway, "revoke", worker, "--link", "0")
    document = refused(gateway.ask("GET", "/x", token=team))
    assert (document["link"]["label"], document["detail"]) == (None, "the token was revoked")


def test_it_is_taken_back(gateway: Gateway) -> None:
    token = gateway.token()
    found = change(gateway, "revoke", token)
    assert statuses(gateway, token) == {403}
    change(gateway, "unrevoke", found["prefix_id"], "--reason", "the wrong one")
    assert statuses(gateway, token) == {200}


def test_revoked_comes_before_every_caveat_and_price(gateway: Gateway) -> None:
    token = gateway.token("expires = 2020-01-01", "scope = /elsewhere", budget=None)
    assert gateway.ask("GET", "/x", token=token).status == 401
    change(gateway, "revoke", token)
    refused(gateway.ask("GET", "/x", token=token))
    assert gateway.ask("GET", "/x", token=token[:-4] + "AAAA").status == 401, "but not before it is verified"


def test_an_idempotency_key_is_answered_no_more(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    assert gateway.ask("GET", "/x", "Idempotency-Key: one", token=token).status == 200
    change(gateway, "revoke", token)
    with upstream.hears_nothing():
        refused(gateway.ask("GET", "/x", "Idempotency-Key: one", token=token))


def test_a_paid_token_is_revoked_too(gateway: Gateway, upstream: Upstream) -> None:
    paid = buy(gateway)
    assert gateway.ask("GET", "/search", paid.header).status == 200
    text = paid.header.partition("L402 ")[2]
    change(gateway, "revoke", text)
    with upstream.hears_nothing():
        for bearer in (paid, paid.child("label = x n"), paid.child("method = GET")):
            refused(gateway.ask("GET", "/search", bearer.header))
            refused(gateway.ask("GET", "/.tolsey/balance", bearer.header))
    unused = buy(gateway)
    change(gateway, "revoke", unused.header.partition("L402 ")[2])
    refused(gateway.ask("GET", "/search", unused.header))
    assert gateway.ask("GET", "/search", buy(gateway).header).status == 200


def test_observe_writes_it_down_and_goes_on(gateway: Gateway) -> None:
    token = gateway.token()
    change(gateway, "revoke", token)
    assert statuses(gateway, token, "/watched/x") == {200}
    assert statuses(gateway, token, "/open/x") == {200}

    def counted() -> list[tuple[str, int]]:
        with SqliteSnapshot(gateway.ledger) as snapshot:
            found = [(key, counts.calls) for _, key, counts in tallies(snapshot, 0, 2**40)]
        observed = [(key.agent, calls) for key, calls in found if (key.mode, key.code) == ("observe", "token_revoked")]
        return observed if sum(calls for _, calls in observed) == 6 else []

    until(counted, "it is tallied", 20)
    assert {agent for agent, _ in counted()} == {"team"}


def test_calls_under_way_finish(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    with gateway.client() as client, gateway.client() as streaming:
        client.ask("GET", "/talk", token=token)
        talk = upstream.hear()
        streaming.ask("GET", "/talk", token=token)
        stream = upstream.hear()
        stream.say(STREAM, "2\r\nab\r\n")
        assert streaming.head().status == 200
        found = change(gateway, "revoke", token)
        talk.answers()
        assert client.answer().status == 200
        stream.say("2\r\ncd\r\n0\r\n\r\n")
        stream.over()
        assert streaming.until(b"0\r\n\r\n").count(b"cd") == 1
    change(gateway, "unrevoke", found["prefix_id"], "--reason", "to look")
    gateway.stands(token, spent="0.02", calls=2)


def test_a_hold_is_not_extended(gateway: Gateway, upstream: Upstream) -> None:
    """RULES.md M8: what has been paid for goes on, and no more."""
    token = gateway.token()
    with gateway.client() as client:
        client.ask("GET", "/bytes/talk", token=token)
        talk = upstream.hear()
        talk.say(STREAM, MEGABYTE)
        client.head()
        assert len(client.chunk()) > 0
        found = change(gateway, "revoke", token)
        talk.say(MEGABYTE)
        with pytest.raises(Broken):
            client.until(b"0\r\n\r\n")
        talk.close()
    change(gateway, "unrevoke", found["prefix_id"], "--reason", "to look")
    gateway.stands(token, spent="1", calls=1)


def test_a_call_whose_body_took_its_time_is_not_sent(gateway: Gateway, upstream: Upstream) -> None:
    """Its token was verified before, and is looked at again when the body is there."""
    token = gateway.token()
    body = json.dumps({"model": "own-1", "messages": [], "max_tokens": 10})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    with gateway.client() as client, upstream.hears_nothing():
        client.say(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body[:5]}")
        found = change(gateway, "revoke", token)
        client.say(body[5:])
        refused(client.answer())
    change(gateway, "unrevoke", found["prefix_id"], "--reason", "to look")
    gateway.stands(token, spent="0", calls=0)


# --- gateways of their own


@pytest.fixture
def own(tmp_path: Path, upstream: Upstream) -> Iterator[Gateway]:
    with serving(tmp_path, CONFIG, port=upstream.port) as running:
        yield running


def test_it_is_kept_across_restarts(own: Gateway) -> None:
    token, other = own.token(), own.token()
    change(own, "revoke", token)
    assert own.process is not None
    own.process.terminate()
    assert own.ends() == 0
    own.begin()
    assert statuses(own, token) == {403}, "from the first call on"
    before = {worker.pid for worker in own.workers()}
    for worker in own.workers():
        worker.kill()
        worker.wait()
    until(lambda: own.ask("GET", "/readyz", admin=True).status == 503, "they are gone")
    until(lambda: own.ask("GET", "/readyz", admin=True).status == 200, "there are others", 20)
    assert not before & {worker.pid for worker in own.workers()}
    assert (statuses(own, token), statuses(own, other)) == ({403}, {200})


def test_a_gateway_that_cannot_read_what_is_revoked_refuses(own: Gateway, upstream: Upstream) -> None:
    token = own.token()
    away = own.ledger.with_name("away")
    os.rename(own.ledger, away)
    done = time.monotonic()
    until(lambda: time.monotonic() > done + FRESH_SECONDS, "a second is over")
    with upstream.hears_nothing():
        for target in ("/free/x", "/x", "/.tolsey/balance"):
            answered = own.ask("GET", target, token=token)
            assert problem(answered)["code"] == "ledger_unavailable"
            assert answered["retry-after"] == "1"
    assert own.ask("GET", "/watched/x", token=token).status == 200
    assert own.ask("GET", "/open/x").status == 200
    assert own.ask("GET", "/free/x", token=token[:-4] + "AAAA").status == 401
    until(lambda: own.ask("GET", "/readyz", admin=True).status == 503, "the gateway says so")
    os.rename(away, own.ledger)
    until(lambda: own.ask("GET", "/readyz", admin=True).status == 200, "it goes on")
    assert statuses(own, token, "/free/x") == statuses(own, token) == {200}


@pytest.fixture
def cutting(tmp_path: Path, upstream: Upstream) -> Iterator[Gateway]:
    with serving(tmp_path, CUTTING, port=upstream.port) as running:
        yield running


def test_calls_under_way_are_cut_if_that_is_wanted(cutting: Gateway, upstream: Upstream) -> None:
    token, other = cutting.token(), cutting.token()
    child = attenuate(token, label="child", budget="1 USD")
    with (
        cutting.client() as waiting,
        cutting.client() as streaming,
        cutting.client() as free,
        cutting.client() as going,
    ):
        talks = []
        for client, target, bearer in (
            (waiting, "/talk", child),
            (streaming, "/talk", token),
            (free, "/watched/talk", token),
            (going, "/talk", other),
        ):
            client.ask("GET", target, token=bearer)
            talks.append(upstream.hear())
        talks[1].say(STREAM, "2\r\nab\r\n")
        assert streaming.head().status == 200
        found = change(cutting, "revoke", token)
        answered = waiting.answer()
        document = refused(answered)
        assert document["link"]["prefix_id"] == found["prefix_id"]
        assert "tolsey-hold" in answered
        with pytest.raises(Broken):
            streaming.until(b"0\r\n\r\n")
        for talk, client in ((talks[2], free), (talks[3], going)):
            talk.answers()
            assert client.answer().status == 200
        for talk in talks[:2]:
            talk.close()
    change(cutting, "unrevoke", found["prefix_id"], "--reason", "to look")
    assert [(a["spent"], a["held"], a["calls"]) for a in cutting.accounts(token)] == [("0.02", "0", 2)]
    cutting.stands(other, spent="0.01", calls=1)
    notes = sorted(entry.note for entry in cutting.entries() if entry.kind in ("settle", "void"))
    assert notes == ["200", "the token was revoked", "unmetered: the token was revoked"]
    page = cutting.ask("GET", "/metrics", admin=True).body.decode()
    assert 'code="token_revoked"' in page


def test_a_reload_begins_to_cut(own: Gateway, upstream: Upstream) -> None:
    token = own.token()
    with own.client() as client:
        client.ask("GET", "/talk", token=token)
        talk = upstream.hear()
        change(own, "revoke", token)
        assert client.is_silent(0.1)
        config = own.file.read_text()
        own.reload(config.replace("[server]\n", '[server]\nrevoked_calls = "cut"\n', 1))
        refused(client.answer())
        talk.close()


def test_an_admin_token_is_revoked_too(gateway: Gateway) -> None:
    token = admin_token(gateway)
    child = attenuate(token, label="intern", caveats=["action = mint"])
    with Api(gateway, token) as admin, Api(gateway, child) as intern:
        assert admin.get("/me")["label"] == "admin"
        found = change(gateway, "revoke", child)
        assert intern.refused("POST", "/mint", json={"label": "x", "budget": "1 USD"})["code"] == "token_revoked"
        assert admin.get("/me")["label"] == "admin"
        change(gateway, "revoke", token)
        assert admin.refused("GET", "/me")["code"] == "token_revoked"
        change(gateway, "unrevoke", found["prefix_id"], "--reason", "to look")
        assert intern.refused("GET", "/me")["link"]["label"] == "admin"
    page = gateway.ask("GET", "/metrics", admin=True).body.decode()
    assert "tolsey_revoked_prefixes" in page
    assert "tolsey_revocations_unread 0.0" in page
