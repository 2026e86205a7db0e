"""What the gateway itself asks a server, on behalf of a client: everything that is not a call, and costs nothing."""

import asyncio
from typing import Final, NamedTuple

from tolsey.gateway import headers as header_rules
from tolsey.gateway.destination import Broken, Headers, NotSent, Whole
from tolsey.gateway.mcp.messages import Message, read_message
from tolsey.gateway.mcp.relay import read_whole
from tolsey.gateway.mcp.servers import Server
from tolsey.gateway.mcp.sessions import MAX_INNER, Opened
from tolsey.gateway.request import Request
from tolsey.pricing.events import Events

SESSION: Final = b"mcp-session-id"
VERSION: Final = b"mcp-protocol-version"
NAME: Final = b"mcp-name"

MAX_EVENTS: Final = 1000
"""How many events a server may send before its answer."""

_PASSED: Final = frozenset(
    {b"accept", b"content-type", b"user-agent", b"accept-language", b"authorization", b"x-api-key", b"idempotency-key"}
    | {b"tolsey-tag", VERSION, b"mcp-method", NAME, b"last-event-id", b"x-forwarded-for"}
)
"""The client's headers that mean something to a server, or to the passage. No others go on."""

_PARAM: Final = b"mcp-param-"


class Reply(NamedTuple):
    """What a server said: the response's status, the session that it opened, and its answer, if it gave one."""

    status: int
    session: str
    message: Message | None


def headers_for(request: Request, opened: Opened | None, name: str | None = None) -> Headers:
    """A client's headers as they are meant for one server: with its session, and its own name for what is called."""
    found = []
    for header, value in request.headers:
        if header == VERSION and opened is not None and opened.version:
            continue
        if header in _PASSED or header.startswith(_PARAM):
            found.append((header, name.encode("ascii") if header == NAME and name is not None else value))
    if opened is not None:
        if opened.id:
            found.append((SESSION, opened.id.encode("latin-1")))
        if opened.version:
            found.append((VERSION, opened.version.encode("latin-1")))
    return found


def target_of(server: Server) -> bytes:
    """The target of requests to a server, whose whole path is its upstream's prefix."""
    return b"" if server.upstream.prefix else b"/"


async def ask(
    server: Server, request: Request, opened: Opened | None, body: bytes, *, method: str = "POST", peer: str
) -> Reply:
    """Send one message to a server and wait for what comes of it. Raises `NotSent` or `Broken`."""
    message = read_message(body) if body else None
    wanted = message.id if isinstance(message, Message) and message.method is not None else None
    kept = [
        header
        for header in headers_for(request, opened)
        if header[0] not in (b"accept", b"content-type", NAME, b"idempotency-key")
    ]
    kept.append((b"accept", b"application/json, text/event-stream"))
    if body:
        kept.append((b"content-type", b"application/json"))
    upstream = server.upstream
    headers = header_rules.up(
        kept,
        peer=peer,
        socket_peer=request.socket_peer,
        scheme=request.scheme,
        host=request.host,
        keep_foreign_credentials=False,
        configured=upstream.headers,
        trace=request.trace,
    )
    headers.append((b"content-length", str(len(body)).encode("ascii")))
    try:
        async with (
            asyncio.timeout(upstream.timeout),
            upstream.request(method, target_of(server), headers, Whole(body) if body else None) as exchange,
        ):
            session = next((value for name, value in exchange.headers if name == SESSION), b"").decode("latin-1")
            if len(session) > MAX_INNER:
                raise Broken("the server's session id is too long")
            kind = next((value for name, value in exchange.headers if name == b"content-type"), b"")
            if wanted is None:
                return Reply(exchange.status, session, None)
            if kind.split(b";")[0].strip().lower() == b"text/event-stream":
                events, seen = Events(), 0
                while (piece := await exchange.chunk()) is not None:
                    for event in events.feed(piece):
                        seen += 1
                        found = _answer(event.data, wanted)
                        if found is not None:
                            return Reply(exchange.status, session, found)
                    if seen > MAX_EVENTS:
                        break
                raise Broken("the server's stream ended without an answer")
            found = _answer(await read_whole(exchange), wanted)
            if found is None and exchange.status == 200:
                raise Broken("the server's answer is none to what was asked")
            return Reply(exchange.status, session, found)
    except TimeoutError:
        raise Broken("the server did not answer in time") from None
    except ValueError as error:
        raise Broken(str(error)) from None


def _answer(data: bytes, wanted: bytes) -> Message | None:
    message = read_message(data)
    right = isinstance(message, Message) and message.method is None and message.id == wanted
    return message if right and isinstance(message, Message) else None


UNREACHABLE: Final = (NotSent, Broken)
"""What it raises when a server cannot be asked."""
