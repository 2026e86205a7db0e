"""One process's place in a simulated database: the `Ledger` that a Book sits on."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from tests.simulation_loop import Process
from tests.simulation_store import LEASE_SECONDS, TIMEOUT_SECONDS, Database, Group, Owner
from tolsey.errors import CommitUnknown, LedgerUnavailable
from tolsey.ledger.books import Balance, Hold, Window
from tolsey.ledger.events import Event, Expire, Kind, Outcome
from tolsey.ledger.windows import window
from tolsey.testing import SECOND
from tolsey.token.chain import Account

RENEW_SECONDS = 3.0
"""RULES.md L2."""


class SimulatedLedger:
    """A `Ledger` of one process in a simulated database. `now` is the process's clock."""

    def __init__(self, database: Database, process: Process, now: Callable[[], int], name: str) -> None:
        self.id = "the-ledger"
        self.owner = 0
        self.config: int | None = None
        self._db, self._process, self._now, self._name = database, process, now, name
        self._groups = 0
        self._doubt: str | None = None
        self._renewing: asyncio.Task[None] | None = None

    def time(self) -> int:
        return self._db.time(self._now())

    async def register(self, owner_id: str) -> None:
        def enter() -> int:
            owners = self._db.rows.owners
            owners[n := len(owners) + 1] = Owner(self._process, self._db.clock() + int(LEASE_SECONDS * SECOND))
            return n

        before = self.owner
        self.owner = await self._db.ask(enter)
        if before:
            self._db.rows.owners[before].released = True
        if self._renewing is None:
            self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        def renew() -> None:
            mine = self._db.rows.owners[self.owner]
            if not mine.ended:
                mine.lease = max(mine.lease, self._db.clock() + int(LEASE_SECONDS * SECOND))

        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._db.ask(renew, row=("owner", str(self.owner)))
            except LedgerUnavailable:
                continue

    async def is_ended(self) -> bool:
        return await self._db.ask(lambda: self._db.rows.owners[self.owner].ended)

    async def write(self, events: Sequence[Event]) -> list[Outcome]:
        await self._settle_doubt()
        return await self._write(lambda: events)

    async def _settle_doubt(self) -> None:
        """RULES.md L4: a group whose answer was lost is decided by a write under its id, before anything else."""
        if self._doubt is not None and not self._db.embedded:
            group = self._doubt
            await self._db.ask(lambda: self._db.bury(group))
        self._doubt = None

    async def _write(self, find: Callable[[], Sequence[Event]], closes: int = 0) -> list[Outcome]:
        self._groups += 1
        group = self._doubt = f"{self._name}-{self._groups}"
        reply = self._db.begin(Group(group, self.owner, self._process, self._now(), find, closes))
        await asyncio.wait({reply}, timeout=None if self._db.embedded else TIMEOUT_SECONDS)
        if not reply.done():
            raise CommitUnknown("no answer came")
        try:
            outcomes = reply.result()
        except CommitUnknown:
            raise
        except LedgerUnavailable:
            self._doubt = None
            raise
        self._doubt = None
        return outcomes

    async def expire(self) -> int:
        """Settle what dead owners hold, and holds whose time is over."""
        await self._settle_doubt()
        rows, now = self._db.rows, self.time()
        dead = [n for n in rows.owners if self._is_dead(n)]
        overdue = [hold for hold, until in rows.open.items() if until <= now]
        expired = 0
        if overdue:
            expired += len(await self._write(lambda: [Expire(hold) for hold in overdue]))
        for n in dead:
            expired += len(await self._write(partial(self._bequest, n), closes=n))
        return expired

    def _is_dead(self, n: int) -> bool:
        """Of one that is closed or not; the closed ones matter where they hold something."""
        owner = self._db.rows.owners[n]
        if owner.ended and not any(self._db.rows.holds[hold].owner == n for hold in self._db.rows.open):
            return False
        return self._db.lapsed(n)

    def _bequest(self, n: int) -> list[Event]:
        """What a dead owner leaves, found under the lock of its row; nothing if it lives after all."""
        rows = self._db.rows
        if not self._is_dead(n) and not self._db.flaws.unfenced:
            return []
        return [Expire(hold) for hold in rows.open if rows.holds[hold].owner == n]

    async def balances(self, accounts: Sequence[Account]) -> list[Balance]:
        def look() -> list[Balance]:
            return [self._stands(account) for account in accounts]

        return await self._db.ask(look)

    def _stands(self, account: Account) -> Balance:
        balance = self._db.rows.balances.get(account[:2]) or Balance(account)
        if account.period is None:
            return replace(balance)
        windows = self._db.rows.windows.get(account[:2], {})
        stands = windows.get(window(account.period, self.time())[0]) or Window()
        return replace(balance, spent=stands.spent, held=stands.held, granted=stands.granted)

    async def hold(self, hold_id: str) -> Hold | None:
        return await self._db.ask(lambda: self._db.rows.holds.get(hold_id))

    async def number_config(self, generation: str) -> int:
        return 1

    async def entry_count(self) -> int:
        return await self._db.ask(lambda: len(self._db.rows.journal))

    async def note(self, kind: Kind, note: str) -> None:
        raise NotImplementedError

    async def tidy(self) -> None:
        pass

    def has_room(self) -> bool:
        return self._db.loop.time() >= self._db.full_until

    def make_room(self) -> None:
        pass

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
