"""The rules of the ledger as tables: one line an event, its outcome last. How to read one is written in `tables.py`.

Each table runs three times: on the rules alone, on a ledger in a file, and on two ledgers on one file that take turns.
What has to do with time is in `test_rules_in_time.py`, what comes after the resolution in `test_rules_after.py`.
"""

import pytest

from tests.ledgers import purse
from tests.tables import Check
from tolsey.ledger.books import Balance, Books
from tolsey.ledger.events import Conflict, Entry, Event, Expire, Granted, Kind, Open, Reserve, Settle, Void
from tolsey.ledger.rules import MAX_OPEN_HOLDS, apply
from tolsey.testing import NOON
from tolsey.units import MAX_NANO


def test_a_call_is_held_and_settled_on_every_account_above_it(check: Check) -> None:
    check("""
        root 100 / team 50 / worker 10
        worker?            -> 0 spent, 0 held, 0 calls, 0 open
        reserve h1 6       -> granted, 4 left
        worker?            -> 0 spent, 6 held, 0 calls, 1 open
        team?              -> 0 spent, 6 held, 0 calls, 0 open
        root?              -> 0 spent, 6 held, 0 calls, 0 open
        settle h1 6        -> settle 6
        worker?            -> 6 spent, 0 held, 1 calls, 0 open
        team?              -> 6 spent, 0 held, 1 calls, 0 open
        root?              -> 6 spent, 0 held, 1 calls, 0 open
        reserve h2 3 @team -> granted, 41 left
        settle h2 3        -> settle 3
        worker?            -> 6 spent, 0 held, 1 calls, 0 open
        team?              -> 9 spent, 0 held, 2 calls, 0 open
        journal?           -> reserve h1 6, settle h1 6, reserve h2 3, settle h2 3
    """)


def test_what_is_left_is_the_least_on_the_chain(check: Check) -> None:
    check("""
        root 10 / team 50 / worker 40
        reserve h1 3 -> granted, 7 left
        root 10 / other 8 / third 9
        reserve h2 2 -> granted, 5 left
        reserve h3 4 -> granted, 1 left
    """)


def test_exactly_at_the_limit_and_one_above(check: Check) -> None:
    check("""
        root 100
        reserve h1 101 -> root is short: 0 spent, 0 held of 100
        reserve h2 100 -> granted, 0 left
        reserve h3 1   -> root is short: 0 spent, 100 held of 100
        settle h2 99   -> settle 99
        reserve h4 2   -> root is short: 99 spent, 0 held of 100
        reserve h5 1   -> granted, 0 left
        settle h5 1    -> settle 1
        reserve h6 1   -> root is short: 100 spent, 0 held of 100
    """)


def test_a_shortfall_names_the_first_from_the_root_as_it_stands(check: Check) -> None:
    check("""
        root 100 / team 50 / worker 10
        reserve h1 200       -> root is short: 0 spent, 0 held of 100
        reserve h2 60        -> team is short: 0 spent, 0 held of 50
        reserve h3 11        -> worker is short: 0 spent, 0 held of 10
        reserve h4 8         -> granted, 2 left
        settle h4 5          -> settle 5
        reserve h5 3         -> granted, 2 left
        reserve h6 3         -> worker is short: 5 spent, 3 held of 10
        reserve h7 42 @team  -> granted, 0 left
        reserve h8 1         -> team is short: 5 spent, 45 held of 50
        reserve h9 51 @root  -> root is short: 5 spent, 45 held of 100
        reserve h10 50 @root -> granted, 0 left
        reserve h11 1        -> root is short: 5 spent, 95 held of 100
    """)


def test_all_accounts_or_none(check: Check) -> None:
    check("""
        root 100 / team 50 / worker 10
        reserve h1 11 -> worker is short: 0 spent, 0 held of 10
        root?         -> 0 spent, 0 held, 0 calls, 0 open
        team?         -> 0 spent, 0 held, 0 calls, 0 open
        worker?       -> 0 spent, 0 held, 0 calls, 0 open
        journal?      -> nothing
        settle h1 1   -> unknown
        reserve h1 9  -> granted, 1 left
    """)


def test_siblings_share_what_is_above_them(check: Check) -> None:
    check("""
        root 10 / b 8
        root 10 / a 8
        reserve h1 8 @a -> granted, 0 left
        reserve h2 3 @b -> root is short: 0 spent, 8 held of 10
        reserve h3 2 @b -> granted, 0 left
        settle h1 1     -> settle 1
        reserve h4 6 @b -> granted, 0 left
        reserve h5 1 @a -> granted, 0 left
        a?              -> 1 spent, 1 held, 1 calls, 1 open
        b?              -> 0 spent, 8 held, 0 calls, 2 open
        root?           -> 1 spent, 9 held, 1 calls, 0 open
    """)


def test_settling_less_returns_the_rest(check: Check) -> None:
    check("""
        root 100 / team 10
        reserve h1 10 -> granted, 0 left
        settle h1 3   -> settle 3
        team?         -> 3 spent, 0 held, 1 calls, 0 open
        root?         -> 3 spent, 0 held, 1 calls, 0 open
        reserve h2 7  -> granted, 0 left
        settle h2 0   -> settle 0
        team?         -> 3 spent, 0 held, 2 calls, 0 open
    """)


def test_settling_more_than_is_held_is_a_conflict_and_changes_nothing(check: Check) -> None:
    check("""
        root 100
        reserve h1 10 -> granted, 90 left
        settle h1 11  -> conflict
        settle h1 -1  -> conflict
        root?         -> 0 spent, 10 held, 0 calls, 1 open
        settle h1 10  -> settle 10
        settle h1 11  -> conflict
        journal?      -> reserve h1 10, settle h1 10
    """)


def test_a_void_returns_everything_and_counts_no_call(check: Check) -> None:
    check("""
        root 100 / team 10
        reserve h1 10 -> granted, 0 left
        void h1       -> void 0
        team?         -> 0 spent, 0 held, 0 calls, 0 open
        root?         -> 0 spent, 0 held, 0 calls, 0 open
        reserve h2 10 -> granted, 0 left
        journal?      -> reserve h1 10, void h1 0, reserve h2 10
    """)


def test_an_expired_hold_is_settled_as_held(check: Check) -> None:
    check("""
        root 100 / team 10
        reserve h1 10 -> granted, 0 left
        expire h1     -> expire 10
        team?         -> 10 spent, 0 held, 1 calls, 0 open
        root?         -> 10 spent, 0 held, 1 calls, 0 open
        journal?      -> reserve h1 10, expire h1 10 (unmetered)
    """)


RESOLUTIONS = {"settle h1 10": "settle 10", "settle h1 4": "settle 4", "void h1": "void 0", "expire h1": "expire 10"}


@pytest.mark.parametrize("first", RESOLUTIONS)
@pytest.mark.parametrize("second", RESOLUTIONS)
def test_a_hold_is_resolved_once(check: Check, first: str, second: str) -> None:
    """The same again has the same outcome; anything else comes late, leaves a note and changes nothing."""
    done = RESOLUTIONS[first]
    kind, amount = done.split()
    if second == first:
        outcome, note = done, ""
    else:
        what, cost = RESOLUTIONS[second].split()
        outcome, note = f"late, after {kind}", f", late h1 {cost} ({what} after {kind})"
    unmetered = " (unmetered)" if kind == "expire" else ""
    check(f"""
        root 100 / team 20
        reserve h1 10 -> granted, 10 left
        {first}       -> {done}
        {second}      -> {outcome}
        {first}       -> {done}
        team?         -> {amount} spent, 0 held, {int(kind != "void")} calls, 0 open
        root?         -> {amount} spent, 0 held, {int(kind != "void")} calls, 0 open
        journal?      -> reserve h1 10, {kind} h1 {amount}{unmetered}{note}
    """)


def test_the_same_reserve_again_is_the_same_hold(check: Check) -> None:
    check("""
        root 100 / team 10
        reserve h1 6 -> granted, 4 left
        reserve h1 6 -> granted, 4 left
        reserve h2 1 -> granted, 3 left
        reserve h1 6 -> granted, 3 left
        team?        -> 0 spent, 7 held, 0 calls, 2 open
        settle h1 6  -> settle 6
        reserve h1 6 -> granted, 3 left
        team?        -> 6 spent, 1 held, 1 calls, 1 open
        journal?     -> reserve h1 6, reserve h2 1, settle h1 6
    """)


def test_the_same_id_with_other_contents_is_a_conflict(check: Check) -> None:
    check("""
        root 100 / team 10 / worker -
        root 100 / other -
        reserve h1 6 @team   -> granted, 4 left
        reserve h1 5 @team   -> conflict
        reserve h1 6 @root   -> conflict
        reserve h1 6 @other  -> conflict
        reserve h1 6 @worker -> conflict
        void h1              -> void 0
        reserve h1 5 @team   -> conflict
        journal?             -> reserve h1 6, void h1 0
    """)


def test_a_hold_that_nobody_made_is_unknown(check: Check) -> None:
    check("""
        root 100
        settle h1 1 -> unknown
        void h1     -> unknown
        expire h1   -> unknown
        journal?    -> nothing
    """)


def test_an_account_without_a_limit_only_counts(check: Check) -> None:
    check("""
        root - / team 10 / worker -
        reserve h1 11        -> team is short: 0 spent, 0 held of 10
        reserve h2 4         -> granted, 6 left
        settle h2 4          -> settle 4
        worker?              -> 4 spent, 0 held, 1 calls, 0 open
        root?                -> 4 spent, 0 held, 1 calls, 0 open
        reserve h3 MAX @root -> root is short: 4 spent, 0 held of None
        reserve h4 99 @root  -> granted
        root?                -> 4 spent, 99 held, 1 calls, 1 open
    """)


def test_two_units_never_mix(check: Check) -> None:
    check("""
        root 10 / team 5 sat
        root 100 / team 50 USD
        reserve h1 50          -> granted, 0 left
        reserve h2 1           -> team is short: 0 spent, 50 held of 50
        reserve h3 5 @team.sat -> granted, 0 left
        team.sat?              -> 0 spent, 5 held, 0 calls, 1 open
        team?                  -> 0 spent, 50 held, 0 calls, 1 open
        settle h1 20           -> settle 20
        root?                  -> 20 spent, 0 held, 1 calls, 0 open
        root.sat?              -> 0 spent, 5 held, 0 calls, 0 open
        reserve h3 5           -> conflict
        settle h3 6            -> conflict
    """)


def test_the_smallest_and_the_largest_amounts(check: Check) -> None:
    check("""
        nothing 0
        reserve h1 1     -> nothing is short: 0 spent, 0 held of 0
        root MAX / team -
        reserve h2 0     -> conflict
        reserve h2 -1    -> conflict
        reserve h2 MAX+1 -> conflict
        reserve h2 1     -> granted, 9223372036854775806 left
        reserve h3 MAX   -> root is short: 0 spent, 1 held of 9223372036854775807
    """)


def test_a_sum_never_overflows(check: Check) -> None:
    check("""
        root MAX / team -
        reserve h1 MAX-1 -> granted, 1 left
        reserve h2 1     -> granted, 0 left
        settle h1 MAX-1  -> settle 9223372036854775806
        settle h2 1      -> settle 1
        team?            -> 9223372036854775807 spent, 0 held, 2 calls, 0 open
        reserve h3 1     -> root is short: 9223372036854775807 spent, 0 held of 9223372036854775807
        free -
        reserve h4 MAX   -> granted
        reserve h5 1     -> free is short: 0 spent, 9223372036854775807 held of None
        settle h4 MAX    -> settle 9223372036854775807
        reserve h5 1     -> free is short: 9223372036854775807 spent, 0 held of None
    """)


def test_an_account_that_the_ledger_knows_otherwise_is_a_conflict(check: Check) -> None:
    check("""
        root 100 / team 50
        reserve h1 5 -> granted, 45 left
        root 100 / team 51
        reserve h2 5 -> conflict
        open         -> conflict
        root 100 / team -
        reserve h2 5 -> conflict
        root 101 / team 50
        reserve h2 5 -> conflict
        team 50
        reserve h2 5 -> conflict
        open         -> conflict
        other 100 / team 50
        reserve h2 5 -> conflict
        root 100 / team 50
        reserve h2 5 -> granted, 40 left
        journal?     -> reserve h1 5, reserve h2 5
        other 100
        other?       -> 0 spent, 0 held, 0 calls, 0 open
    """)


def test_a_minted_account_is_opened_before_its_first_call(check: Check) -> None:
    check("""
        root 100
        open         -> granted, 100 left
        open         -> granted, 100 left
        journal?     -> open
        root?        -> 0 spent, 0 held, 0 calls, 0 open
        reserve h1 7 -> granted, 93 left
        open         -> granted, 93 left
        free -
        open         -> granted
        nothing 0
        open         -> granted, 0 left
        root 100 / team 50
        open         -> granted, 50 left
        reserve h2 7 -> granted, 43 left
        journal?     -> reserve h1 7, open, open, open, reserve h2 7
    """)


def test_open_holds_have_a_limit_for_each_link(check: Check) -> None:
    """Exactly on the edge. Only the holds of the Link at the end of the chain count, not those of its children."""
    many = "\n".join(f"reserve a{n} 1 @a -> granted" for n in range(MAX_OPEN_HOLDS - 1))
    check(f"""
        root - / a - / below -
        root - / b -
        {many}
        reserve h1 1 @a      -> granted
        reserve h2 1 @a      -> a has too many holds
        reserve h3 1 @root   -> granted
        reserve h4 1 @b      -> granted
        reserve h5 1 @below  -> granted
        reserve h1 1 @a      -> granted
        a?                   -> 0 spent, 257 held, 0 calls, 256 open
        void a0              -> void 0
        reserve h6 1 @a      -> granted
        reserve h7 1 @a      -> a has too many holds
        settle h6 1          -> settle 1
        expire a1            -> expire 1
        a?                   -> 2 spent, 255 held, 2 calls, 254 open
        root?                -> 2 spent, 257 held, 2 calls, 1 open
    """)


def test_being_short_is_said_before_having_too_many_holds(check: Check) -> None:
    many = "\n".join(f"reserve a{n} 1 -> granted, {MAX_OPEN_HOLDS + 9 - n} left" for n in range(MAX_OPEN_HOLDS))
    check(f"""
        root {MAX_OPEN_HOLDS + 10}
        {many}
        reserve h1 11 -> root is short: 0 spent, 256 held of 266
        reserve h2 10 -> root has too many holds
    """)


def test_a_reserve_needs_an_account() -> None:
    books = Books()
    outcome = apply(books, Reserve("h1", (), 1), at=NOON, owner=1)
    assert outcome == Conflict("a reserve needs accounts and an amount above 0, or counters or rates and none")
    assert books == Books()


def test_an_entry_says_when_by_whom_on_which_account_and_why() -> None:
    books = Books()
    accounts = purse("root 100 / team 50")
    events: list[Event] = [Open(accounts[0], "m"), Reserve("h1", accounts, 5, "GET /a"), Settle("h1", 4, "200")]
    for n, event in enumerate(events):
        apply(books, event, at=n, owner=7 + n)
    assert books.entries == [
        Entry(Kind.OPEN, 0, None, ("root", "USD"), 0, 7, "m"),
        Entry(Kind.RESERVE, 1, "h1", ("team", "USD"), 5, 8, "GET /a"),
        Entry(Kind.SETTLE, 2, "h1", ("team", "USD"), 4, 9, "200"),
    ]


def test_a_refused_event_leaves_the_books_as_they_were() -> None:
    books = Books()
    root = purse("root 100")
    refused: list[Event] = [
        Reserve("h1", root, 101),
        Reserve("h1", root, 0),
        Reserve("h1", root, MAX_NANO + 1),
        Settle("h1", 1),
        Void("h1"),
        Expire("h1"),
    ]
    for event in refused:
        assert not isinstance(apply(books, event, at=NOON, owner=1), Granted)
        assert books == Books()


def test_an_account_that_holds_too_little_is_never_made_to_hold_less_than_nothing() -> None:
    """A hold that is known to be open while its account says otherwise: the store must have read them apart."""
    books = Books()
    root = purse("root 100")
    apply(books, Reserve("h1", root, 10), at=NOON, owner=1)
    books.balances["root", "USD"] = Balance(root[0], held=9, open=1)
    with pytest.raises(AssertionError, match="holds less"):
        apply(books, Settle("h1", 10), at=NOON, owner=1)
