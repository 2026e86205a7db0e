"""Reports: how tallies are grouped, what percentiles are, and what tokens are proposed."""

import shlex
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.call import MAX_PATTERN, parse_pattern
from tolsey.ledger.proposals import LONGEST_LABEL, Proposal, Proposals, label_of, round_up
from tolsey.ledger.report import DIMENSIONS, Group, Groups, percentile, read_dimensions
from tolsey.ledger.tallies import BUCKETS_MS, MAX_TEXT, OTHER, Counts, TallyKey
from tolsey.testing import NOON
from tolsey.token.caveats import parse_caveat
from tolsey.token.delegation import compose
from tolsey.units import MAX_NANO, NANO

HOUR = NOON // (3600 * NANO)
KEY = TallyKey("observe", True, "team/worker", "team", "", "GET", "/a/b", "/a/*", "up", "", "", "USD", "")


def counts(calls: int = 1, errors: int = 0, cost: int = 0, *, ms: int = 1, held: int = 0) -> Counts:
    found = Counts()
    for n in range(calls):
        found.add(cost=cost // calls, failed=n < errors, us=1000 * ms, held=held)
    return found


def groups(by: str, *rows: tuple[int, TallyKey, Counts]) -> dict[tuple[str, ...], Group]:
    found = Groups(read_dimensions([by]))
    for row in rows:
        found.add(*row)
    return {group.values: group for group in found.found()}


def proposals(*rows: tuple[int, TallyKey, Counts], exact: tuple[str, ...] = ("/a/*",)) -> list[Proposal]:
    found = Proposals(exact)
    for row in rows:
        found.add(*row)
    return found.found()


# --- groups


def test_what_calls_are_told_apart_by() -> None:
    assert read_dimensions(["agent"]) == ("agent", "verified")
    assert read_dimensions(["route, day", "agent", "route"]) == ("route", "day", "agent", "verified")
    for wrong in ("", "colour", "agent,"):
        with pytest.raises(ValueError, match=r"is no dimension; known are agent, verified, team"):
            read_dimensions([wrong])


@pytest.mark.parametrize(
    ("by", "value"),
    [
        *(("team", "team"), ("tag", ""), ("route", "/a/*"), ("path", "/a/b"), ("method", "GET"), ("model", "")),
        *(("tool", ""), ("upstream", "up"), ("mode", "observe"), ("code", ""), ("verified", "yes")),
        *(("hour", "2026-04-01T12:00Z"), ("day", "2026-04-01")),
    ],
)
def test_each_dimension(by: str, value: str) -> None:
    assert by in DIMENSIONS
    assert list(groups(by, (HOUR, KEY, counts()))) == [(value,)]


def test_units_are_never_added() -> None:
    (found,) = groups(
        "route",
        (HOUR, KEY, counts(2, 1, 10)),
        (HOUR, KEY._replace(unit="sat"), counts(1, cost=3)),
        (HOUR + 1, KEY, counts(1, cost=5)),
        (HOUR, KEY._replace(unit=""), counts(1)),
    ).values()
    assert found.spend == {"USD": 15, "sat": 3}
    assert (found.calls, found.errors) == (5, 1)


def test_a_name_that_was_claimed_is_not_the_verified_one() -> None:
    found = groups("agent", (HOUR, KEY, counts(2)), (HOUR, KEY._replace(verified=False), counts(3)))
    assert {values: group.calls for values, group in found.items()} == {
        ("team/worker", "no"): 3,
        ("team/worker", "yes"): 2,
    }


def test_refused_and_would_be_refused() -> None:
    code = "budget_exhausted"
    (found,) = groups(
        "agent",
        (HOUR, KEY, counts(1)),
        (HOUR, KEY._replace(code=code), counts(2)),
        (HOUR, KEY._replace(mode="enforce", code=code), counts(3)),
    ).values()
    assert (found.calls, found.refused, found.would_refuse) == (6, 3, 2)


def test_the_order() -> None:
    rows = [(HOUR, KEY._replace(team=team), counts(calls)) for team, calls in (("b", 1), ("a", 1), ("c", 2))]
    assert list(groups("team", *rows)) == [("c",), ("a",), ("b",)]
    later, first = (HOUR + 24, KEY, counts(9)), (HOUR, KEY, counts())
    assert list(groups("team,day", later, first)) == [("team", "2026-04-01"), ("team", "2026-04-02")]


# --- percentiles


@pytest.mark.parametrize(
    ("percent", "values", "found"),
    [
        (95, [7], 7),
        (50, [1, 2], 1),
        (50, [3, 1, 2], 2),
        (95, list(range(1, 20)), 19),
        (95, list(range(1, 21)), 19),
        (95, list(range(1, 22)), 20),
        (100, [1, 2, 3], 3),
    ],
)
def test_a_percentile_is_of_the_nearest_rank(percent: int, values: list[int], found: int) -> None:
    assert percentile(percent, values) == found


@given(st.lists(st.integers(0, MAX_NANO), min_size=1), st.integers(1, 100))
def test_a_percentile_reaches_as_many_as_it_says(values: list[int], percent: int) -> None:
    found = percentile(percent, values)
    assert 100 * sum(value <= found for value in values) >= percent * len(values)
    assert 100 * sum(value < found for value in values) < percent * len(values)


@pytest.mark.parametrize(
    ("quick", "slow", "p50", "p95"), [(19, 1, 1, 1), (18, 2, 1, 3000), (10, 10, 1, 3000), (9, 11, 3000, 3000)]
)
def test_latency_is_a_bucket_s_end(quick: int, slow: int, p50: int, p95: int) -> None:
    rows = [(HOUR, KEY, counts(quick, ms=1)), (HOUR, KEY, counts(slow, ms=1001))]
    (group,) = groups("agent", *rows).values()
    assert (group.latency(50), group.latency(95)) == (p50, p95)


def test_the_last_bucket_has_no_end() -> None:
    (group,) = groups("agent", (HOUR, KEY, counts(ms=BUCKETS_MS[-1] + 1))).values()
    assert group.latency(50) is None


# --- proposals


@pytest.mark.parametrize(
    ("nano", "found"),
    [(0, 0), (7, 7), (99, 99), (100, 100), (101, 110), (1234, 1300), (9_950, 10_000), (MAX_NANO, MAX_NANO)],
)
def test_amounts_are_rounded_up(nano: int, found: int) -> None:
    assert round_up(nano) == found


def budget(*spends: tuple[int, int]) -> list[str]:
    """The budgets for what was spent in hours after the first."""
    (found,) = proposals(*[(HOUR // 24 * 24 + hour, KEY, counts(cost=cost)) for hour, cost in spends])
    return [str(measured.budget) for measured in found.budgets]


def test_a_budget_is_for_the_day_from_three_days_on() -> None:
    assert budget((0, NANO), (1, 2 * NANO), (24, NANO), (48, NANO // 3)) == ["3 USD/day"]
    assert budget((0, NANO), (1, 2 * NANO), (24, NANO // 3)) == ["2 USD/hour"]
    assert budget((0, NANO // 3)) == ["0.34 USD/hour"]


def test_days_without_spend_do_not_lower_it() -> None:
    assert budget(*[(24 * day, 0) for day in range(60)], (1, 5), (25, 5), (49, 5)) == ["0.000000005 USD/day"]


def test_the_95th_percentile_leaves_a_day_in_twenty_out() -> None:
    days = [(24 * day, NANO) for day in range(19)]
    assert budget(*days, (24 * 19, 90 * NANO)) == ["1 USD/day"]
    assert budget(*days[1:], (24 * 19, 90 * NANO)) == ["90 USD/day"]


def test_the_whole_line() -> None:
    llm = KEY._replace(method="POST", path="/a/c", unit="sat", model="gpt-5")
    (found,) = proposals((HOUR, KEY._replace(model="m"), counts(3, 1, 999)), (HOUR, llm, counts(cost=3)))
    assert shlex.join(found.words()) == (
        "tolsey mint --label team/worker --budget '0.000001 USD/hour' --scope /a/b --scope /a/c"
        " --caveat 'method = GET POST' --caveat 'model = gpt-5 m'"
        " --caveat 'budget = 0.000000003 sat/hour'"
    )


def test_a_free_agent_has_no_budget() -> None:
    (found,) = proposals((HOUR, KEY, counts(2)))
    assert found.words()[4:5] == ["--free-calls-only"]
    assert not found.budgets
    assert found.max_price is None


@pytest.mark.parametrize(
    ("rows", "most"),
    [
        ([(KEY, 1234)], "0.0000013 USD"),
        ([(KEY, 5), (KEY._replace(route="/llm"), 0)], "0.000000005 USD"),
        ([(KEY, 5), (KEY._replace(route="/llm"), 1)], None),
        ([(KEY, 5), (KEY._replace(unit="sat"), 1)], None),
    ],
)
def test_a_price_is_capped_where_calls_hold_what_they_cost(rows: list[tuple[TallyKey, int]], most: str | None) -> None:
    (found,) = proposals(*[(HOUR, key, counts(cost=cost)) for key, cost in rows])
    assert (None if found.max_price is None else str(found.max_price)) == most


def test_a_budget_has_room_for_a_call_that_holds_more_than_it_costs() -> None:
    """With a day's spend alone as its budget, the day's last calls could not be reserved."""
    llm = KEY._replace(route="/llm")
    (found,) = proposals(
        (HOUR, KEY, counts(cost=30 * NANO, held=NANO)),
        (HOUR, llm, counts(cost=2 * NANO, held=5 * NANO)),
        (HOUR + 1, llm, counts(cost=NANO, held=4 * NANO)),
    )
    ((budget, enough, _, room),) = found.budgets
    assert (str(budget), enough, room) == ("37 USD/hour", 32 * NANO, 5 * NANO)


def scope(*paths: tuple[str, str]) -> tuple[str, ...]:
    (found,) = proposals(*[(HOUR, KEY._replace(path=path, route=route), counts()) for path, route in paths])
    return found.scope


def test_scopes() -> None:
    assert scope(("/a/c", "/a/*"), ("/a/b", "/a/*")) == ("/a/b", "/a/c")
    assert scope(("/a/*", "/*"), ("/a/b", "/*"), ("/a/b/c", "/*")) == ("/a/*",)
    assert scope(*[(f"/a/{n}x", "/a/*") for n in range(20)]) == tuple(sorted(f"/a/{n}x" for n in range(20)))
    assert scope(*[(f"/a/{n}x", "/a/*") for n in range(21)]) == ("/a/*",)
    assert scope(*[(f"/a/{n}" + "x" * 90, "/a/*") for n in range(12)]) == ("/a/*",)
    assert scope(*[(f"/{n}", f"/{n}x") for n in range(2000)]) == ("/*",)


@pytest.mark.parametrize(
    ("path", "route", "found"),
    [
        ("/*", "/*/items", "/*/items"),
        ("/a/b,", "/a/*", "/a/*"),
        ("/a/" + "b" * MAX_PATTERN, "/a/*", "/a/*"),
        ("/a/ü", "/a/*", "/a/*"),
        ("/a/b%20c'", "/a/*", "/a/b%20c'"),
    ],
)
def test_a_path_that_no_caveat_can_hold_is_its_route_s(path: str, route: str, found: str) -> None:
    assert scope((path, route)) == (found,)


def test_what_always_failed_is_not_proposed() -> None:
    probe = KEY._replace(method="DELETE", path="/admin")
    (found,) = proposals((HOUR, KEY, counts(2, 1)), (HOUR, probe, counts(2, 2)))
    assert (found.scope, found.methods) == (("/a/b",), ("GET",))
    assert proposals((HOUR, probe, counts(2, 2))) == []


def test_whom_nothing_is_proposed_for() -> None:
    assert proposals((HOUR, KEY._replace(agent=OTHER), counts())) == []
    assert proposals((HOUR, KEY._replace(mode="enforce"), counts())) == []
    assert proposals((HOUR, KEY._replace(path="no path", route="nor this"), counts())) == []


def test_models_bind_only_where_every_call_names_one() -> None:
    models = [KEY._replace(model=model) for model in ("b", "a", "*", "x y", "z" * MAX_TEXT)]
    assert proposals(*[(HOUR, key, counts()) for key in models])[0].models == ("a", "b")
    assert proposals(*[(HOUR, key, counts()) for key in (*models, KEY)])[0].models == ()


@pytest.mark.parametrize(
    ("agent", "label"),
    [
        ("team/worker", "team/worker"),
        ("", "agent"),
        ("--budget '9 USD'; rm -rf ~", "budget-9-USD-rm--rf"),
        ("a\x1b[2J\nb\u202e", "a-2J-b"),
        ("x" * 99, "x" * LONGEST_LABEL),
    ],
)
def test_a_name_becomes_a_label(agent: str, label: str) -> None:
    assert label_of(agent) == label


@given(
    st.text(max_size=80),
    st.lists(st.tuples(st.text("/ab*'\",%20é \n", max_size=130), st.text("abc*. \n", max_size=20)), min_size=1),
    st.integers(0, MAX_NANO),
)
def test_every_proposal_can_be_minted(agent: str, seen: list[tuple[str, str]], cost: int) -> None:
    rows = [(HOUR, KEY._replace(agent=agent, path=f"/{path}", model=model), counts(cost=cost)) for path, model in seen]
    for found in proposals(*rows):
        words = found.words()
        assert shlex.split(shlex.join(words)) == words
        caveats = [text for name, text in pairwise(words) if name == "--caveat"]
        budgets = [text for name, text in pairwise(words) if name == "--budget"]
        texts = compose(
            label=found.label,
            nonce="n" * 12,
            scope=" ".join(found.scope),
            caveats=caveats,
            budget=next(iter(budgets), None),
        )
        assert [parse_caveat(text.encode()) for text in texts]
        assert all(parse_pattern(pattern).text == pattern for pattern in found.scope)
