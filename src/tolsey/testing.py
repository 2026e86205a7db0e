"""For tests, ours and yours: a clock that stands still, and a ledger that fails and stalls as it is told."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tolsey.errors import LedgerUnavailable
from tolsey.ledger.books import Balance
from tolsey.ledger.events import Event, Outcome
from tolsey.store.sqlite import SqliteLedger
from tolsey.store.sqlite_file import Durability
from tolsey.token.chain import Account

SECOND: Final = 1_000_000_000
"""One second, in nanoseconds."""

NOON: Final = 1_775_044_800 * SECOND
"""2026-04-01T12:00:00Z, where a `FakeClock` begins unless it is told otherwise."""

STALL_SECONDS: Final = 20.0
"""How long a stalled sync waits before it gives up on the test."""


class FakeClock:
    """A clock that moves only when it is told. Call it for the time, in nanoseconds since the epoch."""

    def __init__(self, at: int = NOON) -> None:
        self.at = at

    def __call__(self) -> int:
        """The time, in nanoseconds since the epoch."""
        return self.at

    def advance(self, seconds: float) -> None:
        """Move the clock; back if `seconds` is negative."""
        self.at += round(seconds * SECOND)


Verb = Literal["stage", "commit", "sync", "register", "balances"]
"""What a `FaultyLedger` can be told to fail at."""


@dataclass(slots=True)
class _Fault:
    error: Exception
    times: int
    lost: bool


class FaultyLedger(SqliteLedger):
    """A ledger on a real file whose verbs fail when told, as a broken disk would make them.

    `staged` are the events of each group that was staged, `committed` of those that were committed, in order; `threads`
    the ids of the threads that each verb was called from. `waiting` says whether a stalled sync is being waited for.
    """

    def __init__(
        self, path: Path, *, durability: Durability = "full", now: int, new_id: str, create: bool = True
    ) -> None:
        self.staged: list[tuple[Event, ...]] = []
        self.committed: list[tuple[Event, ...]] = []
        self.threads: dict[Verb, set[int]] = {}
        self.waiting = False
        self._faults: dict[Verb, _Fault] = {}
        self._gate = threading.Event()
        self._gate.set()
        self._closing = threading.Lock()
        self._closed = False
        super().__init__(path, durability=durability, now=now, new_id=new_id, create=create)

    def fail(self, verb: Verb, error: Exception | None = None, *, times: int = 1, lost: bool = False) -> None:
        """Let the next `times` calls of a verb raise (a `LedgerUnavailable` unless `error` is given).

        With `lost` the work is done all the same and only its answer goes astray: a commit that is on disk and is not
        known to be.
        """
        self._faults[verb] = _Fault(error or LedgerUnavailable(f"{verb} failed, as told"), times, lost)

    def heal(self) -> None:
        """Forget every fault that is still to come."""
        self._faults.clear()

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Let syncs wait until the block is left, as on a slow disk. With durability `normal` there are none."""
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def stage(self, events: Sequence[Event], now: int) -> list[Outcome]:
        """As `SqliteLedger.stage`."""
        self._meet("stage")
        outcomes = super().stage(events, now)
        self.staged.append(tuple(events))
        return outcomes

    def commit(self) -> None:
        """As `SqliteLedger.commit`."""
        try:
            fault = self._meet("commit")
        except Exception:
            self.roll_back()
            raise
        super().commit()
        self.committed += self.staged[-1:]
        if fault is not None:
            self.roll_back()
            raise fault

    def sync(self) -> None:
        """As `SqliteLedger.sync`."""
        if self.durability == "full":
            self.waiting = not self._gate.is_set()
            if not self._gate.wait(STALL_SECONDS):
                raise AssertionError("a sync was stalled and never let go")
            self.waiting = False
        fault = self._meet("sync")
        super().sync()
        if fault is not None:
            raise fault

    def close(self) -> None:
        """As `SqliteLedger.close`, once. Waits for a thread that is at it, as one connection cannot be used by two."""
        with self._closing:
            if not self._closed:
                self._closed = True
                super().close()

    def register(self, owner_id: str, now: int) -> None:
        """As `SqliteLedger.register`."""
        fault = self._meet("register")
        super().register(owner_id, now)
        if fault is not None:
            raise fault

    def balances(self, accounts: Sequence[Account], now: int) -> list[Balance]:
        """As `SqliteLedger.balances`."""
        self._meet("balances")
        return super().balances(accounts, now)

    def _meet(self, verb: Verb) -> Exception | None:
        """Raise what was ordered for this call, or return it if it is only the answer that is to be lost."""
        self.threads.setdefault(verb, set()).add(threading.get_ident())
        fault = self._faults.get(verb)
        if fault is None:
            return None
        fault.times -= 1
        if fault.times <= 0:
            del self._faults[verb]
        if not fault.lost:
            raise fault.error
        return fault.error
