"""Who draws invoices, as the gateway sees it; one that fails is left alone for a while.

Nothing is asked of a node but a new invoice: whether it was paid, the preimage proves. So one that is away is found out
when it is asked, and existing tokens need none.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from tolsey.errors import TolseyError

AWAY_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
"""How long a node is left alone after each failure in a row; the last is repeated."""


class NodeAway(TolseyError):
    """A node that did not give an invoice. `str(error)` is for the log alone."""

    code = "node_away"


class Drawn(NamedTuple):
    """An invoice that a node has drawn, and the hash of the payment that it is waiting for (32 bytes)."""

    invoice: str
    payment_hash: bytes


class Invoicer(Protocol):
    """Draws invoices. `fake` says that they are worth nothing."""

    fake: bool

    async def draw(self, sat: int, seconds: int) -> Drawn:
        """A new invoice over `sat` sats that can be paid for so many seconds. Raises `NodeAway`."""

    async def close(self) -> None:
        """Let go of the node."""


class Patient:
    """An Invoicer that leaves a node alone for a while after it failed, and says when it goes and comes back."""

    def __init__(
        self, node: Invoicer, tell: Callable[[str | None], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._node = node
        self._tell = tell
        self._clock = clock
        self._failures = 0
        self._until = 0.0
        self.fake = node.fake

    async def draw(self, sat: int, seconds: int) -> Drawn:
        """A new invoice, unless the node failed a moment ago."""
        if self._clock() < self._until:
            raise NodeAway("the node was away a moment ago")
        try:
            drawn = await self._node.draw(sat, seconds)
        except NodeAway as error:
            pause = AWAY_SECONDS[min(self._failures, len(AWAY_SECONDS) - 1)]
            self._failures += 1
            self._until = self._clock() + pause
            if self._failures == 1:
                self._tell(error.detail)
            raise
        if self._failures:
            self._failures = 0
            self._tell(None)
        return drawn

    async def close(self) -> None:
        """Let go of the node."""
        await self._node.close()
