"""What is looked up by its hold is found by an index, however long the journal has become."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ledgers import Ledgers, purse
from tests.postgres import Gateways, Server
from tolsey.ledger.events import Extend, Refund, Reserve, Settle
from tolsey.store import rollup_postgres
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


@contextmanager
def walks_nowhere(db: sqlite3.Connection) -> Iterator[None]:
    """What is asked inside reads the journal nowhere from one end to the other."""
    asked: list[str] = []
    db.set_trace_callback(asked.append)
    yield
    db.set_trace_callback(None)
    asked = [statement for statement in asked if statement.lstrip().startswith(("SELECT", "WITH"))]
    assert asked
    for statement in asked:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert not [line for line in plan if line.startswith("SCAN entry")], statement


def test_what_a_hold_did(ledgers: Ledgers) -> None:
    write(ledgers)
    with SqliteSnapshot(ledgers.path) as snapshot, walks_nowhere(snapshot._db):
        assert [entry.kind for entry in snapshot.entries_of("h1")] == ["reserve", "extend", "settle", "refund"]


async def test_a_step_of_a_roll_up(ledgers: Ledgers) -> None:
    """A gateway waits for the turn as long as a step takes."""
    write(ledgers)
    rollable = SqliteRollable(ledgers.path)
    with walks_nowhere(rollable._db):
        found = await rollable.take(0, 5, 10)
    kinds = [[entry.kind for entry in entries] for entries in found]
    assert kinds == [["reserve", "extend", "settle", "refund"], ["reserve"]]
    await rollable.close()


def test_a_hold_that_another_process_made(ledgers: Ledgers) -> None:
    write(ledgers)
    other = ledgers.open()
    with walks_nowhere(other._db):
        hold = other.hold("h1")
    assert hold is not None
    assert (hold.settled, hold.extended, hold.refunded) == (6, 2, 1)


async def test_what_a_hold_did_on_postgresql(postgres: Server) -> None:
    gateways = Gateways(postgres.database())
    await (await gateways.open("o1")).write([Reserve("h1", ROOT, 5)])
    session = await connect(gateways.url, seconds=5)
    # In a journal of a few lines nothing is found as quickly as by walking through it.
    await session.db.execute("SET enable_seqscan = off")
    plans = [
        "\n".join(row[0] for row in await session.db.fetch(f"EXPLAIN {query}"))
        for query in (entries_of_hold("'h1'"), rollup_postgres._REST.replace("$1", "'{h1}'"))
    ]
    await session.db.close()
    await gateways.close()
    for plan in plans:
        assert "entry_resolution" in plan, plan
        assert "entry_later" in plan, plan
        assert "Seq Scan on entry" not in plan, plan
