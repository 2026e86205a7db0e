"""What a call is charged to beside its price: windows, counters and rates on a chain, and what only restricts.

`minted / appended` in a row stands for the minter's caveats and a holder's.
"""

import pytest

from tests.tokens import CENT, FREE, SUBTASK, chain_of, decide, mint, refused, verdict
from tolsey.errors import CaveatInvalid, TokenMalformed
from tolsey.token.caveats import BudgetCaveat, Calls, Meaning, RateCaveat, parse_caveat
from tolsey.token.chain import Account, Charge, Rate
from tolsey.token.macaroon import Macaroon
from tolsey.units import Amount, Budget

NANO = 1_000_000_000

MEANS: dict[str, Meaning] = {
    **{
        f"budget = 20 USD/{p}": BudgetCaveat(Budget(Amount(20 * NANO, "USD"), p))
        for p in ("hour", "day", "week", "month")
    },
    "budget = 20 USD / day": BudgetCaveat(Budget(Amount(20 * NANO, "USD"), "day")),
    "calls = 0": Calls(0, None),
    "calls = 1000": Calls(1000, None),
    "calls = 9223372036": Calls(9_223_372_036, None),
    **{f"calls = 100/{period}": Calls(100, period) for period in ("hour", "day", "week", "month")},
    "calls = 100 / hour": Calls(100, "hour"),
    **{f"rate = 60/{period}": RateCaveat(60, period) for period in ("second", "minute", "hour", "day")},
    "rate = 1/second": RateCaveat(1, "second"),
    "rate = 1000000 / day": RateCaveat(1_000_000, "day"),
}

WRONG = [
    "budget = 20 USD/year",
    "budget = 20 USD/days",
    "budget = 20 USD/",
    "budget = 20/day USD",
    "calls = 9223372037",
    "calls = -1",
    "calls = 1.5",
    "calls = 01",
    "calls = 1_000",
    "calls = \u0661",
    "calls = 5 call",
    "calls = 5/minute",
    "calls = 5/",
    "calls = 5/hour/day",
    "calls = /hour",
    "rate = 60",
    "rate = 60/",
    "rate = 0/minute",
    "rate = 1000001/second",
    "rate = 1.5/second",
    "rate = 60/week",
    "rate = 60/month",
    "rate = 60 / minutes",
    "rate = /minute",
]


@pytest.mark.parametrize("text", MEANS)
def test_what_is_counted_is_read(text: str) -> None:
    assert parse_caveat(text.encode()) == MEANS[text]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_value_refuses(text: str) -> None:
    with pytest.raises(CaveatInvalid):
        parse_caveat(text.encode())
    assert verdict(mint("budget = 10 USD").attenuate(text)) == "caveat_unknown"


def token(row: str) -> Macaroon:
    """`"calls = 5; budget = 1 USD / label = child n; rate = 5/minute"`."""
    minted, _, appended = row.partition(" / ")
    root = mint(*filter(None, minted.split("; ")))
    return root.attenuate(*appended.split("; ")) if appended else root


def charge(row: str, price: object = CENT) -> Charge:
    found = decide(token(row), price=FREE if price is FREE else CENT)
    assert isinstance(found, Charge), found
    return found


def test_a_budget_for_a_period_is_an_account_with_windows() -> None:
    found = charge("label = root n; budget = 20 USD/day / label = child n; budget = 5 USD/hour; budget = 9 USD")
    assert [(a.label, a.limit, a.period) for a in found.accounts] == [
        ("root", 20 * NANO, "day"),
        ("child", 5 * NANO, "hour"),
        ("child", 9 * NANO, None),
    ]


def test_each_calls_caveat_opens_a_counter_below_the_one_above_it() -> None:
    made = token("label = root n; calls = 9; budget = 1 USD / label = a n; label = b n; calls = 5/hour; calls = 3")
    ids = chain_of(made).prefix_ids
    found = decide(made)
    assert isinstance(found, Charge)
    assert found.counters == (
        Account(ids[2], "call", None, "root", 9 * NANO),
        Account(ids[6], "call", ids[2], "b", 5 * NANO, "hour"),
        Account(ids[7], "call", ids[6], "b", 3 * NANO),
    )
    assert chain_of(made).own_accounts() == {ids[5], ids[6], ids[7]}
    assert set(chain_of(made).accounts()) == {*found.accounts, *found.counters}


def test_each_rate_is_known_by_its_caveat() -> None:
    made = token("rate = 9/second; budget = 1 USD / label = a n; rate = 60/minute")
    ids = chain_of(made).prefix_ids
    found = decide(made)
    assert isinstance(found, Charge)
    assert found.rates == (Rate(ids[1], None, 9, "second"), Rate(ids[4], "a", 60, "minute"))


def test_two_equal_caveats_are_two() -> None:
    found = charge("calls = 5; calls = 5; rate = 5/hour; rate = 5/hour; budget = 1 USD")
    assert len({counter.id for counter in found.counters}) == 2
    assert len({rate.id for rate in found.rates}) == 2


def test_a_grown_chain_is_as_a_new_one() -> None:
    row = "calls = 5; rate = 5/hour; budget = 1 USD/week / label = a n; calls = 2/month; rate = 1/day; budget = 1 USD"
    assert decide(token(row)) == decide(Macaroon.deserialize(token(row).to_text()))


@pytest.mark.parametrize(
    ("row", "price", "verdict_"),
    [
        ("calls = 5", CENT, "budget_missing"),
        ("rate = 5/minute", CENT, "budget_missing"),
        ("calls = 5 / budget = 1 USD", CENT, "budget_missing"),
        ("calls = 5 / calls = 3", CENT, "budget_missing"),
        ("budget = 5 call", CENT, "budget_missing"),
        ("budget = 1 USD / calls = 5", CENT, "cleared"),
        ("budget = 1 USD / rate = 5/minute", CENT, "cleared"),
        ("calls = 5; budget = 5 call", CENT, "budget_missing"),
        ("calls = 5; budget = 1 USD / budget = 5 call", CENT, "budget_missing"),
        ("", FREE, "cleared"),
        ("calls = 5", FREE, "cleared"),
        ("rate = 5/minute", FREE, "cleared"),
        ("calls = 5 / calls = 3; rate = 5/minute", FREE, "cleared"),
        ("rate = 5/minute / rate = 3/minute", FREE, "cleared"),
        ("rate = 5/minute / calls = 3", FREE, "budget_missing"),
        (" / calls = 3", FREE, "budget_missing"),
        (" / rate = 3/minute", FREE, "budget_missing"),
        ("budget = 1 USD / calls = 3", FREE, "budget_missing"),
        ("budget = 1 USD / label = a n; rate = 3/minute", FREE, "budget_missing"),
    ],
)
def test_what_a_count_does_to_a_price(row: str, price: object, verdict_: str) -> None:
    """A count never pays, and on a free call nobody pays for keeping one that a holder appended."""
    assert verdict(token(row), price=FREE if price is FREE else CENT) == verdict_


def test_the_refusal_names_what_is_not_kept() -> None:
    made = token("budget = 1 USD / label = child n; calls = 3")
    refusal = refused(made, price=FREE)
    assert (refusal.code, refusal.link, refusal.prefix_id) == (
        "budget_missing",
        "child",
        chain_of(made).prefix_ids[-1],
    )


def test_counts_and_rates_are_among_the_32_accounts() -> None:
    """RULES.md T6."""
    root = mint("budget = 1 USD", *["calls = 5"] * 15, *["rate = 5/hour"] * 16)
    assert verdict(root) == "cleared"
    for one in ("budget = 1 USD", "calls = 5", "rate = 5/hour"):
        with pytest.raises(TokenMalformed):
            chain_of(root.attenuate(one))


def test_what_has_none_of_them_is_charged_as_before() -> None:
    found = charge("; ".join(("label = root n", "budget = 10 USD")) + " / " + "; ".join(SUBTASK))
    assert (found.counters, found.rates) == ((), ())
