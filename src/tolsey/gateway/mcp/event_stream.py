"""A server of 2024-11-05 over HTTP: one stream of events down, whose first says where messages are posted."""

import asyncio
from collections.abc import Callable
from typing import Final
from urllib.parse import urljoin, urlsplit

from tolsey.gateway.destination import Broken, NotSent, Whole
from tolsey.gateway.mcp.relay import read_whole
from tolsey.gateway.upstream import Upstream
from tolsey.pricing.events import Events

MAX_TARGET: Final = 4096
"""The longest address to post to, in bytes."""


class EventStream:
    """One session with such a server. `upstream` is its origin alone, `path` where its stream is."""

    def __init__(self, upstream: Upstream, path: bytes) -> None:
        self._upstream = upstream
        self._path = path
        self._target = b""
        self._ready: asyncio.Future[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    async def open(self, take: Callable[[bytes], None], over: Callable[[str], None]) -> None:
        """Open the stream, and wait until it says where to post. Raises `NotSent`."""
        self._ready = asyncio.get_running_loop().create_future()
        self._listening = asyncio.create_task(self._listen(self._ready, take, over))
        await self._ready

    async def _listen(
        self, ready: "asyncio.Future[None]", take: Callable[[bytes], None], over: Callable[[str], None]
    ) -> None:
        try:
            await self._hear(ready, take)
            why = "closed its stream"
        except (NotSent, Broken, ValueError) as error:
            why = f"broke off: {error}"
        if ready.done():
            over(why)
        else:
            ready.set_exception(NotSent(why))

    async def _hear(self, ready: "asyncio.Future[None]", take: Callable[[bytes], None]) -> None:
        headers = [(b"accept", b"text/event-stream"), *self._upstream.headers]
        async with self._upstream.request("GET", self._path, headers, None) as exchange:
            kind = next((value for name, value in exchange.headers if name == b"content-type"), b"")
            if exchange.status != 200 or kind.split(b";")[0].strip().lower() != b"text/event-stream":
                raise Broken(f"it gives no stream of events (status {exchange.status})")
            events = Events()
            while (piece := await exchange.chunk()) is not None:
                for event in events.feed(piece):
                    name = _name(event.raw)
                    if name == b"endpoint" and not ready.done():
                        self._target = self._where(event.data)
                        ready.set_result(None)
                    elif name in (b"", b"message") and event.data.strip():
                        take(event.data)

    def _where(self, data: bytes) -> bytes:
        """The target to post to, on the server's own origin: messages are for no other. Raises `Broken`."""
        origin = self._upstream.origin.decode("ascii")
        try:
            found = urljoin(origin + self._path.decode("ascii"), data.decode("ascii").strip())
            parts = urlsplit(found)
        except ValueError:
            raise Broken("it says no address to post to") from None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if f"{parts.scheme}://{parts.netloc}" != origin:
            raise Broken("it has messages posted to another origin")
        if len(target) > MAX_TARGET or not target.isprintable() or " " in target:
            raise Broken("it says no address to post to")
        return target.encode("ascii")

    async def write(self, message: bytes) -> None:
        """Post one message. Raises `Broken`."""
        headers = [
            (b"content-type", b"application/json"),
            *self._upstream.headers,
            (b"content-length", str(len(message)).encode("ascii")),
        ]
        try:
            async with self._upstream.request("POST", self._target, headers, Whole(message)) as exchange:
                if exchange.status // 100 != 2:
                    raise Broken(f"it does not take a message (status {exchange.status})")
                await read_whole(exchange)
        except NotSent as error:
            raise Broken(error.detail) from None

    async def close(self) -> None:
        """Leave the stream."""
        if self._listening is not None and self._listening is not asyncio.current_task():
            self._listening.cancel()
            await asyncio.wait({self._listening})
        if self._ready is not None:
            self._ready.cancel()
        self._upstream.close()


def _name(raw: bytes) -> bytes:
    """The name of an event."""
    for line in raw.splitlines():
        field, _, value = line.partition(b":")
        if field == b"event":
            return value.strip()
    return b""
