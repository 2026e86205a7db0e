"""The ledger against a plain model: several workers on one file that spend, fail, die, are taken for dead and recover.

The model keeps a list of holds and adds them up; it shares no code with the rules. After every step each balance is
what the model says, `fsck` finds no difference, and no account has passed its limit.
"""

import shutil
import tempfile
from dataclasses import dataclass, field
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

from tests.ledgers import Ledgers, open_holds, owner_file, replay, say
from tolsey.errors import LedgerUnavailable
from tolsey.ledger.events import Event, Expire, Open, Reserve, Settle, Void
from tolsey.store.reports import fsck
from tolsey.testing import NOON, FaultyLedger
from tolsey.token.chain import Account

Purse = tuple[Account, ...]


@dataclass
class Held:
    purse: Purse
    amount: int
    owner: str
    end: str = ""
    cost: int = 0


@dataclass
class Model:
    """What the ledger should be, the slow way: every figure is a sum over all holds there ever were."""

    holds: dict[str, Held] = field(default_factory=dict)

    def of(self, account: Account) -> list[Held]:
        return [held for held in self.holds.values() if account in held.purse]

    def spent(self, account: Account) -> int:
        return sum(held.cost for held in self.of(account))

    def held(self, account: Account) -> int:
        return sum(held.amount for held in self.of(account) if not held.end)

    def calls(self, account: Account) -> int:
        return sum(held.end in ("settle", "expire") for held in self.of(account))

    def left(self, account: Account) -> int | None:
        return None if account.limit is None else account.limit - self.spent(account) - self.held(account)

    def open_of(self, owner: str) -> list[str]:
        return [name for name, held in self.holds.items() if held.owner == owner and not held.end]

    def expect(self, event: Event, owner: str) -> str:
        """What the event should come to. Changes the model accordingly."""
        match event:
            case Reserve(name, purse, amount):
                return self._reserve(name, purse, amount, owner)
            case Open(account):
                return self._granted((account,))
            case Settle(name, amount):
                return self._end(name, "settle", amount)
            case Void(name):
                return self._end(name, "void", 0)
            case Expire(name):
                return self._end(name, "expire", None)
            case _:
                raise AssertionError(event)

    def _granted(self, purse: Purse) -> str:
        lefts = [left for account in purse if (left := self.left(account)) is not None]
        return f"granted, {min(lefts)} left" if lefts else "granted"

    def _reserve(self, name: str, purse: Purse, amount: int, owner: str) -> str:
        before = self.holds.get(name)
        if before is not None:
            return self._granted(purse) if (before.purse, before.amount) == (purse, amount) else "conflict"
        if amount < 1:
            return "conflict"
        for account in purse:
            left = self.left(account)
            if left is not None and left < amount:
                spent, held = self.spent(account), self.held(account)
                return f"{account.id} is short: {spent} spent, {held} held of {account.limit}"
        self.holds[name] = Held(purse, amount, owner)
        return self._granted(purse)

    def _end(self, name: str, how: str, cost: int | None) -> str:
        held = self.holds.get(name)
        if held is None:
            return "unknown"
        cost = held.amount if cost is None else cost
        if cost > held.amount:
            return "conflict"
        if held.end and (held.end, held.cost) != (how, cost):
            return f"late, after {held.end}"
        held.end, held.cost = how, cost
        return f"{how} {cost}"


class Plan(NamedTuple):
    """One event in the making: `which` and `amount` are taken modulo what there is."""

    what: Literal["reserve", "again", "settle", "void", "expire", "open", "ghost"]
    which: int
    amount: int


Fate = Literal["done", "rolled back", "commit fails", "answer lost"]

PLANS = st.builds(
    Plan,
    st.sampled_from(["reserve"] * 6 + ["settle"] * 4 + ["void"] * 2 + ["expire", "again", "open", "ghost"]),
    st.integers(0, 1000),
    st.integers(0, 12),
)
FATES = st.sampled_from(["done"] * 6 + ["rolled back", "commit fails", "answer lost"])
LIMITS = st.lists(st.none() | st.integers(0, 40), min_size=7, max_size=7)
WHICH = st.integers(0, 1000)
MOST_WORKERS = 4


@dataclass
class Worker:
    ledger: FaultyLedger
    owner: str


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tolsey-model-"))
        self.path = self.folder / "ledger.db"
        self.ledgers = Ledgers(self.path)
        self.model = Model()
        self.purses: list[Purse] = []
        self.workers: list[Worker] = []
        self.dead: set[str] = set()
        self.names = 0
        self.steps = 0

    @initialize(limits=LIMITS, parents=st.lists(st.integers(0, 5), min_size=7, max_size=7))
    def begin(self, limits: list[int | None], parents: list[int]) -> None:
        """Two forests, in two units and with the same ids."""
        for n, (limit, parent) in enumerate(zip(limits, parents, strict=True)):
            unit, first = ("USD", 0) if n < 4 else ("sat", 4)
            above = self.purses[first + parent % (n - first)] if n > first and parent else ()
            account = Account(f"a{n - first}", unit, above[-1].id if above else None, None, limit)
            self.purses.append((*above, account))
        self.start()
        self.start()

    @precondition(lambda self: len(self.workers) < MOST_WORKERS)
    @rule()
    def start(self) -> None:
        owner = self._name("owner")
        self.workers.append(Worker(self.ledgers.open(owner), owner))

    @rule(which=WHICH, plans=st.lists(PLANS, min_size=1, max_size=5), fate=FATES)
    def group(self, which: int, plans: list[Plan], fate: Fate) -> None:
        worker = self._worker(which)
        ledger = worker.ledger
        events = self._events(plans)
        if fate == "rolled back":
            ledger.turn.take()
            ledger.stage(events, self.ledgers.clock())
            ledger.roll_back()
            ledger.turn.give()
        elif fate == "commit fails":
            ledger.fail("commit")
            with pytest.raises(LedgerUnavailable):
                ledger.run(events, self.ledgers.clock())
        else:
            expected = [self.model.expect(event, worker.owner) for event in events]
            if fate == "answer lost":
                ledger.fail("commit", lost=True)
                with pytest.raises(LedgerUnavailable):
                    ledger.run(events, self.ledgers.clock())
            else:
                assert [say(outcome) for outcome in ledger.run(events, self.ledgers.clock())] == expected

    @rule(which=WHICH)
    def stop(self, which: int) -> None:
        """A worker ends with its calls under way: what it holds is for others to find."""
        worker = self.workers.pop(which % len(self.workers))
        worker.ledger.close()
        self.dead.add(worker.owner)
        if not self.workers:
            self.start()

    @rule(which=WHICH)
    def end_in_a_transaction(self, which: int) -> None:
        """A worker ends between `stage` and `commit`: nothing of the group was."""
        worker = self._worker(which)
        worker.ledger.turn.take()
        worker.ledger.stage(self._events([Plan("reserve", which, 1), Plan("settle", which, 0)]), self.ledgers.clock())
        self.stop(which)

    @rule(which=WHICH, finder=st.none() | WHICH)
    def take_for_dead(self, which: int, finder: int | None) -> None:
        """A living worker loses its sign of life. It goes on, and may settle what others have expired by then."""
        worker = self._worker(which)
        owner_file(self.path, worker.owner).unlink(missing_ok=True)
        self.dead.add(worker.owner)
        if finder is not None:
            self.recover(finder)

    @rule(which=WHICH)
    def begin_anew(self, which: int) -> None:
        """A worker draws a new owner; what the old one holds is for others to find."""
        worker = self._worker(which)
        self.dead.add(worker.owner)
        worker.owner = self._name("owner")
        worker.ledger.register(worker.owner, self.ledgers.clock())

    @rule(which=WHICH)
    def recover(self, which: int) -> None:
        worker = self._worker(which)
        found = [name for owner in self.dead - {worker.owner} for name in self.model.open_of(owner)]
        for name in found:
            self.model.expect(Expire(name), worker.owner)
        assert worker.ledger.expire(self.ledgers.clock()) == len(found)

    @rule(which=WHICH)
    def checkpoint(self, which: int) -> None:
        self._worker(which).ledger.checkpoint()

    @rule(seconds=st.integers(-3600, 3600))
    def move_the_clock(self, seconds: int) -> None:
        self.ledgers.clock.advance(seconds)

    @invariant()
    def every_balance_is_as_the_model_says(self) -> None:
        accounts = [purse[-1] for purse in self.purses]
        if not accounts:
            return
        self.steps += 1
        found = self._worker(self.steps).ledger.balances(accounts, NOON)
        for account, balance in zip(accounts, found, strict=True):
            assert (balance.spent, balance.held, balance.calls) == (
                self.model.spent(account),
                self.model.held(account),
                self.model.calls(account),
            )
            assert account.limit is None or balance.spent + balance.held <= account.limit

    @invariant()
    def fsck_finds_no_difference(self) -> None:
        if self.workers:
            checked = fsck(self.path)
            assert checked.difference is None
            assert checked.open_holds == sum(not held.end for held in self.model.holds.values())
            assert open_holds(self.path) == {name for name, held in self.model.holds.items() if not held.end}

    def teardown(self) -> None:
        try:
            if self.workers:
                replay(self.path)
        finally:
            self.ledgers.__exit__(None, None, None)
            shutil.rmtree(self.folder)

    def _worker(self, which: int) -> Worker:
        return self.workers[which % len(self.workers)]

    def _name(self, what: str) -> str:
        self.names += 1
        return f"{what}-{self.names}"

    def _events(self, plans: list[Plan]) -> list[Event]:
        known = {name: (held.purse, held.amount) for name, held in self.model.holds.items()}
        events: list[Event] = []
        for what, which, amount in plans:
            purse = self.purses[which % len(self.purses)]
            old = list(known)[-1 - which % min(len(known), 12)] if known else "nobody's"
            if what == "again" and known:
                purse, held = known[old]
                events.append(Reserve(old, purse, held if which % 3 else amount))
            elif what == "reserve":
                name = self._name("hold")
                known[name] = purse, amount
                events.append(Reserve(name, purse, amount))
            elif what == "open":
                events += [Open(account) for account in purse]
            elif what == "settle":
                events.append(Settle(old, amount))
            elif what == "void":
                events.append(Void(old))
            else:
                events.append(Expire("nobody's" if what == "ghost" else old))
        return events


def test_the_ledger_is_as_the_model_says() -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            phases=set(Phase) - {Phase.explain},
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
