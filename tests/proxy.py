"""A proxy between the ledger and PostgreSQL that loses, delays and forges, as networks and connection poolers do."""

import asyncio
from contextlib import suppress
from typing import Final, Literal

COMMIT: Final = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""The message with which a group is committed."""

KEY_DATA: Final = b"K\x00\x00\x00"
"""How the message begins in which a backend names itself."""

Fate = Literal["lose the answer", "lose the commit", "hold the commit"]


class Proxy:
    """Passes connections on to `target`, a port of the loopback address. Use as an async context manager.

    `fate` is what becomes of the next COMMIT: its answer is lost, it never arrives, or it is held back (in `held`)
    while the client loses its connection. With `forges` backends give a false name.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.fate: Fate | None = None
        self.forges = False
        self.held: list[asyncio.StreamWriter] = []
        self._running = asyncio.Event()
        self._running.set()
        self._links: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Let nothing through any more; connections stay."""
        self._running.clear()

    def thaw(self) -> None:
        """Let everything through again, also what waited."""
        self._running.set()

    def cut(self) -> None:
        """Break every connection."""
        for link in self._links:
            link.transport.abort()
        self._links.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._links.add(writer)
        with suppress(OSError, asyncio.CancelledError):
            await self._running.wait()
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self._links.add(up_writer)
            up = asyncio.create_task(self._up(reader, up_writer, writer))
            down = asyncio.create_task(self._down(up_reader, writer))
            self._tasks |= {up, down}
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if up_writer not in self.held:
                up_writer.transport.abort()
        writer.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                await self._running.wait()
                if COMMIT in piece and self.fate is not None:
                    await self._meet(piece, writer, back)
                    return
                writer.write(piece)

    async def _meet(self, piece: bytes, writer: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        fate, self.fate = self.fate, None
        if fate == "hold the commit":
            self.held.append(writer)
        if fate == "lose the answer":
            # The client is gone before the answer can reach it.
            back.transport.abort()
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.2)

    def let_go(self) -> None:
        """Send the commits that were held back."""
        for writer in self.held:
            writer.write(COMMIT)

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                await self._running.wait()
                if self.forges and (at := piece.find(KEY_DATA)) >= 0:
                    piece = piece[: at + 5] + (12345).to_bytes(4, "big") + piece[at + 9 :]
                writer.write(piece)
