"""What an admin token allows: which acts, and which tokens may be minted with it.

The bounds on minting are written into the minted token itself where its minter left them out, and compared where not:
so a token never carries more than its maker had. Money is bounded in the ledger: see `charge_of`.
"""

from collections.abc import Sequence
from typing import Final

from tolsey.call import Call
from tolsey.errors import Refusal
from tolsey.token.admin_caveats import Action, MintBudget, MintLabel, MintLifetime, MintScope
from tolsey.token.caveats import (
    SECOND,
    BudgetCaveat,
    Depth,
    Expires,
    Label,
    Meaning,
    Peer,
    Scope,
    format_time,
    glob_matches,
    parse_caveat,
)
from tolsey.token.chain import Account, Chain, Term
from tolsey.token.clearing import refusal_of
from tolsey.units import Amount

_BOUNDS: Final = (MintBudget, MintScope, MintLifetime, MintLabel)

Charge = tuple[tuple[Account, ...], int]
"""Accounts of one unit, root first, and what is taken from each, in nano-units."""


def clear_act(chain: Chain, action: str | None, call: Call) -> Refusal | None:
    """Ask every caveat in chain order whether it allows `action` (None: whatever needs no particular one); of `call`
    only `peer` and `now` count.

    What limits minting is not asked here, but it must be understood.
    """
    for term in chain.terms:
        meaning = term.meaning
        if isinstance(meaning, Action):
            if action is not None and action not in meaning.names:
                return refusal_of(chain, term, "caveat_refused", f"the action {action!r} is not allowed")
        elif isinstance(meaning, Expires | Peer):
            reason = meaning.refusal(call)
            if reason is not None:
                return refusal_of(chain, term, meaning.code, reason)
        elif isinstance(meaning, Depth):
            after = len(chain.links) - 1 - term.link
            if after > meaning.links:
                detail = f"{after} Links follow where {meaning.links} are allowed"
                return refusal_of(chain, term, "caveat_refused", detail)
        elif not isinstance(meaning, _BOUNDS):
            return refusal_of(chain, term, "caveat_unknown", term.reason or "this caveat cannot be decided here")
    return None


def actions_of(chain: Chain, actions: Sequence[str]) -> list[str]:
    """Which of `actions` no `action` caveat refuses."""
    lists = [term.meaning.names for term in chain.terms if isinstance(term.meaning, Action)]
    return [action for action in actions if all(action in names for names in lists)]


def is_bound(chain: Chain) -> bool:
    """Whether what is minted with it comes from a `mint-budget`."""
    return any(isinstance(term.meaning, MintBudget) for term in chain.terms)


def bound(chain: Chain, texts: Sequence[str], now: int) -> list[str]:
    """The caveats of a token to be minted, and those that the admin token demands and `texts` have not: a scope, an
    end. They are put behind the label.
    """
    meanings = [parse_caveat(text.encode("utf-8")) for text in texts]
    added = []
    if not any(isinstance(meaning, Scope) for meaning in meanings):
        scopes = [term.meaning for term in chain.terms if isinstance(term.meaning, MintScope)]
        added += [f"scope = {' '.join(pattern.text for pattern in scope.patterns)}" for scope in scopes]
    if not any(isinstance(meaning, Expires) for meaning in meanings):
        spans = [term.meaning.span for term in chain.terms if isinstance(term.meaning, MintLifetime)]
        added += [f"expires = {format_time(now + min(spans))}"] if spans else []
    return [*texts[:1], *added, *texts[1:]]


def refuse_minting(chain: Chain, texts: Sequence[str], now: int) -> Refusal | None:
    """Why a token with these caveats may not be minted, budgets apart; None if it may."""
    meanings = [parse_caveat(text.encode("utf-8")) for text in texts]
    for term in chain.terms:
        reason = _outside(term, meanings, now)
        if reason is not None:
            return refusal_of(chain, term, "caveat_refused", reason)
    return None


def _outside(term: Term, meanings: Sequence[Meaning], now: int) -> str | None:
    match term.meaning:
        case MintScope(patterns):
            scopes = [meaning.patterns for meaning in meanings if isinstance(meaning, Scope)]
            if not any(all(any(mine.within(p) for p in patterns) for mine in scope) for scope in scopes):
                return "the scope of the token would be wider"
        case MintLifetime(span):
            if not any(isinstance(meaning, Expires) and meaning.at <= now + span for meaning in meanings):
                return f"the token must expire by {format_time(now + span)}, {span // SECOND} seconds from now"
        case MintLabel(globs):
            names = [meaning.name for meaning in meanings if isinstance(meaning, Label)]
            if not names or not all(any(glob_matches(glob, name) for glob in globs) for name in names):
                return "no token may be minted under this label"
    return None


def charge_of(chain: Chain, texts: Sequence[str]) -> list[Charge] | Refusal:
    """What minting a token with these caveats takes from the accounts of `mint-budget`: of each unit its least budget.

    Nothing where no caveat limits it. A budget for a period renews for ever and has no such sum, so it is refused
    unless another budget in its unit ends it.
    """
    least: dict[str, int | None] = {}
    for text in texts:
        meaning = parse_caveat(text.encode("utf-8"))
        if isinstance(meaning, BudgetCaveat):
            unit, nano = meaning.budget.amount.unit, meaning.budget.amount.nano
            known = least.setdefault(unit, None)
            if meaning.budget.period is None and (known is None or nano < known):
                least[unit] = nano
    charges: list[Charge] = []
    for unit, total in least.items():
        found = _charge(chain, unit, total)
        if isinstance(found, Refusal):
            return found
        if found is not None and found[1]:
            charges.append(found)
    return charges


def charge_of_grant(chain: Chain, amount: Amount) -> Charge | Refusal | None:
    """What a grant takes from the accounts of `mint-budget`, None for nothing. An account says neither what its token
    may call nor when it ends, so that whoever is bound in that may not grant.
    """
    for term in chain.terms:
        if isinstance(term.meaning, MintScope | MintLifetime | MintLabel):
            return refusal_of(chain, term, "caveat_refused", "a grant could go to a token that may not be minted")
    return _charge(chain, amount.unit, amount.nano)


def _charge(chain: Chain, unit: str, nano: int | None) -> Charge | Refusal | None:
    bounds = [term for term in chain.terms if isinstance(term.meaning, MintBudget)]
    for term in bounds:
        if isinstance(term.meaning, MintBudget) and unit not in {b.amount.unit for b in term.meaning.budgets}:
            return refusal_of(chain, term, "caveat_refused", f"it allows no budget in {unit}")
        if nano is None:
            detail = f"a budget that renews has no sum: give one without a period in {unit} too"
            return refusal_of(chain, term, "caveat_refused", detail)
    return (chain.purse(unit), nano) if bounds and nano is not None else None
