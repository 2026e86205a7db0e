"""One MCP client on standard input and output, in front of a gateway in the same process.

Each message of the client's is a request to the gateway's endpoint, as over HTTP, and so takes the same passage; what
comes of it is a line, or several. What the server says unasked goes to the client as it is, and the client's answers go
back.
"""

import asyncio
import os
import queue
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import msgspec

from tolsey.gateway.asgi import Gateway
from tolsey.gateway.mcp.messages import INVALID_REQUEST, Message, read_message, write_error
from tolsey.gateway.request import read_request
from tolsey.pricing.events import Events

PATH: Final = "/mcp"
"""Where the endpoint is, in the gateway."""

MAX_MESSAGE: Final = 16 * 1024 * 1024
"""The longest message of a client, in bytes."""

MAX_UNREAD: Final = 64 * 1024 * 1024
"""How many bytes wait for a client that does not read, before it is taken for gone."""

MOST_OPEN: Final = 1000
"""How many requests may be under way."""

LAST_SECONDS: Final = 20.0
"""How long requests under way may take to end once the client sends no more."""

WRITE_SECONDS: Final = 2.0
"""How long a client may take to read what is left at the end."""

_PIECE: Final = 65536
_TOO_LARGE: Final = b"-"


class Front:
    """The client's side. `source` and `sink` are descriptors to read from and to write to."""

    def __init__(self, token: str, source: int, sink: int) -> None:
        self._token = token.encode("ascii")
        self._source = source
        self._sink = sink
        self._open: dict[object, _Asked] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._written: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._unread = 0
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.why: str | None = None
        """Why the server is gone, None while it is there."""

    def told(self, message: bytes) -> None:
        """The server said this, unasked."""
        self.say(message)

    def left(self, why: str) -> None:
        """The server is gone."""
        self.why = why
        self.stop()

    def stop(self) -> None:
        """Take nothing more."""
        self._stopping.set()

    def say(self, message: bytes) -> None:
        """Write one message to the client."""
        self._unread += len(message)
        if self._unread > MAX_UNREAD:
            self.stop()
            return
        self._written.put(message.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")

    async def serve(self, gateway: Gateway) -> None:
        """Take messages until the client sends no more, the server is gone, or it is told to stop."""
        lines: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        writer = threading.Thread(target=self._write, daemon=True)
        writer.start()
        stopping = asyncio.create_task(self._stopping.wait())
        while not self._stopping.is_set():
            reading = asyncio.create_task(lines.get())
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                break
            line = reading.result()
            if line is None:
                await self._finish(stopping)
                break
            await self._take(gateway, line)
        stopping.cancel()
        for asked in tuple(self._open.values()):
            asked.gone.set()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._written.put(None)
        await asyncio.to_thread(writer.join, WRITE_SECONDS)

    async def _finish(self, stopping: "asyncio.Task[bool]") -> None:
        """Wait for what is under way."""

        async def all_over() -> None:
            while self._tasks:
                await asyncio.wait(self._tasks)

        over = asyncio.create_task(all_over())
        await asyncio.wait({over, stopping}, timeout=LAST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()

    def _read(self, lines: "asyncio.Queue[bytes | None]") -> None:
        def give(line: bytes | None) -> None:
            asyncio.run_coroutine_threadsafe(lines.put(line), self._loop).result()

        try:
            for line in _lines(self._source):
                if line.strip():
                    give(line)
            give(None)
        except RuntimeError:
            # The loop is closed: nobody listens any more.
            return

    def _write(self) -> None:
        try:
            while (piece := self._written.get()) is not None:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(self._sink, rest) :]
                self._unread -= len(piece)
        except OSError:
            self._loop.call_soon_threadsafe(self.stop)

    async def _take(self, gateway: Gateway, line: bytes) -> None:
        if line is _TOO_LARGE:
            self.say(write_error(None, INVALID_REQUEST, f"a message has at most {MAX_MESSAGE} bytes"))
            return
        message = read_message(line)
        if isinstance(message, Message) and message.method == "notifications/cancelled":
            asked = self._open.get(_key(message.params.get("requestId")))
            if asked is not None:
                asked.gone.set()
            return
        is_request = isinstance(message, Message) and message.method is not None and message.id is not None
        asked = _Asked(self, line, message.id if isinstance(message, Message) else None)
        if not is_request:
            # In order: what follows an answer or a notification may rest on it.
            await asked.run(gateway, self._token)
            return
        key = _key(msgspec.json.decode(asked.id or b"null"))
        if key in self._open or len(self._open) >= MOST_OPEN:
            what = "its id is that of a request under way" if key in self._open else "too many are under way"
            self.say(write_error(None, INVALID_REQUEST, f"the request is refused: {what}"))
            return
        self._open[key] = asked
        task = asyncio.create_task(asked.run(gateway, self._token))
        self._tasks.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._open.pop(key, None)

        task.add_done_callback(over)


class _Asked:
    """One message of the client's, on its way through the gateway as a request over HTTP."""

    def __init__(self, front: Front, line: bytes, identifier: bytes | None) -> None:
        self._front = front
        self._line: bytes | None = line
        self.id = identifier
        self.gone = asyncio.Event()
        self._events: Events | None = None
        self._body = b""

    async def run(self, gateway: Gateway, token: bytes) -> None:
        size = len(self._line or b"")
        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "client": ("127.0.0.1", 0),
            "raw_path": PATH.encode("ascii"), "query_string": b"",
            "headers": [
                (b"host", b"localhost"),
                (b"authorization", b"Bearer " + token),
                (b"accept", b"application/json, text/event-stream"),
                (b"content-type", b"application/json"),
                (b"content-length", str(size).encode("ascii")),
            ],
        }  # fmt: skip
        await gateway.take(read_request(scope), scope, self._receive, self._send, has_body=True)

    async def _receive(self) -> MutableMapping[str, Any]:
        line, self._line = self._line, None
        if line is not None:
            return {"type": "http.request", "body": line, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            streams = any(h == (b"content-type", b"text/event-stream") for h in message["headers"])
            self._events = Events() if streams else None
        elif self.gone.is_set():
            return
        elif self._events is not None:
            for event in self._events.feed(message.get("body", b"")):
                if event.data.strip():
                    self._front.say(event.data)
        else:
            self._body += message.get("body", b"")
            if self._body and not message.get("more_body", False):
                self._front.say(self._answer(self._body))

    def _answer(self, body: bytes) -> bytes:
        """The answer, under the id that was asked under: what refuses the token comes before the message is read."""
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        if self.id is None or members.get("id", b"") != b"null":
            return body
        return msgspec.json.encode({**members, "id": msgspec.Raw(self.id)})


def _key(identifier: object) -> object:
    return type(identifier), identifier if isinstance(identifier, str | int) else None


def _lines(source: int) -> Iterator[bytes]:
    """The lines that come from a descriptor; `_TOO_LARGE` itself for one that is."""
    kept: list[bytes] = []
    size = 0
    while piece := os.read(source, _PIECE):
        first, *rest = piece.split(b"\n")
        for number, part in enumerate((first, *rest)):
            if number:
                yield _TOO_LARGE if size > MAX_MESSAGE else b"".join(kept)
                kept, size = [], 0
            size += len(part)
            if size <= MAX_MESSAGE:
                kept.append(part)
    if kept:
        yield b"".join(kept)
