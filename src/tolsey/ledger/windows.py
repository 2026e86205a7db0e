"""The calendar of windowed limits, and the arithmetic of rates (RULES.md M10). Pure: the time is an argument.

All times are nanoseconds since the epoch, UTC.
"""

from datetime import date
from typing import Final

SECOND: Final = 1_000_000_000
HOUR: Final = 3600 * SECOND
DAY: Final = 24 * HOUR

KEPT_BEYOND: Final = 48 * HOUR
"""How long a closed window is kept after a further period has gone by."""

RATE_PERIODS: Final = {"second": SECOND, "minute": 60 * SECOND, "hour": HOUR, "day": DAY}
"""What a rate may be written for, in nanoseconds."""

_EPOCH: Final = date(1970, 1, 1).toordinal()
_THURSDAY: Final = 3


def window(period: str, at: int) -> tuple[int, int]:
    """The window of `period` (hour, day, week, month) that holds the instant `at`: its start, and its end, which is the
    start of the next. Weeks are ISO weeks, from Monday.
    """
    if period == "hour":
        start = at - at % HOUR
        return start, start + HOUR
    days = at // DAY
    if period == "day":
        return days * DAY, (days + 1) * DAY
    if period == "week":
        monday = days - (days + _THURSDAY) % 7
        return monday * DAY, (monday + 7) * DAY
    if period == "month":
        first = date.fromordinal(days + _EPOCH).replace(day=1)
        after = date(first.year + first.month // 12, first.month % 12 + 1, 1)
        return (first.toordinal() - _EPOCH) * DAY, (after.toordinal() - _EPOCH) * DAY
    raise AssertionError(f"{period} is not a period")


def closed_before(period: str, start: int) -> int:
    """Windows that begin before this instant need not be kept any more, once one that begins at `start` is open: more
    than a whole period and 48 hours lie between.
    """
    before, _ = window(period, start - 1)
    return before - KEPT_BEYOND


def spacing(count: int, period: str) -> int:
    """The least time between two calls at `count` a `period`, in nanoseconds, rounded up: never more than `count`."""
    return -(-RATE_PERIODS[period] // count)
