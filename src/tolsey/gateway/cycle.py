"""One request and its answer on a connection, as an ASGI application sees them."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tolsey.gateway.server import Connection

Application = Callable[[dict[str, Any], Callable[[], Awaitable[dict[str, Any]]], Any], Awaitable[None]]


STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus
}
"""The first line of an answer, for each status that has a phrase."""


class Cycle:
    """One request and its answer, as ASGI sees them: `receive` and `send`."""

    __slots__ = (
        "_body",
        "_chunked",
        "_complete",
        "_connection",
        "_continue",
        "_delivered",
        "_done",
        "_gone",
        "_head",
        "_keep_alive",
        "_loop",
        "_no_body",
        "_scope",
        "_waiter",
        "buffered",
    )

    def __init__(
        self,
        connection: "Connection",
        loop: asyncio.AbstractEventLoop,
        scope: dict[str, Any],
        *,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._scope = scope
        self._keep_alive = keep_alive
        self._continue = expects_continue
        self._body: list[bytes] = []
        self._complete = self._delivered = self._gone = self._done = False
        self._chunked = self._no_body = False
        self._head: bytes | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.buffered = 0

    async def run(self, application: Application) -> None:
        """Have the application answer."""
        try:
            await application(self._scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._connection.abort()
            raise
        except Exception as error:  # noqa: BLE001 - whatever the application raised, the client must see that it broke
            if not isinstance(error, ConnectionError):
                self._loop.call_exception_handler({"message": "the application failed", "exception": error})
            self._fail()
        else:
            if not self._done:
                self._fail()

    def _fail(self) -> None:
        """The answer did not come to its end: say so if nothing was sent, else break off."""
        if self._done or self._gone:
            return
        if self._head is None:
            self._connection.write(STATUS_LINES[500] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self._finish(keep_alive=False)
        else:
            self._connection.abort()

    def feed(self, piece: bytes) -> None:
        """A piece of the body arrived."""
        self._body.append(piece)
        self.buffered += len(piece)
        self._wake()

    def end_body(self) -> None:
        """The body is whole."""
        self._complete = True
        self._wake()

    def lose(self) -> None:
        """The client is gone."""
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def began(self) -> bool:
        """Whether a part of the answer was sent."""
        return self._head == b""

    async def receive(self) -> dict[str, Any]:
        """ASGI: the next piece of the body; after the last one, the client's going away."""
        if self._continue and not self._complete and not self._gone:
            self._continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._gone or self._done or self._body or (self._complete and not self._delivered)):
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._gone or self._done:
            return {"type": "http.disconnect"}
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self.buffered = 0
        self._delivered = self._complete
        self._connection.taken()
        return {"type": "http.request", "body": body, "more_body": not self._complete}

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI: the head or a piece of the answer. Waits while the client is slow."""
        if self._gone or self._done:
            return
        if message["type"] == "http.response.start":
            # The head goes out with the first piece of the body, in one write.
            self._head = self._start(message["status"], message["headers"])
            return
        piece: bytes = b"" if self._no_body else message.get("body", b"")
        more: bool = message.get("more_body", False)
        if self._chunked:
            piece = (b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"") + (b"" if more else b"0\r\n\r\n")
        if self._head:
            piece, self._head = self._head + piece, b""
        if piece:
            self._connection.write(piece)
        if more:
            await self._connection.drained()
        else:
            self._finish(keep_alive=self._keep_alive)

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        parts = [STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode("ascii")]
        framed = dated = False
        for name, value in headers:
            if name == b"content-length":
                framed = True
                if status == 204:
                    continue
            elif name == b"date":
                dated = True
            parts += (name, b": ", value, b"\r\n")
        if not dated:
            parts.append(self._connection.date)
        scope = self._scope
        self._no_body = scope["method"] == "HEAD" or status in (204, 304) or status < 200
        http_1_1 = scope["http_version"] == "1.1"
        if not framed and not self._no_body:
            if http_1_1:
                self._chunked = True
                parts.append(b"transfer-encoding: chunked\r\n")
            else:
                self._keep_alive = False
        if not self._complete or self._connection.closing:
            # The rest of the request is not waited for.
            self._keep_alive = False
        if not self._keep_alive:
            parts.append(b"connection: close\r\n")
        elif not http_1_1:
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _finish(self, *, keep_alive: bool) -> None:
        self._done = True
        self._wake()
        self._connection.finished(keep_alive=keep_alive)
