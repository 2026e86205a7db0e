"""The way of one call to its server and back: what comes back is the answer to that call, once, or it is no answer."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final

from tolsey.errors import Refusal
from tolsey.gateway.destination import Broken, Destination, Exchanging, Headers
from tolsey.gateway.mcp.messages import Message, json_headers, read_message, refused, write_error
from tolsey.gateway.mcp.renaming import Renaming
from tolsey.pricing.events import Events, StreamEvent

MAX_ANSWER: Final = 16 * 1024 * 1024
"""The largest answer that is not a stream, in bytes; and the largest event of one that is (`events.MAX_EVENT`)."""

_DROPPED: Final = frozenset({b"content-length", b"content-type", b"mcp-session-id", b"www-authenticate", b"set-cookie"})
_JSON: Final = b"application/json"
_STREAM: Final = b"text/event-stream"


class Via:
    """Where one call goes: to a server, as the message with that `id`."""

    def __init__(self, upstream: Destination, identifier: bytes, renaming: Renaming | None) -> None:
        self.name = upstream.name
        self.origin = upstream.origin
        self.prefix = upstream.prefix
        self.headers = upstream.headers
        self.timeout = upstream.timeout
        self._upstream = upstream
        self._id = identifier
        self._renaming = renaming

    def request(self, method: str, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None) -> "Relayed":
        """The request of the call."""
        return Relayed(self._upstream.request(method, target, headers, body), self._id, self._renaming)

    def close(self) -> None:
        """Nothing: the server's connections are not this call's."""


class Relayed:
    """An exchange whose answer is looked at as it passes. An answer in JSON is read as a whole; of a stream of events
    each is, and the answer to the call is the last that goes on: what a server says after it was never asked for.
    """

    def __init__(self, exchange: Exchanging, identifier: bytes, renaming: Renaming | None) -> None:
        self._exchange = exchange
        self._id = identifier
        self._renaming = renaming
        self._body = b""
        self._events: Events | None = None
        self._over = False
        self.status = 0
        self.headers: Headers = []
        self.length: int | None = None

    @property
    def sent(self) -> bool:
        """Whether any byte of the request was, or may have been, written."""
        return self._exchange.sent

    @sent.setter
    def sent(self, value: bool) -> None:
        raise AttributeError("what was sent is the exchange's to say")

    async def __aenter__(self) -> "Relayed":
        exchange = self._exchange
        await exchange.__aenter__()
        try:
            self.status = exchange.status
            kind = next((value for name, value in exchange.headers if name == b"content-type"), b"")
            kind = kind.split(b";")[0].strip().lower()
            self.headers = [header for header in exchange.headers if header[0] not in _DROPPED]
            if kind == _STREAM and self.status == 200:
                self._events = Events()
                self.headers.append((b"content-type", _STREAM))
            else:
                self._body = self._checked(await read_whole(exchange), kind)
                self.length = len(self._body)
                self.headers += json_headers(self._body)
        except BaseException as error:
            await exchange.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.__aexit__(kind, error, trace)

    def _checked(self, body: bytes, kind: bytes) -> bytes:
        """An answer that is no stream. What a server says outside the protocol is told as a fault of the server's: its
        401 is about the gateway's credentials, and not about the client's.
        """
        message = read_message(body) if kind == _JSON else None
        if isinstance(message, Message) and message.method is None:
            if message.id == self._id:
                if self.status in (401, 403):
                    self.status = 502
                return self._renamed(message) or body
            if self.status == 200:
                raise Broken("the server answered another call than this one")
        if isinstance(message, Message) or self.status < 400:
            raise Broken(f"the server's answer to the call is none (status {self.status})")
        told = self.status
        if told == 404:
            # The session is over, and the client is to begin a new one.
            return write_error(self._id, -32000, "the server does not know this session, or has no such path")
        self.status = 502
        return refused(self._id, Refusal("upstream_failed", f"the server answered with status {told}"))

    def _renamed(self, message: Message) -> bytes | None:
        return None if self._renaming is None else self._renaming.downward(message)

    async def whole(self) -> bytes:
        """The answer that is no stream."""
        self._over = True
        return self._body

    async def chunk(self) -> bytes | None:
        """The next events. Raises `Broken`."""
        if self._events is None:
            body, self._body, over, self._over = self._body, b"", self._over, True
            return None if over else body
        while not self._over:
            piece = await self._exchange.chunk()
            if piece is None:
                self._over = True
                break
            try:
                found = self._events.feed(piece)
            except ValueError as error:
                raise Broken(str(error)) from None
            out = b"".join([self._passed(event) for event in found])
            if out:
                return out
        return None

    def _passed(self, event: StreamEvent) -> bytes:
        """An event as it goes on; b"" if it does not."""
        if self._over:
            return b""
        if not event.data.strip():
            return event.raw
        message = read_message(event.data)
        if not isinstance(message, Message):
            raise Broken("the server's stream holds what is no message")
        if message.method is None:
            if message.id != self._id:
                return b""
            self._over = True
        renamed = self._renamed(message)
        return event.raw if renamed is None else b"event: message\ndata: " + renamed + b"\n\n"


async def read_whole(exchange: Exchanging) -> bytes:
    """The rest of an answer, if it is not too large. Raises `Broken`."""
    pieces = []
    size = 0
    while (piece := await exchange.chunk()) is not None:
        size += len(piece)
        if size > MAX_ANSWER:
            raise Broken("the server's answer is too large")
        pieces.append(piece)
    return b"".join(pieces)
