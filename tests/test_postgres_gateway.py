"""Real gateways on PostgreSQL while its server breaks, hangs, stops and fails over: enforce routes answer 503 with
Retry-After, nothing is served that is not in the journal, and no restart is needed.
"""

import asyncio
import itertools
import math
import re
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests import swarm
from tests.cli import tolsey
from tests.postgres import Server, add_up, place, rows, server
from tests.proxy import Proxy
from tests.reading import fsck
from tests.swarm import Answer, Client, Gateway, Upstream, until
from tolsey import attenuate
from tolsey.store.postgres_snapshot import PostgresSnapshot
from tolsey.store.revocations import FRESH_SECONDS

LIMIT = 1000
"""What the token may spend, in USD; a call costs 0.01."""


def on_postgres(folder: Path, upstream: Upstream, url: str, *, timeout: float = 1.0, name: str = "tolsey") -> Gateway:
    """A gateway of two workers whose ledger is at a URL that only its environment holds."""
    gateway = swarm.lay_out(folder, upstream.port, workers=2, timeout=timeout, name=name)
    gateway.file.write_text(re.sub('url = "sqlite.*"', 'url = "${LEDGER_URL}"', gateway.file.read_text()))
    gateway.env["LEDGER_URL"] = url
    return gateway


class Load:
    """Many clients that call without end, each time another item, from number `first` on. `answers` counts statuses;
    `refusals` has one answer of each 5xx. `late` are those that were served although they were sent later than
    `not_after` says.
    """

    def __init__(self, gateways: list[Gateway], token: str, clients: int = 6, first: int = 0) -> None:
        self.answers: Counter[int] = Counter()
        self.refusals: dict[int, Answer] = {}
        self.late = 0
        self._last = math.inf
        self._stop = False
        self._token = token
        self._numbers = itertools.count(first)
        self._tasks = [asyncio.create_task(self._client(gateways[n % len(gateways)])) for n in range(clients)]

    async def _client(self, gateway: Gateway) -> None:
        async with Client(gateway.port) as client:
            while not self._stop:
                sent = time.monotonic()
                answer = await client.call(self._token, f"{swarm.ITEM}{next(self._numbers)}")
                self.answers[answer.status] += 1
                self.late += answer.status == 200 and sent > self._last
                if answer.status >= 500:
                    self.refusals[answer.status] = answer
                if answer.status != 200:
                    await asyncio.sleep(0.01)

    def not_after(self, instant: float) -> None:
        """No call that is sent after this instant of `time.monotonic()` may be served."""
        self._last = instant

    async def more(self, status: int, count: int = 20) -> None:
        """Wait for more answers with this status."""
        wanted = self.answers[status] + count
        await until(lambda: self.answers[status] >= wanted, f"more answers {status}: {self.answers}", 40)

    async def end(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)


async def nothing_was_served_uncounted(url: str, upstream: Upstream) -> None:
    """Every call that the upstream saw is in the journal and not given back; the books add up, within every limit."""
    found = await rows(
        url,
        "SELECT r.note FROM entry r WHERE r.kind = 'reserve'"
        " AND NOT EXISTS (SELECT 1 FROM entry v WHERE v.hold = r.hold AND v.kind = 'void')",
    )
    counted = Counter(note.split(" ")[1] for (note,) in found)
    seen = Counter(upstream.seen())
    assert not seen - counted, "forwarded and not in the journal"
    assert max(seen.values()) == 1
    checked = await asyncio.to_thread(fsck, PostgresSnapshot(url))
    assert checked.difference is None
    await add_up(url)


@asynccontextmanager
async def under_load(url: str, direct: str, folder: Path, *, gateways: int = 1) -> AsyncIterator[tuple[Load, Gateway]]:
    """Gateways that take calls, until the block ends; then they are stopped, and everything is counted."""
    with swarm.upstream(folder) as upstream:
        found = [on_postgres(folder, upstream, url, name=f"gateway{n}") for n in range(gateways)]
        with swarm.ending(*found):
            for gateway in found:
                await gateway.start()
            load = Load(found, found[0].mint("label = team n", f"budget = {LIMIT} USD"))
            try:
                await load.more(200)
                yield load, found[0]
            finally:
                await load.end()
            for gateway in found:
                await gateway.stop()
            await nothing_was_served_uncounted(direct, upstream)
            assert await rows(direct, "SELECT count(*) FROM hold") == [(0,)]
            said = "".join(gateway.said() + gateway.out.read_text() for gateway in found)
            assert "sesame" not in said


def refused_well(load: Load) -> None:
    assert set(load.refusals) <= {503}
    assert int(load.refusals[503].headers["retry-after"]) >= 1
    assert b"ledger_unavailable" in load.refusals[503].body


@pytest.mark.slow
async def test_a_gateway_through_every_failure_of_the_network(postgres: Server, tmp_path: Path) -> None:
    direct = postgres.database()
    async with Proxy(postgres.port) as proxy:
        url = f"postgresql://tolsey:{secrets.token_hex(4)}sesame@127.0.0.1:{proxy.port}/postgres"
        async with under_load(url, direct, tmp_path) as (load, gateway):
            workers = {worker.pid for worker in gateway.workers()}
            proxy.cut()
            await load.more(200)
            proxy.freeze()
            await load.more(503)
            proxy.thaw()
            await load.more(200)
            target, proxy.target = proxy.target, 1
            proxy.cut()
            await load.more(503)
            proxy.target = target
            await load.more(200)
            for _ in range(3):
                proxy.fate = "lose the answer"
                await load.more(200)
                proxy.fate = "hold the commit"
                await load.more(200)
            refused_well(load)
            assert {worker.pid for worker in gateway.workers()} == workers, "no restart was needed"


@pytest.mark.slow
async def test_two_gateways_while_their_server_stops_and_hangs(tmp_path: Path) -> None:
    with server() as running:
        url = running.database()
        async with under_load(url, url, tmp_path, gateways=2) as (load, _):
            running.stop()
            await load.more(503)
            running.start()
            await load.more(200)
            running.signal_all(signal.SIGSTOP)
            await load.more(503, 2)
            running.signal_all(signal.SIGCONT)
            await load.more(200)
            refused_well(load)


@pytest.mark.slow
async def test_failover(tmp_path: Path) -> None:
    """A primary with one synchronous standby, killed under load; the standby is promoted."""
    with server() as primary, place() as folder:
        standby = Server(folder)
        url = primary.database()
        await asyncio.to_thread(standby.copy_of, primary)
        await asyncio.to_thread(standby.start)
        try:
            primary.psql("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            primary.psql("SELECT pg_reload_conf()")
            sync = "SELECT sync_state FROM pg_stat_replication"
            await until(lambda: primary.psql(sync) == "sync", "the standby is synchronous")
            after = url.replace(str(primary.port), str(standby.port))
            hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
            both = f"postgresql://tolsey:sesame@{hosts}/postgres?target_session_attrs=read-write"
            async with under_load(both, after, tmp_path, gateways=2) as (load, _):
                await load.more(200, 100)
                primary.kill()
                await load.more(503)
                await asyncio.to_thread(standby.promote)
                await load.more(200, 100)
                refused_well(load)
        finally:
            standby.kill()


@pytest.mark.slow
async def test_two_gateways_under_load_clear_nothing_that_was_revoked_a_second_before(
    postgres: Server, tmp_path: Path
) -> None:
    """Two workers each; some tokens of a team are revoked one after the other, the team's own last."""
    url = postgres.database()
    with swarm.upstream(tmp_path) as upstream:
        found = [on_postgres(tmp_path, upstream, url, timeout=5.0, name=f"gateway{n}") for n in range(2)]
        with swarm.ending(*found):
            for gateway in found:
                await gateway.start()
            team = found[0].mint("label = team n", f"budget = {LIMIT} USD")
            children = [attenuate(team, label=f"child {n}", budget="100 USD") for n in range(4)]
            tokens = (*children, team)
            loads = [Load(found, token, clients=4, first=n * 10**6) for n, token in enumerate(tokens)]
            for load in loads:
                await load.more(200)
            for token, load in zip(tokens, loads, strict=True):
                words = ("revoke", "-", "-c", str(found[1].file))
                status, _, err = await asyncio.to_thread(tolsey, *words, stdin=token, env=found[1].env)
                assert status == 0, err
                load.not_after(time.monotonic() + FRESH_SECONDS)
            for load in loads:
                await load.more(403, 100)
            for load in loads:
                await load.end()
                assert load.answers.keys() == {200, 403}
                assert load.late == 0
            for gateway in found:
                await gateway.stop()
            await nothing_was_served_uncounted(url, upstream)
