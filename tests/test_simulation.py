"""The ledger in simulation: a few hundred seeds here, as many as there is time for with `make soak`.

A failure names its seed: `TOLSEY_SEED=n pytest tests/test_simulation.py` plays that run again, event by event. And what
is broken on purpose, in the rules, in the Book or in the store, is found within a few seeds.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.simulation import simulate
from tests.simulation_gateway import Violation
from tests.simulation_store import Apply, Flaws
from tolsey.ledger import rules
from tolsey.ledger.books import Balance, Books
from tolsey.ledger.events import Event, Extend, Granted, Outcome, Reserve, Settle, Void
from tolsey.ledger.windows import spacing
from tolsey.store.book import Book
from tolsey.units import NANO

SEED = os.environ.get("TOLSEY_SEED")
SEEDS = [int(SEED)] if SEED else range(100)

BOUND = 60
"""Within how many seeds a flaw has to be found."""


def test_every_promise_is_kept() -> None:
    granted = repeated = 0
    for seed in SEEDS:
        try:
            world = simulate(seed)
        except Exception as error:
            error.add_note(f"replay it with: TOLSEY_SEED={seed} pytest tests/test_simulation.py")
            raise
        granted += world.granted
        repeated += world.repeated
    assert SEED or granted > 20 * len(SEEDS), "the runs are worth something"
    assert SEED or repeated > len(SEEDS)


def test_the_same_seed_is_the_same_run() -> None:
    first, second = simulate(5), simulate(5)
    assert first.database.rows.journal == second.database.rows.journal
    assert first.loop.time() == second.loop.time()
    assert first.database.rows.journal != simulate(6).database.rows.journal


def settles_again(books: Books, event: Event, *, at: int, owner: int) -> Outcome:
    """A resolution that does not ask whether the hold is open."""
    if isinstance(event, Settle | Void) and (hold := books.holds.get(event.hold)) is not None and hold.resolution:
        hold.resolution = None
        rules._move(books, hold, hold.amount, NANO, 0, 0)
        books.balances[(hold.chain or hold.counters)[-1]].open += 1
    return rules.apply(books, event, at=at, owner=owner)


def windows_by_settling(books: Books, event: Event, *, at: int, owner: int) -> Outcome:
    """A hold that settles in the window that runs when it settles."""
    if isinstance(event, Settle | Void) and (hold := books.holds.get(event.hold)) is not None:
        hold.at = at
    return rules.apply(books, event, at=at, owner=owner)


def only_the_leaf(books: Books, event: Event, *, at: int, owner: int) -> Outcome:
    """A reserve that asks the last account alone, and charges all."""
    if not isinstance(event, Reserve) or len(event.accounts) < 2:
        return rules.apply(books, event, at=at, owner=owner)
    limits = {account[:2]: account for account in event.accounts[:-1]}
    for key, account in limits.items():
        balance = books.balances.setdefault(key, Balance(account))
        balance.account = account._replace(limit=None, period=None)
    unlimited = tuple(books.balances[key].account for key in limits)
    outcome = rules.apply(books, event._replace(accounts=(*unlimited, event.accounts[-1])), at=at, owner=owner)
    for key, account in limits.items():
        books.balances[key].account = account
    if isinstance(outcome, Granted):
        return outcome._replace(remaining=rules._remaining(books, tuple(a[:2] for a in event.accounts), at))
    return outcome


def extends_in_the_running_window(books: Books, event: Event, *, at: int, owner: int) -> Outcome:
    if isinstance(event, Extend) and (hold := books.holds.get(event.hold)) is not None and hold.resolution is None:
        hold.at = at
    return rules.apply(books, event, at=at, owner=owner)


def takes_no_claim(books: Books, event: Event, *, at: int, owner: int) -> Outcome:
    """An idempotency key that is looked at and not kept."""
    outcome = rules.apply(books, event, at=at, owner=owner)
    if isinstance(event, Reserve):
        books.dirty_claims.clear()
    return outcome


def forgets_rates(books: Books, event: Event, *, at: int, owner: int) -> Outcome:
    outcome = rules.apply(books, event, at=at, owner=owner)
    books.dirty_rates.clear()
    return outcome


def counts_a_call_too_many(books: Books, event: Event, *, at: int, owner: int) -> Outcome:
    """A burst that is one larger than the rate."""
    if isinstance(event, Reserve):
        for rate in event.rates:
            books.rates[rate.id] -= spacing(rate.calls, rate.period)
    return rules.apply(books, event, at=at, owner=owner)


def voids_keep_the_call(books: Books, event: Event, *, at: int, owner: int) -> Outcome:
    """A void that leaves the call counted."""
    outcome = rules.apply(books, event, at=at, owner=owner)
    if isinstance(event, Void) and (hold := books.holds.get(event.hold)) is not None and books.entries:
        for key in hold.counters:
            books.balances[key].spent += NANO
    return outcome


def a_stingy_limit(books: Books, event: Event, *, at: int, owner: int) -> Outcome:
    """A refusal for want of money that is there: the last nano-units of a limit are never lent."""
    if isinstance(event, Reserve) and event.hold not in books.holds:
        for account in event.accounts:
            balance = books.balances.get(account[:2])
            if balance is not None and account.limit and rules._left(books, balance, at) - event.amount in range(5):
                return rules._shortfall(books, balance, at)
    return rules.apply(books, event, at=at, owner=owner)


class ForgetsTheDoubtful(Book):
    """Does not void what may have been reserved unseen."""

    def _fail(self, error: Exception, resolutions: Any, reserves: Any, reads: Any) -> None:  # noqa: ANN401 - passed on
        before = list(self._resolutions)
        super()._fail(error, resolutions, reserves, reads)
        self._resolutions = [*resolutions, *before]


class LosesResolutions(Book):
    """Tries a settle once."""

    def _fail(self, error: Exception, resolutions: Any, reserves: Any, reads: Any) -> None:  # noqa: ANN401 - passed on
        super()._fail(error, [], reserves, reads)


class ForgetsTheGone(Book):
    """Leaves the hold of a caller that has gone."""

    def _give_back(self, event: Any, outcome: Outcome) -> None:  # noqa: ANN401 - passed on
        pass


class GrantsInDoubt(Book):
    """Takes a commit whose answer was lost for done."""

    def _fail(self, error: Exception, resolutions: Any, reserves: Any, reads: Any) -> None:  # noqa: ANN401 - passed on
        for event, future in reserves:
            if not future.done():
                future.set_result(Granted(event.hold, event.amount, None))
        super()._fail(error, resolutions, [], reads)


APPLIES: tuple[Apply, ...] = (
    settles_again,
    windows_by_settling,
    only_the_leaf,
    extends_in_the_running_window,
    takes_no_claim,
    forgets_rates,
    counts_a_call_too_many,
    voids_keep_the_call,
    a_stingy_limit,
)

FLAWS: dict[str, Callable[[int], object]] = {
    "rows are not locked": partial(simulate, flaws=Flaws(unlocked=True), embedded=False),
    "the living are expired": partial(simulate, flaws=Flaws(unfenced=True), embedded=False),
    "no tombstone": partial(simulate, flaws=Flaws(no_tombstone=True), embedded=False),
    "answered before it is on disk": partial(simulate, flaws=Flaws(answers_early=True)),
    "sent and voided": partial(simulate, void_sent=True),
    **{apply.__name__: partial(simulate, flaws=Flaws(apply=apply)) for apply in APPLIES},
    **{
        book.__name__: partial(simulate, book=book)
        for book in (ForgetsTheDoubtful, LosesResolutions, ForgetsTheGone, GrantsInDoubt)
    },
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_what_is_broken_is_found(flaw: str) -> None:
    with pytest.raises(Violation) as found:  # noqa: PT012 - which seed finds it is not known
        for seed in range(1000, 1000 + BOUND):
            FLAWS[flaw](seed)
    assert "KeyError" not in str(found.value), "found, and not only stumbled over"
