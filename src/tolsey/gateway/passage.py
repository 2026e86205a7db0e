"""The life of one call, in order. Read this file to know what the gateway does.

1 route, 2 credential, 3 verify and ask what is revoked, 4 clear, 5 quote, 6 reserve (on disk before anything is sent),
7 the upstream, 8 settle, which is always reached: also on cancel, timeout and disconnect. Each step either goes on or
gives a Refusal, and the first Refusal is the answer. What a step decides is decided elsewhere, in the pure floors; what
is here is the order.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from tolsey.call import Call
from tolsey.errors import KeyUnknown, LedgerUnavailable, Refusal, TokenError, TokenForged
from tolsey.gateway import headers as header_rules
from tolsey.gateway.agents import agent_of
from tolsey.gateway.asking import ask
from tolsey.gateway.clearing import allowed, charged, observed
from tolsey.gateway.client import LATE, BodyBroken, BodyTooLarge, Client, Cut, uncancel
from tolsey.gateway.desk import Desk, buy, take_payment
from tolsey.gateway.destination import Broken, NotSent
from tolsey.gateway.funds import hold_header
from tolsey.gateway.legs import Leg
from tolsey.gateway.log import CallLog
from tolsey.gateway.messages import Cleared, note_of, too_large
from tolsey.gateway.meter import Meter
from tolsey.gateway.outcomes import refusal_of
from tolsey.gateway.record import CallRecord
from tolsey.gateway.recorder import Recorder
from tolsey.gateway.repeats import answer
from tolsey.gateway.request import Request, call_of
from tolsey.gateway.routes import Mode, Route, Routes
from tolsey.gateway.settling import answered, broken, observe, resolution, unsent
from tolsey.ledger.events import Granted, Outcome, Repeated, Reserve, Void
from tolsey.pricing.llm import Asked
from tolsey.pricing.tariff import Chosen, Quote, Tariff
from tolsey.store.book import Book
from tolsey.store.revocations import Revocations
from tolsey.token.caveats import Network
from tolsey.token.chain import Chain
from tolsey.token.clearing import clear
from tolsey.token.l402 import Presented
from tolsey.token.verifier import Verifier
from tolsey.units import Amount


class Passage:
    """Takes calls through the gateway. `routes` may be replaced at any time; a call keeps the route it began with.

    `now` returns nanoseconds since the epoch, `new_hold` a fresh hold id. With `disclose_chain` a refusal shows the
    figures of accounts above the bearer's own (RULES.md M15). `agents` is how callers of observe routes are told apart.
    `approver` returns the secret that tickets were sealed to, by its key id, or None.
    """

    def __init__(
        self,
        *,
        routes: Routes,
        verifier: Verifier,
        revocations: Revocations,
        book: Book,
        log: CallLog,
        now: Callable[[], int],
        new_hold: Callable[[int], str],
        approver: Callable[[str], bytes | None],
        trusted_proxies: Sequence[Network] = (),
        disclose_chain: bool = True,
        agents: Sequence[str] = (),
        desk: Desk | None = None,
    ) -> None:
        self.routes = routes
        self.verifier = verifier
        self.revocations = revocations
        self.book = book
        self.log = log
        self.now = now
        self.new_hold = new_hold
        self.trusted_proxies = trusted_proxies
        self.disclose_chain = disclose_chain
        self.agents = agents
        self.desk = desk
        self.approver = approver

    @property
    def marks(self) -> tuple[tuple[bytes, bytes], ...]:
        """Headers of every response."""
        return () if self.desk is None else self.desk.marks

    async def serve(self, request: Request, client: Client) -> None:
        """Take one call through, and answer it."""
        route = self.routes.match(request.method, request.path)
        if isinstance(route, Refusal):
            await client.refuse(route)
            return
        call = call_of(request, self.trusted_proxies, client.record.at)
        await self.take(request, client, route, call._replace(upstream=route.upstream.name))

    async def take(
        self, request: Request, client: Client, route: Route, call: Call, chain: Chain | None = None
    ) -> None:
        """Take a call from step 2 on, on a route of its own. `request` is as it goes up, `call` what it attempts,
        `chain` its token's where that was verified already.
        """
        client.record.route = route
        if route.max_body is not None and request.size is not None and request.size > route.max_body:
            await client.refuse(too_large(route.max_body))
            return
        if route.mode is Mode.PUBLIC:
            await self._forward(request, client, route, call, None, None)
            return
        if route.tariff is None:
            await client.refuse(Refusal("unpriceable", "the route has no price"))
            return
        if route.mode is Mode.OBSERVE:
            await self._observe(request, client, route, route.tariff, call)
            return

        cleared = await self._decide(request, client, route, route.tariff, call, chain)
        if isinstance(cleared, Refusal):
            await self._refuse(cleared, request, client, route, call)
            return
        granted = await self._hold(cleared, route, client.record)
        if isinstance(granted, Refusal):
            self.log.refused(granted)
            await self._refuse(granted, request, client, route, call)
            return
        if isinstance(granted, Repeated):
            client.record.replayed = await answer(granted.claimed, granted.claim, client, route.max_body)
            return
        await self._forward(request, client, route, call, cleared, granted)

    async def _refuse(self, refusal: Refusal, request: Request, client: Client, route: Route, call: Call) -> None:
        """Refuse a call; where the route has offers, by what there is to be paid, if that would help."""
        if self.desk is None or not route.offers:
            await client.refuse(refusal)
            return
        answer = await self.desk.answer(refusal, route, call, request.headers, request.size)
        await client.refuse(answer.refusal, answer.headers, answer.members)

    def verify(self, credential: str | Presented) -> Chain:
        """Verify a token, of whichever kind. Raises `TokenError`."""
        if isinstance(credential, str):
            return self.verifier.verify(credential)
        if self.desk is None:
            raise TokenForged("no payments are taken here")
        return self.desk.verify(credential)

    async def _decide(
        self, request: Request, client: Client, route: Route, tariff: Tariff, call: Call, known: Chain | None
    ) -> Cleared | Refusal:
        """Steps 2 to 5: what needs no ledger."""
        chain = known or buy(self.desk, request, client.record, route, call) or self.chain_of(request, client.record)
        if isinstance(chain, Refusal):
            return chain
        # One that is known is asked about when the hold is there: until then it could only be refused sooner.
        revoked = None if known is not None else await self.revocations.check(chain)
        if revoked is not None:
            self.log.refused(revoked)
            return revoked
        chosen = tariff.choose(call, request.headers)
        asked = await ask(request, client, route, tariff, call, chosen)
        cleared: Cleared | Refusal
        if isinstance(asked, Refusal):
            cleared = asked
        else:
            cleared = self.price(chain, route.offers, request, client.record, call, tariff, chosen, asked)
        if isinstance(cleared, Refusal):
            self.log.refused(cleared)
        return cleared

    async def _observe(self, request: Request, client: Client, route: Route, tariff: Tariff, call: Call) -> None:
        """The same steps for a call that goes on whatever they say. The first Refusal is written down with what the
        call costs (RULES.md M3); only one that cannot be forwarded is refused.
        """
        record = client.record
        chain = self.chain_of(request, record)
        revoked = None if isinstance(chain, Refusal) else self.revocations.refusal(chain)
        if isinstance(chain, Refusal):
            record.agent = self.agent(request, call)
        chosen = tariff.choose(call, request.headers)
        asked = await ask(request, client, route, tariff, call, chosen)
        if isinstance(asked, Refusal) and not client.has_whole_body:
            await client.refuse(asked)
            return
        quote: Quote | Refusal
        cleared: Cleared | Refusal
        if isinstance(asked, Refusal):
            cleared = chain if isinstance(chain, Refusal) else revoked or asked
            quote = asked
        else:
            if isinstance(chain, Refusal):
                cleared = chain
            else:
                cleared = revoked or self.price(chain, route.offers, request, record, call, tariff, chosen, asked)
                if isinstance(cleared, Cleared):
                    # Else observing would open the account that the payment is to open.
                    cleared = await take_payment(self.desk, chain, record) or cleared
            quote = chosen if isinstance(chosen, Refusal) else tariff.quote(chosen, request.size, asked)
        going = observed(record, cleared, call, chain, quote)
        await self._forward(request, client, route, call, going, None)

    def agent(self, request: Request, call: Call) -> str:
        """Who seems to make a call that no verified token says it of."""
        trusted = header_rules.is_in(request.socket_peer, self.trusted_proxies)
        return agent_of(request.headers, call.peer, self.agents, trusted=trusted)

    def chain_of(self, request: Request, record: CallRecord) -> Chain | Refusal:
        """Steps 2 and 3: whose call it is."""
        token = header_rules.credential(request.headers)
        if isinstance(token, Refusal):
            return token
        try:
            chain = self.verify(token)
        except TokenError as error:
            record.unknown_key = isinstance(error, KeyUnknown)
            return Refusal(error.code, error.detail)
        record.shown(token, chain)
        return chain

    def price(
        self,
        chain: Chain,
        offers: Sequence[str],
        request: Request,
        record: CallRecord,
        call: Call,
        tariff: Tariff,
        chosen: Chosen | Refusal,
        asked: Asked | None,
    ) -> Cleared | Refusal:
        """Steps 4 and 5: what a call is charged to."""
        if asked is not None:
            call = call._replace(model=asked.model)
        clearance = allowed(chain, offers, request, record, call)
        if isinstance(clearance, Refusal):
            return clearance
        if isinstance(chosen, Refusal):
            return chosen
        return charged(clearance, request, call, tariff, chosen, asked)

    async def _hold(self, cleared: Cleared, route: Route, record: CallRecord) -> Granted | Repeated | Refusal | None:
        """Step 6, and whether the token was revoked meanwhile: a body or the ledger may have been waited for."""
        granted = await self._reserve(cleared, route, record)
        if cleared.chain is None or isinstance(granted, Refusal):
            return granted
        refusal: Refusal | None = None
        checked = False
        try:
            refusal = await self.revocations.check(cleared.chain)
            checked = True
        finally:
            if record.hold is not None and (refusal is not None or not checked):
                note = "the caller went away" if refusal is None else refusal.detail
                self.book.resolve(Void(record.hold, f"{note} before the call was sent"))
                record.hold = None
        return refusal or granted

    async def _reserve(self, cleared: Cleared, route: Route, record: CallRecord) -> Granted | Repeated | Refusal | None:
        """Step 6. When this returns Granted, the hold is on disk; None where there is nothing to hold."""
        unpaid = None if cleared.chain is None else await take_payment(self.desk, cleared.chain, record)
        if unpaid is not None or not any(cleared.charge):
            return unpaid
        hold = self.new_hold(record.at)
        accounts, counters, rates = cleared.charge
        event = Reserve(
            hold,
            accounts,
            cleared.quote.amount.nano if accounts else 0,
            note_of(record),
            counters,
            rates,
            cleared.claim,
            record.at + route.hold_ns,
        )
        record.reserving = time.perf_counter_ns()
        try:
            outcome = await self.book.reserve(event)
        except LedgerUnavailable as error:
            return Refusal("ledger_unavailable", error.detail)
        if isinstance(outcome, Granted):
            record.hold = hold if accounts or counters else None
            return outcome
        return outcome if isinstance(outcome, Repeated) else self.refusal(outcome, cleared)

    def refusal(self, outcome: Outcome, cleared: Cleared) -> Refusal:
        """What the ledger's No is answered with."""
        if cleared.chain is None:
            raise AssertionError("nothing is reserved without a token")
        return refusal_of(
            outcome,
            cleared.chain,
            cleared.charge,
            cleared.quote.amount,
            disclose_chain=self.disclose_chain,
            now=self.now(),
        )

    async def _forward(
        self,
        request: Request,
        client: Client,
        route: Route,
        call: Call,
        cleared: Cleared | None,
        granted: Granted | None,
    ) -> None:
        """Steps 7 and 8: one request upstream, its answer down, and the hold resolved whatever happens."""
        record = client.record
        client.wait_for(route.timeout, route.max_duration)
        record.forwarded = time.perf_counter_ns()
        if cleared is not None and record.observed is None:
            client.chain = cleared.chain
        if cleared is not None and cleared.claim is not None:
            client.recorder = Recorder()
        meter = self._meter(client, cleared, granted)
        leg = client.leg or Leg()
        refusal: Refusal | None = None
        try:
            await leg.run(request, client, route, call, cleared, granted, meter, disclose_chain=self.disclose_chain)
        except NotSent as error:
            refusal = unsent(record, error)
        except Broken as error:
            refusal = broken(record, str(error))
        except BodyTooLarge:
            record.note = "the request body grew too large"
            refusal = too_large(route.max_body or 0)
        except BodyBroken:
            record.note = Cut.DISCONNECTED
        except asyncio.CancelledError:
            record.note = str(client.cut or "the gateway was stopped")
            record.fault = LATE.get(client.cut)
            if client.cut is None or client.cut is Cut.DISCONNECTED:
                raise
            uncancel()
            refusal = client.because or Refusal("upstream_timeout", record.note)
        finally:
            self._settle(client, cleared, granted, meter, leg.sent)
        if refusal is not None:
            record.refusal = refusal
            if client.started:
                await client.break_off(refusal)
                return
            await client.refuse(refusal, hold_header(record))

    def _meter(self, client: Client, cleared: Cleared | None, granted: Granted | None) -> Meter | None:
        """The meter of a call whose cost is not known before its end."""
        if cleared is None or not cleared.quote.varies:
            return None

        async def allowed(nano: int) -> Refusal | None:
            if cleared.chain is None:
                return None
            revoked = await self.revocations.check(cleared.chain)
            if revoked is not None:
                return revoked
            again = clear(cleared.chain, cleared.call._replace(now=self.now()))
            charge = again if isinstance(again, Refusal) else again.charge(Amount(nano, cleared.quote.price.unit))
            return charge if isinstance(charge, Refusal) else None

        held = granted if cleared.charge.accounts else None
        return Meter(self.book, client, cleared.quote, held, allowed, lambda outcome: self.refusal(outcome, cleared))

    def _settle(
        self,
        client: Client,
        cleared: Cleared | None,
        granted: Granted | None,
        meter: Meter | None,
        sent: bool,
    ) -> None:
        """Step 8."""
        record = client.record
        if meter is not None:
            meter.stop()
            answered(record, meter.usage)
        if record.observed is not None and cleared is not None:
            usage = None if meter is None else meter.usage
            observe(record, cleared, self.new_hold(record.at), usage, sent=sent)
        elif granted is not None and record.hold is not None and cleared is not None:
            held = granted.amount if meter is None else meter.held
            usage = None if meter is None else meter.usage
            kept = None if client.recorder is None else client.recorder.kept()
            resolved = resolution(record, record.hold, cleared.quote, held, sent=sent, usage=usage, kept=kept)
            self.book.resolve(resolved)
