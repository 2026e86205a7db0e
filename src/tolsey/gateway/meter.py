"""A call that is charged by the time it takes: its hold is kept ahead of it, or the call is cut."""

import asyncio
from collections.abc import Callable
from typing import Final

from tolsey.errors import LedgerUnavailable, Refusal
from tolsey.gateway.client import Client, Cut
from tolsey.ledger.events import Extend, Granted, Outcome
from tolsey.pricing.tariff import STEP_SECONDS, Tariff
from tolsey.store.book import Book

AHEAD_SECONDS: Final = STEP_SECONDS / 2
"""How long before the held time is over more of it is asked for."""


class Meter:
    """The clock of one call. `held` is all that is held for it, in nano-units.

    `allowed` says whether the token still allows a call that costs so much in all, since an extension is cleared again
    (RULES.md M8); `explain` turns an outcome that is not a grant into a refusal. `refusal` is why the call was cut.
    """

    def __init__(
        self,
        book: Book,
        client: Client,
        tariff: Tariff,
        granted: Granted,
        allowed: Callable[[int], Refusal | None],
        explain: Callable[[Outcome], Refusal],
    ) -> None:
        self._book = book
        self._client = client
        self._tariff = tariff
        self._hold = granted.hold
        self._allowed = allowed
        self._explain = explain
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._ahead: asyncio.TimerHandle
        self._end: asyncio.TimerHandle
        self._task: asyncio.Task[None] | None = None
        self.held = granted.amount
        self.refusal: Refusal | None = None
        self._arm()

    def stop(self) -> int:
        """The call is over. Returns how long it took, in nanoseconds."""
        self._ahead.cancel()
        self._end.cancel()
        if self._task is not None:
            self._task.cancel()
        return round((self._loop.time() - self._since) * 1_000_000_000)

    def _arm(self) -> None:
        end = self._since + (self.held - self._tariff.price.nano) / self._tariff.per_second
        self._ahead = self._loop.call_at(end - AHEAD_SECONDS, self._ask)
        self._end = self._loop.call_at(end, self._cut)

    def _ask(self) -> None:
        self._task = self._loop.create_task(self._extend())

    async def _extend(self) -> None:
        self.refusal = self._allowed(self.held + self._tariff.step)
        if self.refusal is None:
            try:
                outcome = await self._book.reserve(Extend(self._hold, self._tariff.step))
            except LedgerUnavailable as error:
                self.refusal = Refusal("ledger_unavailable", error.detail)
            else:
                if isinstance(outcome, Granted):
                    self.held += self._tariff.step
                    self._end.cancel()
                    self._arm()
                    return
                self.refusal = self._explain(outcome)

    def _cut(self) -> None:
        """The held time is over."""
        self.refusal = self.refusal or Refusal("ledger_unavailable", "the hold could not be extended in time")
        self._client.cut_off(Cut.UNFUNDED)
