"""Instants on the command line: a date, an RFC 3339 time, or how long ago."""

import re
from typing import ClassVar, Final

from tolsey.errors import CaveatInvalid, TolseyError
from tolsey.ledger.windows import DAY, HOUR, SECOND
from tolsey.token.caveats import parse_expiry
from tolsey.units import MAX_NANO

_AGE = re.compile(r"([1-9][0-9]{0,5})([smhdw])", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_AGES: Final = {"s": SECOND, "m": 60 * SECOND, "h": HOUR, "d": DAY, "w": 7 * DAY}


class TimeInvalid(TolseyError, ValueError):
    """A text that is not an instant."""

    code: ClassVar[str] = "time_invalid"


def parse_moment(text: str, now: int, *, end_of_day: bool = False) -> int:
    """Read `2026-06-30` (its beginning, UTC, or its end), `2026-06-30T18:00:00Z`, or `7d`, `24h`, `30m` before `now`.

    Returns nanoseconds since the epoch, from 0 to 2⁶³−1: a ledger has no entry beyond. Raises `TimeInvalid`.
    """
    return min(max(_read(text, now, end_of_day), 0), MAX_NANO)


def _read(text: str, now: int, end_of_day: bool) -> int:
    age = _AGE.fullmatch(text)
    if age is not None:
        return now - int(age[1]) * _AGES[age[2]]
    try:
        at = parse_expiry(text)
    except CaveatInvalid:
        raise TimeInvalid(
            f"{text[:64]!r} is no time: write a date (2026-06-30), an RFC 3339 time (2026-06-30T18:00:00Z), or how long"
            " ago (7d, 24h, 30m)"
        ) from None
    return at - DAY if _DATE.fullmatch(text) and not end_of_day else at
