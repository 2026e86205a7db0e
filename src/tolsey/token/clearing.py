"""Whether a verified chain allows a Call, and what the call is charged to.

Law 1 lives here: every caveat is looked at, all are ANDed, and what is not understood refuses.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tolsey.call import Call
from tolsey.errors import Refusal
from tolsey.token.caveats import CONDITIONS, Condition, Depth, Expires, MaxPrice, Peer
from tolsey.token.chain import Account, Chain, Charge, Conditions, Rate, Term
from tolsey.units import Amount


class Clearance(NamedTuple):
    """The chain allows the call, as far as its price."""

    chain: Chain
    max_prices: tuple[Term, ...]

    def charge(self, price: Amount) -> Charge | Refusal:
        """What a call with that `price` is charged to, or why it may not be charged.

        A price above 0 needs a budget in its unit among the caveats that the minter wrote: what a holder appends can
        only restrict (RULES.md T10, T11).
        """
        for term in self.max_prices:
            if isinstance(term.meaning, MaxPrice):
                most = term.meaning.amount
                if price.nano and (price.unit != most.unit or price.nano > most.nano):
                    return refusal_of(self.chain, term, "caveat_refused", f"the price {price} is above {most}")
        if price.nano == 0:
            return self._free()
        known = self.chain._charges.get(price.unit)
        if known is not None:
            return known
        minted_units = {budget.unit for budget in self.chain.budgets if budget.minted}
        if price.unit not in minted_units:
            return Refusal(
                "budget_missing",
                f"the call costs {price} and the token was minted without a budget in {price.unit}",
                unit=price.unit,
            )
        for budget in self.chain.budgets:
            if budget.unit != price.unit and budget.unit not in minted_units:
                term = Term(None, budget.text, budget.link)
                return refusal_of(
                    self.chain,
                    term,
                    "budget_missing",
                    f"the call costs {price} and this Link may only spend {budget.unit}",
                )
        charge = Charge(self.chain.purse(price.unit), self.chain.counters, self.chain.rates)
        self.chain._charges[price.unit] = charge
        return charge

    def _free(self) -> Charge | Refusal:
        """What a free call is charged to. What a holder appended is only kept below something that the minter wrote: a
        bearer without money must not be able to fill a table.
        """
        chain = self.chain
        unkept: Sequence[Account | Rate] = ()
        if not chain.minted_counters:
            unkept = chain.counters or (() if chain.minted_rates else chain.rates)
        if unkept:
            name = "calls" if chain.counters else "rate"
            detail = (
                f"the call is free, and the token was minted without {name}: one that a holder appended is not kept"
            )
            return Refusal("budget_missing", detail, link=unkept[0].label, prefix_id=unkept[0].id)
        return Charge((), chain.counters, chain.rates)


def conditions_of(chain: Chain) -> Conditions | None:
    """What decides whether a chain allows a call, without what says the same again; None where it allows none, and the
    first time, as it is not worth it for a token that is shown once.
    """
    known = chain.known_conditions
    if len(known) < 2:
        known.append(_conditions(chain) if known else None)
    return known[-1]


def _conditions(chain: Chain) -> Conditions | None:
    ends: list[Expires] = []
    others: list[Condition] = []
    max_prices: list[Term] = []
    for term in chain.terms:
        meaning = term.meaning
        if isinstance(meaning, Expires):
            ends.append(meaning)
        elif isinstance(meaning, CONDITIONS):
            others.append(meaning)
        elif isinstance(meaning, MaxPrice):
            max_prices.append(term)
        elif not (isinstance(meaning, Depth) and len(chain.links) - 1 - term.link <= meaning.links):
            return None
    first = [min(ends, key=lambda end: end.at)] if ends else []
    return Conditions((*first, *dict.fromkeys(others)), tuple(max_prices))


def clear(chain: Chain, call: Call, leaving: tuple[type, ...] = ()) -> Clearance | Refusal:
    """Ask every caveat in chain order whether it allows `call`; the first that does not is the Refusal.

    Those of the kinds in `leaving` are not asked: for what is no call yet, and is asked again when there is one.
    """
    known = None if leaving else conditions_of(chain)
    if known is not None and known.allow(call):
        return Clearance(chain, known.max_prices)
    max_prices = []
    for term in chain.terms:
        meaning = term.meaning
        if leaving and isinstance(meaning, leaving):
            continue
        if isinstance(meaning, CONDITIONS):
            reason = meaning.refusal(call)
            if reason is not None:
                return refusal_of(chain, term, meaning.code, reason)
        elif meaning is None:
            return refusal_of(chain, term, "caveat_unknown", term.reason)
        elif isinstance(meaning, MaxPrice):
            max_prices.append(term)
        elif isinstance(meaning, Depth):
            after = len(chain.links) - 1 - term.link
            if after > meaning.links:
                detail = f"{after} Links follow where {meaning.links} are allowed"
                return refusal_of(chain, term, "caveat_refused", detail)
        else:
            return refusal_of(chain, term, "caveat_unknown", "this caveat cannot be decided here")
    return Clearance(chain, tuple(max_prices))


def ends_of(chain: Chain) -> int | None:
    """Until when (nanoseconds since the epoch; None: always) a call that `chain` allows is allowed, if it is the same
    in all but its time: of what is asked of a call, only `expires` asks for that.
    """
    return min((term.meaning.at for term in chain.terms if isinstance(term.meaning, Expires)), default=None)


def clear_showing(chain: Chain, call: Call) -> Refusal | None:
    """Ask only the caveats that say when and from where a token may be shown at all: its holder asks about itself."""
    for term in chain.terms:
        if isinstance(term.meaning, Expires | Peer) and (reason := term.meaning.refusal(call)) is not None:
            return refusal_of(chain, term, term.meaning.code, reason)
    return None


def refusal_of(chain: Chain, term: Term, code: str, detail: str) -> Refusal:
    """A Refusal that names the term's Link and caveat."""
    link = chain.links[term.link]
    return Refusal(code, detail, link=link.label, prefix_id=link.prefix_id, caveat=term.text)
