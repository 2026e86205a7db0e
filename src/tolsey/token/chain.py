"""A Chain: what a verified token amounts to, Link by Link.

A chain only ever grows: `start` makes the empty one, `grow` adds caveats that the HMACs have already vouched for. Since
growing looks at nothing but the chain before and the bytes added, a remembered chain of a prefix is as good as a new
one.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from tolsey.call import Call
from tolsey.errors import CaveatInvalid, TokenForged, TokenMalformed
from tolsey.token.admin_caveats import AdminMeaning, MintBudget, parse_admin_caveat
from tolsey.token.caveats import (
    BudgetCaveat,
    Calls,
    Condition,
    Depth,
    Label,
    Meaning,
    Purpose,
    RateCaveat,
    Tag,
    parse_caveat,
)
from tolsey.token.l402 import Payment, read_identifier
from tolsey.token.macaroon import ThirdParty, prefix_id
from tolsey.token.once import APPROVAL_LABEL, Once
from tolsey.token.wire import LIMITS, Caveat, Limits
from tolsey.units import NANO, Budget

CALL: Final = "call"
"""The unit of the accounts that count calls."""

CAPABILITY: Final = "tolsey"
"""What the identifier of a capability token begins with."""

ADMIN: Final = "tolsey-admin"
"""What the identifier of an admin token begins with. One kind never opens what another does (RULES.md T12)."""

L402: Final = "tolsey-l402"
"""The kind of token that is paid for: its identifier is L402's."""

_IDENTIFIER = re.compile(r"(tolsey|tolsey-admin):1:([A-Za-z0-9_-]{1,32}):[A-Za-z0-9_-]{22}:(0|[1-9]\d{0,2})", re.ASCII)
_NOT_IN_A_DISCHARGE: Final = (Label, BudgetCaveat, Calls, RateCaveat, Depth, Tag, MintBudget)


@dataclass(frozen=True, slots=True)
class Identifier:
    """What an identifier of ours says: the kind of token, the key id, how many caveats the minter wrote. `payment` is
    what a paid token is bound to.
    """

    kind: str
    key_id: str
    minted: int
    payment: Payment | None = None


def parse_identifier(identifier: bytes) -> Identifier:
    """Read `tolsey:1:<key id>:<22 characters>:<n>`, or L402's 66 bytes.

    Raises `TokenForged`: no key of ours began anything else.
    """
    paid = read_identifier(identifier)
    if paid is not None:
        return Identifier(L402, paid.key_id, paid.minted, paid)
    match = _IDENTIFIER.fullmatch(identifier.decode("ascii", "replace"))
    if match is None:
        raise TokenForged("the token's identifier is not one of ours")
    return Identifier(match[1], match[2], int(match[3]))


def write_identifier(kind: str, key_id: str, nonce: str, minted: int) -> bytes:
    """Write an identifier. `nonce` is 22 characters of base64url, `minted` the number of the minter's caveats."""
    identifier = f"{kind}:1:{key_id}:{nonce}:{minted}".encode("ascii")
    parse_identifier(identifier)
    return identifier


@dataclass(frozen=True, slots=True)
class Link:
    """What one holder added. Link 0 (label None) is what stands before the first label."""

    label: str | None
    nonce: str | None
    prefix_id: str


class Account(NamedTuple):
    """A place that a call is charged to; the first two fields are its key. `limit` (nano-units) is None where a Link
    has no budget of its own: it is only counted there. `parent` is the id of the account above, in the same unit. With
    a `period` (see `units.PERIODS`) the limit is for each of its windows.
    """

    id: str
    unit: str
    parent: str | None
    label: str | None
    limit: int | None
    period: str | None = None


class Rate(NamedTuple):
    """At most `calls` calls a `period` (second, minute, hour, day); `id` is the prefix id of its caveat."""

    id: str
    label: str | None
    calls: int
    period: str


class Charge(NamedTuple):
    """All that one call is charged to: its price to every one of `accounts`, one call to every one of `counters`, and
    its pace to every one of `rates`.
    """

    accounts: tuple[Account, ...]
    counters: tuple[Account, ...]
    rates: tuple[Rate, ...]


@dataclass(frozen=True, slots=True)
class Term:
    """One caveat's meaning, with where it stands. `reason` is there when it was not understood: then it refuses."""

    meaning: Meaning | AdminMeaning | None
    text: str
    link: int
    reason: str = ""


class Conditions(NamedTuple):
    """All that must hold for a call: no equal conditions, and of several ends only the first. Which Link it is that
    refuses they do not say.
    """

    conditions: tuple[Condition, ...]
    max_prices: tuple[Term, ...]

    def allow(self, call: Call) -> bool:
        """Whether all of them allow `call`."""
        for condition in self.conditions:  # noqa: SIM110 - a generator costs a call more than what it asks
            if condition.refusal(call) is not None:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Chain:
    """A verified token, or a verified prefix of one.

    `prefix_ids[n]` names the prefix after n caveats; `links` run from root to bearer; `terms` are the caveats that can
    refuse by themselves, in chain order. `budgets`, `counters` (accounts in the unit `call`, one for each `calls`) and
    `rates` are what the ledger decides about; `counter_links` are the numbers of the counters' Links, and the first
    `minted_counters` and `minted_rates` of them were written by the minter. `tags` say which tags a call may have.
    `known_conditions` are for `clearing.conditions_of`.
    """

    identifier: Identifier
    prefix_ids: tuple[str, ...]
    links: tuple[Link, ...]
    terms: tuple[Term, ...] = ()
    budgets: "tuple[BudgetAt, ...]" = ()
    third_parties: tuple[tuple[ThirdParty, int, int], ...] = field(default=(), repr=False)
    root_is_bare: bool = True
    counters: tuple[Account, ...] = ()
    counter_links: tuple[int, ...] = ()
    minted_counters: int = 0
    rates: tuple[Rate, ...] = ()
    minted_rates: int = 0
    tags: "tuple[TagAt, ...]" = ()
    _purses: dict[str, tuple[Account, ...]] = field(default_factory=dict, repr=False, compare=False)
    _charges: dict[str, Charge] = field(default_factory=dict, repr=False, compare=False)
    known_conditions: "list[Conditions | None]" = field(default_factory=list, repr=False, compare=False)

    def purse(self, unit: str) -> tuple[Account, ...]:
        """Every account that a call priced in `unit` is charged to, root first; empty if no budget is in that unit.

        A Link without a budget in that unit is an account without a limit.
        """
        known = self._purses.get(unit)
        if known is None:
            known = self._purses[unit] = tuple(self._accounts(unit))
        return known

    def accounts(self) -> tuple[Account, ...]:
        """Every account that a call can be charged to: the purses of all units, and the counters."""
        units = dict.fromkeys(budget.unit for budget in self.budgets)
        return tuple(account for unit in units for account in self.purse(unit)) + self.counters

    def own_accounts(self) -> set[str]:
        """The ids of the accounts that the bearer's own Link opens, in any unit."""
        last = len(self.links) - 1
        counters = {c.id for c, link in zip(self.counters, self.counter_links, strict=True) if link == last}
        budgets = {budget.prefix_id for budget in self.budgets if budget.link == last}
        return counters | budgets | {self.links[last].prefix_id}

    def _accounts(self, unit: str) -> Iterable[Account]:
        parent: str | None = None
        for number, link in enumerate(self.links):
            mine = [b for b in self.budgets if b.link == number and b.unit == unit]
            for budget in mine:
                yield Account(budget.prefix_id, unit, parent, link.label, budget.nano, budget.period)
                parent = budget.prefix_id
            if not mine and not (number == 0 and self.root_is_bare):
                yield Account(link.prefix_id, unit, parent, link.label, None)
                parent = link.prefix_id


@dataclass(frozen=True, slots=True)
class TagAt:
    """A `tag` caveat and where it stands."""

    alternatives: tuple[tuple[str, str], ...]
    link: int
    minted: bool
    text: str


@dataclass(frozen=True, slots=True)
class BudgetAt:
    """A budget caveat and where it stands."""

    unit: str
    nano: int
    period: str | None
    prefix_id: str
    link: int
    minted: bool
    text: str


def start(identifier: bytes, mac: bytes) -> Chain:
    """The chain of a macaroon without caveats. Raises `TokenForged` for an identifier that is not ours."""
    name = prefix_id(mac)
    return Chain(parse_identifier(identifier), (name,), (Link(None, None, name),))


def grow(chain: Chain, macs: Sequence[bytes], caveats: Sequence[Caveat], limits: Limits = LIMITS) -> Chain:
    """Add caveats to a chain that ends in `macs[0]`, and return the longer one. Raises `TokenMalformed`.

    `macs[n]` stands after n of the caveats. The caller has compared the last signature already: only then is a caveat
    read.
    """
    names = list(chain.prefix_ids)
    links = list(chain.links)
    terms = list(chain.terms)
    budgets = list(chain.budgets)
    third_parties = list(chain.third_parties)
    counters = list(chain.counters)
    counter_links = list(chain.counter_links)
    rates = list(chain.rates)
    tags = list(chain.tags)
    minted_counters, minted_rates = chain.minted_counters, chain.minted_rates
    root_is_bare = chain.root_is_bare
    for caveat, before, mac in zip(caveats, macs, macs[1:], strict=False):
        name = prefix_id(mac)
        names.append(name)
        if caveat.vid is not None:
            third_parties.append((ThirdParty(caveat, before), len(links) - 1, len(terms)))
            continue
        term = _term(caveat, len(links) - 1, chain.identifier.kind)
        minted = len(names) - 1 <= chain.identifier.minted
        match term.meaning:
            case Label(label, nonce):
                links.append(Link(label, nonce, name))
                continue
            case BudgetCaveat(budget):
                budgets.append(_budget_at(budget, name, len(links) - 1, minted, term.text))
            case MintBudget(several):
                budgets += [_budget_at(each, name, len(links) - 1, minted, term.text) for each in several]
                terms.append(term)
            case Calls(count, period):
                parent = counters[-1].id if counters else None
                counters.append(Account(name, CALL, parent, links[-1].label, count * NANO, period))
                counter_links.append(len(links) - 1)
                minted_counters += minted
            case RateCaveat(calls, period):
                rates.append(Rate(name, links[-1].label, calls, period))
                minted_rates += minted
            case Tag(alternatives):
                tags.append(TagAt(alternatives, len(links) - 1, minted, term.text))
            case Purpose():
                pass
            case Once():
                terms.append(replace(term, meaning=None, reason="this caveat may only stand in a discharge"))
            case _:
                terms.append(term)
        root_is_bare = root_is_bare and len(links) > 1
    if len(links) > limits.links or len(budgets) + len(counters) + len(rates) > limits.accounts:
        raise TokenMalformed(
            f"a token has at most {limits.links} Links, and {limits.accounts} budgets, calls and rates together"
        )
    return Chain(
        chain.identifier,
        tuple(names),
        tuple(links),
        tuple(terms),
        tuple(budgets),
        tuple(third_parties),
        root_is_bare,
        tuple(counters),
        tuple(counter_links),
        minted_counters,
        tuple(rates),
        minted_rates,
        tuple(tags),
    )


def _budget_at(budget: Budget, name: str, link: int, minted: bool, text: str) -> BudgetAt:
    return BudgetAt(budget.amount.unit, budget.amount.nano, budget.period, name, link, minted, text)


def _term(caveat: Caveat, link: int, kind: str) -> Term:
    try:
        return Term(parse_admin_caveat(caveat.cid) if kind == ADMIN else parse_caveat(caveat.cid), str(caveat), link)
    except CaveatInvalid as error:
        return Term(None, str(caveat), link, error.detail)


def with_discharges(chain: Chain, found: Iterable[tuple[int, Caveat]]) -> Chain:
    """The chain with the caveats of its verified discharges put in where their third-party caveats stand.

    `found` are pairs of a third-party caveat's number on the chain and a caveat of its discharge. What would open an
    account or a Link, or count them, has no meaning in a discharge and refuses (RULES.md T7), but for `once`: it is a
    counter with room for one call, which only a call that is granted opens.
    """
    added: dict[int, list[Term]] = {}
    counters, counter_links = list(chain.counters), list(chain.counter_links)
    for number, caveat in found:
        _, link, at = chain.third_parties[number]
        term = _term(caveat, link, chain.identifier.kind)
        if isinstance(term.meaning, Purpose):
            continue
        if isinstance(term.meaning, Once):
            parent = counters[-1].id if counters else None
            counters.append(Account(term.meaning.account, CALL, parent, APPROVAL_LABEL, NANO))
            counter_links.append(link)
        if isinstance(term.meaning, _NOT_IN_A_DISCHARGE):
            term = Term(None, term.text, link, "this caveat may not stand in a discharge")
        added.setdefault(at, []).append(term)
    if len(chain.budgets) + len(counters) + len(chain.rates) > LIMITS.accounts:
        raise TokenMalformed(f"a token and its discharges have at most {LIMITS.accounts} accounts and rates together")
    terms: list[Term] = []
    for at in range(len(chain.terms) + 1):
        terms += added.get(at, [])
        terms += chain.terms[at : at + 1]
    return replace(chain, terms=tuple(terms), counters=tuple(counters), counter_links=tuple(counter_links))
