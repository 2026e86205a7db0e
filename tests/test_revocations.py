"""Revocations in a ledger: written on both engines, read by those who ask, checked by `fsck`, carried along."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ledgers import Ledgers, database, revise
from tests.postgres import Gateways, Server, asking
from tests.reading import difference_after, fsck
from tests.swarm import until
from tests.test_migrate_postgres import migrate
from tests.test_retention import compact
from tests.tokens import article, chain_of
from tolsey.errors import LedgerRefused, LedgerUnavailable
from tolsey.ledger.events import Kind
from tolsey.ledger.revoking import KEEP_NS, Revised, Revocation, Revoke, Unrevoke
from tolsey.ledger.windows import DAY
from tolsey.store import revocations, revocations_sqlite
from tolsey.store.contract import Ledger, Snapshot
from tolsey.store.embedded import EmbeddedLedger
from tolsey.store.export import export
from tolsey.store.postgres_snapshot import PostgresSnapshot
from tolsey.store.revocations import FRESH_SECONDS, Revocations, Source
from tolsey.store.revocations_postgres import PostgresRevocations
from tolsey.store.revocations_sqlite import SqliteRevocations
from tolsey.store.sqlite_file import identity
from tolsey.store.sqlite_snapshot import SqliteSnapshot

A, B = "a" * 32, "b" * 32


@dataclass
class Place:
    """A ledger, and how it is opened once more, read and viewed."""

    open: Callable[[], Awaitable[Ledger]]
    source: Callable[[], Source]
    snapshot: Snapshot
    run: Callable[[str], Awaitable[object]]

    async def revoked(self) -> list[Revocation]:
        def read() -> list[Revocation]:
            with self.snapshot:
                return list(self.snapshot.revocations())

        return await asyncio.to_thread(read)

    async def difference(self) -> str | None:
        return (await asyncio.to_thread(fsck, self.snapshot)).difference


@pytest.fixture(params=["SQLite", "PostgreSQL"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "SQLite":
        with Ledgers(tmp_path / "ledger.db") as ledgers:
            ledgers.open()

            async def open_file() -> Ledger:
                return EmbeddedLedger(ledgers.open(), timeout=5, now=time.time_ns)

            async def run(sql: str) -> None:
                with database(ledgers.path, lawless=True) as db:
                    db.execute(sql)

            path = ledgers.path
            yield Place(open_file, lambda: SqliteRevocations(path, "the-ledger"), SqliteSnapshot(path), run)
        return
    gateways = Gateways(request.getfixturevalue("postgres").database())
    url = gateways.url
    await gateways.open()

    async def change(sql: str) -> None:
        async with asking(url) as db:
            await db.execute(sql)

    yield Place(gateways.open, lambda: PostgresRevocations(url, "the-ledger"), PostgresSnapshot(url), change)
    await gateways.close()


# --- written


async def test_a_revocation_stands_until_it_is_taken_back(place: Place) -> None:
    ledger, other = await place.open(), await place.open()
    revised = await ledger.revise(Revoke(A, None, "by me"))
    assert revised.changed
    stands = revised.revocation
    assert stands is not None
    assert (stands.id, stands.expires, stands.note) == (A, None, "by me")
    assert abs(stands.since - time.time_ns()) < 60 * 10**9
    assert await other.revise(Revoke(A, None, "by another")) == Revised(changed=False, revocation=stands)
    assert await place.revoked() == [stands]
    assert await other.revise(Unrevoke(A, "wrong")) == Revised(changed=True, revocation=stands)
    assert await ledger.revise(Unrevoke(A, "again")) == Revised(changed=False, revocation=None)
    assert await place.revoked() == []
    assert await place.difference() is None


async def test_every_change_is_an_entry_with_who_and_why(place: Place) -> None:
    ledger = await place.open()
    ledger.config = await ledger.number_config("generation")
    await ledger.revise(Revoke(A, 10**18 * 3, "revoked by me: leaked"))
    await ledger.revise(Revoke(A, None, "revoked by me: for good"))
    await ledger.revise(Unrevoke(A, "taken back by me: found it"))

    def read() -> list[tuple[object, ...]]:
        lines = [line for _, line in export(place.snapshot, since=None, until=None, progress=lambda *_: None)]
        return [(line.kind, line.hold, line.amount, line.until, line.config, line.note) for line in lines]

    assert await asyncio.to_thread(read) == [
        ("revoke", A, "0", "2065-01-24T05:20:00.000000000Z", "generation", "revoked by me: leaked"),
        ("revoke", A, "0", None, "generation", "revoked by me: for good"),
        ("unrevoke", A, "0", None, "generation", "taken back by me: found it"),
    ]
    assert await place.difference() is None


async def test_what_is_over_is_dropped_with_the_next_change(place: Place) -> None:
    """A day later, and no earlier; the list is as long as there are tokens that it could refuse."""
    ledger = await place.open()
    now = ledger.time()
    await ledger.revise(Revoke(A, now - KEEP_NS - 10**9, "long over"))
    assert await place.revoked() == []
    assert await place.difference() is None
    await ledger.revise(Revoke(B, now - KEEP_NS + 60 * 10**9, "over"))
    await ledger.revise(Revoke("c" * 32, None, "for ever"))
    assert [each.id for each in await place.revoked()] == [B, "c" * 32]
    assert await place.difference() is None


async def test_changes_at_once_are_made_one_after_the_other(place: Place) -> None:
    ledgers = [await place.open() for _ in range(4)]
    asked = [ledger.revise(Revoke(A, None, f"{n}")) for n, ledger in enumerate(ledgers)]
    asked += [ledger.revise(Revoke(f"{n:032}", None, "own")) for n, ledger in enumerate(ledgers)]
    outcomes = await asyncio.gather(*asked)
    assert [each.changed for each in outcomes].count(True) == 5
    assert len(await place.revoked()) == 5
    assert await place.difference() is None


TAMPERED = {
    "dropped": f"DELETE FROM revocation WHERE id = '{A}'",
    "put in": f"INSERT INTO revocation VALUES ('{B}', 1, NULL, 'n', 1)",
    "made shorter": f"UPDATE revocation SET expires = 1 WHERE id = '{A}'",
    "other reason": "UPDATE revocation SET note = 'mine'",
    "other entry": "UPDATE revocation SET entry = 7",
    "taken back in the journal alone": "UPDATE entry SET kind = 'unrevoke' WHERE kind = 'revoke'",
    "forgotten in the journal": "UPDATE entry SET hold = NULL WHERE kind = 'revoke'",
}


@pytest.mark.parametrize("statement", TAMPERED.values(), ids=list(TAMPERED))
async def test_fsck_finds_what_was_tampered_with(place: Place, statement: str) -> None:
    await (await place.open()).revise(Revoke(A, None, "by me"))
    await place.run(statement)
    found = await place.difference()
    assert found is not None
    assert "revocation" in found or "names no prefix" in found


# --- read


async def test_a_reader_is_told_when_something_changed(place: Place) -> None:
    ledger, source = await place.open(), place.source()
    count, ids = await source.read(None) or (None, None)
    assert (count, ids) == (0, frozenset())
    assert await source.read(0) is None
    await ledger.revise(Revoke(A, None, "by me"))
    await ledger.revise(Revoke(A, None, "by me, again"))
    assert await source.read(0) == (1, frozenset({A}))
    assert await source.read(1) is None
    await ledger.revise(Unrevoke(A, "wrong"))
    await ledger.revise(Revoke(B, None, "right"))
    assert await source.read(1) == (3, frozenset({B}))
    await source.close()


async def test_a_reader_never_takes_another_ledger_or_one_that_was_moved(place: Place) -> None:
    source = place.source()
    await source.read(None)
    await place.run("UPDATE ledger SET moved_to = 'elsewhere'")
    with pytest.raises(LedgerRefused, match="elsewhere"):
        await source.read(0)
    await place.run("UPDATE ledger SET moved_to = NULL, id = 'another'")
    with pytest.raises(LedgerUnavailable, match="another ledger"):
        await source.read(0)
    await source.close()


async def test_a_file_that_was_replaced_is_noticed(ledgers: Ledgers) -> None:
    ledgers.open()
    source = SqliteRevocations(ledgers.path, "the-ledger")
    await source.read(None)
    copy = ledgers.path.with_name("copy.db")
    copy.write_bytes(ledgers.path.read_bytes())
    os.replace(copy, ledgers.path)
    with pytest.raises(LedgerUnavailable, match="moved or replaced"):
        await source.read(0)
    await source.close()


async def test_who_reads_lets_go_of_the_file_before_its_close_is_over(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it the last to let go, the WAL would stay behind: it only reads. A copy of the file alone, taken after the
    gateway ended, would lack what is in there.
    """
    ledger = ledgers.open("gateway-1")
    source = SqliteRevocations(ledgers.path, "the-ledger")
    await source.read(None)
    reads_on = threading.Event()
    monkeypatch.setattr(revocations_sqlite, "identity", lambda path: reads_on.wait() and identity(path))
    reading, closing = (asyncio.ensure_future(each) for each in (source.read(None), source.close()))
    await asyncio.wait({closing}, timeout=0.05)
    waits = not closing.done()
    reads_on.set()
    assert waits
    await asyncio.gather(reading, closing)
    ledger.close()
    assert not ledgers.path.with_name("ledger.db-wal").exists()


async def test_nothing_is_revoked_where_the_ledger_was_moved(place: Place) -> None:
    ledger = await place.open()
    await place.run("UPDATE ledger SET moved_to = 'elsewhere'")
    with pytest.raises((LedgerRefused, LedgerUnavailable), match="elsewhere"):
        await ledger.revise(Revoke(A, None, "by me"))
    await place.run("UPDATE ledger SET moved_to = NULL")
    assert await place.revoked() == []
    assert (await ledger.revise(Revoke(A, None, "by me"))).changed, "and it can be used again"


# --- known to a process

CHAIN = chain_of(article())
WORKER = CHAIN.links[-1].prefix_id


class Told:
    """A source that a test speaks through."""

    def __init__(self) -> None:
        self.count = 0
        self.ids: frozenset[str] = frozenset()
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0

    def revoke(self, *ids: str) -> None:
        self.count += 1
        self.ids = frozenset(ids)

    async def read(self, known: int | None) -> tuple[int, frozenset[str]] | None:
        self.asked += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return None if known == self.count else (self.count, self.ids)

    async def close(self) -> None:
        pass


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second takes a tenth of one."""
    for name in ("ASK_SECONDS", "FRESH_SECONDS", "AGAIN_SECONDS", "WAIT_SECONDS"):
        monkeypatch.setattr(revocations, name, getattr(revocations, name) / 10)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def known(told: Told, quickly: None) -> AsyncIterator[Revocations]:
    changes: list[frozenset[str]] = []
    found = Revocations(told, lambda: changes.append(found.ids))
    found.__dict__["changes"] = changes
    await found.start()
    yield found
    told.gate.set()
    await found.close()


def code(known: Revocations) -> str | None:
    refusal = known.refusal(CHAIN)
    return None if refusal is None else refusal.code


async def test_it_is_known_before_anything_is_served(told: Told, quickly: None) -> None:
    told.revoke(WORKER)
    found = Revocations(told, lambda: None)
    assert code(found) == "ledger_unavailable"
    await found.start()
    assert code(found) == "token_revoked"
    await found.close()


@pytest.mark.parametrize("error", [LedgerUnavailable("gone"), LedgerRefused("moved")])
async def test_without_it_there_is_no_start(told: Told, error: Exception) -> None:
    told.error = error
    with pytest.raises(type(error)):
        await Revocations(told, lambda: None).start()


async def test_a_change_is_known_and_told(told: Told, known: Revocations) -> None:
    told.revoke(WORKER)
    await until(lambda: known.ids, "it is known")
    assert code(known) == "token_revoked"
    told.revoke()
    await until(lambda: not known.ids, "it is known")
    assert code(known) is None
    assert known.__dict__["changes"] == [{WORKER}, frozenset()]


@pytest.mark.parametrize("error", [LedgerUnavailable("gone"), LedgerRefused("moved"), ZeroDivisionError()])
async def test_what_cannot_be_read_for_a_second_is_not_relied_on(
    told: Told, known: Revocations, error: Exception
) -> None:
    said: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
    told.error = error
    await until(lambda: code(known), "it is known")
    assert code(known) == "ledger_unavailable"
    refusal = await known.check(CHAIN)
    assert refusal is not None
    assert refusal.status == 503
    assert known.problem is not None
    assert bool(said) is isinstance(error, ZeroDivisionError)
    told.error = None
    assert await known.check(CHAIN) is None, "a call waits for the next answer"
    assert known.problem is None


async def test_what_was_revoked_stays_so_while_nothing_can_be_read(told: Told, known: Revocations) -> None:
    told.revoke(WORKER)
    await until(lambda: known.ids, "it is known")
    told.error = LedgerUnavailable("gone")
    await until(lambda: known.problem, "it is known")
    assert code(known) == "token_revoked"


async def test_an_answer_counts_from_when_it_was_asked_for(told: Told, known: Revocations) -> None:
    """One that was under way for a second may have passed a revocation on its way."""
    told.gate.clear()
    await until(lambda: code(known), "it is known")
    assert await known.check(CHAIN) is not None
    before = told.asked
    told.gate.set()
    assert await known.check(CHAIN) is None
    assert told.asked > before


async def test_a_call_waits_no_longer_than_half_a_second(told: Told, known: Revocations) -> None:
    told.gate.clear()
    await until(lambda: code(known), "it is known")
    refusal = await asyncio.wait_for(known.check(CHAIN), 5)
    assert refusal is not None
    assert refusal.code == "ledger_unavailable"


async def test_a_check_costs_no_turn_of_the_loop_while_all_is_well(known: Revocations) -> None:
    checking = known.check(CHAIN)
    with pytest.raises(StopIteration) as done:
        checking.send(None)
    assert done.value.value is None


def test_a_second_is_a_second() -> None:
    """RULES.md L13: asked twice in the time that an answer is good for."""
    assert 2 * revocations.ASK_SECONDS <= FRESH_SECONDS == 1.0


# --- carried along


async def test_it_is_never_rolled_up(ledgers: Ledgers) -> None:
    ledger = ledgers.open()
    now = time.time_ns() - 2 * DAY
    for change in (Revoke(A, None, "by me"), Revoke(B, None, "by me"), Unrevoke(B, "wrong")):
        revise(ledger, change, now)
    ledger.note(Kind.ACCEPT, "something to roll up", now)
    ledger.note(Kind.ACCEPT, "something that stays", now)
    rolled = await compact(ledgers.path, time.time_ns())
    assert rolled is not None
    assert rolled.entries == 1
    assert fsck(ledgers.path).difference is None
    assert "is not as the journal has it" in difference_after(ledger, "DELETE FROM revocation")


async def test_it_is_carried_to_the_other_engine_and_back(ledgers: Ledgers, postgres: Server, tmp_path: Path) -> None:
    ledger = ledgers.open()
    revoked = revise(ledger, Revoke(A, 10**19 // 2, "by me"), 5)
    ledger.close()
    gateways = Gateways(postgres.database())
    await migrate(f"sqlite:///{ledgers.path}", gateways.url)
    source = PostgresRevocations(gateways.url, "the-ledger")
    assert await source.read(None) == (0, frozenset({A}))
    await (await gateways.open()).revise(Revoke(B, None, "there"))
    assert await source.read(0) == (1, frozenset({A, B}))
    await source.close()
    await gateways.close()
    back = tmp_path / "back.db"
    await migrate(gateways.url, f"sqlite:///{back}")
    with SqliteSnapshot(back) as snapshot:
        first, second = snapshot.revocations()
    assert revoked.revocation is not None
    assert (first, second.id) == (revoked.revocation, B)
    assert fsck(back).difference is None


async def test_a_source_goes_on_after_its_server_was_away(postgres: Server) -> None:
    gateways = Gateways(postgres.database())
    ledger = await gateways.open()
    source = PostgresRevocations(gateways.url, "the-ledger")
    await source.read(None)
    async with asking(gateways.url) as db:
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with suppress(LedgerUnavailable):
        await ledger.revise(Revoke(A, None, "lost"))
    await ledger.revise(Revoke(A, None, "by me"))
    found = None
    while found is None:
        with suppress(LedgerUnavailable):
            found = await source.read(1)
    assert found == (1, frozenset({A})), "after a new connection all is read again"
    await source.close()
    await gateways.close()
