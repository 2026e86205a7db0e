"""The embedded ledger on an event loop: a `SqliteLedger` that never blocks its loop."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from tolsey.errors import CommitUnknown, LedgerFull, LedgerUnavailable
from tolsey.ledger.approving import Asked, Question
from tolsey.ledger.books import Balance, Hold
from tolsey.ledger.events import Event, Key, Kind, Outcome
from tolsey.ledger.revoking import Revised, Revoke, Unrevoke
from tolsey.store import approvals_sqlite, ballast, revocations_sqlite
from tolsey.store.contract import Make, TallyRow
from tolsey.store.kernel_sync import KernelSync
from tolsey.store.sealing_sqlite import checkpoint
from tolsey.store.sqlite import NOT_SYNCED, SqliteLedger
from tolsey.store.sqlite_file import CLOSE_SECONDS, ERRORS, unavailable
from tolsey.token.chain import Account

WAL_BYTES: Final = 8 * 1024 * 1024
"""A checkpoint is taken when more bytes than this wait in the WAL to be copied."""

TRIES: Final = 16
"""How often the turn is asked for, once in each round of the loop, before a thread waits for it: whoever has it gives
it back in less time than a thread takes to be woken, and the loop has others to see to meanwhile.
"""

_R = TypeVar("_R")


class EmbeddedLedger:
    """A `Ledger` (see `contract`) over one SQLite file.

    `timeout` is how long a write waits for its turn, in seconds; `now` returns nanoseconds since the epoch. `syncs`
    wait for the disk; without them a thread does.
    """

    def __init__(
        self, ledger: SqliteLedger, *, timeout: float, now: Callable[[], int], syncs: KernelSync | None = None
    ) -> None:
        self._ledger = ledger
        self._syncs = syncs
        self._timeout = timeout
        self._now = now
        self._executor = ThreadPoolExecutor(1, "ledger")
        self._taking: asyncio.Future[None] | None = None
        self._wanted = False

    @property
    def id(self) -> str:
        """The ledger's random id."""
        return self._ledger.id

    @property
    def owner(self) -> int:
        """This process's number in the ledger."""
        return self._ledger.owner

    @property
    def config(self) -> int | None:
        """The number of the config that entries are made under."""
        return self._ledger.config

    @config.setter
    def config(self, number: int | None) -> None:
        self._ledger.config = number

    def time(self) -> int:
        """The ledger's time."""
        return self._ledger.time(self._now())

    async def write(self, events: Sequence[Event]) -> list[Outcome]:
        """Run a group of events. While the disk syncs, the loop goes on."""
        # No context managers here: each costs a group as much as an insert.
        await self._take_turn()
        outcomes: list[Outcome] | None = None
        try:
            try:
                outcomes = self._ledger.stage(events, self._now())
                self._ledger.commit()
            finally:
                self._ledger.turn.give()
            if self._ledger.durability == "full":
                await self._sync()
        except LedgerUnavailable as error:
            if outcomes is None:
                raise
            # What was staged may have been kept all the same.
            raise CommitUnknown(error.detail, full=isinstance(error, LedgerFull)) from None
        return outcomes

    async def _sync(self) -> None:
        wal = self._ledger.wal
        if self._syncs is not None and not wal.in_doubt:
            try:
                if await self._syncs.sync(wal.descriptor):
                    return
            except ERRORS as error:
                wal.in_doubt = True
                raise unavailable(NOT_SYNCED, error) from None
        await self._in_thread(self._ledger.sync)

    async def _take_turn(self) -> None:
        if self._taking is None:
            for _ in range(TRIES):
                if self._ledger.turn.try_take():
                    return
                await asyncio.sleep(0)
            self._taking = asyncio.get_running_loop().run_in_executor(self._executor, self._ledger.turn.take)
            self._taking.add_done_callback(self._taken)
        self._wanted = True
        try:
            await asyncio.wait({self._taking}, timeout=self._timeout)
        finally:
            self._wanted = False
        if not self._taking.done():
            raise LedgerUnavailable(f"the ledger was not free for {self._timeout:g} s")
        self._taking = None

    def _taken(self, _: object) -> None:
        """A turn that comes when nobody waits for it any more goes on to the next process."""
        if not self._wanted:
            self._taking = None
            self._ledger.turn.give()

    async def balances(self, accounts: Sequence[Account]) -> list[Balance]:
        """Where the accounts stand."""
        return self._ledger.balances(accounts, self._now())

    async def paid(self, payment: str) -> Key | None:
        """The account that a payment opened."""
        return self._ledger.paid(payment)

    async def hold(self, hold_id: str) -> Hold | None:
        """A hold as committed."""
        return self._ledger.hold(hold_id)

    async def register(self, owner_id: str) -> None:
        """Begin as a new owner."""
        await self._take_turn()
        try:
            await self._in_thread(self._ledger.register, owner_id, self._now())
        finally:
            self._ledger.turn.give()

    async def is_ended(self) -> bool:
        """Whether somebody has taken this owner for dead."""
        return self._ledger.is_ended()

    async def number_config(self, generation: str) -> int:
        """Record a config's generation; return its number."""
        return await self._in_thread(self._ledger.number_config, generation, self._now())

    async def entry_count(self) -> int:
        """The number of the last entry."""
        return await self._in_thread(self._ledger.entry_count)

    async def note(self, kind: Kind, note: str) -> None:
        """Write down what moves no money."""
        await self._in_thread(self._ledger.note, kind, note, self._now())

    async def ask(self, question: Question) -> bool:
        """Keep a question that somebody is to answer."""

        def work(db: sqlite3.Connection, at: int) -> bool:
            until = at + (question.until - question.at)
            return approvals_sqlite.ask(db, question._replace(at=at, until=until))

        return await self._in_thread(self._ledger.change, work, self._now())

    async def asked(self, id_: str) -> Asked | None:
        """A question with what was said to it."""
        return await self._in_thread(self._ledger.look, lambda db, _: approvals_sqlite.find(db, id_))

    async def answer(self, id_: str, *, granted: bool, note: str) -> Asked | None:
        """Answer a question."""
        ledger = self._ledger

        def work(db: sqlite3.Connection, at: int) -> Asked | None:
            return approvals_sqlite.answer(
                db, ledger.sealer, id_, granted=granted, note=note, at=at, owner=ledger.owner, config=ledger.config
            )

        return await self._in_thread(ledger.change, work, self._now())

    async def revise(self, change: Revoke | Unrevoke) -> Revised:
        """Revoke a prefix, or take that back."""
        ledger = self._ledger

        def work(db: sqlite3.Connection, at: int) -> Revised:
            return revocations_sqlite.revise(db, ledger.sealer, change, at=at, owner=ledger.owner, config=ledger.config)

        return await self._in_thread(ledger.change, work, self._now())

    async def checkpoint(self, make: Make) -> bytes | None:
        """Add the checkpoint that `make` makes."""
        return await self._in_thread(self._ledger.change, lambda db, _: checkpoint(db, make), self._now())

    async def transact(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[tuple[Any, ...]]]:
        """Run SQL in one transaction. What only reads keeps no writer waiting."""

        def work(db: sqlite3.Connection, _: int) -> list[list[tuple[Any, ...]]]:
            return [
                db.execute(sql, {str(n): value for n, value in enumerate(values, 1)}).fetchall()
                for sql, values in statements
            ]

        if all(sql.lstrip().startswith(("SELECT", "WITH")) for sql, _ in statements):
            return await self._in_thread(self._ledger.look, work)
        return await self._in_thread(self._ledger.change, work, self._now())

    async def tally(self, rows: Sequence[TallyRow]) -> None:
        """Put rows in the place of those with the same keys."""
        await self._in_thread(self._ledger.tally, rows)

    async def expire(self) -> int:
        """Settle what dead owners hold, and holds whose time is over; return how many."""
        return await self._in_thread(self._ledger.expire, self._now())

    async def tidy(self) -> None:
        """Take a checkpoint if it is time."""
        if self._ledger.wal_bytes() > WAL_BYTES:
            await self._in_thread(self._ledger.checkpoint)

    def has_room(self) -> bool:
        """Keep 8 MiB of disk back for settling on a full disk; False if they are not to be had."""
        return ballast.keep(self._ledger.path)

    def make_room(self) -> None:
        """Give the kept disk back (RULES.md L8)."""
        ballast.drop(self._ledger.path)

    async def close(self) -> None:
        """End this owner and close the file, after what the thread may still be busy with: a commit must not lose its
        connection.
        """
        closed = asyncio.get_running_loop().run_in_executor(self._executor, self._ledger.close)
        self._executor.shutdown(wait=False)
        await asyncio.wait({closed}, timeout=CLOSE_SECONDS)
        if self._syncs is not None:
            self._syncs.close()

    async def _in_thread(self, work: Callable[..., _R], *values: object) -> _R:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *values)
