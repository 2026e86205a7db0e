"""Calls that are over, gathered and handed on together."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from tolsey.gateway.record import CallRecord

BATCH: Final = 64
"""How many calls that are over are handed on together: one by one it would cost each of them three times as much."""

HAND_ON_SECONDS: Final = 0.1
"""How long a call that is over waits for others at most."""

Over = Callable[[Sequence[CallRecord]], None]
"""Whoever counts or writes down what became of calls. It neither waits nor raises."""


class Ended:
    """Hands on to each of `over`, on the running event loop."""

    def __init__(self, over: Sequence[Over]) -> None:
        self._over = tuple(over)
        self._records: list[CallRecord] = []

    def add(self, record: CallRecord) -> None:
        """A call is over."""
        record.ended = time.perf_counter_ns()
        self._records.append(record)
        if len(self._records) == 1:
            asyncio.get_running_loop().call_later(HAND_ON_SECONDS, self.hand_on)
        elif len(self._records) == BATCH:
            # Not within this call: what goes wrong there is not its concern.
            asyncio.get_running_loop().call_soon(self.hand_on)

    def hand_on(self) -> None:
        """Hand on what is over."""
        records, self._records = self._records, []
        for over in self._over if records else ():
            over(records)
