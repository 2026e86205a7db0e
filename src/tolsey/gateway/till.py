"""The till: calls that are paid for one by one over x402, each settled before it is served.

What decides is in the ledger. A payment is named by what its asset can be moved for once: network, asset, payer and
nonce. Before the facilitator is told to settle it, an account of its own is taken, which has room for one; whatever is
interrupted leaves it taken. So a payment is settled, surely not settled (the account is given back), or not known: then
nobody is served for it and nobody is asked to pay again, and it is asked about anew when its payer comes back. A
payment that was settled opens a purse as any other payment does, for the one call that it was made for.
"""

import asyncio
import base64
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from tolsey.errors import LedgerUnavailable, Refusal
from tolsey.l402.offers import Terms, mint_unpaid
from tolsey.ledger.events import PAID_IN_KIND, Granted, Pay, Reserve, Settle, Void
from tolsey.store.book import Book
from tolsey.store.settling import Facilitator, FacilitatorAway, Refused, Settled
from tolsey.token import x402
from tolsey.token.caveats import SECOND
from tolsey.token.chain import Account
from tolsey.token.macaroon import derive_key
from tolsey.token.x402 import Asset, Authorization
from tolsey.units import NANO

REQUIRED: Final = b"payment-required"
RESPONSE: Final = b"payment-response"

MAX_SETTLED: Final = 4096
"""How many payments are remembered as settled, with what their payer is told."""

LABEL: Final = "x402"
"""What the account is called that a payment takes before it is settled."""

_SUBKEY: Final = b"tolsey x402 "
_PENDING: Final = (
    "whether your payment was settled is not known yet: send the same PAYMENT-SIGNATURE again, and no other"
)


class Sale(NamedTuple):
    """A call that somebody wants to pay for: with what, on which terms, and the account that the payment opens."""

    authorization: Authorization
    terms: Terms
    purse: Account

    @property
    def claim(self) -> Account:
        """The account that is taken before the payment is settled: it has room for one."""
        return Account(self.authorization.payment[:32], "call", None, LABEL, NANO)


class Till:
    """One worker's till. `tell` is told, for the log, of a payment whose outcome is not known: its name, and why."""

    def __init__(
        self,
        *,
        asset: Asset,
        facilitator: Facilitator,
        book: Book,
        new_hold: Callable[[], str],
        tell: Callable[[str, str], None],
    ) -> None:
        self.asset = asset
        self.facilitator = facilitator
        self._book = book
        self._new_hold = new_hold
        self._tell = tell
        self._settled: OrderedDict[str, str] = OrderedDict()
        self._tasks: set[asyncio.Task[Refusal | None]] = set()

    def sells(self, terms: Terms) -> bool:
        """Whether these terms can be had here: those of a single call, in the unit that the asset is worth."""
        return terms.calls == 1 and terms.budget.unit == self.asset.unit

    def required(self, terms: Terms, path: str, error: str) -> tuple[bytes, bytes]:
        """The header that asks for a payment."""
        return REQUIRED, x402.write_required(self.asset, terms.budget.nano, path, error).encode("ascii")

    def fault(self, authorization: Authorization, terms: Terms, now: int) -> str | None:
        """Why an authorization is not what is asked for, whatever its payer says; `now` in nanoseconds."""
        if authorization.pay_to.lower() != self.asset.pay_to.lower():
            return "the payment goes to somebody else"
        if authorization.value != self.asset.atomic(terms.budget.nano):
            return "the payment is not of the amount that the call costs"
        if not authorization.after * SECOND <= now < authorization.before * SECOND:
            return "the payment is not valid now"
        return None

    def response(self, sale: Sale) -> tuple[bytes, bytes] | None:
        """The header that tells a payer of its payment, if it was settled a short time ago."""
        transaction = self._settled.get(sale.authorization.payment)
        if transaction is None:
            return None
        return RESPONSE, x402.write_response(self.asset, sale.authorization.payer, transaction).encode("ascii")

    async def take(self, sale: Sale) -> Refusal | None:
        """See to it that a payment is settled and in the ledger; why it is not, or None.

        It goes on if the caller is cancelled meanwhile: what was begun has an outcome that must be written down.
        """
        task = asyncio.get_running_loop().create_task(self._take(sale))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _take(self, sale: Sale) -> Refusal | None:
        payment = sale.authorization.payment
        try:
            opened = await self._book.paid(payment)
            if opened is not None:
                return None if opened == sale.purse[:2] else Refusal("payment_required", "it was for another call")
            (claim,) = await self._book.balances([sale.claim])
            if claim.held:
                return _pending()
            hold = None
            if not claim.spent:
                refusal, hold = await self._claim(sale)
                if refusal is not None:
                    return refusal
            return await self._settle(sale, hold)
        except LedgerUnavailable as error:
            return Refusal("ledger_unavailable", error.detail)

    async def _claim(self, sale: Sale) -> tuple[Refusal | None, str | None]:
        """Take the payment's account, once the facilitator finds it good: else strangers could fill the ledger."""
        try:
            refused = await self.facilitator.verify(sale.authorization, self._requirements(sale))
        except FacilitatorAway as error:
            self._tell(sale.authorization.payment, f"not settled: {error.detail}")
            return Refusal("payment_unavailable", "payments cannot be checked at the moment; nothing was taken"), None
        if refused is not None:
            return Refusal("payment_required", f"the payment is not good: {refused.reason}"), None
        hold = self._new_hold()
        note = f"x402 {self.asset.network} {sale.authorization.payer}"
        outcome = await self._book.reserve(Reserve(hold, (), 0, note, (sale.claim,)))
        return (None, hold) if isinstance(outcome, Granted) else (_pending(), None)

    async def _settle(self, sale: Sale, hold: str | None) -> Refusal | None:
        """Have it settled. `hold` is that on the payment's account, None where it was taken before."""
        payment = sale.authorization.payment
        outcome: Settled | Refused
        try:
            outcome = await self.facilitator.settle(sale.authorization, self._requirements(sale))
        except FacilitatorAway as error:
            outcome = Refused(error.detail, sure=False)
        if isinstance(outcome, Refused):
            if outcome.sure and hold is not None:
                await self._resolve(sale, Void(hold, f"x402 refused: {outcome.reason}"))
                return Refusal("payment_required", f"the payment was not settled: {outcome.reason}")
            if hold is not None:
                await self._resolve(sale, Settle(hold, 0, f"x402 unknown: {outcome.reason}"))
            self._tell(payment, f"not known: {outcome.reason}")
            return _pending()
        paid = sale.authorization.value * NANO // 10**self.asset.decimals
        note = f"{PAID_IN_KIND}{self.asset.network} {outcome.transaction} offer {sale.terms.offer}"
        taken = await self._book.reserve(Pay(payment, sale.purse, paid, note))
        if hold is not None:
            self._book.resolve(Settle(hold, 0, f"x402 settled: {outcome.transaction}"))
        if not isinstance(taken, Granted):
            return Refusal("ledger_conflict", "the payment was used for another token")
        self._settled[payment] = outcome.transaction
        if len(self._settled) > MAX_SETTLED:
            self._settled.popitem(last=False)
        return None

    async def _resolve(self, sale: Sale, event: Settle | Void) -> None:
        """End the hold on the payment's account, and wait until that is written: the payer may come back at once."""
        self._book.resolve(event)
        await self._book.balances([sale.claim])

    def _requirements(self, sale: Sale) -> dict[str, object]:
        return x402.requirements(self.asset, sale.terms.budget.nano)


def mint_sold(terms: Terms, authorization: Authorization, *, key_id: str, root_key: bytes) -> bytes:
    """The token of a call that is paid for so. It never leaves the gateway, and the same payment makes the same one."""
    material = hmac.digest(derive_key(root_key), _SUBKEY + authorization.payment.encode("ascii"), "sha256")
    nonce = base64.urlsafe_b64encode(material[22:31]).decode("ascii")
    payment = bytes.fromhex(authorization.payment)
    macaroon = mint_unpaid(terms, payment, key_id=key_id, root_key=root_key, random=material[:22], nonce=nonce)
    return macaroon.serialize()


def _pending() -> Refusal:
    return Refusal("payment_unavailable", _PENDING)
