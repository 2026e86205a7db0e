"""The life of one call, in order. Read this file to know what the gateway does.

1 route, 2 credential, 3 verify, 4 clear, 5 quote, 6 reserve (on disk before anything is sent), 7 the upstream, 8
settle, which is always reached: also on cancel, timeout and disconnect. Each step either goes on or gives a Refusal,
and the first Refusal is the answer. What a step decides is decided elsewhere, in the pure floors; what is here is the
order.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tolsey.call import Call
from tolsey.errors import LedgerUnavailable, Refusal, TokenError
from tolsey.gateway import headers as header_rules
from tolsey.gateway.client import BodyBroken, BodyTooLarge, Client, Cut
from tolsey.gateway.log import CallLog, CallRecord
from tolsey.gateway.routes import Mode, Route, Routes
from tolsey.gateway.upstream import WHOLE_BYTES, Broken, Exchange, NotSent
from tolsey.ledger.events import Conflict, Granted, Outcome, Reserve, Settle, Shortfall, TooManyHolds, Void
from tolsey.store.book import Book
from tolsey.token.caveats import Network
from tolsey.token.chain import Account, Chain, clear
from tolsey.token.verifier import Verifier
from tolsey.units import Amount, format_nano


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request's head. `path` and `query` are raw and canonical; `size` is the announced body in bytes, None if there
    is a body of unknown size, 0 if there is none.
    """

    method: str
    path: str
    query: str
    headers: header_rules.Headers
    socket_peer: str
    scheme: str
    host: bytes
    size: int | None


class Cleared(msgspec.Struct, frozen=True, gc=False):
    """A call that may be made, and what it is charged to: nothing if `purse` is empty."""

    call: Call
    chain: Chain
    price: Amount
    purse: tuple[Account, ...]


class Passage:
    """Takes calls through the gateway. `routes` may be replaced at any time; a call keeps the route it began with.

    `now` returns nanoseconds since the epoch, `new_hold` a fresh hold id. With `disclose_chain` a refusal shows the
    figures of accounts above the bearer's own (RULES.md M15).
    """

    def __init__(
        self,
        *,
        routes: Routes,
        verifier: Verifier,
        book: Book,
        log: CallLog,
        now: Callable[[], int],
        new_hold: Callable[[int], str],
        trusted_proxies: Sequence[Network] = (),
        disclose_chain: bool = True,
    ) -> None:
        self.routes = routes
        self.verifier = verifier
        self.book = book
        self._log = log
        self.now = now
        self._new_hold = new_hold
        self.trusted_proxies = trusted_proxies
        self.disclose_chain = disclose_chain

    async def serve(self, request: Request, client: Client) -> None:
        """Take one call through, and answer it."""
        route = self.routes.match(request.method, request.path)
        if isinstance(route, Refusal):
            await client.refuse(route)
            return
        record = CallRecord(self.now(), request.method, request.path, route.upstream.name)
        peer = header_rules.client_address(request.headers, request.socket_peer, self.trusted_proxies)
        call = Call(request.method, request.path, request.query, peer, record.at, route.upstream.name)
        if route.max_body is not None and request.size is not None and request.size > route.max_body:
            await client.refuse(_too_large(route.max_body))
            return
        if route.mode is Mode.PUBLIC:
            await self._forward(request, client, route, record, call, None, None)
            return

        cleared = self.decide(request, call, route)
        if isinstance(cleared, Refusal):
            await client.refuse(cleared)
            return
        granted = await self._reserve(cleared, record) if cleared.purse else None
        if isinstance(granted, Refusal):
            self._log.refused(granted)
            await client.refuse(granted)
            return
        await self._forward(request, client, route, record, call, cleared, granted)

    def decide(self, request: Request, call: Call, route: Route) -> Cleared | Refusal:
        """Steps 2 to 5: what needs no ledger."""
        token = header_rules.credential(request.headers)
        if isinstance(token, Refusal):
            return token
        try:
            chain = self.verifier.verify(token)
        except TokenError as error:
            return Refusal(error.code, error.detail)
        clearance = clear(chain, call)
        if isinstance(clearance, Refusal):
            self._log.refused(clearance)
            return clearance
        if route.tariff is None:
            return Refusal("unpriceable", "the route has no price")
        price = route.tariff.quote(call).amount
        purse = clearance.purse(price)
        if isinstance(purse, Refusal):
            self._log.refused(purse)
            return purse
        return Cleared(call, chain, price, purse)

    async def _reserve(self, cleared: Cleared, record: CallRecord) -> Granted | Refusal:
        """Step 6. When this returns Granted, the hold is on disk."""
        hold = self._new_hold(record.at)
        note = f"{record.method} {record.path[:200]}"
        try:
            outcome = await self.book.reserve(Reserve(hold, cleared.purse, cleared.price.nano, note))
        except LedgerUnavailable as error:
            return Refusal("ledger_unavailable", error.detail)
        if isinstance(outcome, Granted):
            record.hold = hold
            return outcome
        return self._refusal(outcome, cleared)

    def _refusal(self, outcome: Outcome, cleared: Cleared) -> Refusal:
        match outcome:
            case Shortfall(account, spent, held):
                shown = self.disclose_chain or account.id in cleared.chain.own_accounts()
                return Refusal(
                    "budget_exhausted",
                    f"{account.label or 'an account'} cannot pay {cleared.price}",
                    link=account.label,
                    prefix_id=account.id,
                    unit=account.unit,
                    limit=account.limit if shown else None,
                    spent=spent if shown else None,
                    held=held if shown else None,
                )
            case TooManyHolds(account):
                return Refusal(
                    "too_many_holds", "too many calls of this Link are open", link=account.label, prefix_id=account.id
                )
            case Conflict(detail):
                return Refusal("ledger_conflict", detail)
        raise AssertionError(f"a reserve cannot end in {outcome}")

    async def _forward(
        self,
        request: Request,
        client: Client,
        route: Route,
        record: CallRecord,
        call: Call,
        cleared: Cleared | None,
        granted: Granted | None,
    ) -> None:
        """Steps 7 and 8: one request upstream, its answer down, and the hold resolved whatever happens."""
        client.wait_for(route.upstream.timeout)
        exchanging: Exchange | None = None
        cost = 0 if granted is None else granted.amount
        refusal: Refusal | None = None
        try:
            exchanging = self._request(request, client, route, call, public=cleared is None)
            async with exchanging as exchange:
                record.status = exchange.status
                client.moved()
                if cleared is not None and route.tariff is not None:
                    cost = route.tariff.cost(exchange.status)
                    record.cost = route.tariff.text if cost else f"0 {cleared.price.unit}"
                await self._body(client, exchange, self._headers(route, exchange, record, granted))
                record.note = str(exchange.status)
        except NotSent as error:
            record.note = error.detail
            refusal = Refusal("upstream_timeout" if error.late else "upstream_failed", error.detail)
        except Broken as error:
            record.note = str(error)
            refusal = Refusal("upstream_failed", str(error))
        except BodyTooLarge:
            record.note = "the request body grew too large"
            refusal = _too_large(route.max_body or 0)
        except BodyBroken:
            record.note = Cut.DISCONNECTED
        except asyncio.CancelledError:
            record.note = str(client.cut or "the gateway was stopped")
            if client.cut is None or client.cut is Cut.DISCONNECTED:
                raise
            _uncancel()
            refusal = Refusal("upstream_timeout", record.note)
        finally:
            self._settle(record, cleared, granted, cost, exchanging is not None and exchanging.sent)
        if refusal is not None:
            if client.started:
                # The head is out, so the only honest sign left is a response that visibly breaks off.
                raise ConnectionAbortedError(record.note)
            await client.refuse(refusal, _hold_header(record))

    def _request(self, request: Request, client: Client, route: Route, call: Call, *, public: bool) -> Exchange:
        """The request as the upstream gets it; not sent yet."""
        headers = header_rules.up(
            request.headers,
            peer=call.peer,
            socket_peer=request.socket_peer,
            scheme=request.scheme,
            host=request.host,
            keep_foreign_credentials=public,
            configured=route.upstream.headers,
        )
        if request.size or (request.size == 0 and request.method in _WITH_BODY):
            headers.append((b"content-length", str(request.size).encode("ascii")))
        target = f"{request.path}?{request.query}" if request.query else request.path
        body = None if request.size == 0 else client.body(route.max_body)
        return route.upstream.request(request.method, target.encode("ascii"), headers, body)

    def _headers(
        self, route: Route, exchange: Exchange, record: CallRecord, granted: Granted | None
    ) -> list[tuple[bytes, bytes]]:
        """The upstream's headers, and what the call cost."""
        upstream = route.upstream
        headers = header_rules.down(exchange.headers, origin=upstream.origin, prefix=upstream.prefix)
        headers += _hold_header(record)
        if record.cost is not None:
            headers.append((b"tolsey-cost", record.cost.encode("ascii")))
            left = None if granted is None else granted.remaining
            # The least that is left on the chain may be an ancestor's to know (RULES.md M15).
            if left is not None and route.tariff is not None and self.disclose_chain:
                remaining = f"{format_nano(left)} {route.tariff.price.unit}"
                headers.append((b"tolsey-remaining", remaining.encode("ascii")))
        return headers

    async def _body(self, client: Client, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
        if client.method == "HEAD" or exchange.status in (204, 304):
            await client.start(exchange.status, headers)
            await client.send(b"", more=False)
            return
        if exchange.length is not None and exchange.length <= WHOLE_BYTES:
            whole = await exchange.whole()
            await client.start(exchange.status, headers)
            await client.send(whole, more=False)
            return
        await client.start(exchange.status, headers)
        # The head goes out with the first piece, and that of a stream may be long in coming.
        await client.send(b"", more=True)
        while (piece := await exchange.chunk()) is not None:
            await client.send(piece, more=True)
        await client.send(b"", more=False)

    def _settle(
        self, record: CallRecord, cleared: Cleared | None, granted: Granted | None, cost: int, sent: bool
    ) -> None:
        """Step 8. A call that was not surely unsent is paid for: by its cost once a head arrived, else in full."""
        if cleared is not None and granted is not None:
            if not sent:
                self.book.resolve(Void(granted.hold, record.note))
            elif record.status is not None:
                self.book.resolve(Settle(granted.hold, cost, record.note))
            else:
                record.cost = f"{format_nano(granted.amount)} {cleared.price.unit}"
                self.book.resolve(Settle(granted.hold, granted.amount, f"unmetered: {record.note}"))
        self._log.served(record)


_WITH_BODY: Final = ("POST", "PUT", "PATCH")
"""Methods whose requests say so when their body is empty (RFC 9110, 8.6)."""


def _hold_header(record: CallRecord) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"tolsey-hold", record.hold.encode("ascii")),) if record.hold else ()


def _too_large(limit: int) -> Refusal:
    return Refusal("body_too_large", f"this route takes a body of at most {limit} bytes")


def _uncancel() -> None:
    """Take back a cancellation of our own making, so that the answer to it can still be sent."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
