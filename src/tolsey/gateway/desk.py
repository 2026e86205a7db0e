"""The pay desk: what a stranger is asked to pay, and what somebody who has paid may do (RULES.md C, T12).

A challenge keeps nothing here: what it offers stands in its macaroon, which opens nothing before its invoice is paid.
What it costs is one invoice of the node's, and those are drawn at a bounded pace: for each client, and in all. The
first time that a paid token is used, its payment becomes an entry of the ledger, and only if it does is the token good
for anything.
"""

import base64
import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tolsey.call import Call
from tolsey.errors import KeyUnknown, LedgerUnavailable, Refusal, TokenError
from tolsey.gateway import headers as header_rules
from tolsey.gateway.record import CallRecord
from tolsey.gateway.request import Request
from tolsey.gateway.routes import Route
from tolsey.gateway.till import Sale, Till, mint_sold
from tolsey.l402.offers import SAT, Offer, Rates, Terms, mint_unpaid, purse_of, sat_text, terms_of
from tolsey.ledger.events import Granted, Pay
from tolsey.ledger.windows import spacing
from tolsey.pricing.tariff import Quote
from tolsey.store.book import Book
from tolsey.store.invoices import Drawn, Invoicer, NodeAway
from tolsey.token import mpp
from tolsey.token.bolt11 import InvoiceInvalid, read_invoice
from tolsey.token.caveats import SECOND, RateCaveat, format_time
from tolsey.token.chain import Chain
from tolsey.token.l402 import Challenge, Payment, Presented, check_preimage, write_challenge, write_old_challenge
from tolsey.token.macaroon import derive_key
from tolsey.token.verifier import Verifier
from tolsey.token.wire import bytes_to_text
from tolsey.token.x402 import read_signature
from tolsey.units import NANO, format_nano

MAX_CLIENTS: Final = 10_000
"""How many clients' paces are remembered."""

MAX_PAID: Final = 16_384
"""How many payments are remembered as being in the ledger."""

IN_ALL: Final = 20
"""How many times a client's pace all clients of one worker may have together."""

OFFERS: Final = "/.tolsey/offers/"
"""Below this path each offer has an address of its own."""

MANIFEST: Final = "/.well-known/l402.json"
"""Where all offers are described."""

MANIFEST_LINK: Final = (b"link", f'<{MANIFEST}>; rel="l402-manifest"'.encode("ascii"))

OFFER_HEADER: Final = b"tolsey-offer"
"""In which a caller may name the offer of the route that it wants a challenge for, if not for the first."""

ACCEPT_HEADER: Final = b"accept-payment"
"""In which a caller may say that it pays under the `Payment` scheme; then an offer for a single call comes first."""

FAKE_HEADER: Final = (b"tolsey-payment", b"fake")
"""On every answer of a gateway whose payments are worth nothing."""

_CURED: Final = frozenset({"token_expired", "budget_exhausted", "calls_exhausted", "budget_missing"})
"""What a paid token is refused for, and a further payment would help."""

_OLD_CURED: Final = _CURED | {"token_missing", "token_malformed", "token_forged", "caveat_refused", "caveat_unknown"}
"""What Aperture asks for a payment for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal with what is asked for instead: headers, and members of its document."""

    refusal: Refusal
    headers: tuple[tuple[bytes, bytes], ...] = ()
    members: Mapping[str, object] | None = None


class Pace:
    """At most so many challenges for each client, and `IN_ALL` times as many for all (GCRA). Bounded: the client that
    was silent for the longest is forgotten first.
    """

    def __init__(self, rate: RateCaveat) -> None:
        self._calls = rate.calls
        self._step = spacing(rate.calls, rate.period)
        self._clients: OrderedDict[str, int] = OrderedDict()
        self._all = 0

    def wait(self, client: str, now: int) -> int:
        """Count a challenge for `client` at the instant `now`: 0, or how many nanoseconds it comes too early."""
        client = _network(client)
        tat = self._clients.get(client, 0)
        step = self._step // IN_ALL
        early = max(tat - (self._calls - 1) * self._step, self._all - (self._calls * IN_ALL - 1) * step) - now
        if early > 0:
            return early
        self._clients[client] = max(tat, now) + self._step
        self._clients.move_to_end(client)
        self._all = max(self._all, now) + step
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)
        return 0


class Desk:
    """One worker's desk. `key` returns the id and the secret of the current key for paid tokens, `key_of` what chains
    begin with under a key id; `now` nanoseconds since the epoch. `seconds` is how long an invoice can be paid,
    `service` what the whole is called. With `mpp_too` a single call can also be paid for under the `Payment` scheme,
    with a `till` over x402.
    """

    def __init__(
        self,
        *,
        offers: Sequence[Offer],
        rates: Rates,
        verifier: Verifier,
        key: Callable[[], tuple[str, bytes]],
        key_of: Callable[[str], bytes | None],
        invoicer: Invoicer,
        book: Book,
        challenges: RateCaveat,
        seconds: int,
        aperture: bool,
        mpp_too: bool,
        till: Till | None,
        service: str,
        now: Callable[[], int],
    ) -> None:
        self.offers = {offer.name: offer for offer in offers}
        self.rates = rates
        self.service = service
        self.verifier = verifier
        self.invoicer = invoicer
        self.marks = (FAKE_HEADER,) if invoicer.fake else ()
        self._key = key
        self._key_of = key_of
        self._book = book
        self._pace = Pace(challenges)
        self._seconds = seconds
        self._aperture = aperture
        self.mpp_too = mpp_too
        self.till = till
        self._payments = Pace(challenges)
        self._now = now
        self._paid: OrderedDict[str, None] = OrderedDict()

    def verify(self, presented: Presented) -> Chain:
        """Verify a paid token and its preimage. Raises as `Verifier.verify` does."""
        chain = self.verifier.verify(presented.token)
        payment = chain.identifier.payment
        if payment is None:
            raise AssertionError("the verifier of paid tokens lets no other kind through")
        check_preimage(presented.preimage, payment.hash)
        if presented.echo is not None:
            derived = self._key_of(payment.key_id)
            if derived is None:
                raise KeyUnknown("no key of this gateway's wrote the challenge")
            mpp.check_echo(mpp.challenge_key(derived), presented.echo)
        return chain

    async def close(self) -> None:
        """Let go of the node and the facilitator."""
        await self.invoicer.close()
        if self.till is not None:
            await self.till.facilitator.close()

    def buy(self, signature: str, record: CallRecord, route: Route, call: Call, request: Request) -> Chain | Refusal:
        """The token of a call that comes with a payment over x402. It is good once `settle` has seen to the payment."""
        till, now = self.till, self._now()
        if till is None:
            return Refusal("token_missing", "no payments over x402 are taken here")
        early = self._payments.wait(call.peer, now)
        if early:
            return Refusal("rate_limited", "you send too many payments", retry_after=-(-early // SECOND))
        try:
            authorization = read_signature(signature, till.asset)
        except TokenError as error:
            return Refusal(error.code, error.detail)
        sold = (self._terms(name, route, call, request.headers, request.size) for name in route.offers)
        terms = next((each for each in sold if each is not None and self._is_for_till(each)), None)
        fault = "this call is not sold over x402" if terms is None else till.fault(authorization, terms, now)
        if terms is None or fault is not None:
            return Refusal("payment_required", fault or "")
        terms = terms._replace(until=authorization.before * SECOND + self.offers[terms.offer].valid)
        key_id, root_key = self._key()
        token = mint_sold(terms, authorization, key_id=key_id, root_key=root_key)
        chain = self.verifier.verify(bytes_to_text(token))
        purse = purse_of(chain)
        if purse is None:
            raise AssertionError("what is sold has a purse")
        record.links = chain.links
        record.sale = Sale(authorization, terms, purse)
        return chain

    def _is_for_till(self, terms: Terms) -> bool:
        """Whether these terms are for sale over x402: a single call, at its own price."""
        offer = self.offers[terms.offer]
        return self.till is not None and offer.price is None and offer.budget is None and self.till.sells(terms)

    async def settle(self, chain: Chain, payment: Payment) -> Refusal | None:
        """See to it that a paid token's payment is in the ledger; why it is not, or None."""
        if payment.hash in self._paid:
            self._paid.move_to_end(payment.hash)
            return None
        purse = purse_of(chain)
        if purse is None:
            return Refusal("token_forged", "the token is not one that was sold here")
        try:
            outcome = await self._book.reserve(Pay(payment.hash, purse, payment.sat * NANO, f"offer {purse.label}"))
        except LedgerUnavailable as error:
            return Refusal("ledger_unavailable", error.detail)
        if not isinstance(outcome, Granted):
            return Refusal("ledger_conflict", "the payment was used for another token")
        self._paid[payment.hash] = None
        if len(self._paid) > MAX_PAID:
            self._paid.popitem(last=False)
        return None

    async def answer(
        self, refusal: Refusal, route: Route, call: Call, headers: header_rules.Headers, size: int | None
    ) -> Answer:
        """What a refused call is answered with: the refusal itself, or a challenge where a payment would help."""
        if not self._would_help(refusal, headers):
            return Answer(refusal)
        names = sorted(route.offers, key=self._preference(headers))
        offered = [terms for name in names if (terms := self._terms(name, route, call, headers, size))]
        return await self._challenge(refusal, offered, call.peer, call.path) if offered else Answer(refusal)

    async def offer(self, name: str, peer: str) -> Answer:
        """A challenge for one offer by its name."""
        offer = self.offers.get(name)
        terms = None if offer is None or offer.budget is None else self._terms_of(offer)
        if terms is None:
            return Answer(Refusal("route_missing", "there is no such offer with an address of its own"))
        refusal = Refusal("payment_required", "this offer is not paid for yet")
        return await self._challenge(refusal, [terms], peer, OFFERS + name)

    def _would_help(self, refusal: Refusal, headers: header_rules.Headers) -> bool:
        if refusal.code in ("token_missing", "payment_required"):
            return True
        signed = self.till is not None and header_rules.signature(headers) is not None
        paid = signed or isinstance(header_rules.credential(headers), Presented)
        if self._aperture:
            return refusal.status == 401 or (paid and refusal.code in _OLD_CURED)
        # Whoever holds another token spends what its minter gave, and is not asked for money of his own.
        return paid and refusal.code in _CURED

    def _preference(self, headers: header_rules.Headers) -> Callable[[str], tuple[bool, bool]]:
        """The order of offers for a caller: first the one that it names, then, if it pays so, those that MPP sells."""
        wished = [value.decode("latin-1").strip() for name, value in headers if name == OFFER_HEADER]
        accepted = [value.decode("latin-1") for name, value in headers if name == ACCEPT_HEADER]
        single = self.mpp_too and mpp.prefers_charge(accepted)
        return lambda name: (name not in wished, single and not self._is_single(name))

    def _is_single(self, name: str) -> bool:
        """Whether an offer is good for one call and no more, which is all that a charge under MPP can be for."""
        offer = self.offers.get(name)
        return offer is not None and (offer.budget is None or offer.calls == 1)

    def _terms(
        self, name: str, route: Route, call: Call, headers: header_rules.Headers, size: int | None
    ) -> Terms | None:
        """The terms of an offer for a call, None where it cannot be had or would not pay for it."""
        offer = self.offers.get(name)
        if offer is None or route.tariff is None:
            return None
        chosen = route.tariff.choose(call, headers)
        quote = chosen if isinstance(chosen, Refusal) else route.tariff.quote(chosen, size)
        if offer.budget is not None:
            # What a call costs that stands in its body is known only once somebody has paid.
            too_small = isinstance(quote, Quote) and quote.amount.nano > offer.budget.nano
            return None if too_small else self._terms_of(offer)
        if isinstance(quote, Refusal):
            return None
        return terms_of(
            offer,
            self.rates,
            now=self._now(),
            grace=self._seconds * SECOND,
            price=quote.amount,
            method=call.method,
            path=call.path,
        )

    def _where(self, terms: Terms, asked: Terms) -> str | None:
        """Where the challenge for some terms is: here, if it is asked for; at the offer's address, if it has one."""
        if terms is asked:
            return "here"
        return None if self.offers[terms.offer].budget is None else OFFERS + terms.offer

    def _terms_of(self, offer: Offer) -> Terms | None:
        return terms_of(offer, self.rates, now=self._now(), grace=self._seconds * SECOND)

    def _charge(self, terms: Terms, drawn: Drawn) -> mpp.Charge:
        """What a `Payment` challenge asks for, but for the macaroon. Its members must be those of the invoice, so they
        are read from it. Raises `NodeAway` if that is not what was asked of the node.
        """
        try:
            invoice = read_invoice(drawn.invoice)
        except InvoiceInvalid:
            raise NodeAway("the node's invoice cannot be read") from None
        if (invoice.payment_hash, invoice.msat) != (drawn.payment_hash, terms.sat * 1000):
            raise NodeAway("the node's invoice is not what was asked for")
        expires = min(self._now() + self._seconds * SECOND, invoice.expires * SECOND)
        network = mpp.NETWORKS[invoice.network]
        return mpp.Charge("", drawn.invoice, drawn.payment_hash.hex(), terms.sat, network, format_time(expires))

    async def _challenge(self, refusal: Refusal, offered: Sequence[Terms], peer: str, path: str) -> Answer:
        """A challenge for the first of these terms, and where the others are to be had."""
        terms = offered[0]
        why = "" if refusal.code == "token_missing" else f"{refusal.detail}. "
        early = self._pace.wait(peer, self._now())
        if early:
            seconds = -(-early // SECOND)
            return Answer(Refusal("rate_limited", "you ask for too many invoices", retry_after=seconds))
        single = next((each for each in offered if self._is_for_till(each)), None)
        x402 = () if single is None or self.till is None else (self.till.required(single, path, why + "Pay to call"),)
        try:
            drawn = await self.invoicer.draw(terms.sat, self._seconds)
            charge = self._charge(terms, drawn) if self.mpp_too and terms.calls == 1 else None
        except NodeAway:
            if single is not None:
                detail = f"{why}No invoice can be had now. Pay as PAYMENT-REQUIRED says, for {single.words()}."
                return Answer(Refusal("payment_required", detail), x402, {"offers": [describe(single, "here")]})
            return Answer(Refusal("payment_unavailable", "no invoice can be had at the moment; paid tokens go on"))
        key_id, root_key = self._key()
        macaroon = mint_unpaid(
            terms,
            drawn.payment_hash,
            key_id=key_id,
            root_key=root_key,
            random=secrets.token_bytes(22),
            nonce=secrets.token_urlsafe(9),
        )
        challenge = Challenge(base64.b64encode(macaroon.serialize()).decode("ascii"), drawn.invoice)
        if self._aperture:
            lines = [write_old_challenge(challenge, scheme) for scheme in ("LSAT", "L402")]
        else:
            lines = [write_challenge(challenge)]
        if charge is not None:
            key = mpp.challenge_key(derive_key(root_key))
            lines.append(mpp.write_challenge(key, charge._replace(macaroon=challenge.macaroon)))
        if refusal.status != 402 or refusal.code == "payment_required":
            refusal = Refusal("payment_required", _how(terms, why))
        return Answer(
            refusal,
            (*((b"www-authenticate", line.encode("ascii")) for line in lines), *x402, MANIFEST_LINK),
            {
                "payment": {
                    "invoice": challenge.invoice,
                    "macaroon": challenge.macaroon,
                    "payment_hash": drawn.payment_hash.hex(),
                    "authorization": "L402 <macaroon>:<preimage>",
                    "invoice_expires": format_time(self._now() + self._seconds * SECOND),
                    "fake": self.invoicer.fake,
                },
                "offers": [describe(each, self._where(each, terms)) for each in offered],
            },
        )


def buy(desk: Desk | None, request: Request, record: CallRecord, route: Route, call: Call) -> Chain | Refusal | None:
    """The token of a call that comes with a payment over x402, None for any other call."""
    signature = None if desk is None or desk.till is None else header_rules.signature(request.headers)
    if desk is None or signature is None or isinstance(signature, Refusal):
        return signature if isinstance(signature, Refusal) else None
    return desk.buy(signature, record, route, call, request)


async def take_payment(desk: Desk | None, chain: Chain, record: CallRecord) -> Refusal | None:
    """See to it that what a token was paid with is in the ledger, if it is a paid one; why it is not, or None."""
    payment = chain.identifier.payment
    if payment is None:
        return None
    if desk is None:
        return Refusal("payment_unavailable", "no payments are taken here any more")
    if record.sale is None or desk.till is None:
        return await desk.settle(chain, payment)
    refusal = await desk.till.take(record.sale)
    record.receipt = desk.till.response(record.sale)
    return refusal


def describe(terms: Terms, challenge: str | None) -> dict[str, object]:
    """An offer in a document. `challenge` is the path at which its challenge is to be had."""
    return {
        "name": terms.offer,
        "price": sat_text(terms.sat),
        "unit": SAT,
        "budget": format_nano(terms.budget.nano),
        "budget_unit": terms.budget.unit,
        "calls": terms.calls,
        "scope": list(terms.scopes),
        "methods": list(terms.methods),
        "expires": format_time(terms.until),
        "challenge": challenge,
    }


def _how(terms: Terms, why: str) -> str:
    """How to pay, in words."""
    return (
        f"{why}Pay the Lightning invoice in WWW-Authenticate ({terms.sat} sat), and send the call again with"
        f" 'Authorization: L402 <macaroon>:<preimage>'. For it you have {terms.words()}."
    )


def _network(address: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 network of the size that one household has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
