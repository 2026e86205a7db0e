"""Money: whole nano-units of a named unit.

An `Amount` is an integer of nano-units (10⁻⁹ of its unit) between 0 and 2⁶³−1. There are no floats here: text is read
digit by digit, and what does not fit exactly is refused (RULES.md M1, M2).
"""

import re
from dataclasses import dataclass
from typing import Final

from tolsey.errors import AmountInvalid

NANO: Final = 1_000_000_000
"""Nano-units in one unit."""

MAX_NANO: Final = 2**63 - 1
"""The largest amount, in nano-units: what a signed 64-bit column holds."""

UNITS: Final = frozenset(
    {"USD", "EUR", "GBP", "CHF", "JPY", "CAD", "AUD", "CNY", "INR", "BRL", "sat", "call", "credit"}
)
"""The units that a price, a budget or a limit may be written in. Closed, so that a misspelt unit is an error."""

PERIODS: Final = frozenset({"hour", "day", "week", "month"})
"""The windows that a budget may be written for (UTC, ISO weeks)."""

MAX_TEXT: Final = 64
"""The longest amount that is read, in characters; checked before anything else."""

_NUMBER = re.compile(r"(0|[1-9][0-9]{0,18})(?:\.([0-9]{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Amount:
    """`nano` nano-units (0 … 2⁶³−1) of `unit`. Raises `AmountInvalid` when either is outside that."""

    nano: int
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise AmountInvalid(f"unknown unit {self.unit[:32]!r}; known are {', '.join(sorted(UNITS))}")
        if not 0 <= self.nano <= MAX_NANO:
            raise AmountInvalid(f"an amount lies between 0 and {format_nano(MAX_NANO)}")

    def __str__(self) -> str:
        return f"{format_nano(self.nano)} {self.unit}"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a `budget` caveat says: an amount, and the window it is for (None: for the account's whole life)."""

    amount: Amount
    period: str | None = None

    def __str__(self) -> str:
        return str(self.amount) if self.period is None else f"{self.amount}/{self.period}"


def parse_amount(text: str) -> Amount:
    """Read `"0.01 USD"`.

    Takes at most 64 characters: a plain decimal number (no sign, no exponent, at most nine decimals), white space, a
    unit. Raises `AmountInvalid`, whose text says which of these failed.
    """
    if len(text) > MAX_TEXT:
        raise AmountInvalid(f"an amount has at most {MAX_TEXT} characters")
    words = text.split()
    if len(words) != 2:
        raise AmountInvalid(f"{text!r} is not an amount; write a number and a unit, as in '0.01 USD'")
    number = _NUMBER.fullmatch(words[0])
    if number is None:
        raise AmountInvalid(
            f"{words[0]!r} is not a plain decimal number from 0 with at most nine decimals, as in '0.01'"
        )
    whole, fraction = number.groups()
    return Amount(int(whole) * NANO + int((fraction or "").ljust(9, "0")), words[1])


def parse_budget(text: str) -> Budget:
    """Read `"500 USD"` or `"20 USD/day"`. Raises `AmountInvalid`."""
    if len(text) > MAX_TEXT:
        raise AmountInvalid(f"a budget has at most {MAX_TEXT} characters")
    amount, slash, period = text.partition("/")
    if slash and period.strip() not in PERIODS:
        raise AmountInvalid(f"unknown period {period.strip()!r}; known are hour, day, week, month")
    return Budget(parse_amount(amount), period.strip() if slash else None)


def format_nano(nano: int) -> str:
    """Write nano-units as a plain decimal: no exponent, no trailing zeros, no unit (`60000000` → `"0.06"`)."""
    if nano < 0:
        return f"-{format_nano(-nano)}"
    fraction = nano % NANO
    # The digits of 10⁹ + n after the first are n's, filled up with zeros.
    return f"{nano // NANO}.{str(NANO + fraction)[1:].rstrip('0')}" if fraction else str(nano // NANO)
