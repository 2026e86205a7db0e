"""One upstream: where it is, what is added for it, and one request to it.

An HTTP/1.1 client of its own over httptools and asyncio, because the gateway must know things that a general client
hides: whether any byte was written before it failed (only then is a call surely not served, RULES.md M6), and that the
target and the headers go out byte for byte as they were priced. Nothing is retried, redirected, decompressed or
remembered.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Final, TypeVar, cast

from tolsey.gateway.destination import NotSent, Whole
from tolsey.gateway.upstream_connection import IDLE_SECONDS, UpstreamConnection

MOST_IDLE: Final = 256
WHOLE_BYTES: Final = 64 * 1024
"""A body that is announced to be no longer than this is read in one piece, and one that is there is written in one with
its head.
"""

_R = TypeVar("_R")


class Upstream:
    """A configured upstream.

    `url` is its origin and an optional path prefix, `headers` are set on every request, `timeout` is how many seconds
    of silence are borne. `tls` is how it is known, and by what it knows us, where that is not as the system has it.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        connect_timeout: float = 5.0,
        timeout: float = 60.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        scheme, _, rest = url.partition("://")
        authority, slash, path = rest.partition("/")
        self.origin = f"{scheme}://{authority}".encode("ascii")
        self.prefix = (slash + path).rstrip("/").encode("ascii")
        self.headers = tuple((name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers)
        self.timeout = timeout
        self._connect_timeout = connect_timeout
        self._tls = (tls or ssl.create_default_context()) if scheme == "https" else None
        self._host, self._port = _address(authority, 443 if scheme == "https" else 80)
        self._host_line = b" HTTP/1.1\r\nhost: " + authority.encode("ascii") + b"\r\n"
        self._idle: deque[UpstreamConnection] = deque()
        self._closed = False

    def request(
        self, method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: AsyncIterator[bytes] | None
    ) -> "Exchange":
        """One request, to be entered with `async with`. `target` is the raw path and query.

        A body without a `content-length` among the headers goes out in chunks.
        """
        chunked = body is not None and not any(name == b"content-length" for name, _ in headers)
        at_once = b""
        if isinstance(body, Whole) and not chunked and len(body.data) <= WHOLE_BYTES:
            # Nothing has to be waited for, and to write it with the head costs no task.
            at_once, body = body.data, None
        head = self.head(
            method, target, headers, b"transfer-encoding: chunked\r\n\r\n" if chunked else b"\r\n", at_once
        )
        return Exchange(self, head, method == "HEAD", body, chunked)

    def head(self, method: str, target: bytes, headers: list[tuple[bytes, bytes]], *end: bytes) -> bytes:
        """A request's first line and headers; `end` is what comes behind them."""
        parts = [method.encode("ascii"), b" ", self.prefix, target, self._host_line]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += end
        return b"".join(parts)

    def idle_connection(self) -> "UpstreamConnection | None":
        """The connection that was used last, unless it has been idle for too long."""
        while self._idle:
            kept = self._idle.pop()
            if kept.usable:
                return kept
            kept.close()
        return None

    async def connect(self) -> "UpstreamConnection":
        """A new connection. Raises `NotSent`."""
        loop = asyncio.get_running_loop()
        made = UpstreamConnection(loop)
        await self._reach(
            loop.create_connection(lambda: cast("asyncio.Protocol", made), self._host, self._port, ssl=self._tls)
        )
        return made

    async def dial(self) -> socket.socket:
        """A new connection, without TLS, as a socket that does not block. Raises `NotSent`."""
        return await self._reach(_dial(self._host, self._port))

    async def _reach(self, connecting: Awaitable[_R]) -> _R:
        try:
            async with asyncio.timeout(self._connect_timeout):
                return await connecting
        except TimeoutError:
            raise NotSent("the upstream did not accept the connection in time", late=True) from None
        except OSError as error:
            raise NotSent("the upstream cannot be reached") from error

    @property
    def is_plain(self) -> bool:
        """Whether it is reached without TLS."""
        return self._tls is None

    def keep(self, connection: "UpstreamConnection") -> None:
        """Take a connection back whose exchange came to a clean end."""
        connection.since = now = connection.now()
        if self._closed or len(self._idle) >= MOST_IDLE:
            connection.close()
            return
        self._idle.append(connection)
        while now - self._idle[0].since > IDLE_SECONDS:
            self._idle.popleft().close()

    def close(self) -> None:
        """Close the idle connections, and every other when its exchange is over."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


async def _dial(host: str, port: int) -> socket.socket:
    """Connect to the first of a host's addresses that takes it. Raises OSError."""
    loop = asyncio.get_running_loop()
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        try:
            await loop.sock_connect(made, address)
        except OSError as error:
            made.close()
            failure = error
        except BaseException:
            made.close()
            raise
        else:
            return made
    raise failure


def _address(authority: str, port: int) -> tuple[str, int]:
    host, colon, number = authority.rpartition(":")
    if colon and number.isdigit():
        return host.strip("[]"), int(number)
    return authority.strip("[]"), port


class Exchange:
    """A request under way. Entering it sends the request and returns when the answer's head is there.

    Raises `NotSent` or `Broken`, or what the request's body raised. Leaving it, or cancelling it, ends the request.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_head",
        "_head_only",
        "_sending",
        "_upstream",
        "headers",
        "length",
        "sent",
        "status",
    )

    def __init__(
        self, upstream: Upstream, head: bytes, head_only: bool, body: AsyncIterator[bytes] | None, chunked: bool
    ) -> None:
        self._upstream = upstream
        self._head = head
        self._head_only = head_only
        self._body = body
        self._chunked = chunked
        self._connection: UpstreamConnection
        self._sending: asyncio.Task[None] | None = None
        self.sent = False
        """Whether any byte of the request was, or may have been, written."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.length: int | None = None

    async def __aenter__(self) -> "Exchange":
        upstream = self._upstream
        connection = self._connection = upstream.idle_connection() or await upstream.connect()
        self.sent = True
        try:
            connection.begin(self._head, self._head_only)
            if self._body is not None:
                self._sending = asyncio.create_task(self._send(self._body))
                self._sending.add_done_callback(connection.sent)
            await connection.answered()
        except BaseException:
            await self._end(reuse=False)
            raise
        self.status, self.headers, self.length = connection.status, connection.headers, connection.length
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(reuse=kind is None)

    async def _end(self, *, reuse: bool) -> None:
        connection = self._connection
        sent = self._sending is None or (self._sending.done() and not self._sending.cancelled())
        if reuse and sent and connection.clean:
            self._upstream.keep(connection)
            return
        connection.close()
        if self._sending is not None and not self._sending.done():
            self._sending.cancel()
            await asyncio.wait({self._sending})

    async def _send(self, body: AsyncIterator[bytes]) -> None:
        async for piece in body:
            self._connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)
            await self._connection.drained()
        if self._chunked:
            self._connection.write(b"0\r\n\r\n")

    async def whole(self) -> bytes:
        """The rest of the body in one piece. Raises `Broken`."""
        pieces = []
        while (piece := await self._connection.piece()) is not None:
            pieces.append(piece)
            if self._connection.complete:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def chunk(self) -> bytes | None:
        """The next piece of the body as it arrives, None at its end. Raises `Broken`."""
        return await self._connection.piece()
