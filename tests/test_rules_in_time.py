"""Windows, counters and rates as tables (RULES.md M10, M11, L10), to the nanosecond.

`tables.py` says how to read one.
"""

from calendar import monthrange
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ledgers import say
from tests.tables import Check
from tolsey.ledger.books import Books
from tolsey.ledger.events import Granted, Reserve
from tolsey.ledger.rules import apply
from tolsey.ledger.windows import DAY, HOUR, KEPT_BEYOND, RATE_PERIODS, closed_before, spacing, window
from tolsey.testing import NOON, SECOND
from tolsey.token.chain import Rate
from tolsey.units import PERIODS

EDGES = {
    "hour": ("2026-03-31T10:00:00Z", "2026-03-31T11:00:00Z", "2026-03-31T12:00:00Z"),
    "day": ("2028-02-28T00:00:00Z", "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
    "week": ("2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z", "2027-01-11T00:00:00Z"),
    "month": ("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"),
}
"""Two windows that follow each other: a leap day, a week over the end of the year."""


@pytest.mark.parametrize("period", EDGES)
def test_a_window_ends_to_the_nanosecond(check: Check, period: str) -> None:
    start, end, after = EDGES[period]
    check(f"""
        root 100 / team 10/{period}
        at {start}
        reserve h1 7  -> granted, 3 left
        settle h1 7   -> settle 7
        at {end}
        -1ns
        reserve h2 4  -> team is short: 7 spent, 0 held of 10 until {end}
        reserve h3 3  -> granted, 0 left
        reserve h4 1  -> team is short: 7 spent, 3 held of 10 until {end}
        +1ns
        team?         -> 0 spent, 0 held, 1 calls, 1 open
        reserve h5 11 -> team is short: 0 spent, 0 held of 10 until {after}
        reserve h6 10 -> granted, 0 left
        root?         -> 7 spent, 13 held, 1 calls, 0 open
        at {after}
        reserve h7 10 -> granted, 0 left
    """)


def test_a_hold_settles_in_the_window_it_was_reserved_in(check: Check) -> None:
    check("""
        root 100/month / team 20/day
        at 2026-03-31T23:59:59.999999999Z
        reserve h1 20 -> granted, 0 left
        +1ns
        reserve h2 20 -> granted, 0 left
        settle h1 5   -> settle 5
        reserve h3 1  -> team is short: 0 spent, 20 held of 20 until 2026-04-02T00:00:00Z
        settle h2 12  -> settle 12
        reserve h4 9  -> team is short: 12 spent, 0 held of 20 until 2026-04-02T00:00:00Z
        reserve h5 8  -> granted, 0 left
        root?         -> 12 spent, 8 held, 2 calls, 0 open
        at 2026-04-02T00:00:00Z
        team?         -> 0 spent, 0 held, 2 calls, 1 open
        root?         -> 12 spent, 8 held, 2 calls, 0 open
        void h5       -> void 0
        root?         -> 12 spent, 0 held, 2 calls, 0 open
    """)


def test_expired_after_its_window_a_hold_is_charged_to_that_window(check: Check) -> None:
    check("""
        root - / team 10/hour
        at 2026-03-31T23:59:59Z
        reserve h1 10 -> granted, 0 left
        +1s
        expire h1     -> expire 10
        team?         -> 0 spent, 0 held, 1 calls, 0 open
        reserve h2 10 -> granted, 0 left
        root?         -> 10 spent, 10 held, 1 calls, 0 open
    """)


def test_the_same_reserve_again_in_the_next_window_is_the_hold_of_the_old_one(check: Check) -> None:
    check("""
        team 20/day
        at 2026-03-31T23:59:59Z
        reserve h1 15 -> granted, 5 left
        +1s
        reserve h1 15 -> granted, 5 left
        team?         -> 0 spent, 0 held, 0 calls, 1 open
        reserve h2 6  -> granted, 14 left
        reserve h1 15 -> granted, 5 left
    """)


def test_an_account_that_is_opened_again_shows_its_running_window(check: Check) -> None:
    check("""
        team 20/day
        open          -> granted, 20 left
        reserve h1 15 -> granted, 5 left
        other 9
        open          -> granted, 9 left
        team 20/day
        open          -> granted, 5 left
    """)


def test_the_first_that_is_short_is_named_with_the_end_of_its_window(check: Check) -> None:
    check("""
        root 50/day / team 30/week / worker 10
        reserve h1 60 -> root is short: 0 spent, 0 held of 50 until 2026-04-02T00:00:00Z
        reserve h2 40 -> team is short: 0 spent, 0 held of 30 until 2026-04-06T00:00:00Z
        reserve h3 20 -> worker is short: 0 spent, 0 held of 10
        journal?      -> nothing
        reserve h4 10 -> granted, 0 left
    """)


def test_an_account_under_another_period_is_a_conflict(check: Check) -> None:
    check("""
        root 50/day
        reserve h1 5 -> granted, 45 left
        root 50/hour
        reserve h2 5 -> conflict
        root 50
        reserve h2 5 -> conflict
    """)


def test_a_clock_set_back_opens_no_window_anew(check: Check) -> None:
    check("""
        root 100 / team 10/hour
        at 2026-03-31T11:30:00Z
        reserve h1 10 -> granted, 0 left
        settle h1 10  -> settle 10
        -1h
        reserve h2 1  -> team is short: 10 spent, 0 held of 10 until 2026-03-31T12:00:00Z
        team?         -> 10 spent, 0 held, 1 calls, 0 open
        +90m
        reserve h3 10 -> granted, 0 left
        -2d
        reserve h4 1  -> team is short: 0 spent, 10 held of 10 until 2026-03-31T13:00:00Z
    """)


def test_windows_that_were_closed_long_ago_are_of_no_account(check: Check) -> None:
    """A refund finds none to give back to, and the life totals follow all the same."""
    check("""
        team 10/hour
        at 2026-03-01T11:30:00Z
        reserve h1 10 -> granted, 0 left
        reserve h2 1  -> team is short: 0 spent, 10 held of 10 until 2026-03-01T12:00:00Z
        settle h1 8   -> settle 8
        +4d
        reserve h3 10 -> granted, 0 left
        refund h1 3   -> refund 3
        annul h1      -> annul 5
        team?         -> 0 spent, 10 held, 0 calls, 1 open
        settle h3 10  -> settle 10
        reserve h4 1  -> team is short: 10 spent, 0 held of 10 until 2026-03-05T12:00:00Z
    """)


def test_an_old_window_is_kept_while_something_is_held_in_it(check: Check) -> None:
    check("""
        team 10/hour
        at 2026-03-01T11:30:00Z
        reserve h1 6 -> granted, 4 left
        +4d
        reserve h2 6 -> granted, 4 left
        +1h
        reserve h3 6 -> granted, 4 left
        extend h1 4  -> granted, 0 left
        extend h1 1  -> team is short: 0 spent, 10 held of 10 until 2026-03-01T12:00:00Z
        settle h1 10 -> settle 10
        team?        -> 0 spent, 6 held, 1 calls, 2 open
    """)


def test_counters_count_calls_beside_the_money(check: Check) -> None:
    check("""
        more 3 / less 2/hour call
        root 100 / team 50
        at 2026-03-31T11:59:59Z
        reserve h1 10 +less -> granted, 40 left
        more?               -> 0 spent, 1 held, 0 calls, 0 open
        less?               -> 0 spent, 1 held, 0 calls, 0 open
        team?               -> 0 spent, 10 held, 0 calls, 1 open
        settle h1 4         -> settle 4
        more?               -> 1 spent, 0 held, 1 calls, 0 open
        less?               -> 1 spent, 0 held, 1 calls, 0 open
        team?               -> 4 spent, 0 held, 1 calls, 0 open
    """)


def test_calls_come_back_with_a_void_and_stay_counted_otherwise(check: Check) -> None:
    check("""
        more 4 / less 2/hour call
        root 100
        at 2026-03-31T11:59:59Z
        reserve h1 10 +less -> granted, 90 left
        reserve h2 10 +less -> granted, 80 left
        reserve h3 10 +less -> less is short: 0 spent, 2 held of 2 until 2026-03-31T12:00:00Z
        reserve h3 10 +more -> granted, 70 left
        reserve h4 10 +more -> granted, 60 left
        reserve h5 10 +more -> more is short: 0 spent, 4 held of 4
        void h2             -> void 0
        reserve h6 10 +less -> granted, 60 left
        settle h1 0         -> settle 0
        expire h6           -> expire 10
        void h3             -> void 0
        reserve h7 10 +less -> less is short: 2 spent, 0 held of 2 until 2026-03-31T12:00:00Z
        +1s
        reserve h7 10 +less -> granted, 70 left
        more?               -> 2 spent, 2 held, 2 calls, 0 open
        less?               -> 0 spent, 1 held, 2 calls, 0 open
        root?               -> 10 spent, 20 held, 2 calls, 2 open
    """)


def test_money_is_asked_for_before_calls(check: Check) -> None:
    check("""
        n 0 call
        root 5
        reserve h1 6 +n -> root is short: 0 spent, 0 held of 5
        reserve h1 5 +n -> n is short: 0 spent, 0 held of 0
        reserve h1 5    -> granted, 0 left
    """)


def test_a_free_call_is_counted_on_its_counters_alone(check: Check) -> None:
    check("""
        n 2 call
        reserve h1 - +n -> granted
        n?              -> 0 spent, 1 held, 0 calls, 1 open
        reserve h1 - +n -> granted
        reserve h2 - +n -> granted
        reserve h3 - +n -> n is short: 0 spent, 2 held of 2
        extend h1 5     -> conflict
        settle h1 1     -> conflict
        settle h1 0     -> settle 0
        void h2         -> void 0
        n?              -> 1 spent, 0 held, 1 calls, 0 open
        journal?        -> reserve h1 0, reserve h2 0, settle h1 0, void h2 0
        other 9
        reserve h1 5    -> conflict
        reserve h2 -    -> conflict
    """)


def test_a_rate_is_a_burst_and_then_one_at_a_time(check: Check) -> None:
    """GCRA exactly on the edge: 3 a second are one in 333333334 ns, rounded up."""
    check("""
        rate r 3/second
        root 100
        reserve h1 1 +r -> granted, 99 left
        reserve h2 1 +r -> granted, 98 left
        reserve h3 1 +r -> granted, 97 left
        reserve h4 1 +r -> r is too fast until 2026-04-01T12:00:00.333333334Z
        +333333333ns
        reserve h4 1 +r -> r is too fast until 2026-04-01T12:00:00.333333334Z
        +1ns
        reserve h4 1 +r -> granted, 96 left
        reserve h5 1 +r -> r is too fast until 2026-04-01T12:00:00.666666668Z
        journal?        -> reserve h1 1, reserve h2 1, reserve h3 1, reserve h4 1
    """)


def test_a_rate_that_rested_has_its_whole_burst_and_no_more(check: Check) -> None:
    check("""
        rate r 2/minute
        root 100
        reserve h1 1 +r -> granted, 99 left
        +10m
        reserve h2 1 +r -> granted, 98 left
        reserve h3 1 +r -> granted, 97 left
        reserve h4 1 +r -> r is too fast until 2026-04-01T12:10:30Z
    """)


def test_a_rate_counts_what_was_granted_also_if_it_was_voided(check: Check) -> None:
    """It limits how fast is asked. What is refused for another reason counts nowhere."""
    check("""
        rate r 1/hour
        rate s 2/hour
        root 10
        reserve h1 11 +r +s -> root is short: 0 spent, 0 held of 10
        reserve h1 10 +r +s -> granted, 0 left
        void h1             -> void 0
        reserve h2 10 +s +r -> r is too fast until 2026-04-01T13:00:00Z
        reserve h3 10 +s    -> granted, 0 left
        void h3             -> void 0
        reserve h4 10 +s    -> s is too fast until 2026-04-01T12:30:00Z
        reserve h1 10 +r +s -> granted, 10 left
    """)


def test_a_rate_alone_holds_nothing(check: Check) -> None:
    check("""
        rate r 2/minute
        reserve h1 - +r -> granted
        reserve h2 - +r -> granted
        reserve h3 - +r -> r is too fast until 2026-04-01T12:00:30Z
        settle h1 0     -> unknown
        reserve h4 -    -> conflict
        journal?        -> nothing
    """)


def test_too_many_holds_are_said_before_too_fast(check: Check) -> None:
    many = "\n".join(f"reserve a{n} 1 -> granted" for n in range(256))
    check(f"""
        rate r 1/day
        root -
        {many}
        reserve h1 1 +r -> root has too many holds
        void a0         -> void 0
        reserve h1 1 +r -> granted
        void a1         -> void 0
        reserve h2 1 +r -> r is too fast until 2026-04-02T12:00:00Z
    """)


MICROSECONDS = st.integers(40 * DAY // 1000, (2**63 - 1) // 1000)


def nanos(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def calendar(period: str, moment: datetime) -> tuple[datetime, datetime]:
    """The same by the standard library's calendar."""
    start = moment.replace(minute=0, second=0, microsecond=0)
    if period == "hour":
        return start, start + timedelta(hours=1)
    start = start.replace(hour=0)
    if period == "day":
        return start, start + timedelta(days=1)
    if period == "week":
        year, week, _ = moment.isocalendar()
        monday = datetime.fromisocalendar(year, week, 1).replace(tzinfo=UTC)
        return monday, monday + timedelta(weeks=1)
    first = start.replace(day=1)
    return first, first + timedelta(days=monthrange(first.year, first.month)[1])


@given(period=st.sampled_from(sorted(PERIODS)), micros=MICROSECONDS, nano=st.integers(0, 999))
def test_windows_are_those_of_the_calendar(period: str, micros: int, nano: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    start, end = window(period, micros * 1000 + nano)
    assert (start, end) == tuple(map(nanos, calendar(period, moment)))


@given(period=st.sampled_from(sorted(PERIODS)), at=st.integers(40 * DAY, 2**63 - 1))
def test_windows_follow_each_other_without_a_gap(period: str, at: int) -> None:
    start, end = window(period, at)
    assert start <= at < end
    assert window(period, start) == window(period, end - 1) == (start, end)
    assert window(period, end)[0] == end
    assert window(period, start - 1)[1] == start
    assert start % HOUR == 0


@given(period=st.sampled_from(sorted(PERIODS)), at=st.integers(100 * DAY, 2**62))
def test_a_window_is_kept_for_a_period_and_48_hours_more(period: str, at: int) -> None:
    start, _ = window(period, at)
    edge = closed_before(period, start)
    before, _ = window(period, start - 1)
    assert before - edge == KEPT_BEYOND == 48 * HOUR
    _, ended = window(period, edge - 1)
    assert start - ended >= start - before, "what is let go of ended a whole period before"


@given(calls=st.integers(1, 10**12), period=st.sampled_from(sorted(RATE_PERIODS)))
def test_the_spacing_never_allows_more_than_was_written(calls: int, period: str) -> None:
    step = spacing(calls, period)
    assert step * calls >= RATE_PERIODS[period] > (step - 1) * calls
    assert isinstance(step, int)
    assert step >= 1


@given(
    calls=st.integers(1, 20),
    period=st.sampled_from(["second", "minute"]),
    gaps=st.lists(st.integers(0, 3 * SECOND), max_size=60),
)
def test_gcra_is_a_leaky_bucket(calls: int, period: str, gaps: list[int]) -> None:
    """The other formulation (ITU-T I.371, annex A): a bucket that leaks one unit a nanosecond and holds so many."""
    books, rates = Books(), (Rate("r", "r", calls, period),)
    step = -(-RATE_PERIODS[period] // calls)
    level, last, at = 0, 0, NOON
    for n, gap in enumerate(gaps):
        at += gap
        leaked = max(0, level - (at - last))
        outcome = apply(books, Reserve(f"h{n}", (), 0, rates=rates), at=at, owner=1)
        assert isinstance(outcome, Granted) == (leaked <= (calls - 1) * step), say(outcome)
        if isinstance(outcome, Granted):
            level, last = leaked + step, at
