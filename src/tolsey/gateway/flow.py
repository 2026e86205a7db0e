"""Back-pressure on what is written, the same on both sides of the gateway."""

import asyncio


class WriteFlow(asyncio.Protocol):
    """A protocol whose writer waits while its peer is slow to read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writable: asyncio.Future[None] | None = None

    def pause_writing(self) -> None:
        """asyncio: the peer is slow."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """asyncio: the peer took some, or is gone."""
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    async def drained(self) -> None:
        """Wait while the peer is slow."""
        if self._writable is not None:
            await self._writable
