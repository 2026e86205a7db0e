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
from tolsey.gateway.meter import Meter
from tolsey.gateway.recorder import Recorder
from tolsey.gateway.repeats import answer, claim_of, key_of
from tolsey.gateway.routes import Mode, Route, Routes
from tolsey.gateway.upstream import WHOLE_BYTES, Broken, Exchange, NotSent
from tolsey.ledger.events import (
    Claim,
    Conflict,
    Granted,
    Late,
    Outcome,
    RateLimited,
    Repeated,
    Reserve,
    Settle,
    Shortfall,
    TooManyHolds,
    Unknown,
    Void,
)
from tolsey.store.book import Book
from tolsey.token.caveats import SECOND, Network, format_time
from tolsey.token.chain import Charge, Clearance, clear
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
    """A call that may be made, and what it is charged to. `quote` is what is held at first."""

    call: Call
    clearance: Clearance
    quote: Amount
    charge: Charge
    claim: Claim | None


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
        granted = await self._reserve(cleared, route, record) if any(cleared.charge) else None
        if isinstance(granted, Refusal):
            self._log.refused(granted)
            await client.refuse(granted)
            return
        if isinstance(granted, Repeated):
            await answer(granted.claimed, granted.claim, client, route.max_body)
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
        quote = route.tariff.quote(call).amount
        charge = clearance.charge(quote)
        if isinstance(charge, Refusal):
            self._log.refused(charge)
            return charge
        key = key_of(request.headers)
        if isinstance(key, Refusal):
            return key
        claim = None
        # A call that holds nothing leaves no place for its outcome either: its key only goes on to the upstream.
        if key is not None and (charge.accounts or charge.counters):
            scope = chain.links[-1].prefix_id
            claim = claim_of(key, scope, request.method, request.path, request.query, request.headers)
        return Cleared(call, clearance, quote, charge, claim)

    async def _reserve(self, cleared: Cleared, route: Route, record: CallRecord) -> Granted | Repeated | Refusal:
        """Step 6. When this returns Granted, the hold is on disk."""
        hold = self._new_hold(record.at)
        accounts, counters, rates = cleared.charge
        event = Reserve(
            hold,
            accounts,
            cleared.quote.nano if accounts else 0,
            f"{record.method} {record.path[:200]}",
            counters,
            rates,
            cleared.claim,
            record.at + round((route.max_duration + GRACE_SECONDS) * SECOND),
        )
        try:
            outcome = await self.book.reserve(event)
        except LedgerUnavailable as error:
            return Refusal("ledger_unavailable", error.detail)
        if isinstance(outcome, Granted):
            record.hold = hold if accounts or counters else None
            return outcome
        return outcome if isinstance(outcome, Repeated) else self._refusal(outcome, cleared)

    def _refusal(self, outcome: Outcome, cleared: Cleared) -> Refusal:
        match outcome:
            case Shortfall(account, spent, held, limit, resets_at):
                shown = self.disclose_chain or account.id in cleared.clearance.chain.own_accounts()
                counted = account in cleared.charge.counters
                return Refusal(
                    "calls_exhausted" if counted else "budget_exhausted",
                    f"{account.label or 'an account'} cannot pay {'another call' if counted else cleared.quote}",
                    link=account.label,
                    prefix_id=account.id,
                    unit=account.unit,
                    limit=limit if shown else None,
                    spent=spent if shown else None,
                    held=held if shown else None,
                    resets_at=None if resets_at is None else format_time(resets_at),
                )
            case RateLimited(rate, until):
                return Refusal(
                    "rate_limited",
                    f"at most {rate.calls} calls a {rate.period}",
                    link=rate.label,
                    prefix_id=rate.id,
                    retry_after=max(1, -((self.now() - until) // SECOND)),
                )
            case TooManyHolds(account):
                return Refusal(
                    "too_many_holds", "too many calls of this Link are open", link=account.label, prefix_id=account.id
                )
            case Conflict(detail):
                return Refusal("ledger_conflict", detail)
            case Late() | Unknown():
                return Refusal("ledger_conflict", "the hold was closed while the call was running")
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
        client.wait_for(route.timeout, route.max_duration)
        if cleared is not None and cleared.claim is not None:
            client.recorder = Recorder()
        meter = self._meter(client, route, cleared, granted)
        exchanging: Exchange | None = None
        refusal: Refusal | None = None
        try:
            exchanging = self._request(request, client, route, call, public=cleared is None)
            async with exchanging as exchange:
                record.status = exchange.status
                client.moved()
                if cleared is not None and route.tariff is not None and meter is None:
                    record.cost = route.tariff.text if route.tariff.cost(exchange.status) else f"0 {cleared.quote.unit}"
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
            unfunded = meter.refusal if meter is not None and client.cut is Cut.UNFUNDED else None
            refusal = unfunded or Refusal("upstream_timeout", record.note)
        finally:
            self._settle(client, route, record, granted, meter, exchanging is not None and exchanging.sent)
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
        if body is not None and client.recorder is not None:
            body = client.recorder.reading(body)
        return route.upstream.request(request.method, target.encode("ascii"), headers, body)

    def _headers(
        self, route: Route, exchange: Exchange, record: CallRecord, granted: Granted | None
    ) -> list[tuple[bytes, bytes]]:
        """The upstream's headers, and what the call cost."""
        upstream = route.upstream
        headers = header_rules.down(exchange.headers, origin=upstream.origin, prefix=upstream.prefix)
        headers += _hold_header(record)
        unit = "" if route.tariff is None else route.tariff.price.unit
        if record.cost is not None:
            headers.append((b"tolsey-cost", record.cost.encode("ascii")))
        elif granted is not None:
            # What a call by the second costs is not known before its end (RULES.md M13).
            headers.append((b"tolsey-quote", f"{format_nano(granted.amount)} {unit}".encode("ascii")))
        # The least that is left on the chain may be an ancestor's to know (RULES.md M15).
        if granted is not None and granted.remaining is not None and self.disclose_chain:
            headers.append((b"tolsey-remaining", f"{format_nano(granted.remaining)} {unit}".encode("ascii")))
        return headers

    async def _body(self, client: Client, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
        if client.method == "HEAD" or exchange.status in (204, 304):
            await client.whole(exchange.status, headers, b"")
            return
        if exchange.length is not None and exchange.length <= WHOLE_BYTES:
            await client.whole(exchange.status, headers, await exchange.whole())
            return
        await client.start(exchange.status, headers)
        # The head goes out with the first piece, and that of a stream may be long in coming.
        await client.send(b"", more=True)
        while (piece := await exchange.chunk()) is not None:
            await client.send(piece, more=True)
        await client.send(b"", more=False)

    def _meter(self, client: Client, route: Route, cleared: Cleared | None, granted: Granted | None) -> Meter | None:
        """The clock of a call that is charged by time."""
        tariff = route.tariff
        if tariff is None or not tariff.per_second or cleared is None or granted is None or not cleared.charge.accounts:
            return None

        def allowed(nano: int) -> Refusal | None:
            call = cleared.call._replace(now=self.now())
            again = clear(cleared.clearance.chain, call)
            charge = again if isinstance(again, Refusal) else again.charge(Amount(nano, cleared.quote.unit))
            return charge if isinstance(charge, Refusal) else None

        return Meter(self.book, client, tariff, granted, allowed, lambda outcome: self._refusal(outcome, cleared))

    def _settle(
        self,
        client: Client,
        route: Route,
        record: CallRecord,
        granted: Granted | None,
        meter: Meter | None,
        sent: bool,
    ) -> None:
        """Step 8. A call that was not surely unsent is paid for: by its cost once a head arrived, else in full."""
        took = 0 if meter is None else meter.stop()
        if granted is not None and record.hold is not None and route.tariff is not None:
            held = granted.amount if meter is None else meter.held
            if not sent:
                self.book.resolve(Void(record.hold, record.note))
            elif record.status is None:
                record.cost = f"{format_nano(held)} {route.tariff.price.unit}"
                self.book.resolve(Settle(record.hold, held, f"unmetered: {record.note}"))
            else:
                # What an upstream's slowness may cost is never more than what is funded.
                cost = min(held, route.tariff.cost(record.status, took))
                if meter is not None:
                    record.cost = f"{format_nano(cost)} {route.tariff.price.unit}"
                kept = None if client.recorder is None else client.recorder.kept()
                self.book.resolve(Settle(record.hold, cost, record.note, kept))
        self._log.served(record)


GRACE_SECONDS: Final = 60
"""How long after its longest duration a call's hold may be expired whoever owns it: never while it is served."""

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
