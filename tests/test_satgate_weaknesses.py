"""What was wrong with another gateway, tried on a running one of ours.

Each test is named by the number of a weakness in a published review of SatGate (W-N… of its Node version, W… of the Go
one), and says what it was. Those that a token alone shows are tried where tokens are tested.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests import swarm
from tests.ports import free_port
from tests.swarm import Answer, Gateway, Upstream, one
from tolsey import Macaroon, attenuate

MORE = """
[[upstream]]
name = "dead"
url = "http://127.0.0.1:{dead}"
[[route]]
path = "/api/dear/*"
methods = ["GET"]
upstream = "api"
price = "0.05 USD"
[[route]]
path = "/api/fair/*"
methods = ["GET"]
upstream = "api"
price = "0.01 USD"
charge = "success"
[[route]]
path = "/api/dead/*"
methods = ["GET"]
upstream = "dead"
price = "0.01 USD"
[[route]]
path = "/api/free/*"
methods = ["GET"]
upstream = "api"
price = "0 USD"
[[route]]
path = "/api/any/*"
methods = ["*"]
upstream = "api"
price = "0.01 USD"
[[route]]
path = "/public/*"
methods = ["GET"]
mode = "public"
upstream = "api"
"""
ITEM = f"{swarm.ITEM}1"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with swarm.upstream(tmp_path_factory.mktemp("upstream")) as running:
        yield running


def new_gateway(folder: Path, upstream: Upstream) -> Gateway:
    return swarm.lay_out(folder, upstream.port, timeout=0.5, more=MORE.format(dead=free_port()))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Gateway]:
    """For the tests that leave it as it was."""
    running = new_gateway(tmp_path_factory.mktemp("gateway"), upstream)
    with swarm.ending(running):
        asyncio.run(running.start())
        yield running
        asyncio.run(running.stop())
        running.fsck()


def team(gateway: Gateway, budget: str | None = "0.05 USD", *caveats: str) -> str:
    return gateway.mint("label = team n1", *caveats, *([] if budget is None else [f"budget = {budget}"]))


def append(token: str, *caveats: str) -> str:
    """What any holder can do offline, with any macaroon library."""
    return Macaroon.deserialize(token).attenuate(*caveats).to_text()


async def status(gateway: Gateway, token: str, path: str = ITEM) -> int:
    return (await one(gateway.port, token, path)).status


def code(answer: Answer) -> str:
    return str(json.loads(answer.body)["code"])


async def accounts(gateway: Gateway, token: str) -> list[dict[str, Any]]:
    """What its holder reads of each account on the chain, root first, once nothing is held there."""
    while True:
        answer = await one(gateway.port, token, "/.tolsey/balance")
        found: list[dict[str, Any]] = json.loads(answer.body)["accounts"]
        if all(account["held"] == "0" for account in found):
            return found
        await asyncio.sleep(0.01)


# --- identity: what a budget is kept under


async def test_w_n2_and_w2_appending_a_caveat_does_not_give_a_fresh_budget(gateway: Gateway) -> None:
    """Counters were keyed by the last signature, so that each appended `note = n` began a new one."""
    token = team(gateway)
    notes = [[], ["purpose = a"], ["purpose = b", "purpose = c"], ["method = GET"], ["scope = /*"]]
    links = [
        ["label = x n2"],
        ["label = x n3"],
        ["label = y n4", "budget = 0.05 USD"],
        ["label = z n5", "label = z n6"],
    ]
    appended = [append(token, *caveats) for caveats in (*notes, *links, ["budget = 1000 USD"])]
    granted = Counter([await status(gateway, variant) for variant in appended])
    assert granted == {200: 5, 402: 5}
    for variant in appended:
        refused = await one(gateway.port, variant, ITEM)
        assert (refused.status, json.loads(refused.body)["link"]["label"]) == (402, "team")
    assert (await accounts(gateway, token))[0]["spent"] == "0.05"
    for unknown in ("note=0", "note=1"):
        assert code(await one(gateway.port, append(team(gateway), unknown), ITEM)) == "caveat_unknown"


async def test_w10_handing_on_moves_no_money(gateway: Gateway) -> None:
    """A child's budget was carved out of its parent's, and what an expired child had not spent was lost."""
    token = team(gateway)
    for expires in ("2020-01-01", "2099-01-01"):
        child = attenuate(token, label="child", budget="0.04 USD", expires=expires)
        assert await status(gateway, child) == (401 if expires == "2020-01-01" else 200)
    assert [await status(gateway, token) for _ in range(5)] == [200] * 4 + [402]


async def test_w13_what_a_client_sends_is_never_the_id_of_its_hold(gateway: Gateway) -> None:
    """Request ids were ignored in one store and the key in another; sessions that began at 1 again collided."""
    token = team(gateway)
    same = "Tolsey-Hold: 1\r\nX-Request-Id: 1\r\n"
    answers = [await one(gateway.port, token, ITEM, headers=same) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert len({answer.headers["tolsey-hold"] for answer in answers}) == 3
    (account,) = await accounts(gateway, token)
    assert (account["spent"], account["calls"]) == ("0.03", 3)
    assert len(account["id"]) == 32, "128 bits name an account; there it was 48"


async def test_w15_who_pays_is_in_the_token_alone(gateway: Gateway) -> None:
    """`X-Tenant-ID` and `X-Cost-Center` said whom a call was charged to."""
    payer, other = team(gateway), team(gateway)
    (account,) = await accounts(gateway, other)
    lies = "".join(f"{name}: {account['id']}\r\n" for name in ("X-Tenant-ID", "X-Cost-Center", "Tolsey-Account"))
    assert (await one(gateway.port, payer, ITEM, headers=lies)).status == 200
    assert (await accounts(gateway, other))[0]["spent"] == "0"
    assert (await accounts(gateway, payer))[0]["spent"] == "0.01"


async def test_w18_two_mints_in_the_same_instant_are_two_tokens(tmp_path: Path, upstream: Upstream) -> None:
    """The identifier was a time in milliseconds: two mints at once with equal caveats were one token, one budget."""
    gateway = new_gateway(tmp_path, upstream)

    async def mint() -> str:
        words = ["-m", "tolsey.cli.main", "mint", "-c", str(gateway.file), "--label", "team", "--budget", "0.01 USD"]
        process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return out.decode().strip()

    async with swarm.serving(gateway):
        tokens = await asyncio.gather(mint(), mint())
        assert len({Macaroon.deserialize(token).identifier for token in tokens}) == 2
        children = [attenuate(tokens[0], label="child", budget="0.01 USD") for _ in range(2)]
        assert [await status(gateway, token) for token in (children[0], tokens[1])] == [200, 200]
        ids = [(await accounts(gateway, token))[-1]["id"] for token in (*tokens, *children)]
        assert len(set(ids)) == 4, "nor are two equal children one account"
        await gateway.stop()


# --- money


async def test_w_n5_the_limits_are_the_tokens_and_the_price_is_the_routes(gateway: Gateway) -> None:
    """Limits came from the route, and the token's own were not looked at; a capability's cost was always 1."""
    poor, rich = team(gateway, "0.01 USD"), team(gateway, "0.03 USD")
    assert [await status(gateway, poor) for _ in range(2)] == [200, 402]
    assert [await status(gateway, rich) for _ in range(4)] == [200, 200, 200, 402]


async def test_w_n6_the_price_never_comes_from_the_token(gateway: Gateway) -> None:
    """The cost was that of the token's own scope: a wildcard token paid 1 for an endpoint that costs 5."""
    for caveat in (
        "scope = /*",
        "scope = /api/*",
        "scope = /api/dear/x",
        "purpose = price = 0 USD",
        "max-price = 1 USD",
    ):
        token = team(gateway, "1 USD", caveat)
        answer = await one(gateway.port, token, "/api/dear/x")
        assert answer.headers["tolsey-cost"] == "0.05 USD"
        assert (await accounts(gateway, token))[0]["spent"] == "0.05"
    for caveat in ("price = 0 USD", "cost = 0", "tier = free"):
        assert code(await one(gateway.port, team(gateway, "1 USD", caveat), "/api/dear/x")) == "caveat_unknown"
    cheap = team(gateway, "1 USD", "max-price = 0.01 USD")
    assert code(await one(gateway.port, cheap, "/api/dear/x")) == "caveat_refused"
    assert (await accounts(gateway, cheap))[0]["spent"] == "0"


async def test_w_n6_and_w9_a_call_that_was_not_served_is_not_paid_for(gateway: Gateway) -> None:
    """Calls were counted down before the budget was looked at and the upstream asked, and nothing came back."""
    token = team(gateway, "0.01 USD")
    for _ in range(3):
        assert code(await one(gateway.port, token, "/api/dead/x")) == "upstream_failed"
        assert [(a["spent"], a["calls"]) for a in await accounts(gateway, token)] == [("0", 0)]
    for _ in range(3):
        failed = await one(gateway.port, token, "/api/fair/x?status=500")
        assert (failed.status, failed.headers["tolsey-cost"]) == (500, "0 USD")
        assert (await accounts(gateway, token))[0]["spent"] == "0"
    assert [await status(gateway, token, path) for path in ("/api/dear/x", "/api/fair/x", "/api/fair/x")] == [
        402,
        200,
        402,
    ]


async def test_w_n6_a_call_whose_outcome_is_unknown_is_paid_for(gateway: Gateway) -> None:
    """The other side of it: what the upstream did get is not free because its answer was lost."""
    token = team(gateway, "0.01 USD")
    assert code(await one(gateway.port, token, "/api/fair/x?status=0")) == "upstream_failed"
    assert [(a["spent"], a["calls"]) for a in await accounts(gateway, token)] == [("0.01", 1)]
    assert await status(gateway, token, "/api/fair/x") == 402


async def test_w6_a_budget_is_asked_for_and_kept(gateway: Gateway, upstream: Upstream) -> None:
    """The HTTP gateway had no budgets at all: a `budget` given at the mint was ignored."""
    assert [await status(gateway, team(gateway, "0 USD")), await status(gateway, team(gateway, "0.009 USD"))] == [
        402
    ] * 2
    seen = len(upstream.seen())
    for token in (team(gateway, None), append(team(gateway, None), "budget = 1000 USD")):
        assert code(await one(gateway.port, token, ITEM)) == "budget_missing"
    assert code(await one(gateway.port, team(gateway, "5 sat"), ITEM)) == "budget_missing"
    assert len(upstream.seen()) == seen
    assert await status(gateway, team(gateway, None), "/api/free/x") == 200


@pytest.mark.slow
async def test_w12_a_restart_gives_no_budget_back(tmp_path: Path, upstream: Upstream) -> None:
    """Budgets were in memory: each start granted the configured limit again."""
    gateway = new_gateway(tmp_path, upstream)
    holds = set()
    async with swarm.serving(gateway):
        token = team(gateway)
        for kill in (True, False, True, False):
            answer = await one(gateway.port, token, ITEM)
            holds.add(answer.headers["tolsey-hold"])
            await swarm.until(lambda: not gateway.open_holds(), "it is settled")
            if kill:
                gateway.kill_group()
            else:
                await gateway.stop()
            await gateway.start()
        assert [await status(gateway, token) for _ in range(3)] == [200, 402, 402]
        assert (await accounts(gateway, token))[0]["spent"] == "0.05"
        assert len(holds) == 4, "W13: nor does a restart begin the ids of holds again"
        await gateway.stop()
        gateway.fsck()


# --- when the ledger is in trouble


@contextlib.contextmanager
def locked(gateway: Gateway) -> Iterator[None]:
    """Another program writes to the file and does not end."""
    with contextlib.closing(sqlite3.connect(gateway.ledger, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


@contextlib.contextmanager
def busy(gateway: Gateway) -> Iterator[None]:
    """Another gateway has the turn and does not give it back."""
    file = os.open(f"{gateway.ledger}.turn", os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def damaged(gateway: Gateway) -> Iterator[None]:
    """The files are there, and what is in them is not."""
    for suffix in ("", "-wal", "-shm"):
        with open(f"{gateway.ledger}{suffix}", "r+b") as file:
            file.write(os.urandom(os.fstat(file.fileno()).st_size))
    yield


@pytest.mark.parametrize("trouble", [locked, busy, damaged])
async def test_w_n4_trouble_with_the_ledger_never_falls_back_to_memory(
    trouble: Callable[[Gateway], AbstractContextManager[None]], tmp_path: Path, upstream: Upstream
) -> None:
    """An error of the store silently began a new counter in memory, at its full value."""
    gateway = new_gateway(tmp_path, upstream)
    async with swarm.serving(gateway):
        token = team(gateway, "1 USD")
        assert [await status(gateway, token) for _ in range(4)] == [200] * 4
        await swarm.until(lambda: not gateway.open_holds(), "they are settled")
        seen = upstream.seen().count(ITEM)
        with trouble(gateway):
            gateway.workers()[0].kill()
            answers = await asyncio.gather(*(one(gateway.port, token, ITEM) for _ in range(8)))
            answered = [answer for answer in answers if answer.status]
            assert {(a.status, code(a), a.headers["retry-after"]) for a in answered} == {
                (503, "ledger_unavailable", "1")
            }
            assert upstream.seen().count(ITEM) == seen, "nothing was served uncounted"
            assert await status(gateway, "no token", "/public/x") == 200
            await swarm.until(lambda: "a worker died" in gateway.said(), "the death is noticed")
            await swarm.until(lambda: trouble is busy or "cannot be kept" in gateway.said(), "it is said")
            assert gateway.runs()
        if trouble is not damaged:
            await swarm.until(lambda: len(gateway.workers()) == 2, "it goes on")
            for _ in range(8):
                await status(gateway, token)
            await swarm.until(lambda: not gateway.open_holds(), "all is settled")
            calls = upstream.seen().count(ITEM) - seen + 4
            assert calls > 4
            assert (await accounts(gateway, token))[0]["calls"] == calls
            await gateway.stop()
            gateway.fsck()


# --- what is on the data port


async def test_w17_there_is_no_admin_endpoint_on_the_data_port(gateway: Gateway, upstream: Upstream) -> None:
    """Admin and mint endpoints stood on the public data port."""
    token = team(gateway, "1 USD")
    seen = len(upstream.seen())
    for path in (
        "/healthz",
        "/readyz",
        "/metrics",
        "/admin",
        "/ping",
        "/",
        "/docs",
        "/api/capability/mint",
        "/.tolsey/",
    ):
        for method in ("GET", "POST", "DELETE"):
            assert code(await one(gateway.port, token, path, method)) == "route_missing", (method, path)
    assert len(upstream.seen()) == seen
    assert (await one(gateway.admin_port, token, "/healthz")).status == 200
    for path in (ITEM, "/.tolsey/balance"):
        assert (await one(gateway.admin_port, token, path)).status == 404, "nor the other way round"


async def test_w17_options_is_a_method_like_any_other(gateway: Gateway, upstream: Upstream) -> None:
    """The whole proxy answered OPTIONS with 204, whatever the policy."""
    token = team(gateway, "0.01 USD")
    seen = len(upstream.seen())
    refused = await one(gateway.port, token, ITEM, "OPTIONS")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, POST")
    assert (await one(gateway.port, token, "/nowhere", "OPTIONS")).status == 404
    assert (await one(gateway.port, "no token", "/api/any/x", "OPTIONS")).status == 401
    assert len(upstream.seen()) == seen
    assert [(await one(gateway.port, token, "/api/any/x", "OPTIONS")).status for _ in range(2)] == [200, 402]


async def test_w17_and_w4_a_credential_has_its_scheme(gateway: Gateway) -> None:
    """A bare `Authorization` was taken, and of `L402 token:preimage` the preimage was dropped."""
    token = team(gateway)
    async with swarm.Client(gateway.port) as client:
        for value, expected in (
            (token, "token_missing"),
            (f"Basic {token}", "token_missing"),
            (f"L402 {token}:{'0' * 64}", "token_forged"),
            (f"L402 {token}", "token_malformed"),
            (f"LSAT {token}:", "token_malformed"),
        ):
            answer = await client.send(f"GET {ITEM} HTTP/1.1\r\nHost: x\r\nAuthorization: {value}\r\n\r\n")
            assert (answer.status, code(answer)) == (401, expected), value.split(" ")[0]


@pytest.mark.parametrize("mode", ["charge", "soft", "shadow", "Enforce", ""])
async def test_w7_an_unknown_mode_is_not_served(mode: str, tmp_path: Path, upstream: Upstream) -> None:
    """A mode that was none of the known ones forwarded calls without a debit."""
    gateway = new_gateway(tmp_path, upstream)
    good = gateway.file.read_text()
    gateway.file.write_text(good.replace("[server]\n", f'[server]\nmode = "{mode}"\n'))
    with swarm.ending(gateway):
        gateway.launch()
        assert await gateway.ended() == 1
        assert "server.mode" in gateway.said()
