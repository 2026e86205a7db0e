"""Extensions, grants, refunds, annulments, idempotency keys and holds whose time is over, as tables.

`tables.py` says how to read one.
"""

from tests.ledgers import purse, say
from tests.tables import Check
from tolsey.ledger.books import Books
from tolsey.ledger.events import Claim, Event, Reserve, Settle
from tolsey.ledger.rules import apply
from tolsey.testing import NOON


def test_an_extension_holds_more_on_every_account(check: Check) -> None:
    check("""
        n 5 call
        root 100 / team 20
        reserve h1 5 +n -> granted, 15 left
        extend h1 7     -> granted, 8 left
        team?           -> 0 spent, 12 held, 0 calls, 1 open
        root?           -> 0 spent, 12 held, 0 calls, 0 open
        n?              -> 0 spent, 1 held, 0 calls, 0 open
        extend h1 9     -> team is short: 0 spent, 12 held of 20
        extend h1 8     -> granted, 0 left
        settle h1 21    -> conflict
        settle h1 18    -> settle 18
        team?           -> 18 spent, 0 held, 1 calls, 0 open
        n?              -> 1 spent, 0 held, 1 calls, 0 open
        journal?        -> reserve h1 5, extend h1 7, extend h1 8, settle h1 18
    """)


def test_an_extension_is_of_an_open_hold_and_above_nothing(check: Check) -> None:
    check("""
        root 100
        extend h1 1  -> unknown
        reserve h1 5 -> granted, 95 left
        extend h1 0  -> conflict
        extend h1 -1 -> conflict
        expire h1    -> expire 5
        extend h1 1  -> late, after expire
        reserve h2 5 -> granted, 90 left
        void h2      -> void 0
        extend h2 1  -> late, after void
        root?        -> 5 spent, 0 held, 1 calls, 0 open
        journal?     -> reserve h1 5, expire h1 5 (unmetered), reserve h2 5, void h2 0
    """)


def test_an_extended_hold_is_voided_and_expired_as_a_whole(check: Check) -> None:
    check("""
        root 100
        reserve h1 5 -> granted, 95 left
        extend h1 5  -> granted, 90 left
        reserve h2 5 -> granted, 85 left
        extend h2 5  -> granted, 80 left
        void h1      -> void 0
        expire h2    -> expire 10
        root?        -> 10 spent, 0 held, 1 calls, 0 open
        reserve h1 5 -> granted, 90 left
        reserve h2 9 -> conflict
    """)


def test_an_extension_stays_in_the_window_of_its_hold(check: Check) -> None:
    check("""
        team 20/hour
        at 2026-03-31T11:59:59Z
        reserve h1 15 -> granted, 5 left
        +1s
        reserve h2 20 -> granted, 0 left
        extend h1 5   -> granted, 0 left
        extend h1 1   -> team is short: 0 spent, 20 held of 20 until 2026-03-31T12:00:00Z
        extend h2 1   -> team is short: 0 spent, 20 held of 20 until 2026-03-31T13:00:00Z
        void h2       -> void 0
        extend h1 1   -> team is short: 0 spent, 20 held of 20 until 2026-03-31T12:00:00Z
        settle h1 20  -> settle 20
        team?         -> 0 spent, 0 held, 1 calls, 0 open
    """)


def test_a_grant_raises_one_limit_and_its_ancestors_still_bind(check: Check) -> None:
    check("""
        root 30 / team 10
        grant team 5  -> unknown
        open          -> granted, 10 left
        reserve h1 10 -> granted, 0 left
        grant team 25 -> granted, 25 left
        team?         -> 0 spent, 10 held, 0 calls, 1 open, 25 granted
        reserve h2 25 -> root is short: 0 spent, 10 held of 30
        reserve h2 20 -> granted, 0 left
        grant root 1  -> granted, 1 left
        reserve h3 2  -> root is short: 0 spent, 30 held of 31
        reserve h3 1  -> granted, 0 left
        journal?      -> open, reserve h1 10, grant 25, reserve h2 20, grant 1, reserve h3 1
    """)


def test_a_grant_is_above_nothing_on_a_limit_and_fits_an_amount(check: Check) -> None:
    check("""
        root MAX-5 / team - / n 2
        reserve h1 1 -> granted, 1 left
        grant team 5 -> conflict
        grant n 0    -> conflict
        grant n -1   -> conflict
        grant root 6 -> conflict
        grant root 5 -> granted, 9223372036854775806 left
        grant root 1 -> conflict
    """)


def test_a_grant_to_an_account_with_a_period_is_for_its_running_window(check: Check) -> None:
    check("""
        root 100 / team 10/hour
        at 2026-03-31T11:00:00Z
        reserve h1 10 -> granted, 0 left
        grant team 5  -> granted, 5 left
        reserve h2 6  -> team is short: 0 spent, 10 held of 15 until 2026-03-31T12:00:00Z
        reserve h2 4  -> granted, 1 left
        extend h1 1   -> granted, 0 left
        team?         -> 0 spent, 15 held, 0 calls, 2 open, 5 granted
        +1h
        team?         -> 0 spent, 0 held, 0 calls, 2 open
        grant team 2  -> granted, 12 left
        reserve h3 13 -> team is short: 0 spent, 0 held of 12 until 2026-03-31T13:00:00Z
        reserve h3 12 -> granted, 0 left
        extend h1 1   -> team is short: 0 spent, 15 held of 15 until 2026-03-31T12:00:00Z
    """)


def test_calls_are_granted_too(check: Check) -> None:
    check("""
        n 1 call
        reserve h1 - +n -> granted
        grant n 2       -> granted, 2000000000 left
        reserve h2 - +n -> granted
        reserve h3 - +n -> granted
        reserve h4 - +n -> n is short: 0 spent, 3 held of 3
    """)


def test_a_refund_gives_back_what_was_charged_and_never_more(check: Check) -> None:
    check("""
        n 1 call
        root 100 / team 20
        refund h1          -> unknown
        reserve h1 20 +n   -> granted, 0 left
        refund h1          -> conflict
        settle h1 15       -> settle 15
        refund h1 0        -> conflict
        refund h1 -1       -> conflict
        refund h1 16       -> conflict
        refund h1 5        -> refund 5
        team?              -> 10 spent, 0 held, 1 calls, 0 open
        root?              -> 10 spent, 0 held, 1 calls, 0 open
        refund h1 11       -> conflict
        refund h1          -> refund 10
        refund h1          -> conflict
        refund h1 1        -> conflict
        team?              -> 0 spent, 0 held, 1 calls, 0 open
        reserve h2 20      -> granted, 0 left
        reserve h3 1 +n    -> team is short: 0 spent, 20 held of 20
        void h2            -> void 0
        reserve h3 1 +n    -> n is short: 1 spent, 0 held of 1
        refund h2          -> conflict
        journal?           -> reserve h1 20, settle h1 15, refund h1 5, refund h1 10, reserve h2 20, void h2 0
    """)


def test_a_hold_that_others_resolved_is_refunded_once(check: Check) -> None:
    """Whoever knew it as open, or as not yet refunded, looks again."""
    check("""
        root 100
        reserve other 30 -> granted, 70 left
        reserve h1 10    -> granted, 60 left
        settle other 30  -> settle 30
        expire h1        -> expire 10
        settle h1 4      -> late, after expire
        refund h1 10     -> refund 10
        refund h1 10     -> conflict
        refund h1 10     -> conflict
        root?            -> 30 spent, 0 held, 2 calls, 0 open
        annul h1         -> annul 0
        annul h1         -> annul 0
        annul h1         -> annul 0
        root?            -> 30 spent, 0 held, 1 calls, 0 open
    """)


def test_what_another_has_expired_can_be_refunded_at_once(check: Check) -> None:
    check("""
        root 100
        reserve h1 10 -> granted, 90 left
        expire h1     -> expire 10
        refund h1 4   -> refund 4
        reserve h2 10 -> granted, 84 left
        extend h2 5   -> granted, 79 left
        root?         -> 6 spent, 15 held, 1 calls, 1 open
        expire h2     -> expire 15
        annul h2      -> annul 15
        reserve h3 10 -> granted, 84 left
        settle h3 11  -> conflict
        extend h3 5   -> granted, 79 left
        settle h3 16  -> conflict
        settle h3 15  -> settle 15
        root?         -> 21 spent, 0 held, 2 calls, 0 open
    """)


def test_a_refund_moves_the_window_that_was_charged(check: Check) -> None:
    check("""
        root 100 / team 20/hour
        at 2026-03-31T11:59:59Z
        reserve h1 20 -> granted, 0 left
        +1s
        reserve h2 20 -> granted, 0 left
        settle h1 20  -> settle 20
        refund h1 5   -> refund 5
        reserve h3 1  -> team is short: 0 spent, 20 held of 20 until 2026-03-31T13:00:00Z
        settle h2 20  -> settle 20
        refund h2 5   -> refund 5
        reserve h3 5  -> granted, 0 left
        root?         -> 30 spent, 5 held, 2 calls, 0 open
    """)


def test_an_annulled_call_was_never_made(check: Check) -> None:
    check("""
        n 1/day call
        root 100 / team 20
        annul h1         -> unknown
        reserve h1 20 +n -> granted, 0 left
        annul h1         -> conflict
        expire h1        -> expire 20
        refund h1 5      -> refund 5
        annul h1         -> annul 15
        team?            -> 0 spent, 0 held, 0 calls, 0 open
        n?               -> 0 spent, 0 held, 0 calls, 0 open
        annul h1         -> annul 0
        refund h1 1      -> conflict
        n?               -> 0 spent, 0 held, 0 calls, 0 open
        reserve h2 20 +n -> granted, 0 left
        void h2          -> void 0
        annul h2         -> conflict
        settle h1 20     -> late, after expire
        journal?         -> reserve h1 20, expire h1 20 (unmetered), refund h1 5, annul h1 15, \
reserve h2 20, void h2 0, late h1 20 (settle after expire)
    """)


def test_a_key_pays_once(check: Check) -> None:
    check("""
        root 100
        reserve h1 10 key=k -> granted, 90 left
        reserve h2 10 key=k -> repeats h1, running
        reserve h1 10 key=k -> granted, 90 left
        reserve h3 10 key=l -> granted, 80 left
        settle h1 7 kept    -> settle 7
        reserve h4 10 key=k -> repeats h1, settle, kept
        settle h3 10        -> settle 10
        reserve h5 10 key=l -> repeats h3, settle
        reserve h1 10 key=k -> granted, 83 left
        root?               -> 17 spent, 0 held, 2 calls, 0 open
        journal?            -> reserve h1 10, reserve h3 10, settle h1 7, settle h3 10
    """)


def test_a_key_repeats_also_where_the_money_has_gone(check: Check) -> None:
    check("""
        rate r 1/hour
        root 10
        reserve h1 10 key=k +r -> granted, 0 left
        reserve h2 10 key=k +r -> repeats h1, running
        settle h1 10           -> settle 10
        reserve h3 10 key=k +r -> repeats h1, settle
        reserve h3 10 key=l +r -> root is short: 10 spent, 0 held of 10
    """)


def test_a_refused_call_leaves_its_key_free(check: Check) -> None:
    check("""
        root 10
        reserve h1 11 key=k -> root is short: 0 spent, 0 held of 10
        reserve h2 10 key=k -> granted, 0 left
        void h2             -> void 0
        reserve h3 10 key=k -> granted, 0 left
        expire h3           -> expire 10
        reserve h4 10 key=k -> repeats h3, expire
        annul h3            -> annul 10
        reserve h4 10 key=k -> repeats h3, expire
    """)


def test_a_key_is_remembered_for_24_hours_to_the_nanosecond(check: Check) -> None:
    check("""
        root 100
        reserve h1 10 key=k -> granted, 90 left
        settle h1 10        -> settle 10
        +24h
        -1ns
        reserve h2 10 key=k -> repeats h1, settle
        +1ns
        reserve h2 10 key=k -> granted, 80 left
        reserve h3 10 key=k -> repeats h2, running
    """)


def test_a_key_that_was_taken_anew_is_not_freed_by_the_old_hold(check: Check) -> None:
    check("""
        root 100
        reserve h1 10 key=k -> granted, 90 left
        +24h
        reserve h2 10 key=k -> granted, 80 left
        void h1             -> void 0
        reserve h3 10 key=k -> repeats h2, running
        settle h2 10 kept   -> settle 10
        reserve h3 10 key=k -> repeats h2, settle, kept
    """)


def test_from_its_time_on_a_hold_may_be_expired_and_not_before(check: Check) -> None:
    check("""
        root 100
        reserve h1 10 until=30 -> granted, 90 left
        reserve h2 10 until=31 -> granted, 80 left
        reserve h3 10          -> granted, 70 left
        +30s
        -1ns
        overdue?               -> 0
        +1ns
        overdue?               -> 1
        overdue?               -> 0
        settle h1 4            -> late, after expire
        +1h
        overdue?               -> 1
        root?                  -> 20 spent, 10 held, 2 calls, 1 open
        journal?               -> reserve h1 10, reserve h2 10, reserve h3 10, \
expire h1 10 (unmetered: its time was over), late h1 4 (settle after expire), \
expire h2 10 (unmetered: its time was over)
    """)


def test_an_extension_gives_a_hold_no_more_time(check: Check) -> None:
    check("""
        root 100
        reserve h1 10 until=30 -> granted, 90 left
        +29s
        extend h1 10           -> granted, 80 left
        +1s
        overdue?               -> 1
        root?                  -> 20 spent, 0 held, 1 calls, 0 open
    """)


def test_what_a_key_repeats_is_told_as_it_is_at_that_moment() -> None:
    """Also where a later event of the same group closes the call."""
    books, root = Books(), purse("root 100")
    claim = Claim("link", "k", "request")
    events: list[Event] = [Reserve(name, root, 10, claim=claim) for name in ("h1", "h2")]
    outcomes = [apply(books, event, at=NOON, owner=1) for event in (*events, Settle("h1", 4))]
    assert [say(outcome) for outcome in outcomes] == ["granted, 90 left", "repeats h1, running", "settle 4"]
