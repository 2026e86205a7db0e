"""What goes up and what comes down: a call's request for the upstream, and its answer."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, TypeVar

import msgspec

from tolsey.call import Call
from tolsey.errors import Refusal
from tolsey.gateway import headers as header_rules
from tolsey.gateway.client import BodyBroken, BodyTooLarge, Client
from tolsey.gateway.destination import Exchanged, Whole
from tolsey.gateway.funds import funds_headers
from tolsey.gateway.meter import Meter
from tolsey.gateway.record import PAYMENT_RECEIPT, CallRecord
from tolsey.gateway.request import Request
from tolsey.gateway.routes import Mode, Route
from tolsey.gateway.trace import Trace
from tolsey.gateway.upstream import WHOLE_BYTES
from tolsey.ledger.events import Claim, Granted
from tolsey.pricing.tariff import Quote
from tolsey.token.chain import Chain, Charge
from tolsey.token.tags import write_tags

_WITH_BODY: Final = ("POST", "PUT", "PATCH")
"""Methods whose requests say so when their body is empty (RFC 9110, 8.6)."""


E = TypeVar("E")


class Cleared(msgspec.Struct, frozen=True, gc=False):
    """A call that may be made, and what it is charged to. `quote` is what is held at first. `chain` is None for an
    observed call without a token that was verified.
    """

    call: Call
    chain: Chain | None
    quote: Quote
    charge: Charge
    claim: Claim | None


def request_up(
    request: Request,
    client: Client,
    route: Route,
    call: Call,
    cleared: Cleared | None,
    meter: Meter | None,
    exchange: Callable[[Route, str, bytes, list[tuple[bytes, bytes]], AsyncIterator[bytes] | None], E],
) -> E:
    """The request as the upstream gets it, given to `exchange`; not sent yet."""
    reads = cleared is not None and cleared.quote.reads
    headers = headers_up(request, route, call, client.record.trace, reads=reads)
    size = request.size
    body: AsyncIterator[bytes] | None = None
    read = None if size == 0 else client.take_read()
    if read is not None:
        if client.recorder is not None:
            client.recorder.sent(read)
        if cleared is not None and cleared.quote.body is not None:
            read = cleared.quote.body
        size, body = len(read), Whole(read) if read else None
    elif size != 0:
        body = client.body(route.max_body)
        if client.recorder is not None:
            body = client.recorder.reading(body)
        if size is None and meter is not None:
            body = meter.reading(body)
    add_length(headers, request.method, size)
    return exchange(route, request.method, target_of(request), headers, body)


def headers_up(
    request: Request, route: Route, call: Call, trace: Trace | None, *, reads: bool
) -> list[tuple[bytes, bytes]]:
    """The headers of a request for the upstream, but for the body's; with `reads` nothing is to compress the answer."""
    headers = header_rules.up(
        request.headers,
        peer=call.peer,
        socket_peer=request.socket_peer,
        scheme=request.scheme,
        host=request.host,
        keep_foreign_credentials=route.mode is not Mode.ENFORCE,
        configured=route.upstream.headers,
        trace=trace,
    )
    if reads:
        headers = [header for header in headers if header[0] != b"accept-encoding"]
        headers.append((b"accept-encoding", b"identity"))
    return headers


def add_length(headers: list[tuple[bytes, bytes]], method: str, size: int | None) -> None:
    """Say how long the body is, in bytes; None where that is not known."""
    if size or (size == 0 and method in _WITH_BODY):
        headers.append((b"content-length", str(size).encode("ascii")))


def target_of(request: Request) -> bytes:
    """The raw path and query that go upstream."""
    return (f"{request.path}?{request.query}" if request.query else request.path).encode("ascii")


def headers_down(
    route: Route,
    exchange: Exchanged,
    record: CallRecord,
    cleared: Cleared | None,
    granted: Granted | None,
    *,
    disclose_chain: bool,
) -> list[tuple[bytes, bytes]]:
    """The upstream's headers, and what the call cost; with `disclose_chain` what is left on the chain too."""
    upstream = route.upstream
    headers = header_rules.down(exchange.headers, origin=upstream.origin, prefix=upstream.prefix)
    headers += funds_headers(record, cleared, granted, disclose_chain=disclose_chain)
    if record.receipt is None or (record.receipt[0] == PAYMENT_RECEIPT and not 200 <= exchange.status < 300):
        return headers
    return _with_receipt(headers, record.receipt)


def lines_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are written."""
    return b"".join([name + b": " + value + b"\r\n" for name, value in headers])


def _with_receipt(headers: list[tuple[bytes, bytes]], receipt: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The headers with the receipt of a call that was paid for; nobody but the client may keep such an answer."""
    caching = b",".join(value.lower() for name, value in headers if name == b"cache-control").split(b",")
    private = any(directive.strip() in (b"no-store", b"private") for directive in caching)
    headers = [header for header in headers if header[0] != receipt[0] and (private or header[0] != b"cache-control")]
    return [*headers, receipt] if private else [*headers, receipt, (b"cache-control", b"private")]


async def send_down(
    client: Client, exchange: Exchanged, headers: list[tuple[bytes, bytes]], meter: Meter | None
) -> None:
    """Send the answer to the client, as it comes."""
    if client.record.method == "HEAD" or exchange.status in (204, 304):
        if meter is not None:
            meter.usage.end()
        await client.whole(exchange.status, headers, b"")
        return
    if exchange.length is not None and exchange.length <= WHOLE_BYTES:
        whole = await exchange.whole()
        if meter is not None:
            whole = await meter.body(whole) + meter.usage.end()
        await client.whole(exchange.status, headers, whole)
        return
    await client.start(exchange.status, headers)
    # The head goes out with the first piece, and that of a stream may be long in coming.
    await client.send(b"", more=True)
    while (piece := await exchange.chunk()) is not None:
        await client.send(piece if meter is None else await meter.body(piece), more=True)
    await client.send(b"" if meter is None else meter.usage.end(), more=False)


async def whole_body(request: Request, client: Client, limit: int, seconds: float) -> bytes | Refusal:
    """The request body in one piece, of at most `limit` bytes; so many seconds are waited for room, and in silence."""
    try:
        return await client.read(request.size, limit, seconds)
    except BodyTooLarge:
        return too_large(limit)
    except BodyBroken:
        return Refusal("request_invalid", "the request body broke off")
    except TimeoutError:
        return Refusal("overloaded", "too many request bodies are held at the moment")


def too_large(limit: int) -> Refusal:
    """The refusal of a request body of more than `limit` bytes."""
    return Refusal("body_too_large", f"this route takes a body of at most {limit} bytes")


def note_of(record: CallRecord) -> str:
    """What an entry says of a call: what it was, and its tags."""
    tags = f" #{write_tags(record.tags)}" if record.tags else ""
    what = f"{record.path[:200]} {record.tool[:128]}" if record.tool else record.path[:200]
    return f"{record.method} {what}{tags}"
