"""A sync of the disk that no thread waits for: Linux does it by itself and tells the event loop (io_submit(2), since
4.18). To wake a thread and to be woken by it takes as much of a processor as a good disk takes time.
"""

import asyncio
import os
from types import ModuleType
from typing import Any, Final, Self

AT_ONCE: Final = 8
"""How many syncs may be under way."""

_WORD: Final = 1 << 64
_REFUSED: Final = (OverflowError, ValueError, SystemError)


class KernelSync:
    """The kernel's syncs for one event loop."""

    def __init__(self, calls: ModuleType, loop: asyncio.AbstractEventLoop) -> None:
        """Raises SystemError where the kernel has none to give. `calls` is `caio.linux_aio`."""
        self._loop = loop
        self._operation: Any = calls.Operation
        self._context: Any = calls.Context(AT_ONCE)
        loop.add_reader(self._context.fileno, self._ready)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Self | None:
        """Those for a loop; None where there are none."""
        # Not at the start: it tries the kernel, and that takes as long as the import of a tenth of all modules.
        import caio

        if caio.linux_aio not in caio.variants:
            return None
        try:
            return cls(caio.linux_aio, loop)
        except SystemError:
            return None

    async def sync(self, descriptor: int) -> bool:
        """`fdatasync` of a file; False if the kernel did not begin it. Raises OSError."""
        over: asyncio.Future[int] = self._loop.create_future()

        def done(result: int) -> None:
            if not over.done():
                over.set_result(result)

        operation = self._operation.fdsync(descriptor)
        operation.set_callback(done)
        try:
            self._context.submit(operation)
        except _REFUSED:
            return False
        result = await over
        if result:
            # A negative number, as a word without a sign.
            raise OSError(_WORD - result, os.strerror(_WORD - result))
        return True

    def _ready(self) -> None:
        try:  # noqa: SIM105 - suppress() costs as much as the rest
            self._context.poll()
        except BlockingIOError:
            pass
        # All there are: the descriptor has told of them now.
        while self._context.process_events(AT_ONCE):
            pass

    def close(self) -> None:
        """Hear no more of those that are under way."""
        self._loop.remove_reader(self._context.fileno)
