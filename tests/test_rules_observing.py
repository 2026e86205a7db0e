"""What observe mode lets through, as tables: what enforcement would have said, and what is counted apart.

`tables.py` says how to read one.
"""

from tests.ledgers import purse
from tests.tables import Check
from tolsey.ledger.books import Books
from tolsey.ledger.events import Observe, Open
from tolsey.ledger.rules import apply
from tolsey.testing import NOON


def test_an_observed_call_is_counted_apart_on_every_account(check: Check) -> None:
    check("""
        n 5 call
        root 100 / team 20
        observe o1 8/5 +n -> observed: granted, 12 left
        team?             -> 0 spent, 0 held, 0 calls, 0 open, 5 observed
        root?             -> 0 spent, 0 held, 0 calls, 0 open, 5 observed
        n?                -> 0 spent, 0 held, 0 calls, 0 open, 1 observed
        journal?          -> observe o1 5, observe o1 1000000000
    """)


def test_overspend_is_written_down_beyond_the_limit(check: Check) -> None:
    check("""
        root 100 / team 10
        observe o1 8  -> observed: granted, 2 left
        observe o2 8  -> observed: team is short: 8 spent, 0 held of 10
        observe o3 8  -> observed: team is short: 16 spent, 0 held of 10
        team?         -> 0 spent, 0 held, 0 calls, 0 open, 24 observed
        root?         -> 0 spent, 0 held, 0 calls, 0 open, 24 observed
    """)


def test_what_was_observed_never_refuses_an_enforced_call(check: Check) -> None:
    check("""
        root 10
        observe o1 9  -> observed: granted, 1 left
        observe o2 9  -> observed: root is short: 9 spent, 0 held of 10
        reserve h1 10 -> granted, 0 left
        settle h1 10  -> settle 10
        observe o3 1  -> observed: root is short: 28 spent, 0 held of 10
        root?         -> 10 spent, 0 held, 1 calls, 0 open, 19 observed
    """)


def test_what_is_spent_and_held_counts_for_what_enforcement_would_have_said(check: Check) -> None:
    check("""
        root 10
        reserve h1 4 -> granted, 6 left
        reserve h2 3 -> granted, 3 left
        settle h1 4  -> settle 4
        observe o1 3 -> observed: granted, 0 left
        observe o2 1 -> observed: root is short: 7 spent, 3 held of 10
    """)


def test_each_window_is_observed_by_itself(check: Check) -> None:
    check("""
        at 2026-03-01T23:59:59.999999999Z
        root 10/day
        observe o1 9 -> observed: granted, 1 left
        observe o2 2 -> observed: root is short: 9 spent, 0 held of 10 until 2026-03-02T00:00:00Z
        root?        -> 0 spent, 0 held, 0 calls, 0 open, 11 observed
        +1ns
        observe o3 9 -> observed: granted, 1 left
        root?        -> 0 spent, 0 held, 0 calls, 0 open, 9 observed
    """)


def test_an_observed_rate_is_apart_from_the_enforced_one(check: Check) -> None:
    check("""
        root 100
        rate r 1/minute
        observe o1 1 +r -> observed: granted, 99 left
        observe o2 1 +r -> observed: r is too fast until 2026-04-01T12:01:00Z
        reserve h1 1 +r -> granted, 99 left
        reserve h2 1 +r -> r is too fast until 2026-04-01T12:01:00Z
    """)


def test_a_call_that_would_be_refused_opens_no_account(check: Check) -> None:
    check("""
        root 10 / team 5 / child 1
        observe o1 5 @team          -> observed: granted, 0 left
        observe o2 5                -> observed: team is short: 5 spent, 0 held of 5
        child?                      -> 0 spent, 0 held, 0 calls, 0 open
        team?                       -> 0 spent, 0 held, 0 calls, 0 open, 10 observed
        observe o3 1 refused=scope  -> observed
        team?                       -> 0 spent, 0 held, 0 calls, 0 open, 11 observed
        stranger 3
        observe o4 9                -> observed: stranger is short: 0 spent, 0 held of 3
        stranger?                   -> 0 spent, 0 held, 0 calls, 0 open
    """)


def test_calls_that_would_be_refused_are_told_of_together(check: Check) -> None:
    check("""
        root 10
        observe o1 9             -> observed: granted, 1 left
        observe o2 5             -> observed: root is short: 9 spent, 0 held of 10
        journal?                 -> observe o1 9, observe 5 (would be refused: budget_exhausted)
        observe o3 1/2 refused=x -> observed
        journal?                 -> observe 2 (would be refused: x)
    """)
    books = Books()
    (account,) = purse("root 10")
    apply(books, Open(account), at=NOON, owner=1)
    for name in ("o1", "o2", "o3"):
        apply(books, Observe(name, (account,), 11, 11), at=NOON, owner=1)
    assert [(entry.kind, entry.hold, entry.amount) for entry in books.entries] == [
        ("open", None, 0),
        ("observe", None, 33),
    ]


def test_an_account_that_is_another_in_the_ledger_is_not_charged(check: Check) -> None:
    check("""
        root 10
        open         -> granted, 10 left
        root 20
        observe o1 5 -> observed: conflict
        root?        -> 0 spent, 0 held, 0 calls, 0 open
    """)


def test_the_observed_sum_stops_at_the_largest_amount(check: Check) -> None:
    check("""
        root -
        observe o1 MAX -> observed: granted
        observe o2 5   -> observed: root is short: 9223372036854775807 spent, 0 held of None
        root?          -> 0 spent, 0 held, 0 calls, 0 open, 9223372036854775807 observed
    """)
