"""The Book: the ledger as the gateway sees it. Few verbs, and a contract.

* **Atomic**: a reserve holds on every account of its chain or on none.
* **Durable**: when `reserve` returns Granted, the hold is on disk. Only then may the call be forwarded.
* **Idempotent**: a hold's id is its key; the same event again has the same outcome.
* **Never lost**: a resolution that was handed over is tried until it is written, and cancelling a caller cancels
  nothing.

Events are committed in groups: whatever waits when the writer is free goes into one transaction, resolutions first, so
that money on its way back is there for the next reserve. Between two groups the loop goes on for some rounds: who was
told sends its call, and who calls meanwhile joins. A lone call waits for nothing but its own commit. Nobody waits
for a resolution, so it waits a moment for a reserve to be written with: then the disk is synced once for both, and no
reserve finds the writer busy with what could have waited.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from mypy_extensions import mypyc_attr

from tolsey.errors import CommitUnknown, LedgerFull, LedgerUnavailable, TolseyError
from tolsey.ledger.approving import Asked, Question
from tolsey.ledger.books import Balance, Child, Hold
from tolsey.ledger.events import Extend, Granted, Key, Kind, Late, Observe, Outcome, Pay, Reserve, Settle, Void
from tolsey.store.children import children_of
from tolsey.store.contract import Ledger, TallyRow
from tolsey.token.chain import Account

BACKOFF_SECONDS: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 1.0)
"""How long the Book waits after each failed group in a row; the last is repeated."""

RESOLVE_SECONDS = 0.005
"""How long resolutions wait for a reserve."""

_TICK_SECONDS = 0.001
"""What uvloop's clock tells apart: to wait for less is not to wait."""

ROUNDS = 10
"""How many rounds the loop makes between two groups, so that who was told goes on, and who calls meanwhile joins the
next one (docs/decisions/0041).
"""

ROUNDS_SECONDS = 0.002
"""After how long there is no further one. uvloop's clock tells milliseconds apart."""

OBSERVE_SECONDS = 0.5
"""How long observed calls wait for others."""

OBSERVE_GROUP = 256
"""How many of them go into one group."""

MOST_OBSERVED = 10_000
"""How many may wait; further ones are dropped."""

FULL = "the ledger's disk is full"
STOPPING = "the gateway is stopping"


_R = TypeVar("_R")


class Waiting(Protocol):
    """Whoever waits for an outcome, such as a future. None of this raises."""

    def done(self) -> bool:
        """Whether it was told, or waits no more."""

    def cancelled(self) -> bool:
        """Whether it waits no more."""

    def set_result(self, outcome: Outcome, /) -> None:
        """Tell the outcome."""

    def set_exception(self, error: LedgerUnavailable, /) -> None:
        """Tell why there is none."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Book:
    """Group commit over one `Ledger`, for one event loop.

    `new_owner` returns a fresh owner id. `committed` is told of each group: how many events it had, and how many
    nanoseconds it took. `problem` says why the ledger is not usable at the moment, or is None. `holds` are those that
    were granted here and not resolved on disk, `failed` and `fenced` count groups and new owners.
    """

    def __init__(
        self, ledger: Ledger, *, new_owner: Callable[[], str], committed: Callable[[int, int], None] | None = None
    ) -> None:
        self._ledger = ledger
        self._new_owner = new_owner
        self._committed = committed
        self._reserves: list[tuple[Reserve | Extend | Pay, Waiting]] = []
        self._resolutions: list[Settle | Void] = []
        self._due_at = 0.0
        self._armed = False
        self._reads: list[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = []
        self._observed: list[tuple[Observe, Callable[[Outcome | None], object]]] = []
        self._observing = False
        self._tallies: list[TallyRow] = []
        self._asleep: asyncio.Future[None] | None = None
        self._closing = False
        self._expired = False
        self._full = not ledger.has_room()
        self._failures = 0
        self.holds: set[str] = set()
        self.failed = 0
        self.fenced = 0
        self.unobserved = 0
        self.problem: str | None = FULL if self._full else None
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="ledger")

    async def reserve(self, event: Reserve | Extend | Pay) -> Outcome:
        """Hold an amount, or more of it, or take a payment. Returns Granted or why not; raises `LedgerUnavailable`.

        If the caller is cancelled meanwhile and the hold is granted all the same, it is voided.
        """
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self.reserve_for(event, future)
        try:
            return await future
        except asyncio.CancelledError:
            # The outcome may be there already, and the cancellation have come before this task could take it.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(event, future.result())
            raise

    def reserve_for(self, event: Reserve | Extend | Pay, waiting: "Waiting") -> None:
        """The same for whoever is to be told the outcome, and gives the hold back itself if it is not wanted any more.
        Raises `LedgerUnavailable`.
        """
        if self._closing or self._full:
            raise LedgerUnavailable(STOPPING if self._closing else FULL)
        self._reserves.append((event, waiting))
        self._wake()

    def resolve(self, event: Settle | Void) -> None:
        """Hand over a settle or a void. Returns at once; it is written with the next group that succeeds, which begins
        within `RESOLVE_SECONDS` if the writer is free.
        """
        self._resolutions.append(event)
        if len(self._resolutions) == 1:
            self._due_at = self._loop.time() + RESOLVE_SECONDS
            if not self._armed:
                self._armed = True
                self._loop.call_later(RESOLVE_SECONDS, self._wake_to_resolve)

    def _wake_to_resolve(self) -> None:
        """Those that the timer was for may have been written, and others be waiting since."""
        self._armed = bool(self._resolutions) and not self._are_due()
        if self._armed:
            self._loop.call_later(self._due_at - self._loop.time(), self._wake_to_resolve)
        elif self._resolutions:
            self._wake()

    def _are_due(self) -> bool:
        """Whether the resolutions that wait have waited long enough."""
        return self._due_at - self._loop.time() < _TICK_SECONDS

    def observe(self, event: Observe, seen: Callable[[Outcome | None], object]) -> None:
        """Hand over an observed call; `seen` gets its outcome, or None where it was not written.

        These wait half a second for each other, and no call waits for them: what the ledger does not take in time, or
        not surely, is dropped and counted in `unobserved`.
        """
        if len(self._observed) >= MOST_OBSERVED or self._closing:
            self.unobserved += 1
            seen(None)
            return
        self._observed.append((event, seen))
        if len(self._observed) == 1:
            self._loop.call_later(OBSERVE_SECONDS, self._wake_to_observe)
        elif len(self._observed) == OBSERVE_GROUP:
            self._wake_to_observe()

    def tally(self, rows: Sequence[TallyRow]) -> None:
        """Hand over what was counted; figures that come again later, and so may be lost once."""
        self._tallies = [*self._tallies, *rows][-MOST_OBSERVED:]
        self._wake()

    def _wake_to_observe(self) -> None:
        self._observing = True
        self._wake()

    async def balances(self, accounts: Sequence[Account]) -> list[Balance]:
        """Where the accounts stand, after everything that this Book was handed before. Raises `LedgerUnavailable`."""
        return await self._read(lambda: self._ledger.balances(accounts))

    async def children(self, ids: Sequence[str], most: int) -> list[Child]:
        """The accounts right below those, in any unit, in the order in which they were opened; at most so many. Raises
        `LedgerUnavailable`.
        """
        return await self._read(lambda: children_of(self._ledger, ids, most))

    async def hold(self, hold_id: str) -> Hold | None:
        """A hold, after everything that this Book was handed before. Raises `LedgerUnavailable`."""
        return await self._read(lambda: self._ledger.hold(hold_id))

    async def paid(self, payment: str) -> Key | None:
        """The key of the account that a payment opened (by its hash), None if it was not taken. Raises
        `LedgerUnavailable`.
        """
        return await self._read(lambda: self._ledger.paid(payment))

    async def ask(self, question: Question) -> bool:
        """Keep a question; False if too many are open. Raises `LedgerUnavailable`."""
        return await self._read(lambda: self._ledger.ask(question))

    async def asked(self, id_: str) -> Asked | None:
        """A question with what was said to it. Raises `LedgerUnavailable`."""
        return await self._read(lambda: self._ledger.asked(id_))

    async def _read(self, look: Callable[[], Awaitable[_R]]) -> _R:
        future: asyncio.Future[_R] = self._loop.create_future()
        self._reads.append((look, future))
        self._wake()
        return await future

    async def close(self, seconds: float) -> int:
        """Stop granting, write what waits for at most `seconds`, and close; return how many resolutions were not
        written.

        Those are settled as unknown outcomes when this owner is found dead.
        """
        self._closing = True
        self._wake()
        await asyncio.wait({self._task}, timeout=seconds)
        self._task.cancel()
        await asyncio.wait({self._task})
        self._refuse(STOPPING, self._reserves, self._reads)
        await self._ledger.close()
        return len(self._resolutions)

    def _wake(self) -> None:
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)

    async def _run(self) -> None:
        while True:
            # After a failure the ledger is asked again, if only with an empty group: nobody may call meanwhile.
            while self._has_work() or self._expired or self._must_ask():
                await self._group()
                await self._let_others()
            if self._closing:
                return
            self._asleep = self._loop.create_future()
            if self._full:
                await asyncio.wait({self._asleep}, timeout=BACKOFF_SECONDS[-1])
            else:
                await self._asleep
            self._look_for_room()

    async def _let_others(self) -> None:
        """Let the loop go on: a group that began at once would keep waiting whoever was told just now, and would be of
        few calls.
        """
        until = self._loop.time() + ROUNDS_SECONDS
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
            if self._loop.time() >= until:
                break

    async def _group(self) -> None:
        resolutions, self._resolutions = self._resolutions, []
        reserves, self._reserves = [pair for pair in self._reserves if not pair[1].cancelled()], []
        reads, self._reads = self._reads, []
        try:
            if self._expired:
                # A hold of ours was expired: its time was over, or this owner was taken for dead, and then it must not
                # forward anything more (RULES.md L3).
                if await self._ledger.is_ended():
                    await self._ledger.register(self._new_owner())
                    self.fenced += 1
                self._expired = False
            if resolutions or reserves or self._failures:
                events = [*resolutions, *(event for event, _ in reserves)]
                began = time.perf_counter_ns()
                outcomes = await self._ledger.write(events)
                if self._committed is not None and events:
                    self._committed(len(events), time.perf_counter_ns() - began)
                self._answer(outcomes, resolutions, reserves)
                # These are done: what goes wrong from here on must not undo them.
                resolutions, reserves = [], []
            await self._write_figures()
            for look, future in reads:
                found = await look()
                if not future.cancelled():
                    future.set_result(found)
        except asyncio.CancelledError:
            self._fail(CommitUnknown(STOPPING), resolutions, reserves, reads)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, every caller is answered and no settle is lost
            self._fail(error, resolutions, reserves, reads)
            await asyncio.sleep(BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS)) - 1])
        else:
            self._failures = 0
            self.problem = None
            self._look_for_room()

    def _has_work(self) -> bool:
        figures = self._tallies or self._observing or (self._closing and self._observed)
        resolutions = self._resolutions and (self._closing or self._are_due())
        return bool(self._reserves or resolutions or self._reads or figures)

    async def _write_figures(self) -> None:
        """Write what was observed and counted, in groups of their own: no enforced call depends on them."""
        self._observing = self._observing or (self._closing and bool(self._observed))
        if self._observing:
            group, self._observed = self._observed[:OBSERVE_GROUP], self._observed[OBSERVE_GROUP:]
            self._observing = bool(self._observed)
            outcomes: Sequence[Outcome | None] = [None] * len(group)
            try:
                outcomes = await self._ledger.write([event for event, _ in group])
            finally:
                for (_, seen), outcome in zip(group, outcomes, strict=True):
                    self.unobserved += outcome is None
                    seen(outcome)
        if self._tallies:
            rows, self._tallies = self._tallies, []
            await self._ledger.tally(rows)

    def _must_ask(self) -> bool:
        return self._failures > 0 and not self._closing

    def _look_for_room(self) -> None:
        """Grant again when the disk has room again."""
        if self._full:
            self._full = not self._ledger.has_room()
            self.problem = FULL if self._full else None

    def _answer(
        self,
        outcomes: list[Outcome],
        resolutions: list[Settle | Void],
        reserves: list[tuple[Reserve | Extend | Pay, Waiting]],
    ) -> None:
        self.holds.difference_update([event.hold for event in resolutions])
        for (event, future), outcome in zip(reserves, outcomes[len(resolutions) :], strict=True):
            if isinstance(outcome, Granted):
                self.holds.add(outcome.hold)
            if not future.cancelled():
                future.set_result(outcome)
            else:
                self._give_back(event, outcome)
        mine = self._ledger.owner
        for outcome in outcomes[: len(resolutions)]:
            # One that is late under an older name says nothing about the present one.
            if isinstance(outcome, Late) and outcome.kind is Kind.EXPIRE and outcome.owner == mine:
                self._expired = True

    def _give_back(self, event: Reserve | Extend | Pay, outcome: Outcome) -> None:
        """Void what was granted to a caller that has gone. An extension is left to the settle of its hold."""
        if isinstance(event, Reserve) and isinstance(outcome, Granted):
            self.resolve(Void(outcome.hold, "the caller went away before the call was sent"))

    def _fail(
        self,
        error: Exception,
        resolutions: list[Settle | Void],
        reserves: list[tuple[Reserve | Extend | Pay, Waiting]],
        reads: Sequence[tuple[object, asyncio.Future[Any]]],
    ) -> None:
        """Nothing of the group counts as done. What may have reached the disk unseen is voided under its id."""
        self._failures += 1
        self.failed += 1
        detail = error.detail if isinstance(error, TolseyError) else f"the ledger failed ({type(error).__name__})"
        self.problem = detail
        if not isinstance(error, TolseyError):
            self._loop.call_exception_handler({"message": detail, "exception": error})
        unknown = error if isinstance(error, CommitUnknown) else None
        if isinstance(error, LedgerFull) or (unknown is not None and unknown.full):
            self._full = True
            self._ledger.make_room()
        # An extension in doubt is not taken back: its hold is settled at no more than what was surely held.
        doubtful = [event.hold for event, _ in reserves if isinstance(event, Reserve)] if unknown is not None else []
        voids = [Void(hold, "the answer to its commit was lost") for hold in doubtful]
        self._resolutions = [*resolutions, *voids, *self._resolutions]
        self._refuse(detail, reserves, reads)

    def _refuse(
        self,
        detail: str,
        reserves: list[tuple[Reserve | Extend | Pay, Waiting]],
        reads: Sequence[tuple[object, asyncio.Future[Any]]],
    ) -> None:
        waiting = [*(each for _, each in reserves), *(each for _, each in reads)]
        for each in waiting:
            if not each.done():
                each.set_exception(LedgerUnavailable(detail))


class HoldIds:
    """Makes the ids of one owner's holds: the time (milliseconds), the owner's random id, a count. Sorted by time, so
    that the ledger's indexes grow at their end.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._count = -1
        self._at = -1
        self._begins = ""

    def new(self, at: int) -> str:
        """A fresh id, at the instant `at` (nanoseconds since the epoch)."""
        if at != self._at:
            self._at, self._begins = at, f"{at // 1_000_000:x}-{self._owner}-"
        self._count += 1
        return self._begins + hex(self._count)[2:]  # noqa: FURB116 - it takes a quarter of the time
