"""The ledger against a plain model: several workers on one store that spend, fail, die, are taken for dead and recover.

After every step each balance is what the model says, `fsck` finds no difference, and no account has passed its limit.
The model and what it asks of a store are in `model.py`; another store is put in its place by `engine`.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.ledgers import Ledgers, open_holds, owner_file, say
from tests.model import Engine, Fate, Held, Model, Purse, Seat
from tests.reading import fsck
from tolsey.errors import LedgerUnavailable
from tolsey.ledger.books import Balance
from tolsey.ledger.events import (
    Annul,
    Claim,
    Event,
    Expire,
    Extend,
    Grant,
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
from tolsey.testing import SECOND, FaultyLedger
from tolsey.token.chain import Account, Rate
from tolsey.units import NANO


class SqliteSeat:
    """A worker on the file."""

    fenced = False

    def __init__(self, engine: "OnSqlite", ledger: FaultyLedger, owner: str) -> None:
        self.owner = owner
        self._engine, self._ledger = engine, ledger

    def time(self) -> int:
        return self._ledger.time(self._engine.clock())

    def run(self, events: Sequence[Event], fate: Fate) -> list[Outcome] | None:
        now = self._engine.clock()
        if fate == "done":
            return self._ledger.run(events, now)
        if fate == "rolled back":
            self._ledger.turn.take()
            self._ledger.stage(events, now)
            self._ledger.roll_back()
            self._ledger.turn.give()
            return None
        self._ledger.fail("commit", lost=fate == "answer lost")
        with pytest.raises(LedgerUnavailable):
            self._ledger.run(events, now)
        return None

    def balances(self, accounts: Sequence[Account]) -> list[Balance]:
        return self._ledger.balances(accounts, self._engine.clock())

    def register(self, owner: str) -> None:
        self.owner = owner
        self._ledger.register(owner, self._engine.clock())

    def expire(self) -> int:
        return self._ledger.expire(self._engine.clock())

    def lose_life(self) -> None:
        owner_file(self._engine.path, self.owner).unlink(missing_ok=True)

    def tidy(self) -> None:
        self._ledger.checkpoint()

    def end(self) -> None:
        self._ledger.close()


class OnSqlite:
    """Ledgers on one file."""

    goes_back = True
    fates: tuple[Fate, ...] = ("done", "rolled back", "commit fails", "answer lost")

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tolsey-model-"))
        self.path = self._folder / "ledger.db"
        self._ledgers = Ledgers(self.path)
        self.clock = self._ledgers.clock

    def open(self, owner: str) -> Seat:
        return SqliteSeat(self, self._ledgers.open(owner), owner)

    def checked(self) -> Checked:
        return fsck(self.path)

    def open_holds(self) -> set[str]:
        return open_holds(self.path)

    def close(self) -> None:
        self._ledgers.__exit__(None, None, None)
        shutil.rmtree(self._folder)


class Plan(NamedTuple):
    """One event in the making: `which` and `amount` are taken modulo what there is."""

    what: Literal[
        "reserve",
        "observe",
        "again",
        "extend",
        "settle",
        "void",
        "expire",
        "open",
        "ghost",
        "grant",
        "refund",
        "annul",
        "pay",
    ]
    which: int
    amount: int


PLANS = st.builds(
    Plan,
    st.sampled_from(
        ["reserve"] * 8
        + ["settle"] * 4
        + ["void"] * 2
        + ["extend"] * 2
        + ["observe", "expire", "again", "open", "ghost", "grant", "refund", "annul", "pay"]
    ),
    st.integers(0, 1000),
    st.integers(0, 12),
)
LIMITS = st.lists(st.none() | st.integers(0, 40), min_size=7, max_size=7)
PERIODS = st.lists(st.sampled_from([None, "hour", "day"]), min_size=10, max_size=10)
WHICH = st.integers(0, 1000)
MOST_WORKERS = 4
RATES = (Rate("fast", None, 3, "second"), Rate("slow", None, 5, "hour"))


class LedgerMachine(RuleBasedStateMachine):
    """Ledgers of one kind of store against the model."""

    engine: Callable[[], Engine] = OnSqlite

    def __init__(self) -> None:
        super().__init__()
        self.store = type(self).engine()
        self.model = Model()
        self.purses: list[Purse] = []
        self.counters: list[Purse] = [()]
        self.workers: list[Seat] = []
        self.dead: set[str] = set()
        self.names = 0
        self.steps = 0

    @initialize(limits=LIMITS, parents=st.lists(st.integers(0, 5), min_size=7, max_size=7), periods=PERIODS)
    def begin(self, limits: list[int | None], parents: list[int], periods: list[str | None]) -> None:
        """Two forests, in two units and with the same ids, and a chain of counters."""
        for n, (limit, parent) in enumerate(zip(limits, parents, strict=True)):
            unit, first = ("USD", 0) if n < 4 else ("sat", 4)
            above = self.purses[first + parent % (n - first)] if n > first and parent else ()
            period = None if limit is None else periods[n]
            account = Account(f"a{n - first}", unit, above[-1].id if above else None, None, limit, period)
            self.purses.append((*above, account))
        for n, most in enumerate((9, 6, 3)):
            above = self.counters[-1]
            counter = Account(f"c{n}", "call", above[-1].id if above else None, None, most * NANO, periods[7 + n])
            self.counters.append((*above, counter))
        self.start()
        self.start()

    @precondition(lambda self: len(self.workers) < MOST_WORKERS)
    @rule()
    def start(self) -> None:
        self.workers.append(self.store.open(self._name("owner")))

    @rule(which=WHICH, plans=st.lists(PLANS, min_size=1, max_size=5), fate=st.integers(0, 8))
    def group(self, which: int, plans: list[Plan], fate: int) -> None:
        worker = self._worker(which)
        events = self._events(worker, plans)
        fates = self.store.fates
        self._run(worker, events, fates[fate] if fate < len(fates) else "done")

    def _run(self, worker: Seat, events: list[Event], fate: Fate) -> None:
        at = max(worker.time(), self.model.last)
        expected = None
        if fate in ("done", "answer lost"):
            expected = [self.model.expect(event, worker.owner, at, worker) for event in events]
        outcomes = worker.run(events, fate)
        if outcomes is not None:
            assert [say(outcome) for outcome in outcomes] == expected

    @rule(which=WHICH)
    def stop(self, which: int) -> None:
        """A worker ends with its calls under way: what it holds is for others to find."""
        worker = self.workers.pop(which % len(self.workers))
        worker.end()
        self.dead.add(worker.owner)
        if not self.workers:
            self.start()

    @rule(which=WHICH, finder=st.none() | WHICH)
    def take_for_dead(self, which: int, finder: int | None) -> None:
        """A living worker loses its sign of life. It goes on, and may settle what others have expired by then."""
        worker = self._worker(which)
        worker.lose_life()
        self.dead.add(worker.owner)
        if finder is not None:
            self.recover(finder)

    @rule(which=WHICH)
    def begin_anew(self, which: int) -> None:
        """A worker draws a new owner; what the old one holds is for others to find."""
        self._begin_anew(self.workers[which % len(self.workers)])

    def _begin_anew(self, worker: Seat) -> None:
        self.dead.add(worker.owner)
        worker.register(self._name("owner"))

    @rule(which=WHICH)
    def recover(self, which: int) -> None:
        """What the dead hold is expired, and what is open beyond its time."""
        worker = self._worker(which)
        at = max(worker.time(), self.model.last)
        found = dict.fromkeys(self.model.overdue(worker.time()))
        found.update((name, None) for owner in self.dead - {worker.owner} for name in self.model.open_of(owner))
        for name in found:
            self.model.expect(Expire(name), worker.owner, at)
        assert worker.expire() == len(found)

    @rule(which=WHICH)
    def tidy(self, which: int) -> None:
        self._worker(which).tidy()

    @rule(seconds=st.integers(-3600, 3600) | st.integers(0, 5) | st.just(86_400))
    def move_the_clock(self, seconds: int) -> None:
        self.store.clock.advance(seconds if self.store.goes_back else abs(seconds))

    @invariant()
    def every_balance_is_as_the_model_says(self) -> None:
        accounts = [purse[-1] for purse in (*self.purses, *self.counters) if purse]
        if not self.workers:
            return
        self.steps += 1
        worker = self._worker(self.steps)
        for account, balance in zip(accounts, worker.balances(accounts), strict=True):
            at = None if account.period is None else worker.time()
            granted = self.model.granted(account, worker.time())
            assert (balance.spent, balance.held, balance.calls, balance.granted, balance.observed) == (
                self.model.spent(account, at),
                self.model.held(account, at),
                self.model.calls(account),
                granted,
                self.model.observed(account, at),
            )
            assert account.limit is None or balance.spent + balance.held <= account.limit + granted

    @invariant()
    def fsck_finds_no_difference(self) -> None:
        if self.workers and self.steps % 4 == 0:
            checked = self.store.checked()
            assert checked.difference is None
            assert checked.open_holds == sum(not held.end for held in self.model.holds.values())
            assert self.store.open_holds() == {name for name, held in self.model.holds.items() if not held.end}

    def teardown(self) -> None:
        self.store.close()

    def _worker(self, which: int) -> Seat:
        """One that may write."""
        worker = self.workers[which % len(self.workers)]
        if worker.fenced:
            self._begin_anew(worker)
        return worker

    def _name(self, what: str) -> str:
        self.names += 1
        return f"{what}-{self.names}"

    def _events(self, worker: Seat, plans: list[Plan]) -> list[Event]:
        events: list[Event] = []
        known = {name: Reserve(name, held.purse, held.amount, counters=held.counters) for name, held in self._recent()}
        mine = {name for name, held in self._recent() if held.seat is worker}
        for what, which, amount in plans:
            purse = self.purses[which % len(self.purses)]
            old = list(known)[-1 - which % len(known)] if known else "nobody's"
            if what == "again" and known:
                events.append(known[old] if which % 3 else known[old]._replace(amount=amount))
            elif what == "reserve":
                event = self._reserve(which, amount, purse)
                known[event.hold] = event
                mine.add(event.hold)
                events.append(event)
            elif what == "open":
                events += [Open(account) for account in purse]
            elif what == "pay":
                bought = Account(f"bought {which % 5}", "sat", None, "bought", 100)
                events.append(Pay(f"{amount % 7}", bought, 1 + amount, ""))
            elif what == "extend" and (old in mine or old not in known):
                events.append(Extend(old, amount))
            elif what == "observe":
                asked = self._reserve(which, max(amount, 1), purse)
                refusal = "caveat_refused" if which % 5 == 0 else ""
                quote = asked.amount
                cost = amount // 2 if asked.accounts else 0
                events.append(
                    Observe(asked.hold, asked.accounts, quote, cost, "", asked.counters, asked.rates, refusal)
                )
            elif what == "grant":
                some = (purse + self.counters[which % 4])[-1]
                events.append(Grant(some[:2], amount * (NANO if some.unit == "call" else 1), ""))
            else:
                events.append(_end(what, old, amount))
        return events

    def _recent(self) -> list[tuple[str, Held]]:
        return list(self.model.holds.items())[-12:]

    def _reserve(self, which: int, amount: int, purse: Purse) -> Reserve:
        """A call: priced or free, on some counters and rates, with a key or without, now and then with little time."""
        counters = self.counters[which // 7 % 4] if which % 2 else ()
        rates = tuple(rate for n, rate in enumerate(RATES) if which // 5 % (3 + n) == 0)
        claim = Claim("link", f"key {which % 5}", "request") if which % 3 == 0 else None
        until = self.store.clock() + (which % 60) * SECOND if which % 4 == 0 else 0
        if which % 11 == 0:
            purse, amount = (), 0
        return Reserve(self._name("hold"), purse, amount, "", counters, rates, claim, until)


def _end(what: str, hold: str, amount: int) -> Event:
    match what:
        case "settle":
            return Settle(hold, amount)
        case "void":
            return Void(hold)
        case "refund":
            return Refund(hold, None if amount % 2 else amount, "")
        case "annul":
            return Annul(hold, "")
    return Expire("nobody's" if what == "ghost" else hold)


def hold_against_the_model(machine: type[LedgerMachine], examples: int) -> None:
    """Run a machine."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            phases=set(Phase) - {Phase.explain},
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


@pytest.mark.parametrize("examples", [25, pytest.param(100, marks=pytest.mark.slow)])
def test_the_ledger_is_as_the_model_says(examples: int) -> None:
    hold_against_the_model(LedgerMachine, examples)
