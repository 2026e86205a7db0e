"""The trail on both engines: who opened each account, when it was seen, what it spent when, what it refused; and what
is chosen of it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ledgers import Ledgers, database, purse, two_indexes
from tests.postgres import Gateways
from tolsey.ledger.events import Event, Grant, Open, Outcome, Refund, Reserve, Settle
from tolsey.ledger.tallies import MAX_REFUSED, Tallies
from tolsey.ledger.windows import DAY, HOUR
from tolsey.store.contract import Ledger, Snapshot
from tolsey.store.embedded import EmbeddedLedger
from tolsey.store.postgres_snapshot import PostgresSnapshot
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.store.tallies import refused_row
from tolsey.store.trails import TrailRow, Wanted, trail
from tolsey.token.chain import Account
from tolsey.token.once import APPROVAL_LABEL

ROOT = purse("root 100")
TEAM = purse("root 100 / team 50")
WORKER = purse("root 100 / team 50 / worker -")
SATS = purse("sats 9", "sat")
ONCE = (Account("once", "call", None, APPROVAL_LABEL, 10**9),)


@dataclass
class Place:
    """A ledger of either engine with an owner, and a view of it."""

    ledger: Ledger
    snapshot: Snapshot
    write: Callable[[list[Event]], Awaitable[list[Outcome]]]

    async def rows(self, **wanted: object) -> list[TrailRow]:
        asked = Wanted(**wanted)  # type: ignore[arg-type]  # each test names its own
        return await asyncio.to_thread(lambda: list(trail(self.snapshot, asked)))

    async def labels(self, **wanted: object) -> list[str | None]:
        return [row.label for row in await self.rows(**wanted)]

    async def now(self) -> int:
        def look() -> int:
            with self.snapshot:
                return self.snapshot.now()

        return await asyncio.to_thread(look)

    async def tick(self) -> int:
        """An instant between what was written and what is written next."""
        at = await self.now() + 1
        await asyncio.sleep((at - self.ledger.time()) / 1e9 + 0.002)
        return at


@pytest.fixture(params=["SQLite", "PostgreSQL"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "SQLite":
        with Ledgers(tmp_path / "ledger.db") as ledgers:
            ledger = EmbeddedLedger(ledgers.open("o1"), timeout=5, now=time.time_ns)
            yield Place(ledger, SqliteSnapshot(ledgers.path), ledger.write)
        return
    gateways = Gateways(request.getfixturevalue("postgres").database())
    opened = await gateways.open("o1")
    yield Place(opened, PostgresSnapshot(gateways.url), opened.write)
    await gateways.close()


async def test_who_opened_an_account_and_when_it_was_seen(place: Place) -> None:
    await place.write([Open(ROOT[0], "minted by alice")])
    (root,) = await place.rows()
    assert (root.opened_by, root.seen_at) == ("minted by alice", None)
    await place.write([Grant(("root", "USD"), 5, "granted by bob")])
    assert (await place.rows())[0].seen_at is None, "nobody called"

    before = await place.tick()
    await place.write([Reserve("h1", TEAM, 5)])
    root, team = await place.rows()
    assert (root.opened_by, team.opened_by) == ("minted by alice", None)
    assert root.seen_at == team.seen_at == team.opened_at
    assert root.opened_at < before <= team.opened_at

    seen = await place.tick()
    await place.write([Reserve("h2", ROOT, 5)])
    await place.write([Settle("h2", 5)])
    root, team = await place.rows()
    assert root.seen_at is not None
    assert root.seen_at >= seen > (team.seen_at or seen)
    late = await place.tick()
    await place.write([Refund("h2", None, "refunded by bob")])
    assert all((row.seen_at or late) < late for row in await place.rows()), "what is done by hand is no call"


async def test_levels_units_and_approvals(place: Place) -> None:
    await place.write([Reserve("h1", WORKER, 5, "", ONCE), Reserve("h2", purse("root 100 / other 9"), 1)])
    named_so = (Account("hidden?", "USD", None, APPROVAL_LABEL, None),)
    await place.write([Reserve("h3", SATS, 1), Reserve("h4", named_so, 1)])
    for wanted, labels in (
        ({}, ["root", "team", "worker", "other", "sats", APPROVAL_LABEL]),
        ({"all": True}, ["root", "team", "worker", APPROVAL_LABEL, "other", "sats", APPROVAL_LABEL]),
        ({"label": "team"}, ["root", "team", "worker"]),
        ({"label": "work*"}, ["root", "team", "worker"]),
        ({"label": "root"}, ["root", "team", "worker", "other"]),
        ({"label": "nobody"}, []),
        ({"unit": "sat"}, ["sats"]),
        ({"unit": "USD", "label": "*s"}, []),
        ({"prefix_id": "team"}, ["team", "worker"]),
        ({"prefix_id": "team", "label": "worker"}, ["team", "worker"]),
    ):
        assert sorted(await place.labels(**wanted), key=str) == sorted(labels, key=str), wanted


async def test_what_was_spent_within_a_time(place: Place) -> None:
    await place.write([Reserve("h1", TEAM, 5), Reserve("h2", SATS, 1)])
    await place.write([Settle("h1", 3), Settle("h2", 1)])
    first = await place.tick()
    await place.write([Reserve("h3", WORKER, 7)])
    await place.write([Settle("h3", 6)])
    await place.write([Refund("h1", 1, "refunded by bob")])
    second = await place.tick()
    await place.write([Reserve("h4", ROOT, 7)])

    async def within(since: int | None, until: int | None) -> dict[str | None, tuple[int, int]]:
        rows = await place.rows(since=since, until=until)
        return {row.label: (row.within.spent, row.within.calls) for row in rows if row.within is not None}

    assert await within(None, first) == {"root": (3, 1), "team": (3, 1), "sats": (1, 1)}
    assert await within(first, second) == {"root": (5, 1), "team": (5, 1), "worker": (6, 1)}, "the refund was made then"
    assert await within(second, None) == {"root": (0, 0)}, "what is held is not spent"
    assert await within(second + DAY, None) == {}


async def test_refusals_of_all_processes_and_hours_add_up(place: Place) -> None:
    await place.write([Reserve("h1", TEAM, 5)])
    hour = await place.now() // HOUR
    await place.ledger.tally([refused_row("a", hour, "team", "budget_exhausted", 2)])
    await place.ledger.tally(
        [
            refused_row("a", hour, "team", "budget_exhausted", 3),
            refused_row("b", hour, "team", "budget_exhausted", 4),
            refused_row("b", hour - 5, "team", "token_expired", 1),
            refused_row("b", hour - 24 * 91, "team", "token_expired", 9),
            refused_row("b", hour, "never-served", "scope_refused", 1),
        ]
    )
    found = {row.label: dict(row.refusals) for row in await place.rows()}
    assert found == {"root": {}, "team": {"budget_exhausted": 7, "token_expired": 1}}
    recent = {row.label: dict(row.refusals) for row in await place.rows(since=hour * HOUR)}
    assert recent["team"] == {"budget_exhausted": 7}
    assert await place.labels(until=(hour - 4) * HOUR) == ["root", "team"], "a refusal is a use too"


def test_an_hour_tells_only_so_many_refusals_apart() -> None:
    tallies = Tallies()
    for n in range(MAX_REFUSED + 3):
        tallies.refuse(f"p{n}", "budget_exhausted", at=5 * HOUR)
    tallies.refuse("p0", "budget_exhausted", at=5 * HOUR)
    found = {(prefix_id, code): count for _, prefix_id, code, count in tallies.take_refused()}
    assert len(found) == MAX_REFUSED + 1
    assert found["", "budget_exhausted"] == 3
    assert found["p0", "budget_exhausted"] == 2
    assert tallies.take_refused() == []
    tallies.refuse("p0", "budget_exhausted", at=6 * HOUR)
    assert tallies.take_refused() == [(6, "p0", "budget_exhausted", 1)]


def test_an_older_ledger_learns_from_its_journal(tmp_path: Path) -> None:
    """The first note of each account that was opened by name; when it was seen nobody knows."""
    path = tmp_path / "ledger.db"
    with Ledgers(path) as ledgers:
        ledgers.open().run([Open(ROOT[0], "minted by alice"), Reserve("h1", TEAM, 5)], 5)
    with database(path, lawless=True) as db:
        two_indexes(db)
        db.execute("ALTER TABLE account DROP COLUMN opened_by")
        db.execute("ALTER TABLE account DROP COLUMN seen_at")
        db.execute("UPDATE ledger SET version = 9")
    with Ledgers(path) as ledgers:
        ledgers.open()
        found = {row.label: (row.opened_by, row.seen_at) for row in trail(SqliteSnapshot(path))}
    assert found == {"root": ("minted by alice", None), "team": (None, None)}
