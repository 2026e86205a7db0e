"""An Offer says what a stranger gets for which payment; its Terms are that for one call, as the caveats of a token.

The token that a challenge holds is minted before anybody has paid. It is bound to the payment's hash, and opens nothing
without the preimage (RULES.md T12). What it may do stands in the caveats that the minter wrote: routes, methods, end,
uses, and last the budget, which is a purse of its own: one payment, one account.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

from tolsey.call import MAX_PATTERN
from tolsey.token.caveats import format_time
from tolsey.token.chain import L402, Account, Chain
from tolsey.token.l402 import MAX_SAT, Payment, write_identifier
from tolsey.token.macaroon import Macaroon
from tolsey.token.wire import LIMITS
from tolsey.units import NANO, Amount, format_nano

SAT: Final = "sat"
"""The unit that invoices are in; they are for whole sats."""

Rates = Mapping[str, Fraction]
"""How many sats one of a unit costs."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What is sold. A purse has a `budget`; without one the offer is for a single call, at that call's price.

    `price` (in sat) is what is paid, None for the budget's worth, or the call's, at the config's rate. `calls` is how
    many calls it is good for (None: as many as the budget pays). `valid` is in nanoseconds. `scopes` and `methods` are
    those of the routes that have the offer, for a purse.
    """

    name: str
    price: Amount | None
    budget: Amount | None
    calls: int | None
    valid: int
    scopes: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


class Terms(NamedTuple):
    """An offer for one call: what is paid (whole sats), and what for. `until` is in nanoseconds since the epoch."""

    offer: str
    sat: int
    budget: Amount
    calls: int | None
    scopes: tuple[str, ...]
    methods: tuple[str, ...]
    until: int

    def caveats(self, nonce: str) -> list[str]:
        """The caveats of its token: `label` first, `budget` last."""
        found = [
            f"label = {self.offer} {nonce}",
            f"scope = {' '.join(self.scopes)}",
            f"method = {', '.join(self.methods)}",
            f"expires = {format_time(self.until)}",
        ]
        if self.calls is not None:
            found.append(f"calls = {self.calls}")
        return [*found, f"budget = {self.budget}"]

    def words(self) -> str:
        """What is got for it, for people."""
        uses = "" if self.calls is None else f", in at most {self.calls} call{'' if self.calls == 1 else 's'}"
        return f"{self.budget} to spend on {' '.join(self.scopes)}{uses}, until {format_time(self.until)}"


def terms_of(
    offer: Offer, rates: Rates, *, now: int, grace: int, price: Amount | None = None, method: str = "", path: str = ""
) -> Terms | None:
    """The terms of an offer at the instant `now`, with `grace` nanoseconds to pay before its time begins to run.

    An offer for one call needs that call's `price`, `method` and `path`. None where it cannot be had: the call costs
    nothing, or too much, or is in a unit that has no rate.
    """
    scopes, methods, budget, calls = offer.scopes, offer.methods, offer.budget, offer.calls
    if budget is None:
        if price is None or not price.nano:
            return None
        scopes, methods, budget, calls = (exactly(path),), (method,), price, 1
    paid = to_sat(offer.price or budget, rates)
    if paid is None or not 0 < paid <= MAX_SAT or any(len(scope) > MAX_PATTERN for scope in scopes):
        return None
    terms = Terms(offer.name, paid, budget, calls, scopes, methods, now + grace + offer.valid)
    return terms if all(len(text) <= LIMITS.caveat_bytes for text in terms.caveats("")) else None


def to_sat(amount: Amount, rates: Rates) -> int | None:
    """What an amount is worth in whole sats, rounded up; None where there is no rate for it."""
    rate = Fraction(1) if amount.unit == SAT else rates.get(amount.unit)
    if rate is None:
        return None
    exact = Fraction(amount.nano, NANO) * rate
    return -(-exact.numerator // exact.denominator)


def exactly(path: str) -> str:
    """The scope that means one canonical path and no other: what a pattern or a list would read as more is escaped."""
    return path.replace("*", "%2A").replace(",", "%2C")


def mint_unpaid(
    terms: Terms, payment_hash: bytes, *, key_id: str, root_key: bytes, random: bytes, nonce: str
) -> Macaroon:
    """The token for a challenge, bound to the payment. `random` are 22 fresh bytes."""
    caveats = terms.caveats(nonce)
    identifier = write_identifier(Payment(payment_hash.hex(), key_id, len(caveats), terms.sat), random)
    return Macaroon.mint(root_key=root_key, identifier=identifier).attenuate(*caveats)


def purse_of(chain: Chain) -> Account | None:
    """The account that a paid token's payment opens: that of the minter's budget. None if it is not one of these."""
    minted = [budget for budget in chain.budgets if budget.minted]
    if chain.identifier.kind != L402 or len(minted) != 1:
        return None
    return next((account for account in chain.purse(minted[0].unit) if account.id == minted[0].prefix_id), None)


def is_for(chain: Chain, offers: Sequence[str]) -> bool:
    """Whether a token may be used on a route that has these offers: what was paid for is the offer that the minter's
    label names. A token that nobody paid for is bound to no offer.
    """
    return chain.identifier.kind != L402 or (len(chain.links) > 1 and chain.links[1].label in offers)


def sat_text(sat: int) -> str:
    """Whole sats as a plain decimal string."""
    return format_nano(sat * NANO)
