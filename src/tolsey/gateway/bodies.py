"""Room for request bodies that are read as a whole before their call is priced."""

import asyncio
from collections import deque
from typing import Final

MAX_BODIES: Final = 256_000_000
"""So many bytes of such bodies a process holds at once; a larger one is held when there is no other."""


class Bodies:
    """So many bytes, which calls take before they read and give back when they are over. Whoever finds none left waits,
    the first to come first.
    """

    def __init__(self, size: int = MAX_BODIES) -> None:
        self._size = self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int, seconds: float) -> int:
        """Take room for `size` bytes, and return how much was taken. Raises TimeoutError if there is none for so many
        seconds.
        """
        size = min(size, self._size)
        if self.try_take(size):
            return size
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._free += size
            self._next()
            raise
        return size

    def try_take(self, size: int) -> bool:
        """Take room for `size` bytes if there is any at once; whether there was."""
        if size > self._free or self._waiting:
            return False
        self._free -= size
        return True

    def give(self, size: int) -> None:
        """Give back so many bytes."""
        self._free += size
        self._next()

    def _next(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if size > self._free:
                    return
                self._free -= size
                turn.set_result(None)
            self._waiting.popleft()
