"""Amounts are whole nano-units of one unit: exact to read and write, refused when they do not fit (RULES.md M1)."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.errors import AmountInvalid
from tolsey.units import MAX_NANO, NANO, PERIODS, UNITS, Amount, Budget, format_nano, parse_amount, parse_budget

AMOUNTS = st.builds(Amount, st.integers(0, MAX_NANO), st.sampled_from(sorted(UNITS)))


@given(AMOUNTS)
def test_an_amount_is_read_back_as_it_was_written(amount: Amount) -> None:
    assert parse_amount(str(amount)) == amount


@given(AMOUNTS)
def test_an_amount_is_written_plainly(amount: Amount) -> None:
    number, unit = str(amount).split(" ")
    assert unit == amount.unit
    assert Decimal(number) * NANO == amount.nano
    assert "e" not in number.lower()
    assert number == "0" or not number.startswith("0") or number.startswith("0.")
    assert "." not in number or not number.endswith("0")


@given(AMOUNTS, st.sampled_from([None, *sorted(PERIODS)]))
def test_a_budget_is_read_back_as_it_was_written(amount: Amount, period: str | None) -> None:
    assert parse_budget(str(Budget(amount, period))) == Budget(amount, period)


@given(st.text(max_size=70))
def test_any_text_is_an_amount_or_refused(text: str) -> None:
    for parse in (parse_amount, parse_budget):
        try:
            read = parse(text)
        except AmountInvalid:
            continue
        assert parse(str(read)) == read


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0 USD", 0),
        ("0.0 USD", 0),
        ("0.000000001 USD", 1),
        ("0.01 USD", 10_000_000),
        ("1 USD", NANO),
        ("1.5 USD", 1_500_000_000),
        ("1.500000000 USD", 1_500_000_000),
        ("9223372036.854775807 USD", MAX_NANO),
    ],
)
def test_amounts_on_the_edge(text: str, nano: int) -> None:
    assert parse_amount(text) == Amount(nano, "USD")


@pytest.mark.parametrize(
    "text",
    [
        "9223372036.854775808 USD",
        "9223372037 USD",
        "0.0000000001 USD",
        "0.0000000000 USD",
        "-0 USD",
        "-1 USD",
        "1e400 USD",
        "NaN USD",
        "Infinity USD",
        "1 usd",
        "1 BTC",
        "1",
        "USD",
        "",
        "1 USD " + " " * 64,
        "1" + " " * 61 + "USD",
    ],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(AmountInvalid):
        parse_amount(text)


def test_the_longest_amount_has_64_characters() -> None:
    assert parse_amount("1" + " " * 60 + "sat") == Amount(NANO, "sat")
    with pytest.raises(AmountInvalid, match="64 characters"):
        parse_amount("1" + " " * 61 + "sat")


@pytest.mark.parametrize(("nano", "unit"), [(-1, "USD"), (2**63, "USD"), (0, ""), (0, "usd"), (0, "USD ")])
def test_an_amount_cannot_be_made_out_of_range(nano: int, unit: str) -> None:
    with pytest.raises(AmountInvalid):
        Amount(nano, unit)


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0"), (1, "0.000000001"), (60_000_000, "0.06"), (-1_500_000_000, "-1.5"), (10 * NANO, "10")],
)
def test_nano_units_are_written_plainly(nano: int, text: str) -> None:
    assert format_nano(nano) == text
