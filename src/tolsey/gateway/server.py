"""An HTTP/1.1 server for one ASGI application: httptools parses, asyncio carries, this file is what lies between.

It exists because the wire is most of what a call costs (docs/decisions). It has no options beyond the limits below, and
any other ASGI server can run the same application.

One connection is a queue of cycles, one for each request on it. Only the first is answered; while another waits, or a
body is not being taken, reading from the socket pauses, so that what is buffered is bounded. httptools (llhttp, strict)
refuses what request smuggling lives on: two lengths, a length beside an encoding, bare line feeds, folded headers.
"""

import asyncio
import contextlib
import re
import socket
import ssl
import time
from collections import deque
from email.utils import formatdate
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools

from tolsey.errors import Refusal
from tolsey.gateway import problems
from tolsey.gateway.cycle import STATUS_LINES, Application, Cycle
from tolsey.gateway.flow import WriteFlow

MAX_HEAD_BYTES: Final = 64 * 1024
"""The target and the headers of one request, together."""

MAX_HEADERS: Final = 128
MAX_UNREAD: Final = 512 * 1024
"""How many bytes of a request the parser may take without giving out any of its body: the value of a header, and of a
trailer, it keeps until it has the whole.
"""

MAX_WAITING: Final = 64
"""How many requests may wait on one connection."""

MAX_BUFFERED: Final = 256 * 1024
"""How much of a body waits to be taken before reading pauses, in bytes."""

HEAD_SECONDS: Final = 30.0
"""How long a request's head may take to arrive."""

IDLE_SECONDS: Final = 75.0
"""How long a connection may be idle between requests."""

LINGER_SECONDS: Final = 2.0
"""How long the rest of a request is read and dropped that was answered before it was whole. To close at once would
reset the connection, and the client might never see its answer.
"""

SWEEP_SECONDS: Final = 1.0

_NOT_HTTP: Final = Refusal("request_invalid", "the request is not HTTP/1.1 as it should be")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}(?= )")
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


class HttpServer:
    """Serves `application` on sockets that are given to it."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.connections: set[Connection] = set()
        self.draining = False
        self.date = b""
        self._listeners: list[asyncio.Server] = []
        self._adopting: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Open the port, for `tls` or for plain text. Several processes may open the same one; the kernel shares the
        connections out.
        """
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: cast("asyncio.Protocol", Connection(self, loop)),
            host,
            port,
            reuse_port=True,
            reuse_address=True,
            backlog=1024,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else HEAD_SECONDS,
            # An idle client need not be listening for the end of its connection.
            ssl_shutdown_timeout=None if tls is None else LINGER_SECONDS,
        )
        self._listeners.append(listener)
        self._begin()

    def adopt(self, connection: socket.socket, data: bytes) -> None:
        """Serve a connection from which these bytes were read already."""
        self._begin()
        loop = asyncio.get_running_loop()
        made = Connection(self, loop, data)
        task = loop.create_task(self._adopt(made, connection))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _adopt(self, made: "Connection", connection: socket.socket) -> None:
        # One whose client is gone already cannot be served.
        with contextlib.suppress(OSError):
            protocol = cast("asyncio.Protocol", made)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)

    def _begin(self) -> None:
        if self._sweeper is None:
            self._sweep()

    def _sweep(self) -> None:
        """Close what was silent for too long, and write the date anew."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.date = f"date: {formatdate(time.time(), usegmt=True)}\r\n".encode("ascii")
        for connection in list(self.connections):
            connection.close_if_silent(now)
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep)

    async def drain(self, seconds: float) -> None:
        """Take no more connections, let the requests under way be answered, then close; at most `seconds`."""
        self.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        until = asyncio.get_running_loop().time() + seconds
        while (self.connections or self._adopting) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
            for connection in list(self.connections):
                connection.close_if_idle()
        for connection in list(self.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()


class Connection(WriteFlow):
    """One client connection."""

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop, first: bytes = b"") -> None:
        """`first` is what was read from it before."""
        self._server = server
        self._first = first
        super().__init__(loop)
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._peer: tuple[str, int] | None = None
        self._scheme = "http"
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._arriving: Cycle | None = None
        self._paused = False
        self._since = loop.time()
        self._in_head = self._in_request = False
        self._expects_continue = False
        self._begun = 0
        self._unread = 0
        self._ended = False
        self._last_words = b""
        self._lost = False
        self._serving: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self.cycles: deque[Cycle] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=MAX_BUFFERED)
        peer = transport.get_extra_info("peername")
        self._peer = (peer[0], peer[1]) if peer else None
        self._scheme = "http" if transport.get_extra_info("sslcontext") is None else "https"
        self._server.connections.add(self)
        first, self._first = self._first, b""
        self.data_received(first)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone; every cycle on it hears of it."""
        self._server.connections.discard(self)
        for cycle in self.cycles:
            cycle.lose()
        self.cycles.clear()
        self._lost = True
        self._go_on()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the client."""
        while data and not self._ended:
            at_start = not self._in_request
            self._begun = 0
            try:
                self._parser.feed_data(data)
                if self._in_request:
                    self._unread += len(data)
                    if self._unread > MAX_UNREAD:
                        self._refuse_head()
                return
            except httptools.HttpParserUpgrade as upgrade:
                # An upgrade that is not taken up: what follows is the next request.
                data = data[upgrade.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserInvalidMethodError:
                # A method that HTTP does not know is refused like one that no route has, and that takes its path; but
                # only where the data begins with it, as what stands before it has been read already.
                method = _METHOD.match(data) if at_start and self._begun == 1 else None
                if method is None:
                    self._refuse(_NOT_HTTP)
                    return
                data = b"TRACE" + data[method.end() :]
                self._in_request = False
                self._parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError:
                self._refuse(_NOT_HTTP)
                return

    def on_message_begin(self) -> None:
        """httptools: a request begins."""
        self._target, self._headers, self._head_bytes = b"", [], 0
        self._in_head = self._in_request = True
        self._expects_continue = False
        self._begun += 1
        self._unread = 0
        self._since = self._loop.time()

    def on_url(self, url: bytes) -> None:
        """httptools: a piece of the request target."""
        self._target += url
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header, or a trailer, which is dropped."""
        if self._in_head:
            name = name.lower()
            self._headers.append((name, value))
            self._head_bytes += len(name) + len(value)
            if name == b"expect":
                self._expects_continue = value.lower() == b"100-continue"
            elif name == b"transfer-encoding" and value.lower() != b"chunked":
                # llhttp takes others before a last `chunked`; what they make of the body nobody here can know.
                self._refuse(_NOT_HTTP)
            if self._head_bytes > MAX_HEAD_BYTES or len(self._headers) > MAX_HEADERS:
                self._refuse_head()

    def _refuse_head(self) -> None:
        self._headers, self._target = [], b""
        self._refuse(
            Refusal(
                "headers_too_large",
                f"a request has at most {MAX_HEAD_BYTES} bytes of target and headers, and {MAX_HEADERS} headers",
            )
        )

    def on_headers_complete(self) -> None:
        """httptools: the head is there."""
        self._in_head = False
        if self._ended or self._transport.is_closing():
            return
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0") or len(self.cycles) >= MAX_WAITING:
            self._refuse(_NOT_HTTP)
            return
        method = self._parser.get_method().decode("ascii")
        scope = scope_of(method, self._target, version, self._scheme, self._headers, self._peer)
        cycle = Cycle(
            self,
            self._loop,
            scope,
            keep_alive=self._parser.should_keep_alive(),
            expects_continue=self._expects_continue,
        )
        self._arriving = cycle
        self.cycles.append(cycle)
        if len(self.cycles) > 1:
            self._pace()
        elif self._serving is None:
            self._serving = self._loop.create_task(self._serve())
        else:
            self._go_on()

    async def _serve(self) -> None:
        """Answer the requests, one after the other, in one task: to make another costs more than to wake this one."""
        while not self._lost:
            if self.cycles:
                cycle = self.cycles[0]
                await cycle.run(self._server.application)
                if self.cycles and self.cycles[0] is cycle:
                    # It was broken off, and so is the connection.
                    return
            else:
                self._idle = self._loop.create_future()
                await self._idle

    def _go_on(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of the body."""
        self._unread = 0
        if self._arriving is not None:
            self._arriving.feed(body)
            self._pace()

    def on_message_complete(self) -> None:
        """httptools: the request is there as a whole."""
        self._in_request = False
        if self._arriving is not None:
            self._arriving.end_body()
            self._arriving = None

    def _pace(self) -> None:
        """Read on, or do not, as what is buffered allows."""
        pause = len(self.cycles) > 1 or bool(self.cycles and self.cycles[0].buffered > MAX_BUFFERED)
        if pause and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        elif self._paused and not pause:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def taken(self) -> None:
        """The application took a piece of the body."""
        if self._paused:
            self._pace()

    def write(self, data: bytes) -> None:
        """Send bytes, or drop them if the client is gone."""
        self._transport.write(data)

    @property
    def date(self) -> bytes:
        """The date header."""
        return self._server.date

    @property
    def closing(self) -> bool:
        """Whether this connection ends after the answer under way."""
        return self._server.draining

    def finished(self, *, keep_alive: bool) -> None:
        """The first cycle is answered: go on with the next, or close."""
        if self.cycles:
            self.cycles.popleft()
        self._since = self._loop.time()
        if not keep_alive or self._server.draining:
            self._last_words = b""
            self._end()
        elif self._ended and not self.cycles:
            self._end()
        self._pace()

    def _end(self) -> None:
        """Close, after the last words if there are any; if the client is still talking, hear it out for a while."""
        self.cycles.clear()
        self._arriving = None
        if self._last_words:
            self._transport.write(self._last_words)
        if self._in_request and not self._server.draining and not self._transport.is_closing():
            self._ended = True
            # TLS has no half-closed connection: there the client sees by the length that the answer is whole.
            if self._transport.can_write_eof():
                self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Break the connection off, so that nobody takes what was sent for a whole answer."""
        self._transport.abort()

    def close_if_idle(self) -> None:
        """Close unless a request is under way."""
        if not self.cycles:
            self._transport.close()

    def close_if_silent(self, now: float) -> None:
        """Close if the client owes something for too long: the rest of a head, or a next request."""
        most = LINGER_SECONDS if self._ended else HEAD_SECONDS if self._in_head else IDLE_SECONDS
        if not self.cycles and now - self._since > most:
            self._transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Read no further, and answer a request that could not be read once those before it are answered."""
        if self._ended or self._transport.is_closing():
            return
        self._ended = self._in_request = True
        broken, self._arriving = self._arriving, None
        if broken is not None:
            self.cycles.remove(broken)
            broken.lose()
            if broken.began:
                self._transport.abort()
                return
        status, headers, body = problems.response(refusal)
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self._last_words = STATUS_LINES[status] + self.date + lines + b"connection: close\r\n\r\n" + body
        if not self.cycles:
            self._since = self._loop.time()
            self._end()


def scope_of(
    method: str,
    target: bytes,
    version: str,
    scheme: str,
    headers: list[tuple[bytes, bytes]],
    peer: tuple[str, int] | None,
) -> dict[str, Any]:
    """What ASGI makes of a request's head."""
    raw_path, _, query = _origin_form(target).partition(b"?")
    path = raw_path.decode("latin-1")
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": version,
        "method": method,
        "scheme": scheme,
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": peer,
        "server": None,
    }


def _origin_form(target: bytes) -> bytes:
    """Path and query of a target: an absolute one loses its scheme and authority, which decide nothing; a fragment
    goes.
    """
    target = target.partition(b"#")[0]
    if (target[:1] != b"/" and target[:7].lower() == b"http://") or target[:8].lower() == b"https://":
        rest = target.partition(b"://")[2]
        at = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
        target = rest[at:]
        if target[:1] != b"/":
            target = b"/" + target
    return target
