"""The Book: the ledger as the gateway sees it. Few verbs, and a contract.

* **Atomic**: a reserve holds on every account of its chain or on none.
* **Durable**: when `reserve` returns Granted, the hold is on disk. Only then may the call be forwarded.
* **Idempotent**: a hold's id is its key; the same event again has the same outcome.
* **Never lost**: a resolution that was handed over is tried until it is written, and cancelling a caller cancels
  nothing.

Events are committed in groups: whatever waits when the writer is free goes into one transaction, resolutions first, so
that money on its way back is there for the next reserve. A lone call waits for nothing but its own commit.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tolsey.errors import LedgerFull, LedgerUnavailable
from tolsey.ledger.rules import Balance, Granted, Late, Outcome, Reserve, Settle, Void
from tolsey.store.sqlite import SqliteLedger
from tolsey.token.chain import Account

BACKOFF_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0)
"""How long the Book waits after each failed group in a row; the last is repeated."""


class Book:
    """Group commit over one `SqliteLedger`, for one event loop.

    `timeout` is how long a reserve may wait for the ledger, in seconds; `now` returns nanoseconds since the epoch and
    `new_owner` a fresh owner id. `problem` says why the ledger is not usable at the moment, or is None.
    """

    def __init__(
        self, ledger: SqliteLedger, *, timeout: float, now: Callable[[], int], new_owner: Callable[[], str]
    ) -> None:
        self._ledger = ledger
        self._timeout = timeout
        self._now = now
        self._new_owner = new_owner
        self._reserves: list[tuple[Reserve, asyncio.Future[Outcome]]] = []
        self._resolutions: list[Settle | Void] = []
        self._reads: list[tuple[Sequence[Account], asyncio.Future[list[Balance]]]] = []
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._taking: asyncio.Future[None] | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self._full = not ledger.keep_ballast()
        self._failures = 0
        self.problem: str | None = None
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="ledger")

    async def reserve(self, event: Reserve) -> Outcome:
        """Hold an amount. Returns Granted, Shortfall, TooManyHolds or Conflict; raises `LedgerUnavailable`.

        If the caller is cancelled meanwhile and the hold is granted all the same, it is voided.
        """
        if self._closing or self._full:
            raise LedgerUnavailable("the ledger's disk is full" if self._full else "the gateway is stopping")
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._reserves.append((event, future))
        self._wake.set()
        try:
            return await future
        except asyncio.CancelledError:
            # The outcome may be there already, and the cancellation have come before this task could take it.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(future.result())
            raise

    def resolve(self, event: Settle | Void) -> None:
        """Hand over a settle or a void. Returns at once; it is written with the next group that succeeds."""
        self._resolutions.append(event)
        self._wake.set()

    async def balances(self, accounts: Sequence[Account]) -> list[Balance]:
        """Where the accounts stand, after everything that this Book was handed before. Raises `LedgerUnavailable`."""
        future: asyncio.Future[list[Balance]] = self._loop.create_future()
        self._reads.append((accounts, future))
        self._wake.set()
        return await future

    async def close(self, seconds: float) -> int:
        """Stop granting, write what waits for at most `seconds`, and close; return how many resolutions were not
        written.

        Those are settled as unknown outcomes when this owner is found dead.
        """
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._task}, timeout=seconds)
        left = len(self._resolutions)
        self._task.cancel()
        self._thread.shutdown(wait=False)
        self._ledger.close()
        return left

    async def _run(self) -> None:
        while True:
            while self._reserves or self._resolutions or self._reads or self._taking:
                await self._group()
            if self._closing:
                return
            await self._wake.wait()
            self._wake.clear()

    async def _group(self) -> None:
        resolutions, self._resolutions = self._resolutions, []
        reserves, self._reserves = [pair for pair in self._reserves if not pair[1].cancelled()], []
        reads, self._reads = self._reads, []
        staged = False
        try:
            if resolutions or reserves or self._taking:
                await self._take_turn()
                try:
                    outcomes = self._ledger.stage([*resolutions, *(event for event, _ in reserves)], self._now())
                    staged = True
                    await self._commit()
                finally:
                    self._ledger.turn.give()
                self._answer(outcomes, resolutions, reserves)
            for accounts, future in reads:
                if not future.cancelled():
                    future.set_result(self._ledger.balances(accounts))
        except LedgerUnavailable as error:
            self._fail(error, staged, resolutions, reserves, reads)
            await asyncio.sleep(BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS)) - 1])
        else:
            self._failures = 0
            self.problem = None
            if self._full:
                self._full = not self._ledger.keep_ballast()

    async def _take_turn(self) -> None:
        """Take the ledger's turn to write, without ever blocking the loop."""
        if self._taking is None:
            if self._ledger.turn.try_take():
                return
            self._taking = self._loop.run_in_executor(self._thread, self._ledger.turn.take)
        await asyncio.wait({self._taking}, timeout=self._timeout)
        if not self._taking.done():
            raise LedgerUnavailable(f"the ledger was not free for {self._timeout:g} s")
        self._taking = None

    async def _commit(self) -> None:
        """Commit: a sync of the disk is waited for in a thread, so that streams under way go on."""
        if self._ledger.durability == "full":
            await self._loop.run_in_executor(self._thread, self._ledger.commit)
        else:
            self._ledger.commit()

    def _answer(
        self,
        outcomes: list[Outcome],
        resolutions: list[Settle | Void],
        reserves: list[tuple[Reserve, asyncio.Future[Outcome]]],
    ) -> None:
        for (_, future), outcome in zip(reserves, outcomes[len(resolutions) :], strict=True):
            if not future.cancelled():
                future.set_result(outcome)
            else:
                self._give_back(outcome)
        if any(isinstance(outcome, Late) for outcome in outcomes[: len(resolutions)]):
            # Somebody took this owner for dead. It may not forward anything more under its old name (RULES.md L3).
            self._ledger.register(self._new_owner(), self._now())

    def _give_back(self, outcome: Outcome) -> None:
        """Void what was granted to a caller that has gone."""
        if isinstance(outcome, Granted):
            self.resolve(Void(outcome.hold, "the caller went away before the call was sent"))

    def _fail(
        self,
        error: LedgerUnavailable,
        staged: bool,
        resolutions: list[Settle | Void],
        reserves: list[tuple[Reserve, asyncio.Future[Outcome]]],
        reads: list[tuple[Sequence[Account], asyncio.Future[list[Balance]]]],
    ) -> None:
        """Nothing of the group counts as done. What may have reached the disk unseen is voided under its id."""
        self._failures += 1
        self.problem = error.detail
        if isinstance(error, LedgerFull):
            self._full = True
            self._ledger.drop_ballast()
        doubtful = [Void(event.hold, "the answer to its commit was lost") for event, _ in reserves] if staged else []
        self._resolutions = [*resolutions, *doubtful, *self._resolutions]
        waiting: list[asyncio.Future[Outcome] | asyncio.Future[list[Balance]]] = [f for _, f in reserves]
        waiting += [f for _, f in reads]
        for future in waiting:
            if not future.done():
                future.set_exception(LedgerUnavailable(error.detail))
