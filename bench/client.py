"""A tiny HTTP client and upstream on asyncio, for what wrk and nginx cannot do or where they are missing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from bench import BenchError
from bench.origin import BODY


async def call_all(port: int, path: str, tokens: Iterable[str], *, connections: int, every: float = 0) -> int:
    """One GET with each token, over so many keep-alive connections, each of which begins one every `every` seconds at
    most (0: as fast as they go). How many there were; any status but 200 raises.
    """
    remaining = iter(tokens)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_calls(port, path, remaining, every)) for _ in range(connections)]
    except* (EOFError, OSError) as errors:
        raise BenchError(f"the gateway broke a connection: {errors.exceptions[0]}") from errors
    except* BenchError as errors:
        raise BenchError(str(errors.exceptions[0])) from errors
    return sum(task.result() for task in tasks)


async def _calls(port: int, path: str, tokens: Iterator[str], every: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    due = time.monotonic()
    with contextlib.closing(writer):
        for token in tokens:
            head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n"
            writer.write(head.encode())
            status, body = await response(reader)
            if status != 200:
                raise BenchError(f"call {count + 1} of a connection was answered {status}: {body.decode()}")
            count += 1
            if every:
                due = max(due + every, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
    return count


async def response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of a response with a length or in chunks."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split()[1])
    if "content-length" in headers:
        return status, await reader.readexactly(int(headers["content-length"]))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return status, body


class _Upstream(asyncio.Protocol):
    """Answers every request without a body with the same small JSON as the real upstream, and counts them."""

    _reply = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to answer."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer each head that is complete."""
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for _ in heads:
            self._count()
            self._transport.write(self._reply)


@dataclass
class Seen:
    """The port of the tiny upstream, and how many requests it saw."""

    port: int = 0
    count: int = 0

    def add(self) -> None:
        """One more."""
        self.count += 1


@contextlib.asynccontextmanager
async def tiny_upstream() -> AsyncIterator[Seen]:
    """The upstream, listening in this process."""
    seen = Seen()
    server = await asyncio.get_running_loop().create_server(lambda: _Upstream(seen.add), "127.0.0.1", 0)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
