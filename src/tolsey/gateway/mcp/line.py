"""A server at the far end of a line, as a destination of calls: one that speaks over its standard streams, or one of
2024-11-05 whose messages come as one stream of events.

On a line all messages share one way in and one way out, so each request gets an id of the line's own, and the answer
the id that it was asked under. A line has one of two kinds of client. Of a gateway's endpoint it is the gateway that is
the server's client, with no capabilities: the line opens the session itself, and whoever may call calls within it. With
`own` it is one client's alone, whose session it is, and who gets whatever the server says unasked.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final, Protocol

import msgspec

from tolsey.gateway.destination import Broken, Headers, NotSent
from tolsey.gateway.mcp.messages import METHOD_NOT_FOUND, Message, json_headers, read_message, write_error, write_result

MOST_STARTS: Final = 5
START_SECONDS: Final = 60.0
"""A server that ended is started again by the next call, but no more than so often in so many seconds."""

MOST_UNREAD: Final = 1000
"""How much progress of a call waits for a slow client; what comes beyond it is dropped."""

SPOKEN: Final = "2025-11-25"
"""The version of the protocol in which a line opens its session."""

_KNOWN: Final = ("2024-11-05", "2025-03-26", "2025-06-18", SPOKEN)
_SHARED: Final = ("tools", "resources", "prompts", "completions")
_FREE_HERE: Final = ("server/discover", "resources/subscribe", "resources/unsubscribe")
"""What cannot be had of a session that is shared: another handshake, and news for one of its clients."""


class Carrier(Protocol):
    """What a line's messages go over."""

    async def open(self, take: Callable[[bytes], None], over: Callable[[str], None]) -> None:
        """Connect; from then on each message is taken, and `over` told, once, why there will be no more. Raises
        `NotSent`.
        """

    async def write(self, message: bytes) -> None:
        """Send one message. Raises `Broken`."""

    async def close(self) -> None:
        """End it, and wait until it has ended."""


class Owner(Protocol):
    """The one client of a line that has one."""

    def told(self, message: bytes) -> None:
        """The server said this, unasked."""

    def left(self, why: str) -> None:
        """The server is gone."""


class Asked:
    """A request that was sent. `token` is the progress token that its client chose, None without one."""

    __slots__ = ("id", "method", "number", "said", "token")

    def __init__(self, number: int, message: Message, token: object) -> None:
        self.number = number
        self.id = msgspec.Raw(message.id or b"null")
        self.method = message.method
        self.token = token
        self.said: asyncio.Queue[bytes | Broken] = asyncio.Queue()


class Line:
    """One server. `connect` makes a new carrier to it, `timeout` is how many seconds of silence are borne, `log` gets a
    text about what goes wrong.
    """

    origin = b""
    prefix = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(
        self,
        name: str,
        connect: Callable[[], Carrier],
        *,
        timeout: float,
        log: Callable[[str], None],
        own: Owner | None = None,
    ) -> None:
        self.name = name
        self.timeout = timeout
        self.own = own
        self._connect = connect
        self._log = log
        self._carrier: Carrier | None = None
        self._opening: asyncio.Task[Carrier] | None = None
        self._starts: deque[float] = deque(maxlen=MOST_STARTS)
        self._asked: dict[int, Asked] = {}
        self._count = 0
        self._closed = False
        self._opened: dict[str, Any] = {}

    def request(
        self, method: str, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> "LineExchange":
        """One message, to be entered with `async with`."""
        return LineExchange(self, body)

    def close(self) -> None:
        """Take no more calls, and end the server when those under way are over."""
        self._closed = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        carrier = self._carrier
        if self._closed and carrier is not None and not self._asked:
            self._carrier = None
            _later(carrier.close())

    async def connected(self) -> Carrier:
        """The way to the server, which is started if it is not there. Raises `NotSent`."""
        if self._carrier is not None:
            return self._carrier
        if self._closed:
            raise NotSent(f"the server {self.name} is being ended")
        if self._opening is None:
            # A task of its own: whoever waits for it may leave, and others wait for it too.
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._was_opened)
        return await asyncio.shield(self._opening)

    def _was_opened(self, task: asyncio.Task[Carrier]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()
        self._end_if_idle()

    async def _open(self) -> Carrier:
        now = time.monotonic()
        if len(self._starts) == MOST_STARTS and now - self._starts[0] < START_SECONDS:
            raise NotSent(
                f"the server {self.name} ended {MOST_STARTS} times within a minute, and is left alone for one"
            )
        self._starts.append(now)
        carrier = self._connect()
        try:
            async with asyncio.timeout(self.timeout):
                await carrier.open(self._take, lambda why: self._over(carrier, why))
                self._carrier = carrier
                if self.own is None:
                    await self._shake_hands(carrier)
        except (TimeoutError, Broken, NotSent) as error:
            why = "it does not answer" if isinstance(error, TimeoutError) else str(error)
            self._carrier = None
            _later(carrier.close())
            self._log(f"cannot be started: {why}")
            raise NotSent(f"the server {self.name} cannot be started") from None
        return carrier

    async def _shake_hands(self, carrier: Carrier) -> None:
        """Open the session that all clients share. Raises `Broken`."""
        who = {"name": "tolsey", "version": version("tolsey")}
        params = {"protocolVersion": SPOKEN, "capabilities": {}, "clientInfo": who}
        hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        message = read_message(msgspec.json.encode(hello))
        if not isinstance(message, Message):
            raise AssertionError("our own message can be read")
        asked, sent = self.begin(message)
        try:
            await carrier.write(sent)
            said = await asked.said.get()
        finally:
            self._asked.pop(asked.number, None)
        if isinstance(said, Broken):
            raise said
        found = msgspec.json.decode(said, type=dict[str, Any])
        result = found.get("result")
        if not isinstance(result, dict) or result.get("protocolVersion") not in _KNOWN:
            raise Broken("it does not open a session in a version of the protocol that is known")
        given = result.get("capabilities")
        able = given if isinstance(given, dict) else {}
        # Of news, and of levels for the log, nothing reaches one of several clients.
        self._opened = {**result, "capabilities": {kind: {} for kind in _SHARED if kind in able}}
        await carrier.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')

    async def answer_here(self, message: Message) -> bytes | None:
        """What a request is answered with that concerns the session, where that is shared; None if the server is to be
        asked. Raises `NotSent`.
        """
        if self.own is not None or message.id is None:
            return None
        if message.method == "initialize":
            await self.connected()
            wanted, newest = message.params.get("protocolVersion"), self._opened["protocolVersion"]
            spoken = wanted if wanted in _KNOWN and str(wanted) < newest else newest
            return write_result(message.id, {**self._opened, "protocolVersion": spoken})
        if message.method == "logging/setLevel":
            return write_result(message.id, {})
        if message.method in _FREE_HERE:
            return write_error(message.id, METHOD_NOT_FOUND, "not over a session that is shared")
        return None

    def begin(self, message: Message) -> tuple[Asked, bytes]:
        """A request that is about to be sent, and as what."""
        self._count += 1
        meta = message.params.get("_meta")
        token = meta.get("progressToken") if isinstance(meta, dict) else None
        asked = self._asked[self._count] = Asked(self._count, message, token)
        if isinstance(meta, dict) and token is not None:
            return asked, message.written({"_meta": {**meta, "progressToken": asked.number}}, id=asked.number)
        return asked, message.written(id=asked.number)

    def end(self, asked: Asked) -> None:
        """Nobody waits for it any more; the server is told, if it has not answered."""
        if (
            self._asked.pop(asked.number, None) is not None
            and self._carrier is not None
            and asked.method != "initialize"
        ):
            params = {"requestId": asked.number, "reason": "the caller went away"}
            told = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            _later(_quietly(self._carrier, msgspec.json.encode(told)))
        self._end_if_idle()

    def _take(self, line: bytes) -> None:
        """A message of the server's."""
        message = read_message(line)
        if not isinstance(message, Message):
            if line.strip():
                self._log("says what is no message")
        elif message.method is None:
            # An answer to what nobody asked, or asks no more, or that was answered before, is none.
            asked = self._asked.pop(_number(message.id), None)
            if asked is not None:
                asked.said.put_nowait(message.written(id=asked.id))
        elif message.method == "notifications/progress" and message.params.get("progressToken") in self._asked:
            asked = self._asked[int(str(message.params["progressToken"]))]
            if asked.token is not None and asked.said.qsize() < MOST_UNREAD:
                asked.said.put_nowait(message.written({"progressToken": asked.token}))
        elif self.own is not None:
            self.own.told(line)
        elif message.id is not None and self._carrier is not None:
            answer = (
                write_result(message.id, {})
                if message.method == "ping"
                else write_error(message.id, METHOD_NOT_FOUND, "this client has no such capability")
            )
            _later(_quietly(self._carrier, answer))

    def _over(self, carrier: Carrier, why: str) -> None:
        if carrier is not self._carrier:
            return
        self._carrier = None
        _later(carrier.close())
        asked, self._asked = self._asked, {}
        for each in asked.values():
            each.said.put_nowait(Broken(f"the server {self.name} {why}"))
        if not self._closed:
            self._log(why)
        if self.own is not None:
            self.own.left(why)


class LineExchange:
    """One message to a server on a line, and what comes of it, as Streamable HTTP would have it: JSON, or events if
    there is progress before the answer.
    """

    def __init__(self, line: Line, body: AsyncIterator[bytes] | None) -> None:
        self._line = line
        self._request = body
        self._asked: Asked | None = None
        self._pieces: list[bytes] = []
        self._over = False
        self.sent = False
        self.status = 0
        self.headers: Headers = []
        self.length: int | None = None

    async def __aenter__(self) -> "LineExchange":
        message = None if self._request is None else read_message(b"".join([piece async for piece in self._request]))
        if not isinstance(message, Message):
            return self._ready(200, None)
        if message.method is None or message.id is None:
            if self._line.own is not None:
                carrier = await self._line.connected()
                self.sent = True
                await carrier.write(message.written())
            return self._ready(202, None)
        here = await self._line.answer_here(message)
        if here is not None:
            self.sent = True
            return self._ready(200, here)
        carrier = await self._line.connected()
        asked, out = self._line.begin(message)
        self._asked = asked
        self.sent = True
        try:
            await carrier.write(out)
            said = await self._said(asked)
        except BaseException:
            self._line.end(asked)
            raise
        if self._over:
            return self._ready(200, said)
        self.status = 200
        self.headers = [(b"content-type", b"text/event-stream")]
        self._pieces.append(_event(said))
        return self

    def _ready(self, status: int, body: bytes | None) -> "LineExchange":
        self.status = status
        self._over = True
        self.headers = [] if body is None else json_headers(body)
        self.length = len(body or b"")
        self._pieces = [body] if body else []
        return self

    async def _said(self, asked: Asked) -> bytes:
        said = await asked.said.get()
        if isinstance(said, Broken):
            raise said
        self._over = not is_progress(said)
        return said

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._asked is not None:
            self._line.end(self._asked)

    async def whole(self) -> bytes:
        """The rest of the answer in one piece."""
        pieces = []
        while (piece := await self.chunk()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    async def chunk(self) -> bytes | None:
        """The next piece of the answer. Raises `Broken`."""
        if self._pieces:
            return self._pieces.pop(0)
        if self._over or self._asked is None:
            return None
        return _event(await self._said(self._asked))


def is_progress(message: bytes) -> bool:
    """Whether a message is about a call, and not the answer to it."""
    return "method" in msgspec.json.decode(message, type=dict[str, msgspec.Raw])


def _event(message: bytes) -> bytes:
    return b"event: message\ndata: " + message + b"\n\n"


def _number(identifier: bytes | None) -> int:
    """The number in an id of ours; 0 for any other."""
    return int(identifier) if identifier is not None and identifier.isdigit() and len(identifier) < 20 else 0


_tasks: set[asyncio.Task[None]] = set()


def _later(work: Any) -> None:  # noqa: ANN401 - a coroutine of whatever result
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _quietly(carrier: Carrier, message: bytes) -> None:
    try:
        await carrier.write(message)
    except Broken:
        return


async def all_ended() -> None:
    """Wait until the servers of all lines that were closed are gone."""
    await asyncio.gather(*_tasks, return_exceptions=True)
