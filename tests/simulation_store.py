"""A simulated engine under the real Book and the real rules: one database in memory.

What it has of a real one: transactions over locked rows, or one turn for all; commits that fail, whose answer is lost,
or that an old backend carries out long after its client has gone; stalls, restarts, full disks; leases by the
database's clock. What it has not are rules: those are `rules.apply`, and the wrong ones in `test_simulation.py` are put
in through `Rules`.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import NamedTuple, TypeVar

from tests.simulation_loop import Loop, Process
from tolsey.errors import CommitUnknown, LedgerFull, LedgerUnavailable
from tolsey.ledger import rules
from tolsey.ledger.books import Balance, Books, Hold, Window
from tolsey.ledger.events import RESOLUTIONS, Claimed, Entry, Event, Grant, Key, Kind, Open, Outcome, Pay, Reserve
from tolsey.testing import SECOND

LEASE_SECONDS = 10.0
TIMEOUT_SECONDS = 5.0
"""RULES.md L2 and M12."""

Apply = Callable[..., Outcome]
Lock = tuple[str, ...]
_T = TypeVar("_T")


@dataclass
class Owner:
    process: Process
    lease: int
    ended: bool = False
    released: bool = False
    """Its process has let go of its lock; only where there are locks and no leases."""


class Step(NamedTuple):
    """One event of a group, what came of it, and the entries that it made."""

    event: Event
    outcome: Outcome
    entries: list[Entry]


Committed = Callable[[int, int, list[Step]], None]
"""Told of every group when it is committed: ledger time, owner, steps."""


@dataclass
class Faults:
    """How often what goes wrong, as probabilities of each group; of one run."""

    refused: float = 0.0
    unanswered: float = 0.0
    unknown: float = 0.0
    late: float = 0.0
    slow: float = 0.0
    full: float = 0.0


@dataclass
class Flaws:
    """What is wrong with this database: for the test that the simulation would notice."""

    unlocked: bool = False
    unfenced: bool = False
    no_tombstone: bool = False
    answers_early: bool = False
    apply: Apply | None = None


@dataclass
class Rows:
    """What is committed."""

    balances: dict[Key, Balance] = field(default_factory=dict)
    windows: dict[Key, dict[int, Window]] = field(default_factory=dict)
    rates: dict[str, int] = field(default_factory=dict)
    claims: dict[tuple[str, str], Claimed] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    journal: list[Entry] = field(default_factory=list)
    owners: dict[int, Owner] = field(default_factory=dict)
    groups: dict[str, bool] = field(default_factory=dict)
    """Group id → whether it was committed; False is a tombstone."""


class Database:
    """The engine. With `embedded` it is one file and one turn, whose time is the writers' and whose backends die with
    them; else rows are locked one by one, and its time is its own.
    """

    def __init__(
        self, loop: Loop, chance: Random, start: int, *, embedded: bool, faults: Faults, flaws: Flaws, told: Committed
    ) -> None:
        self.loop, self.embedded, self.faults, self.flaws = loop, embedded, faults, flaws
        self.rows = Rows()
        self.process = Process("database")
        self.full_until = self.down_until = 0.0
        self._chance = chance
        self._start = start
        self._told = told
        self._epoch = 0
        self._last = 0
        self._locks: dict[Lock, object] = {}
        self._waiting: list[asyncio.Future[None]] = []

    def clock(self) -> int:
        """The database's clock, in nanoseconds since the epoch."""
        return self._start + int(self.loop.time() * SECOND)

    def time(self, clock: int) -> int:
        """The ledger's time, asked by a process whose clock shows `clock`."""
        return max(clock if self.embedded else self.clock(), self._last)

    def restart(self, seconds: float) -> None:
        """Every backend dies with what it has not committed; nobody is expired for one lease."""
        self._epoch += 1
        self.down_until = self.loop.time() + seconds
        for owner in self.rows.owners.values():
            owner.lease = max(owner.lease, self.clock() + int((seconds + LEASE_SECONDS) * SECOND))

    def lapsed(self, n: int) -> bool:
        """Whether an owner shows no sign of life: its lock can be taken, or its lease is over."""
        owner = self.rows.owners[n]
        if self.embedded:
            return owner.process.dead_at is not None or owner.released
        return owner.lease <= self.clock()

    async def ask(self, work: Callable[[], _T], *, row: Lock | None = None) -> _T:
        """A short statement of its own: there, done once the row is free, and back. The answer may be lost."""
        await asyncio.sleep(self._chance.uniform(0.0002, 0.01))
        if self.loop.time() < self.down_until or self._chance.random() < self.faults.refused:
            raise LedgerUnavailable("no connection")
        if row is not None and not self.embedded:
            mine = object()
            await self._lock(mine, [row])
            self._unlock(mine)
        found = work()
        await asyncio.sleep(self._chance.uniform(0.0002, 0.01))
        if self._chance.random() < self.faults.unanswered:
            raise LedgerUnavailable("the connection broke")
        return found

    def begin(self, group: "Group") -> "asyncio.Future[list[Outcome]]":
        """Send a group to a backend."""
        reply: asyncio.Future[list[Outcome]] = self.loop.create_future()
        self.loop.spawn(self.process, self._backend(group, reply))
        return reply

    def bury(self, group: str) -> None:
        """Insert a tombstone under a group's id, unless it is there."""
        if not self.flaws.no_tombstone:
            self.rows.groups.setdefault(group, False)

    async def _backend(self, group: "Group", reply: "asyncio.Future[list[Outcome]]") -> None:
        mine = object()
        try:
            await self._transact(mine, group, reply)
        except LedgerUnavailable as error:
            _fail(reply, error)
        except Exception as error:  # noqa: BLE001 - the rules or the auditor found the books in disorder: told to all
            self.loop.errors.append(f"{type(error).__name__}: {error}")
            _fail(reply, LedgerUnavailable(str(error)))
        finally:
            self._unlock(mine)

    async def _transact(self, mine: object, group: "Group", reply: "asyncio.Future[list[Outcome]]") -> None:
        chance, faults, epoch = self._chance, self.faults, self._epoch
        await asyncio.sleep(chance.uniform(0.0002, 0.005))
        if self.loop.time() < self.down_until or chance.random() < faults.refused:
            raise LedgerUnavailable("the connection was refused")
        if not self.embedded and chance.random() < faults.late / 2:
            # What was sent lies in a buffer somewhere, and will be carried out.
            _fail(reply, CommitUnknown("the connection broke"))
            await asyncio.sleep(chance.uniform(0, 12))
        owner = group.closes or group.owner
        if self.embedded or owner:
            await self._lock(mine, [("turn",) if self.embedded else ("owner", str(owner))])
        events = group.find()
        while not self._holds(mine, locks := self._locks_of(events)):
            self._unlock(mine, but=("turn", "owner"))
            await self._lock(mine, locks)
        at = self.time(group.clock)
        books = self._read(events)
        steps = list(self._run(books, events, at, group.owner))
        if chance.random() < faults.full and self.loop.time() >= self.full_until:
            self.full_until = self.loop.time() + chance.uniform(0, 3)
        if self.loop.time() < self.full_until and any(isinstance(event, Reserve) for event in events):
            raise LedgerFull("the disk is full")
        if self.flaws.answers_early:
            _answer(reply, [step.outcome for step in steps])
        await asyncio.sleep(chance.uniform(1, 7) if chance.random() < faults.slow else chance.uniform(0, 0.01))
        if chance.random() < faults.unknown:
            raise CommitUnknown("the commit failed")
        if not self.embedded and chance.random() < faults.late / 2:
            _fail(reply, CommitUnknown("the connection broke"))
            await asyncio.sleep(chance.uniform(0, 12))
        if epoch != self._epoch:
            raise CommitUnknown("the server was restarted")
        if self.embedded and group.process.dead_at is not None:
            raise CommitUnknown("its process died")
        if self.rows.groups.setdefault(group.id, True) is False:
            raise CommitUnknown("there is a tombstone under its id")
        self._write(books, at, group, steps)
        if chance.random() < faults.unanswered:
            raise CommitUnknown("the answer was lost")
        await asyncio.sleep(chance.uniform(0, 0.005))
        _answer(reply, [step.outcome for step in steps])

    def _locks_of(self, events: Sequence[Event]) -> list[Lock]:
        if self.embedded or self.flaws.unlocked:
            return []
        locks: set[Lock] = set()
        for event in events:
            if isinstance(event, Reserve):
                locks.update(("rate", rate.id) for rate in event.rates)
                if event.claim is not None:
                    locks.add(("claim", *event.claim[:2]))
            locks.update(("account", *key) for key in self._keys(event))
            if not isinstance(event, Open | Pay | Grant):
                locks.add(("hold", event.hold))
                hold = self.rows.holds.get(event.hold)
                if hold is not None and hold.claim is not None:
                    locks.add(("claim", *hold.claim))
        return sorted(locks)

    def _holds(self, mine: object, locks: Iterable[Lock]) -> bool:
        return all(self._locks.get(lock) is mine for lock in locks)

    def _keys(self, event: Event) -> Sequence[Key]:
        if isinstance(event, Reserve):
            return [account[:2] for account in event.accounts + event.counters]
        if isinstance(event, Open | Pay):
            return [event.account[:2]]
        if isinstance(event, Grant):
            return [event.key]
        hold = self.rows.holds.get(event.hold)
        return [] if hold is None else hold.chain + hold.counters

    async def _lock(self, mine: object, locks: Iterable[Lock]) -> None:
        deadline = self.loop.time() + TIMEOUT_SECONDS
        for lock in locks:
            while self._locks.setdefault(lock, mine) is not mine:
                free: asyncio.Future[None] = self.loop.create_future()
                self._waiting.append(free)
                await free
                if self.loop.time() > deadline:
                    # Else backends whose client has given up queue before those whose client waits.
                    raise LedgerUnavailable("a lock was waited for too long")

    def _unlock(self, mine: object, but: Sequence[str] = ()) -> None:
        self._locks = {at: holder for at, holder in self._locks.items() if holder is not mine or at[0] in but}
        waiting, self._waiting = self._waiting, []
        for free in waiting:
            if not free.done():
                free.set_result(None)

    def _read(self, events: Sequence[Event]) -> Books:
        """Copies of all that the events touch."""
        rows, books = self.rows, Books()
        for event in events:
            for key in self._keys(event):
                if key in rows.balances:
                    books.balances[key] = replace(rows.balances[key])
                for start, stands in rows.windows.get(key, {}).items():
                    books.windows[key, start] = replace(stands)
            if isinstance(event, Reserve):
                books.rates.update((rate.id, rows.rates.get(rate.id, 0)) for rate in event.rates)
            claims = [event.claim[:2]] if isinstance(event, Reserve) and event.claim is not None else []
            if not isinstance(event, Open | Pay | Grant) and (hold := rows.holds.get(event.hold)) is not None:
                books.holds[event.hold] = replace(hold)
                claims += [] if hold.claim is None else [hold.claim]
            books.claims.update((claim, replace(rows.claims[claim])) for claim in claims if claim in rows.claims)
        return books

    def _run(self, books: Books, events: Sequence[Event], at: int, owner: int) -> Iterable[Step]:
        apply = self.flaws.apply or rules.apply
        for event in events:
            outcome = apply(books, event, at=at, owner=owner)
            entries, books.entries = books.entries, []
            yield Step(event, outcome, entries)

    def _write(self, books: Books, at: int, group: "Group", steps: list[Step]) -> None:
        rows = self.rows
        rows.balances.update(books.changed())
        for (key, start), stands in books.dirty_windows.items():
            rows.windows.setdefault(key, {})[start] = stands
        rows.rates.update(books.dirty_rates)
        for claim, claimed in books.dirty_claims.items():
            if claimed is None:
                rows.claims.pop(claim, None)
            else:
                rows.claims[claim] = claimed
        for step in steps:
            for entry in step.entries:
                rows.journal.append(entry)
                if entry.hold is not None:
                    rows.holds[entry.hold] = books.holds[entry.hold]
                if entry.kind is Kind.RESERVE and entry.hold is not None:
                    rows.open[entry.hold] = entry.until or 2**63
                elif entry.kind in RESOLUTIONS and entry.hold is not None:
                    rows.open.pop(entry.hold, None)
                self._last = max(self._last, entry.at)
        mine = rows.owners.get(group.owner)
        if mine is not None:
            # Whoever writes lives, also one that was taken for dead.
            mine.ended, mine.lease = False, max(mine.lease, self.clock() + int(LEASE_SECONDS * SECOND))
        if group.closes and self.lapsed(group.closes):
            rows.owners[group.closes].ended = True
        self._told(at, group.owner, steps)


class Group(NamedTuple):
    """What is sent to a backend. The events are found once the row of the owner is locked: of its own, or of the dead
    one that it closes.
    """

    id: str
    owner: int
    process: Process
    clock: int
    find: Callable[[], Sequence[Event]]
    closes: int = 0


def _answer(reply: "asyncio.Future[list[Outcome]]", outcomes: list[Outcome]) -> None:
    if not reply.done():
        reply.set_result(outcomes)


def _fail(reply: "asyncio.Future[list[Outcome]]", error: LedgerUnavailable) -> None:
    if not reply.done():
        reply.set_exception(error)
        # Whether anybody still waits for it or not.
        reply.exception()
