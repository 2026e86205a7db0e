"""One connection to an upstream: httptools parses, asyncio carries."""

import asyncio
from typing import Final, cast

import httptools

from tolsey.gateway.destination import Broken
from tolsey.gateway.flow import WriteFlow

IDLE_SECONDS: Final = 4.0
"""How long an idle connection is kept: less than the five seconds after which many servers close theirs, since a
request that meets the closing is charged and not served.
"""

MAX_BUFFERED: Final = 256 * 1024
"""How much of an answer waits to be taken before reading pauses, in bytes."""

MAX_HEAD_BYTES: Final = 256 * 1024
MAX_UNREAD: Final = 1024 * 1024
"""How many bytes of an answer the parser may take without giving out any of its body: the value of a header, and of a
trailer, it keeps until it has the whole.
"""


class UpstreamConnection(WriteFlow):
    """One connection to an upstream, for one exchange at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._reading_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._busy = False
        self._head_only = False
        self._head_bytes = 0
        self._got_head = False
        self._until_close = False
        self._keep_alive = False
        self._surplus = False
        self._unread = 0
        self._lost = False
        self.complete = False
        """Whether the answer's end has arrived; pieces of it may still be there to be taken."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.length: int | None = None
        self.since = loop.time()

    @property
    def usable(self) -> bool:
        """Whether a next request may be sent."""
        fresh = self._loop.time() - self.since < IDLE_SECONDS
        return fresh and not self._lost and not self._busy and not self._transport.is_closing()

    @property
    def clean(self) -> bool:
        """Whether the exchange came to its end with nothing left over, on a connection that both sides keep."""
        self._busy = not (
            self.complete
            and not self._pieces
            and not self._lost
            and not self._head_only
            and not self._until_close
            and not self._surplus
            and self._keep_alive
        )
        return not self._busy

    def now(self) -> float:
        """The loop's time, in seconds."""
        return self._loop.time()

    def begin(self, head: bytes, head_only: bool) -> None:
        """Send a request's head, for whose answer there is no body if `head_only`."""
        self._busy = True
        self._got_head = self.complete = self._until_close = False
        self._head_only = head_only
        self._head_bytes = self._unread = 0
        self.headers = []
        self._transport.write(head)

    async def answered(self) -> None:
        """Wait for the answer's head. Raises `Broken`, or what the request's body raised."""
        while not self._got_head:
            if self._error is not None:
                raise self._error
            if self._lost:
                raise Broken("the upstream broke off before it answered")
            await self._wait()

    async def piece(self) -> bytes | None:
        """The next piece of the body, None at its end. Raises `Broken`."""
        while not self._pieces:
            if self.complete:
                return None
            if self._error is not None:
                raise self._error
            if self._lost:
                raise Broken("the upstream broke off in the middle of its answer")
            await self._wait()
        found = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        return found

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def write(self, data: bytes) -> None:
        """Send a piece of the request's body."""
        if not self._lost:
            self._transport.write(data)

    def sent(self, sending: "asyncio.Task[None]") -> None:
        """The request's body is out, or its source failed: then the answer is no longer waited for."""
        if not sending.cancelled() and (error := sending.exception()) is not None:
            self._error = error
            self._wake()

    def close(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=MAX_BUFFERED)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone, which ends an answer that has no other end."""
        if self._until_close and exc is None:
            self.complete = True
        self._lost = True
        self.resume_writing()
        self._wake()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the upstream. Any that were not asked for end the connection."""
        if not self._busy or self.complete:
            self.close()
            return
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._surplus = True
            self._break_off("the upstream's answer is not HTTP/1.1 as it should be")
        if self._unread > MAX_UNREAD:
            self._break_off("the upstream's answer has a header or a trailer without an end")

    def _break_off(self, why: str) -> None:
        """No more of this answer is taken; what came to its end before is good all the same."""
        if not self.complete and self._error is None:
            self._error = Broken(why)
        self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header; one that comes after the head is a trailer, and dropped."""
        if not self._got_head:
            self._head_bytes += len(name) + len(value) + 4
            if self._head_bytes > MAX_HEAD_BYTES:
                self._break_off("the upstream's headers are too large")
            else:
                self.headers.append((name.lower(), value))

    def on_message_begin(self) -> None:
        """httptools: an answer begins; if there was one already, it is one too many, and nothing of it is taken."""
        self._surplus = self._got_head

    def on_headers_complete(self) -> None:
        """httptools: the head is there, or one of an interim answer, which is dropped."""
        if self._surplus or self._error is not None:
            return
        status = self._parser.get_status_code()
        if status < 100:
            self._break_off("the upstream's answer is not HTTP/1.1 as it should be")
            return
        if status < 200:
            self.headers = []
            return
        self.status = status
        self.length, framed = None, False
        for name, value in self.headers:
            if name == b"content-length":
                # httptools has seen to it that there is one, and that it is a number.
                self.length, framed = int(value), True
            elif name == b"transfer-encoding":
                framed = True
                if value.lower() != b"chunked":
                    self._break_off("the upstream's answer has a Transfer-Encoding other than chunked")
                    return
        self._keep_alive = self._parser.should_keep_alive()
        self.complete = self._head_only
        self._until_close = not framed and status not in (204, 304)
        self._got_head = True
        self._wake()

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of the body."""
        if self._head_only or self._surplus:
            return
        self._unread = 0
        self._pieces.append(body)
        self._buffered += len(body)
        if self._buffered > MAX_BUFFERED and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        """httptools: the answer is whole, unless it was an interim one."""
        if self._got_head and not self._surplus:
            self.complete = True
            self._until_close = False
            self._wake()
