"""The ledger in a PostgreSQL database: several gateways, each of several processes, on one set of books.

A group is one transaction: it locks the accounts that it touches in the order of their numbers, runs the rules over
them, and writes back what changed, in four round trips. Its last step sets the group's random id in the owner's own
row, and so also sees that nobody has ended that owner. Where the answer to a COMMIT is lost, the connection is given up
and the old backend ended, and before anything else is written the owner's row is locked anew: that waits until the old
group is over, one way or the other (RULES.md L4).
"""

import asyncio
import contextlib
import itertools
import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from tolsey.errors import CommitUnknown, LedgerUnavailable, TolseyError
from tolsey.ledger.approving import Asked, Question
from tolsey.ledger.books import Balance, Books, Hold
from tolsey.ledger.events import (
    Conflict,
    Entry,
    Event,
    Expire,
    Extend,
    Granted,
    Key,
    Kind,
    Outcome,
    Reserve,
    Settle,
    Shortfall,
)
from tolsey.ledger.revoking import Revised, Revoke, Unrevoke
from tolsey.ledger.rules import apply
from tolsey.store import approvals_postgres
from tolsey.store.contract import TALLIED_HOURS, Make, TallyRow
from tolsey.store.postgres_connection import (
    ERRORS,
    LOST,
    Clock,
    Db,
    Durability,
    Session,
    connect,
    find_ledger,
    first_line,
    prepare,
    unavailable,
)
from tolsey.store.postgres_owners import Lease, Watch, clear, end, holds_of, register
from tolsey.store.postgres_rows import Group, Rows, Stale, opened, standing
from tolsey.store.postgres_sql import LIVING, TALLY
from tolsey.store.revocations_postgres import revise
from tolsey.store.sealing_postgres import append, checkpoint, now
from tolsey.token.chain import Account

CLOSE_SECONDS: Final = 2.0
"""How long ending an owner may take."""

MOST_EXPIRED: Final = 500
"""How many holds are expired in one group."""

TRIES: Final = 5
"""How often a group is run that does not go with what is there. One that met others in the wrong order is run until its
time is over.
"""

_AGAIN: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_AMISS: Final = (asyncpg.IntegrityConstraintViolationError, Stale, AssertionError)


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A group of which nobody knows whether it was committed, and the backend that may still do it."""

    owner: int
    name: str
    pid: int
    started: datetime


class PostgresLedger:
    """One process's place in a ledger; see `contract.Ledger`. Made by `open_postgres`.

    A method takes so many `seconds` at most, connecting and waiting for locks included.
    """

    def __init__(self, url: str, *, durability: Durability, seconds: float, now: Callable[[], int]) -> None:
        self.id = ""
        self.owner = 0
        self.config: int | None = None
        self._url = url
        self._durability: Durability = durability
        self._seconds = seconds
        self.clock = Clock(now)
        self._rows = Rows()
        self._watch = Watch()
        self._busy = asyncio.Lock()
        self._session: Session | None = None
        self._lease: Lease | None = None
        self._committing: str | None = None
        self._doubt: _Doubt | None = None
        self._ended = False
        self._last = 0

    def __repr__(self) -> str:
        return f"<ledger {self.id} on PostgreSQL, owner {self.owner}>"

    async def open(self, new_id: str, *, create: bool) -> None:
        """Connect, and bring the schema up to date, or make it with ledger id `new_id` if `create`."""
        try:
            async with asyncio.timeout(self._seconds):
                self._session = await self._connect()
                self.id = await prepare(self._session.db, new_id, create=create)
                self._last = await self.clock.ask(self._session.db)
        except BaseException as error:
            self._drop()
            if isinstance(error, ERRORS):
                raise unavailable("the ledger cannot be opened", error) from None
            raise

    async def _connect(self) -> Session:
        return await connect(self._url, seconds=self._seconds, durability=self._durability)

    def time(self) -> int:
        """The database's time, by this machine's clock and how far it was apart; never before the last entry."""
        return self.clock()

    async def register(self, owner_id: str) -> None:
        """Begin as a new owner, with a lease of its own."""
        async with self._using("the ledger refused a new owner") as session:
            await self._register(session, owner_id)

    async def _register(self, session: Session, owner_id: str) -> None:
        number = await register(session.db, owner_id, self.owner)
        if self._lease is not None:
            await self._lease.close()
        self.owner, self._ended = number, False
        self._lease = Lease(number, self._connect, self.clock, self._lost_lease)

    def _lost_lease(self) -> None:
        self._ended = True

    async def write(self, events: Sequence[Event]) -> list[Outcome]:
        """Run a group of events; atomic, and durable when it returns (see `contract.Ledger`)."""
        async with self._using("the ledger cannot be written") as session:
            outcomes, _ = await self._write(session, events)
            return outcomes

    @asynccontextmanager
    async def _using(self, what: str) -> AsyncIterator[Session]:
        """The connection, within the time that there is; `what` begins the text of what goes wrong.

        Raises `CommitUnknown` if that was in a COMMIT.
        """
        doubt = self._doubt
        try:
            async with asyncio.timeout(self._seconds), self._busy:
                try:
                    yield await self._ready()
                except BaseException as error:
                    self._after(error)
                    raise
        except (*ERRORS, _Unknown) as error:
            if self._doubt not in (None, doubt):
                raise CommitUnknown(f"the answer to a commit was lost: {first_line(error)}") from None
            raise unavailable(what, error) from None

    def _after(self, error: BaseException) -> None:
        """Leave nothing of a failed attempt behind: what was remembered, and a connection that may be in the middle of
        something.
        """
        self._rows.forget()
        name, self._committing = self._committing, None
        session = self._session
        sound = isinstance(error, (asyncpg.PostgresError, TolseyError)) and not isinstance(error, LOST)
        if session is None or sound:
            return
        self._drop()
        if name is not None:
            self._doubt = _Doubt(self.owner, name, session.pid, session.started)

    def _drop(self) -> None:
        if self._session is not None:
            self._session.drop()
            self._session = None

    async def _ready(self) -> Session:
        """A connection over which may be written: what was in doubt is settled, and the owner lives."""
        session = self._session
        if session is None or not session.alive:
            session = self._session = await self._connect()
            found = await find_ledger(session.db)
            if self.id and (found is None or found["id"] != self.id):
                self._drop()
                raise LedgerUnavailable("another ledger is in that database than at the start")
            last = await self.clock.ask(session.db)
            if last < self._last:
                self._drop()
                raise LedgerUnavailable(
                    f"the ledger ends at entry {last} and had entry {self._last}: it lost what was spent meanwhile"
                )
        if self._doubt is not None:
            await self._settle_doubt(session, self._doubt)
        if self._ended:
            await self._register(session, secrets.token_hex(8))
        return session

    async def _settle_doubt(self, session: Session, doubt: _Doubt) -> None:
        """Wait for the end of a group whose answer was lost, so that nothing of it comes later than what is next."""
        db = session.db
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid = $1 AND backend_start = $2 AND usename = current_user",
            doubt.pid,
            doubt.started,
        )
        await db.fetchval("SELECT latest FROM owner WHERE n = $1 FOR UPDATE", doubt.owner)
        self._doubt = None

    async def _write(self, session: Session, events: Sequence[Event]) -> tuple[list[Outcome], int]:
        """Run a group until it is done; its outcomes, and how many holds it closed."""
        for attempt in itertools.count(1):
            try:
                return await self._attempt(session, events, trusting=attempt == 1)
            except _AGAIN:
                await self._roll_back(session)
                await asyncio.sleep(random.random() * 0.01 * min(attempt, 10))  # noqa: S311 - to part those who met
            except _AMISS as error:
                await self._roll_back(session)
                if attempt == TRIES:
                    raise LedgerUnavailable(f"the ledger refused a group: {first_line(error)}") from None
            except (asyncpg.PostgresError, LedgerUnavailable) as error:
                if not isinstance(error, LOST):
                    await self._roll_back(session)
                raise
        raise AssertionError("unreachable")

    async def _roll_back(self, session: Session) -> None:
        self._committing = None
        self._rows.forget()
        await session.db.execute("ROLLBACK")

    async def _attempt(self, session: Session, events: Sequence[Event], *, trusting: bool) -> tuple[list[Outcome], int]:
        db = session.db
        await db.execute("BEGIN")
        group = await self._rows.load(db, events, self.clock, trusting=trusting)
        outcomes = [apply(group.books, event, at=group.at, owner=self.owner) for event in events]
        if trusting and await self._is_hasty(db, group, events, outcomes):
            raise Stale("a refusal that rests on what was remembered")
        books = group.books
        if not (books.entries or books.dirty or books.dirty_rates or books.dirty_windows or books.dirty_claims):
            await db.execute("COMMIT")
            return outcomes, 0
        name = secrets.token_hex(16)
        if not await self._rows.write(db, group, name=name, owner=self.owner, config=self.config):
            self._ended = True
            raise LedgerUnavailable("this process was taken for dead; it goes on under a new name")
        await self._commit(session, name)
        self._rows.done(group)
        self._last = max(self._last, group.last)
        return outcomes, len(group.closed)

    async def _commit(self, session: Session, name: str) -> None:
        session.warned = False
        self._committing = name
        await session.db.execute("COMMIT")
        if session.warned:
            raise _Unknown("waiting for the standby was given up")
        self._committing = None

    async def _is_hasty(self, db: Db, group: Group, events: Sequence[Event], outcomes: Sequence[Outcome]) -> bool:
        """Whether a refusal may rest on what was only remembered: a reserve's id that was granted before must have the
        old answer, and a hold that others have resolved meanwhile is late. What is not refused, the indexes check.
        """
        refused = []
        for event, outcome in zip(events, outcomes, strict=True):
            if isinstance(event, Reserve):
                if not isinstance(outcome, Granted) and event.hold not in group.books.holds:
                    refused.append(event.hold)
            elif isinstance(outcome, Conflict | Shortfall) and isinstance(event, Extend | Settle):
                return True
        return bool(refused) and await db.fetchval(_KNOWN, refused) is not None

    async def balances(self, accounts: Sequence[Account]) -> list[Balance]:
        """The accounts as committed."""
        async with self._using("the ledger cannot be read") as session:
            return await standing(session.db, accounts, self.time())

    async def paid(self, payment: str) -> Key | None:
        """The account that a payment opened."""
        async with self._using("the ledger cannot be read") as session:
            return await opened(session.db, payment)

    async def hold(self, hold_id: str) -> Hold | None:
        """A hold as committed, open or resolved."""
        async with self._using("the ledger cannot be read") as session:
            books = Books()
            await self._rows.read_holds(session.db, books, [hold_id])
            return books.holds.get(hold_id)

    async def is_ended(self) -> bool:
        """Whether somebody has taken this owner for dead."""
        async with self._using("the ledger cannot be read") as session:
            return await session.db.fetchval(LIVING, self.owner) is None

    async def number_config(self, generation: str) -> int:
        """Record a config's generation; return its number."""
        async with self._using("the ledger refused the config's generation") as session:
            await session.db.execute(_NEW_CONFIG, generation)
            number: int = await session.db.fetchval("SELECT n FROM config WHERE generation = $1", generation)
            return number

    async def entry_count(self) -> int:
        """The number of the last entry. Numbers may have gaps."""
        async with self._using("the ledger cannot be read") as session:
            number: int = await session.db.fetchval("SELECT coalesce(max(n), 0) FROM entry")
            self._last = max(self._last, number)
            return number

    async def note(self, kind: Kind, note: str) -> None:
        """Write down what moves no money."""
        async with self._using("the ledger cannot be written") as session, session.db.transaction():
            entry = Entry(kind, await now(session.db), None, None, 0, self.owner, note)
            await append(session.db, self._rows.sealer, entry, self.config)

    async def checkpoint(self, make: Make) -> bytes | None:
        """Add the checkpoint that `make` makes."""
        async with self._using("the ledger cannot be written") as session:
            return await checkpoint(session.db, make)

    async def ask(self, question: Question) -> bool:
        """Keep a question that somebody is to answer."""
        async with self._using("the ledger cannot be written") as session:
            return await approvals_postgres.ask(session.db, question)

    async def asked(self, id_: str) -> Asked | None:
        """A question with what was said to it."""
        async with self._using("the ledger cannot be read") as session:
            return await approvals_postgres.find(session.db, id_)

    async def answer(self, id_: str, *, granted: bool, note: str) -> Asked | None:
        """Answer a question."""
        async with self._using("the ledger cannot be written") as session:
            return await approvals_postgres.answer(
                session.db, self._rows.sealer, id_, granted=granted, note=note, owner=self.owner, config=self.config
            )

    async def revise(self, change: Revoke | Unrevoke) -> Revised:
        """Revoke a prefix, or take that back. Where the answer is lost it may be asked for again."""
        async with self._using("the ledger cannot be written") as session:
            session.warned = False
            revised = await revise(session.db, self._rows.sealer, change, owner=self.owner, config=self.config)
            if session.warned:
                raise _Unknown("waiting for the standby was given up")
            return revised

    async def transact(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[tuple[Any, ...]]]:
        """Run SQL in one transaction."""
        async with self._using("the ledger cannot be written") as session, session.db.transaction():
            return [[tuple(row) for row in await session.db.fetch(sql, *values)] for sql, values in statements]

    async def tally(self, rows: Sequence[TallyRow]) -> None:
        """Put rows in the place of those with the same keys."""
        columns = zip(*((row.hour, row.source, row.key, row.counts) for row in rows), strict=True)
        async with self._using("the ledger cannot be written") as session:
            await session.db.execute(TALLY, *map(list, columns))
            oldest = max(row.hour for row in rows) - TALLIED_HOURS
            await session.db.execute("DELETE FROM tally WHERE hour < $1", oldest)

    async def expire(self) -> int:
        """End every owner whose lease has lapsed and settle what it holds, and holds whose time is over (RULES.md L3).

        See `postgres_owners.Watch` for when that is put off.
        """
        async with self._using("the ledger cannot be written") as session:
            found = await self._watch.look(session.db, mine=self.owner, most=MOST_EXPIRED)
        expired = 0
        if found.overdue:
            expired += await self._expire(found.overdue, "unmetered: its time was over")
        for owner in found.lapsed:
            async with self._using("the ledger cannot be written") as session:
                if not await end(session.db, owner):
                    continue
            found.ended.append(owner)
        for owner in dict.fromkeys(found.ended):
            while True:
                async with self._using("the ledger cannot be written") as session:
                    holds = await holds_of(session.db, owner, MOST_EXPIRED)
                    if not holds:
                        await clear(session.db, owner)
                        break
                expired += await self._expire(holds, "unmetered")
        return expired

    async def _expire(self, holds: list[str], note: str) -> int:
        """Expire holds; return how many of them by this."""
        async with self._using("the ledger cannot be written") as session:
            _, closed = await self._write(session, [Expire(hold, note) for hold in holds])
            return closed

    async def tidy(self) -> None:
        """Nothing: what is over is removed in passing, and PostgreSQL keeps its own house."""

    def has_room(self) -> bool:
        """Always: the database's disk is not ours to look after, and it says itself when it is full."""
        return True

    def make_room(self) -> None:
        """Nothing is kept back here."""

    async def close(self) -> None:
        """End this owner, if it holds nothing; else its lease, so that others settle what it holds at once."""
        if self._lease is not None:
            await self._lease.close()
        if self._session is None and self._doubt is None:
            return
        with contextlib.suppress(TolseyError):
            self._seconds = min(self._seconds, CLOSE_SECONDS)
            async with self._using("the ledger cannot be closed") as session:
                if self.owner and not self._ended:
                    await end(session.db, self.owner, anyway=True)
                await session.db.close()
        self._drop()


class _Unknown(Exception):
    """Nobody knows whether a group was committed."""


_KNOWN: Final = "SELECT 1 FROM entry WHERE kind = 'reserve' AND hold = ANY ($1::text[]) LIMIT 1"
_NEW_CONFIG: Final = "INSERT INTO config (generation, at) VALUES ($1, now_ns()) ON CONFLICT DO NOTHING"


async def open_postgres(
    url: str, *, durability: Durability, seconds: float, now: Callable[[], int], new_id: str, create: bool
) -> PostgresLedger:
    """Open the ledger at `url`, or make it with id `new_id` if `create`. No method of it takes more than so
    many `seconds`; `now` returns nanoseconds since the epoch. Raises `LedgerRefused` or `LedgerUnavailable`.
    """
    ledger = PostgresLedger(url, durability=durability, seconds=seconds, now=now)
    await ledger.open(new_id, create=create)
    return ledger
