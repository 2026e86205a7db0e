"""The auditor of a simulation: keeps books of its own, from the entries alone, and looks at every step.

It shares no code with the rules: windows are the calendar's, a rate is a bucket that leaks, sums are added up again.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.simulation_store import Rows, Step
from tolsey.ledger.books import Window
from tolsey.ledger.events import (
    Entry,
    Extend,
    Granted,
    Key,
    Kind,
    Open,
    RateLimited,
    Repeated,
    Reserve,
    Resolved,
    Settle,
    Shortfall,
    Void,
)
from tolsey.testing import SECOND
from tolsey.token.chain import Account, Rate

CALL = 1_000_000_000
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


def starts(period: str, at: int) -> int:
    """When the window that holds an instant begins."""
    moment = datetime.fromtimestamp(at // SECOND, UTC).replace(minute=0, second=0)
    if period != "hour":
        moment = moment.replace(hour=0)
    if period == "week":
        moment -= timedelta(days=moment.weekday())
    if period == "month":
        moment = moment.replace(day=1)
    return int(moment.timestamp()) * SECOND


@dataclass
class Stands:
    """An account, or one of its windows."""

    spent: int = 0
    held: int = 0
    granted: int = 0
    calls: int = 0


@dataclass
class Audited:
    """One hold, as its entries tell."""

    chain: list[Account]
    counters: list[Account]
    amount: int
    at: int
    owner: int
    until: int
    end: Entry | None = None
    refunded: int = 0
    late: bool = False


class Auditor:
    """Told of every group. Raises `AssertionError` at the first thing that must not be.

    `may_expire` says whether an owner may be taken for dead at this moment.
    """

    def __init__(self, rows: Callable[[], Rows], may_expire: Callable[[int], bool]) -> None:
        self._rows, self._may_expire = rows, may_expire
        self._accounts: dict[Key, Account] = {}
        self.life: defaultdict[Key, Stands] = defaultdict(Stands)
        self.windows: defaultdict[tuple[Key, int], Stands] = defaultdict(Stands)
        self.holds: dict[str, Audited] = {}
        self._levels: dict[str, tuple[int, int]] = {}
        self._claims: dict[tuple[str, str], str] = {}
        self.shortfalls = 0

    def committed(self, at: int, owner: int, steps: list[Step]) -> None:
        """One group."""
        touched: set[Key] = set()
        for event, outcome, entries in steps:
            if isinstance(event, Reserve):
                self._accounts.update((account[:2], account) for account in event.accounts + event.counters)
                if not any(entry.kind is Kind.RESERVE for entry in entries):
                    self._not_reserved(event, outcome, at)
                self._rated(event, outcome, at, bool(entries))
            elif isinstance(event, Open):
                self._accounts[event.account[:2]] = event.account
            elif isinstance(outcome, Shortfall):
                assert isinstance(event, Extend)
                self._short(outcome, event.amount, self.holds[event.hold].at)
            for entry in entries:
                touched.update(self._enter(entry, event))
            if isinstance(outcome, Granted) and isinstance(event, Reserve) and entries:
                left = [self._left(account, at) for account in event.accounts if account.limit is not None]
                assert outcome.remaining == min(left, default=None), f"{event.hold}: {outcome} of {left}"
            if isinstance(outcome, Resolved) and isinstance(event, Settle | Void):
                end = self.holds[event.hold].end
                assert end is not None
                assert (end.kind, end.amount) == (outcome.kind, outcome.amount)
        for key in touched:
            self._compare(key)

    def _not_reserved(self, event: Reserve, outcome: object, at: int) -> None:
        """Nothing was held. Was that right?"""
        if isinstance(outcome, Shortfall):
            self._short(outcome, CALL if outcome.account in event.counters else event.amount, at)
        elif isinstance(outcome, Repeated):
            assert self._claims.get(outcome.claim[:2]) == outcome.claimed.hold, "a key was said to be used, and is not"
        elif isinstance(outcome, Granted):
            assert event.hold in self.holds or not (event.accounts or event.counters), f"{event.hold} is not on disk"

    def _short(self, outcome: Shortfall, amount: int, at: int) -> None:
        """A refusal for want of money, or of calls: it was not there."""
        account = outcome.account
        stands = self._stands(account, at)
        assert account.limit is not None
        assert (outcome.spent, outcome.held, outcome.limit) == (
            stands.spent,
            stands.held,
            account.limit + stands.granted,
        ), f"{outcome} where it stands at {stands}"
        assert self._left(account, at) < amount, f"{account.id} was said to be short, and was not"
        self.shortfalls += 1

    def _rated(self, event: Reserve, outcome: object, at: int, entered: bool) -> None:
        if isinstance(outcome, RateLimited):
            rate = outcome.rate
            assert self._leaked(rate, at) > (rate.calls - 1) * self._step(rate), f"{rate.id} was not too fast"
        elif isinstance(outcome, Granted) and (entered or not (event.accounts or event.counters)):
            for rate in event.rates:
                level = self._leaked(rate, at)
                assert level <= (rate.calls - 1) * self._step(rate), f"{rate.id} was too fast"
                self._levels[rate.id] = level + self._step(rate), at

    def _step(self, rate: Rate) -> int:
        return -(-SECONDS[rate.period] * SECOND // rate.calls)

    def _leaked(self, rate: Rate, at: int) -> int:
        level, since = self._levels.get(rate.id, (0, at))
        return max(0, level - (at - since))

    def _stands(self, account: Account, at: int) -> Stands:
        if account.period is None:
            return self.life[account[:2]]
        return self.windows[account[:2], starts(account.period, at)]

    def _left(self, account: Account, at: int) -> int:
        stands = self._stands(account, at)
        return (account.limit or 0) + stands.granted - stands.spent - stands.held

    def _enter(self, entry: Entry, event: object) -> list[Key]:
        if entry.hold is None:
            return self._granted(entry)
        if entry.kind is Kind.RESERVE:
            assert isinstance(event, Reserve)
            assert entry.hold not in self.holds, f"{entry.hold} was reserved twice"
            hold = self.holds[entry.hold] = Audited(
                list(event.accounts), list(event.counters), 0, entry.at, entry.owner, entry.until or 2**63
            )
            if event.claim is not None:
                assert event.claim[:2] not in self._claims, f"the key {event.claim.key} pays twice"
                self._claims[event.claim[:2]] = entry.hold
        hold = self.holds[entry.hold]
        match entry.kind:
            case Kind.RESERVE | Kind.EXTEND:
                assert hold.end is None, f"{entry.hold} was extended after its end"
                hold.amount += entry.amount
                calls = CALL if entry.kind is Kind.RESERVE else 0
                self._move(hold, entry.amount, calls, 0, 0)
            case Kind.SETTLE | Kind.VOID | Kind.EXPIRE:
                self._end(hold, entry)
            case Kind.REFUND | Kind.ANNUL:
                assert hold.end is not None
                hold.refunded += entry.amount
                assert hold.refunded <= hold.end.amount, f"{entry.hold} was given back more than it paid"
                self._move(hold, 0, 0, -entry.amount, -1 if entry.kind is Kind.ANNUL else 0)
            case Kind.LATE:
                assert hold.end is not None, f"{entry.hold} was late while it was open"
                hold.late = True
        return [account[:2] for account in hold.chain + hold.counters]

    def _end(self, hold: Audited, entry: Entry) -> None:
        assert hold.end is None, f"{entry.hold} was resolved twice"
        assert 0 <= entry.amount <= hold.amount
        hold.end = entry
        if entry.kind is Kind.EXPIRE:
            assert entry.amount == hold.amount
            assert hold.until <= entry.at or self._may_expire(hold.owner), f"{entry.hold} was expired while it lived"
        if entry.kind is Kind.VOID:
            assert entry.amount == 0
            self._claims = {key: name for key, name in self._claims.items() if name != entry.hold}
        served = entry.kind is not Kind.VOID
        self._move(hold, -hold.amount, -CALL, entry.amount, int(served))

    def _granted(self, entry: Entry) -> list[Key]:
        assert entry.leaf is not None
        if entry.kind is Kind.GRANT:
            self._stands(self._accounts[entry.leaf], entry.at).granted += entry.amount
        return [] if entry.kind is Kind.OPEN else [entry.leaf]

    def _move(self, hold: Audited, held: int, held_calls: int, spent: int, calls: int) -> None:
        for accounts, more_held, more_spent in (
            (hold.chain, held, spent),
            (hold.counters, held_calls, calls * CALL),
        ):
            for account in accounts:
                life = self.life[account[:2]]
                for stands in [life] if account.period is None else [life, self._stands(account, hold.at)]:
                    stands.held += more_held
                    stands.spent += more_spent
                    stands.calls += calls
                    assert stands.held >= 0
                    assert stands.spent >= 0
                # Law 2.
                assert account.limit is None or self._left(account, hold.at) >= 0, (
                    f"{account.id} passed its limit: {self._stands(account, hold.at)} of {account.limit}"
                )

    def _compare(self, key: Key) -> None:
        """sum(entries) == balances"""
        rows, account = self._rows(), self._accounts[key]
        balance, life = rows.balances[key], self.life[key]
        assert (balance.spent, balance.held, balance.calls) == (life.spent, life.held, life.calls), (
            f"{key[0]} stands at {balance}, and its entries add up to {life}"
        )
        if account.period is None:
            assert balance.granted == life.granted, f"{key[0]} was granted {balance.granted}"
            return
        for start, found in rows.windows.get(key, {}).items():
            stands = self.windows[key, start]
            assert found == Window(stands.spent, stands.held, stands.granted), (
                f"the window of {key[0]} from {start} stands at {found}, and its entries add up to {stands}"
            )
        assert sum(w.spent + w.held for w in rows.windows.get(key, {}).values()) == life.spent + life.held
