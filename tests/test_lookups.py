"""What is looked up by its hold is found by an index, however long the journal has become."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ledgers import Ledgers, purse
from tests.postgres import Gateways, Server
from tolsey.ledger.events import Extend, Refund, Reserve, Settle
from tolsey.store.postgres_connection import connect
from tolsey.store.queries import entries_of_hold
from tolsey.store.rollup_sqlite import SqliteRollable
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.testing import NOON

ROOT = purse("root 100")


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        yield ledgers


def write(ledgers: Ledgers) -> None:
    one = ledgers.open()
    one.run(
        [Reserve("h1", ROOT, 5), Reserve("h2", ROOT, 5), Extend("h1", 2), Settle("h1", 6), Refund("h1", 1, "")], NOON
    )


def walked(db: sqlite3.Connection, statements: list[str]) -> list[str]:
    """Those of the statements that read the journal from one end to the other."""
    found = []
    for statement in statements:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
            found += [statement for line in plan if line.startswith("SCAN entry")]
    return found


def test_what_a_hold_did(ledgers: Ledgers) -> None:
    write(ledgers)
    with SqliteSnapshot(ledgers.path) as snapshot:
        asked: list[str] = []
        snapshot._db.set_trace_callback(asked.append)
        kinds = [entry.kind for entry in snapshot.entries_of("h1")]
        snapshot._db.set_trace_callback(None)
        assert kinds == ["reserve", "extend", "settle", "refund"]
        assert asked
        assert walked(snapshot._db, asked) == []


async def test_a_step_of_a_roll_up(ledgers: Ledgers) -> None:
    """A gateway waits for the turn as long as a step takes."""
    write(ledgers)
    rollable = SqliteRollable(ledgers.path)
    asked: list[str] = []
    rollable._db.set_trace_callback(asked.append)
    found = await rollable.take(0, 5, 10)
    rollable._db.set_trace_callback(None)
    assert [[entry.kind for entry in entries] for entries in found] == [
        ["reserve", "extend", "settle", "refund"],
        ["reserve"],
    ]
    assert walked(rollable._db, asked) == []
    await rollable.close()


def test_a_hold_that_another_process_made(ledgers: Ledgers) -> None:
    write(ledgers)
    other = ledgers.open()
    asked: list[str] = []
    other._db.set_trace_callback(asked.append)
    hold = other.hold("h1")
    other._db.set_trace_callback(None)
    assert hold is not None
    assert (hold.settled, hold.extended, hold.refunded) == (6, 2, 1)
    assert walked(other._db, asked) == []


async def test_what_a_hold_did_on_postgresql(postgres: Server) -> None:
    gateways = Gateways(postgres.database())
    await (await gateways.open("o1")).write([Reserve("h1", ROOT, 5)])
    session = await connect(gateways.url, seconds=5)
    query = entries_of_hold("'h1'")
    # In a journal of a few lines nothing is found as quickly as by walking through it.
    await session.db.execute("SET enable_seqscan = off")
    plan = [row[0] for row in await session.db.fetch(f"EXPLAIN {query}")]
    await session.db.close()
    await gateways.close()
    for index in ("entry_reserve", "entry_resolution", "entry_later"):
        assert any(index in line for line in plan), plan
    assert not any("Seq Scan on entry" in line for line in plan)
