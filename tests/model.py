"""A plain model of the ledger, and what a store must offer to be held against it.

The model keeps lists of holds and grants and adds them up, every time. It shares no code with the rules.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tests.ledgers import clock_text, figure
from tests.simulation_audit import CALL, SECONDS, starts
from tolsey.ledger.books import Balance
from tolsey.ledger.events import (
    Annul,
    Claim,
    Event,
    Expire,
    Extend,
    Grant,
    Key,
    Observe,
    Open,
    Outcome,
    Pay,
    Refund,
    Reserve,
    Settle,
    Void,
)
from tolsey.store.reports import Checked
from tolsey.testing import SECOND, FakeClock
from tolsey.token.chain import Account, Rate

Purse = tuple[Account, ...]
Fate = Literal["done", "rolled back", "commit fails", "answer lost"]
DAY = 86_400 * SECOND


class Seat(Protocol):
    """A process in a store. `owner` is the id it goes by; with `fenced` it must register anew before it writes."""

    owner: str
    fenced: bool

    def time(self) -> int:
        """The ledger's time, as far as this process knows it without asking."""

    def run(self, events: Sequence[Event], fate: Fate) -> list[Outcome] | None:
        """One group; None where its fate leaves no answer."""

    def balances(self, accounts: Sequence[Account]) -> list[Balance]: ...

    def register(self, owner: str) -> None: ...

    def expire(self) -> int: ...

    def lose_life(self) -> None:
        """Let others take the owner for dead while it lives."""

    def tidy(self) -> None: ...

    def end(self) -> None:
        """End with whatever is open."""


class Engine(Protocol):
    """A store of one kind: an empty ledger, whose clock the test moves; also back, where it is one of ours."""

    clock: FakeClock
    goes_back: bool
    fates: tuple[Fate, ...]

    def open(self, owner: str) -> Seat: ...

    def checked(self) -> Checked: ...

    def open_holds(self) -> set[str]: ...

    def close(self) -> None: ...


@dataclass
class Held:
    """One hold there ever was. `seat` is the process that made it."""

    purse: Purse
    counters: Purse
    amount: int
    at: int
    until: int
    owner: str
    seat: Seat | None
    claim: tuple[str, str] | None
    more: int = 0
    end: str = ""
    cost: int = 0
    refunded: int = 0
    annulled: bool = False

    @property
    def all(self) -> int:
        return self.amount + self.more


@dataclass
class Model:
    """What the ledger should be, the slow way: every figure is a sum over all that there ever was."""

    holds: dict[str, Held] = field(default_factory=dict)
    grants: list[tuple[Key, int, int]] = field(default_factory=list)
    paced: dict[str, list[int]] = field(default_factory=dict)
    claims: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    seen: list[tuple[Account, int, int]] = field(default_factory=list)
    accounts: dict[Key, Account] = field(default_factory=dict)
    payments: dict[str, Key] = field(default_factory=dict)
    last: int = 0
    """When the last entry was made."""

    def of(self, account: Account, at: int | None) -> Iterator[Held]:
        """The holds on an account; with `at`, those in the window that holds that instant."""
        for held in self.holds.values():
            if account in held.purse + held.counters and (at is None or _same(account, held.at, at)):
                yield held

    def spent(self, account: Account, at: int | None = None) -> int:
        if account.unit == "call":
            return CALL * self.calls(account, at)
        return sum(held.cost - held.refunded for held in self.of(account, at))

    def held(self, account: Account, at: int | None = None) -> int:
        return sum(CALL if account.unit == "call" else held.all for held in self.of(account, at) if not held.end)

    def calls(self, account: Account, at: int | None = None) -> int:
        return sum(held.end in ("settle", "expire") and not held.annulled for held in self.of(account, at))

    def granted(self, account: Account, at: int) -> int:
        return sum(amount for key, when, amount in self.grants if key == account[:2] and _same(account, when, at))

    def observed(self, account: Account, at: int | None = None) -> int:
        return sum(
            amount for where, when, amount in self.seen if where == account and (at is None or _same(account, when, at))
        )

    def left(self, account: Account, at: int, *, seen: bool = False) -> int | None:
        if account.limit is None:
            return None
        left = account.limit + self.granted(account, at) - self.spent(account, at) - self.held(account, at)
        return left - self.observed(account, at) if seen else left

    def open_of(self, owner: str) -> list[str]:
        return [name for name, held in self.holds.items() if held.owner == owner and not held.end]

    def overdue(self, at: int) -> list[str]:
        return [name for name, held in self.holds.items() if not held.end and 0 < held.until <= at]

    def expect(self, event: Event, owner: str, at: int, seat: Seat | None = None) -> str:
        """What the event should come to at ledger time `at`. Changes the model accordingly."""
        match event:
            case Reserve():
                return self._reserve(event, owner, at, seat)
            case Extend(name, amount):
                return self._extend(name, amount, at)
            case Open(account):
                if account[:2] not in self.accounts:
                    self.accounts[account[:2]] = account
                    self.last = at
                return self._granted((account,), at)
            case Grant(key, amount):
                return self._grant(key, amount, at)
            case Settle(name, amount):
                return self._end(name, "settle", amount, at)
            case Void(name):
                return self._end(name, "void", 0, at)
            case Expire(name):
                return self._end(name, "expire", None, at)
            case Refund(name, amount):
                return self._refund(name, amount, at)
            case Annul(name):
                return self._annul(name, at)
            case Pay(hash_, account, _):
                return self._pay(hash_, account, at)
            case Observe():
                return self._observe(event, at)

    def _observe(self, event: Observe, at: int) -> str:
        """Observed calls are refused as if all before them had been enforced, and counted all the same."""
        rates = tuple(rate._replace(id=f"observed {rate.id}") for rate in event.rates)
        told = self._short(event.accounts, event.quote, at, seen=True)
        told = told or self._short(event.counters, CALL, at, seen=True) or self._too_fast(rates, at)
        granted = told is None and not event.refusal
        for accounts, amount in ((event.accounts, event.cost), (event.counters, CALL)):
            for account in accounts:
                if not granted and account[:2] not in self.accounts:
                    break
                self.accounts[account[:2]] = account
                self.seen.append((account, at, amount))
                self.last = at
        if event.refusal:
            return "observed"
        if granted:
            for rate in rates:
                self.paced.setdefault(rate.id, []).append(at)
            lefts = [left for each in event.accounts if (left := self.left(each, at, seen=True)) is not None]
            least = min(lefts, default=None)
            # What is left is told as of the hold, which is of the quote.
            told = "granted" if least is None else f"granted, {least + event.cost - event.quote} left"
        return f"observed: {str(told).removeprefix('observed ')}"

    def _pay(self, hash_: str, account: Account, at: int) -> str:
        if self.payments.get(hash_) != account[:2]:
            if hash_ in self.payments or account[:2] in self.accounts:
                return "conflict"
            self.payments[hash_] = account[:2]
            self.accounts[account[:2]] = account
            self.last = at
        return self._granted((account,), at)

    def _granted(self, purse: Purse, at: int) -> str:
        lefts = [left for account in purse if (left := self.left(account, at)) is not None]
        return f"granted, {min(lefts)} left" if lefts else "granted"

    def _short(self, accounts: Purse, amount: int, at: int, *, seen: bool = False) -> str | None:
        for account in accounts:
            left = self.left(account, at, seen=seen)
            if left is not None and left < amount:
                spent = self.spent(account, at) + (self.observed(account, at) if seen else 0)
                of = (spent, self.held(account, at), (account.limit or 0) + self.granted(account, at))
                spent, held, limit = (figure(account, n) for n in of)
                until = f" until {clock_text(_end_of(account.period, at))}" if account.period else ""
                return f"{account.id} is short: {spent} spent, {held} held of {limit}{until}"
        return None

    def _reserve(self, event: Reserve, owner: str, at: int, seat: Seat | None) -> str:
        name, purse, amount, _, counters, rates, claim, until = event
        before = self.holds.get(name)
        if before is not None:
            same = (before.purse, before.counters, before.amount) == (purse, counters, amount)
            return self._granted(purse, before.at) if same else "conflict"
        if amount < 1 if purse else amount or not (counters or rates):
            return "conflict"
        repeats = self._repeats(claim, at)
        if repeats is not None:
            return repeats
        refused = self._short(purse, amount, at) or self._short(counters, CALL, at) or self._too_fast(rates, at)
        if refused is not None:
            return refused
        for rate in rates:
            self.paced.setdefault(rate.id, []).append(at)
        if not purse + counters:
            return "granted"
        self.holds[name] = Held(purse, counters, amount, at, until, owner, seat, claim and claim[:2])
        self.accounts.update((account[:2], account) for account in purse + counters)
        self.last = at
        if claim is not None:
            self.claims[claim[:2]] = name, at
        return self._granted(purse, at)

    def _repeats(self, claim: Claim | None, at: int) -> str | None:
        name, since = self.claims.get(claim[:2], ("", at)) if claim is not None else ("", at)
        if not name or at - since >= DAY:
            return None
        return f"repeats {name}, {self.holds[name].end or 'running'}"

    def _too_fast(self, rates: tuple[Rate, ...], at: int) -> str | None:
        for rate in rates:
            step = -(-SECONDS[rate.period] * SECOND // rate.calls)
            level, since = 0, 0
            for when in self.paced.get(rate.id, []):
                level, since = max(0, level - (when - since)) + step, when
            # What is in the bucket beyond all calls but one has to leak out first.
            wait = max(0, level - (at - since)) - (rate.calls - 1) * step
            if wait > 0:
                return f"{rate.id} is too fast until {clock_text(at + wait)}"
        return None

    def _extend(self, name: str, amount: int, at: int) -> str:
        held = self.holds.get(name)
        if held is None:
            return "unknown"
        if held.end:
            return f"late, after {held.end}"
        if not held.purse or amount < 1:
            return "conflict"
        short = self._short(held.purse, amount, held.at)
        if short is not None:
            return short
        held.more += amount
        self.last = at
        return self._granted(held.purse, held.at)

    def _grant(self, key: Key, amount: int, at: int) -> str:
        account = self.accounts.get(key)
        if account is None:
            return "unknown"
        if account.limit is None or amount < 1:
            return "conflict"
        self.grants.append((key, at, amount))
        self.last = at
        return f"granted, {self.left(account, at)} left"

    def _end(self, name: str, how: str, cost: int | None, at: int) -> str:
        held = self.holds.get(name)
        if held is None:
            return "unknown"
        cost = held.all if cost is None else cost
        if cost > held.all:
            return "conflict"
        if held.end and (held.end, held.cost) == (how, cost):
            return f"{how} {cost}"
        self.last = at
        if held.end:
            return f"late, after {held.end}"
        held.end, held.cost = how, cost
        if how == "void" and held.claim is not None and self.claims.get(held.claim, ("", 0))[0] == name:
            del self.claims[held.claim]
        return f"{how} {cost}"

    def _refund(self, name: str, amount: int | None, at: int) -> str:
        held = self.holds.get(name)
        if held is None:
            return "unknown"
        left = held.cost - held.refunded
        amount = left if amount is None else amount
        if not 0 < amount <= left:
            return "conflict"
        held.refunded += amount
        self.last = at
        return f"refund {amount}"

    def _annul(self, name: str, at: int) -> str:
        held = self.holds.get(name)
        if held is None:
            return "unknown"
        if held.end not in ("settle", "expire"):
            return "conflict"
        left, held.refunded = held.cost - held.refunded, held.cost
        if not held.annulled:
            held.annulled, self.last = True, at
        return f"annul {left}"


def _same(account: Account, one: int, other: int) -> bool:
    return account.period is None or starts(account.period, one) == starts(account.period, other)


def _end_of(period: str, at: int) -> int:
    """The start of the next window: the first that another instant lies in, by steps of an hour."""
    start = then = starts(period, at)
    while starts(period, then) == start:
        then += 3600 * SECOND
    return then
