"""What both sides of the wire have from asyncio: a protocol, and back-pressure on what is written."""

import asyncio


class WriteFlow:
    """A protocol whose writer waits while its peer is slow to read.

    It has the methods of `asyncio.Protocol` and not its class: what derives from that cannot be compiled whole
    (docs/decisions/0008).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writable: asyncio.Future[None] | None = None

    def eof_received(self) -> None:
        """asyncio: the peer sends no more, so the connection is closed."""

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
