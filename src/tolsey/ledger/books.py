"""What the rules run on: accounts, their windows and holds, as far as a group of events touches them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tolsey.ledger.events import Claimed, Entry, Key, Kind
from tolsey.token.chain import Account
from tolsey.units import MAX_NANO

MOST_CHAINS: Final = 4096
"""Of how many chains the keys are remembered."""

WindowKey = tuple[Key, int]
"""A window of an account: the account's key, and the instant at which the window begins."""


Chains = dict[int, tuple[tuple[Account, ...], tuple[Key, ...]]]
"""The keys of chains of accounts, by the identity of the tuple, which is kept here so that no other takes its place."""


@dataclass(slots=True)
class Balance:
    """Where an account stands. `calls` are those that were settled; `open` are the holds whose leaf this is.

    `spent`, `held` and `observed` count over the account's whole life, also where it has windows; then `granted` stays
    0 here. `observed` is what observe mode let through: no part of `spent`, and without a limit (RULES.md M3).
    """

    account: Account
    spent: int = 0
    held: int = 0
    calls: int = 0
    open: int = 0
    granted: int = 0
    observed: int = 0


@dataclass(frozen=True, slots=True)
class Child:
    """An account below another, as its parent sees it: amounts in nano-units, over its whole life."""

    id: str
    label: str | None
    unit: str
    limit: int | None
    period: str | None
    granted: int
    spent: int
    held: int
    calls: int


@dataclass(slots=True)
class Window:
    """Where an account with a period stands in one of its windows."""

    spent: int = 0
    held: int = 0
    granted: int = 0
    observed: int = 0


@dataclass(slots=True, init=False)
class Hold:
    """A reserved amount on a chain of accounts, root first, and one call on each of `counters`.

    `amount` is all that is reserved, `extended` what of it came later than `at`. `resolution` is None while it is open;
    then come `settled`, what it was charged, `refunded`, what of that was given back, and `annulled`.
    """

    id: str
    chain: tuple[Key, ...]
    amount: int
    owner: int
    at: int
    counters: tuple[Key, ...]
    claim: tuple[str, str] | None
    extended: int
    resolution: Kind | None
    settled: int
    refunded: int
    annulled: bool

    # Written out, as mypyc compiles this one and not that of a dataclass, and every call makes a hold.
    def __init__(
        self,
        id: str,  # noqa: A002 - by the field's name it is given by dataclasses.replace
        chain: tuple[Key, ...],
        amount: int,
        owner: int,
        at: int,
        counters: tuple[Key, ...] = (),
        claim: tuple[str, str] | None = None,
        extended: int = 0,
        resolution: Kind | None = None,
        settled: int = 0,
        refunded: int = 0,
        annulled: bool = False,
    ) -> None:
        self.id = id
        self.chain = chain
        self.amount = amount
        self.owner = owner
        self.at = at
        self.counters = counters
        self.claim = claim
        self.extended = extended
        self.resolution = resolution
        self.settled = settled
        self.refunded = refunded
        self.annulled = annulled


class Purse:
    """A chain of accounts that all exist and have no period, as they stand: what a call needs of them is at hand, and
    nothing is looked up for each level of each call. Amounts are in nano-units.

    It has the very balances of the books, and says what is left by them; it is made anew where a limit changes.
    """

    __slots__ = ("_limited", "_limits", "balances", "by_key", "keys")

    def __init__(self, keys: tuple[Key, ...], balances: Sequence[Balance]) -> None:
        self.keys = keys
        self.balances = tuple(balances)
        self.by_key = dict(zip(keys, self.balances, strict=True))
        limits = [b.account.limit for b in self.balances]
        self._limits = [
            (MAX_NANO if limit is None else limit + b.granted, b)
            for limit, b in zip(limits, self.balances, strict=True)
        ]
        self._limited = [pair for pair, limit in zip(self._limits, limits, strict=True) if limit is not None]

    def left(self) -> int:
        """The least that one of the accounts can still pay; of one without a limit, what its sums have room for."""
        return min([limit - b.spent - b.held for limit, b in self._limits])

    def hold(self, amount: int, left: int) -> int | None:
        """Hold an amount that all can pay, which have `left`. Returns the least that is then left on an account that
        has a limit, None where none has.
        """
        for balance in self.balances:
            balance.held += amount
        if len(self._limited) == len(self._limits):
            return left - amount
        return min([limit - b.spent - b.held for limit, b in self._limited], default=None)


@dataclass(slots=True)
class Books:
    """The part of the ledger that a group of events touches.

    `balances` holds every account that exists among those touched; what is not in it does not exist yet. So it is with
    `windows`, `rates` (id → the instant at which all of a rate's calls are paid off), `claims` and `payments` (hash →
    the account that it opened). The `dirty` ones are those changed, `entries` those made, since the store last wrote; a
    claim that is None there is gone. `chains` may be shared by books that follow one another.
    """

    balances: dict[Key, Balance] = field(default_factory=dict)
    windows: dict[WindowKey, Window] = field(default_factory=dict)
    rates: dict[str, int] = field(default_factory=dict)
    claims: dict[tuple[str, str], Claimed] = field(default_factory=dict)
    payments: dict[str, Key] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    dirty: dict[Key, Balance] = field(default_factory=dict)
    dirty_windows: dict[WindowKey, Window] = field(default_factory=dict)
    dirty_rates: dict[str, int] = field(default_factory=dict)
    dirty_claims: dict[tuple[str, str], Claimed | None] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    chains: Chains = field(default_factory=dict, compare=False, repr=False)
    _purses: dict[int, Purse] = field(default_factory=dict, compare=False, repr=False)
    _seen_once: dict[int, tuple[Key, ...]] = field(default_factory=dict, compare=False, repr=False)
    _touched: dict[int, Purse] = field(default_factory=dict, compare=False, repr=False)

    def forget(self) -> None:
        """Drop what stands of the accounts."""
        self.balances.clear()
        self.windows.clear()
        self.rates.clear()
        self._purses.clear()

    def touch(self, purse: Purse) -> None:
        """All balances of a purse have changed."""
        self._touched[id(purse)] = purse

    def changed(self) -> dict[Key, Balance]:
        """`dirty`, with what was only touched."""
        for purse in self._touched.values():
            self.dirty.update(purse.by_key)
        self._touched.clear()
        return self.dirty

    def relimit(self) -> None:
        """A limit has changed."""
        self._purses.clear()

    def purse_of(self, keys: tuple[Key, ...]) -> Purse | None:
        """The purse with these very keys, None where it was not kept."""
        purse = self._purses.get(id(keys))
        return purse if purse is not None and purse.keys is keys else None

    def keep(self, keys: tuple[Key, ...], balances: Sequence[Balance]) -> None:
        """Keep the purse of a chain whose accounts were found to be there for the second time, if none of them has a
        period.
        """
        if self._seen_once.get(id(keys)) is not keys:
            if len(self._seen_once) >= MOST_CHAINS:
                self._seen_once.clear()
            self._seen_once[id(keys)] = keys
            return
        if any(b.account.period is not None for b in balances):
            return
        if len(self._purses) >= MOST_CHAINS:
            self._purses.clear()
        self._purses[id(keys)] = Purse(keys, balances)

    def keys(self, accounts: tuple[Account, ...]) -> tuple[Key, ...]:
        """The keys of these accounts. The same tuple has the same keys: calls with one token share it, and to make the
        keys anew is most of what a level costs.
        """
        known = self.chains.get(id(accounts))
        if known is not None and known[0] is accounts:
            return known[1]
        if len(self.chains) >= MOST_CHAINS:
            self.chains.clear()
        keys = tuple([account[:2] for account in accounts])
        self.chains[id(accounts)] = (accounts, keys)
        return keys
