"""A call whose cost grows while it runs: its hold is kept ahead of it, or the call is cut."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from tolsey.errors import LedgerUnavailable, Refusal
from tolsey.gateway.client import Client, Cut
from tolsey.ledger.events import Extend, Granted, Outcome
from tolsey.pricing.tariff import STEP_SECONDS, Quote
from tolsey.pricing.usage import Usage
from tolsey.store.book import Book

AHEAD_SECONDS: Final = STEP_SECONDS / 2
"""How long before the held time is over more of it is asked for."""


class Meter:
    """The meter of one call: what it used, and what is held for it. `held` is all of that, in nano-units.

    Time is paid for ahead, and bytes before they go on. `allowed` says whether the token still allows a call that costs
    so much in all, since an extension is cleared again (RULES.md M8); `explain` turns an outcome that is not a grant
    into a refusal. `refusal` is why the call was cut. Without a hold (`granted` is None) it only measures.
    """

    def __init__(
        self,
        book: Book,
        client: Client,
        quote: Quote,
        granted: Granted | None,
        allowed: Callable[[int], Awaitable[Refusal | None]],
        explain: Callable[[Outcome], Refusal],
    ) -> None:
        self._book = book
        self._client = client
        self._quote = quote
        self._hold = None if granted is None else granted.hold
        self._allowed = allowed
        self._explain = explain
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._took: int | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self.usage: Usage = quote.usage()
        self.held = 0 if granted is None else granted.amount
        self.refusal: Refusal | None = None
        self._arm()

    def reading(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The request body as it passes, where its size was not known before."""
        return _Counted(self, body)

    async def sent(self, size: int) -> None:
        """So many bytes of the request are about to go up, once they are paid for."""
        self.usage.sent += size
        await self._pay()

    async def body(self, piece: bytes) -> bytes:
        """A piece of the answer has come: what of it goes on to the client, once it is paid for."""
        found = self.usage.body(piece)
        await self._pay()
        return found

    async def report(self, sent: int | None, received: int | None, ns: int | None) -> bool:
        """What others measured of a call that they served, now that it is over: it is held as far as there is money.
        Returns whether it is all that the price asks for.
        """
        price, usage = self._quote.price, self.usage
        if (received is None and price.per_response_mb) or (
            sent is None and price.per_request_mb and self._quote.size is None
        ):
            return False
        usage.received = received or 0
        usage.sent = sent if self._quote.size is None and sent is not None else usage.sent
        self._took = ns
        self.stop()
        if self._quote.step and self._quote.so_far(usage) > self.held:
            await self._extend()
        return True

    def stop(self) -> None:
        """The call is over, and its time is known."""
        for timer in self._timers:
            timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self.usage.ns = self._ns()

    def _ns(self) -> int:
        if self._took is not None:
            return self._took
        return round((self._loop.time() - self._since) * 1_000_000_000)

    def _arm(self) -> None:
        """Set the clock for the end of the held time, as far as what is held is for time."""
        for timer in self._timers:
            timer.cancel()
        price = self._quote.price
        if self._hold is None or not price.per_second or self._is_full():
            return
        self.usage.ns = 0
        end = self._since + (self.held - self._quote.so_far(self.usage)) / price.per_second
        self._timers = [
            self._loop.call_at(end - AHEAD_SECONDS, self._ask),
            self._loop.call_at(end, self._cut),
        ]

    def _is_full(self) -> bool:
        most = self._quote.price.at_most
        return most is not None and self.held >= most

    async def _pay(self) -> None:
        """Hold more if what was used is more than what is held; if that is refused, the call ends here."""
        if self._hold is None or not self._quote.step:
            return
        self.usage.ns = self._ns()
        if self._quote.so_far(self.usage) <= self.held:
            if self._quote.step != self._quote.price.per_second * STEP_SECONDS:
                self._arm()
            return
        await self._extend()
        if self._quote.so_far(self.usage) > self.held:
            self._cut()
            await self._loop.create_future()

    def _ask(self) -> None:
        self._task = self._loop.create_task(self._extend())

    async def _extend(self) -> None:
        async with self._turn:
            self.usage.ns = self._ns()
            more = max(self._quote.step, self._quote.so_far(self.usage) - self.held)
            if self._quote.price.at_most is not None:
                more = min(more, self._quote.price.at_most - self.held)
            if self._hold is None or more <= 0:
                return
            self.refusal = await self._allowed(self.held + more)
            if self.refusal is None:
                try:
                    outcome = await self._book.reserve(Extend(self._hold, more))
                except LedgerUnavailable as error:
                    self.refusal = Refusal("ledger_unavailable", error.detail)
                else:
                    if isinstance(outcome, Granted):
                        self.held += more
                        self._arm()
                        return
                    self.refusal = self._explain(outcome)

    def _cut(self) -> None:
        """What is held is used up."""
        self.refusal = self.refusal or Refusal("ledger_unavailable", "the hold could not be extended in time")
        self._client.cut_off(Cut.UNFUNDED, self.refusal)


class _Counted:
    """A request body that is paid for as it passes."""

    def __init__(self, meter: Meter, body: AsyncIterator[bytes]) -> None:
        self._meter = meter
        self._body = body

    def __aiter__(self) -> "_Counted":
        return self

    async def __anext__(self) -> bytes:
        piece = await self._body.__anext__()
        await self._meter.sent(len(piece))
        return piece
