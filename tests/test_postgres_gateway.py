"""Real gateways on PostgreSQL while its server breaks, hangs, stops and fails over: enforce routes answer 503 with
Retry-After, nothing is served that is not in the journal, and no restart is needed.
"""

import asyncio
import itertools
import re
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests import swarm
from tests.postgres import Server, add_up, place, rows, server
from tests.proxy import Proxy
from tests.reading import fsck
from tests.swarm import Answer, Client, Gateway, Upstream, until
from tolsey.store.postgres_snapshot import PostgresSnapshot

LIMIT = 1000
"""What the token may spend, in USD; a call costs 0.01."""


def on_postgres(folder: Path, upstream: Upstream, url: str, *, timeout: float = 1.0, name: str = "tolsey") -> Gateway:
    """A gateway of two workers whose ledger is at a URL that only its environment holds."""
    gateway = swarm.lay_out(folder, upstream.port, workers=2, timeout=timeout, name=name)
    gateway.file.write_text(re.sub('url = "sqlite.*"', 'url = "${LEDGER_URL}"', gateway.file.read_text()))
    gateway.env["LEDGER_URL"] = url
    return gateway


class Load:
    """Many clients that call without end. `answers` counts statuses; `refusals` has one answer of each 5xx."""

    def __init__(self, gateways: list[Gateway], token: str, clients: int = 6) -> None:
        self.answers: Counter[int] = Counter()
        self.refusals: dict[int, Answer] = {}
        self._stop = False
        self._token = token
        self._numbers = itertools.count()
        self._tasks = [asyncio.create_task(self._client(gateways[n % len(gateways)])) for n in range(clients)]

    async def _client(self, gateway: Gateway) -> None:
        async with Client(gateway.port) as client:
            while not self._stop:
                answer = await client.call(self._token, f"{swarm.ITEM}{next(self._numbers)}")
                self.answers[answer.status] += 1
                if answer.status >= 500:
                    self.refusals[answer.status] = answer
                if answer.status != 200:
                    await asyncio.sleep(0.01)

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
