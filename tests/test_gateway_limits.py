"""Windows, counts and rates on a real socket, with two workers: what is refused, what it says, when it opens again."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.gateways import Gateway, child_of, problem
from tests.upstreams import Upstream

CONFIG = """
[server]
workers = 2
[[upstream]]
name = "one"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/free/*"
methods = ["GET"]
upstream = "one"
price = "0 USD"
[[route]]
path = "/dead"
methods = ["GET"]
upstream = "dead"
price = "0 USD"
[[route]]
path = "/*"
methods = ["GET"]
upstream = "one"
price = "0.01 USD"
[[upstream]]
name = "dead"
url = "http://127.0.0.1:1"
"""


def window(period: str) -> tuple[str, str]:
    """The ends of the windows that hold this moment and one a minute later: equal but at a turn."""
    found = []
    for now in (datetime.now(UTC), datetime.now(UTC) + timedelta(minutes=1)):
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        end = {
            "hour": now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1),
            "day": midnight + timedelta(days=1),
            "week": midnight + timedelta(days=7 - now.weekday()),
            "month": (midnight.replace(day=1) + timedelta(days=31)).replace(day=1),
        }[period]
        found.append(end.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return found[0], found[1]


def refused(gateway: Gateway, target: str, token: str) -> dict[str, Any]:
    """The refusal of a call, once what was served before is settled: an answer is there a moment earlier."""
    gateway.accounts(token)
    return problem(gateway.ask("GET", target, token=token))


@pytest.mark.parametrize("period", ["hour", "day", "week", "month"])
def test_a_budget_for_a_period_says_when_it_opens_again(gateway: Gateway, upstream: Upstream, period: str) -> None:
    token = gateway.token(budget=f"0.02 USD/{period}")
    ends = window(period)
    assert [gateway.ask("GET", "/x", token=token).status for _ in range(2)] == [200, 200]
    gateway.stands(token, spent="0.02", calls=2)

    with upstream.hears_nothing():
        document = refused(gateway, "/x", token)

    assert (document["status"], document["code"], document["unit"]) == (402, "budget_exhausted", "USD")
    assert (document["limit"], document["spent"], document["remaining"]) == ("0.02", "0.02", "0")
    assert document["resets_at"] in ends
    (account,) = gateway.accounts(token)
    assert (account["period"], account["remaining"], account["resets_at"]) == (period, "0", document["resets_at"])


def test_a_budget_without_a_period_never_opens_again(gateway: Gateway) -> None:
    token = gateway.token(budget="0.01 USD")
    gateway.ask("GET", "/x", token=token)
    assert refused(gateway, "/x", token)["resets_at"] is None


def test_every_window_on_the_chain_binds(gateway: Gateway) -> None:
    token = gateway.token(budget="0.05 USD/month")
    child = child_of(token, "label = child n", "budget = 0.03 USD/day")
    assert [gateway.ask("GET", "/x", token=child).status for _ in range(3)] == [200] * 3
    assert refused(gateway, "/x", child)["link"]["label"] == "child"
    assert [gateway.ask("GET", "/x", token=token).status for _ in range(2)] == [200] * 2
    assert refused(gateway, "/x", child)["link"]["label"] == "team"


@pytest.mark.parametrize(("path", "spent"), [("/x", "0.02"), ("/free/x", "0")])
def test_so_many_calls(gateway: Gateway, upstream: Upstream, path: str, spent: str) -> None:
    token = gateway.token("calls = 2")
    assert [gateway.ask("GET", path, token=token).status for _ in range(2)] == [200, 200]

    with upstream.hears_nothing():
        document = refused(gateway, path, token)

    assert (document["status"], document["code"], document["unit"]) == (402, "calls_exhausted", "call")
    assert (document["limit"], document["spent"], document["resets_at"]) == ("2", "2", None)
    money, calls = sorted(gateway.accounts(token), key=lambda account: account["unit"])
    assert (money["unit"], money["spent"]) == ("USD", spent)
    assert (calls["unit"], calls["limit"], calls["spent"], calls["calls"]) == ("call", "2", "2", 2)


def test_so_many_calls_an_hour(gateway: Gateway) -> None:
    token = gateway.token("calls = 1/hour")
    ends = window("hour")
    gateway.ask("GET", "/x", token=token)
    assert refused(gateway, "/x", token)["resets_at"] in ends


def test_a_call_that_was_not_served_is_not_counted(gateway: Gateway) -> None:
    token = gateway.token("calls = 1")
    for _ in range(3):
        assert gateway.ask("GET", "/dead", token=token).status == 502
        gateway.accounts(token)
    assert gateway.ask("GET", "/free/x", token=token).status == 200
    assert refused(gateway, "/free/x", token)["code"] == "calls_exhausted"


def test_a_child_counts_for_its_parent(gateway: Gateway) -> None:
    token = gateway.token("calls = 3")
    one, two = (child_of(token, f"label = {name} n", "calls = 2") for name in ("one", "two"))
    assert [gateway.ask("GET", "/x", token=one).status for _ in range(3)] == [200, 200, 402]
    gateway.accounts(token)
    assert [gateway.ask("GET", "/x", token=two).status for _ in range(2)] == [200, 402]
    assert refused(gateway, "/x", two)["link"]["label"] == "team"


def test_counts_are_exact_under_two_workers(gateway: Gateway) -> None:
    token = gateway.token("calls = 20")
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: gateway.ask("GET", "/free/x", token=token).status, range(60)))
    assert sorted(statuses) == [200] * 20 + [402] * 40


@pytest.mark.parametrize("path", ["/x", "/free/x"])
def test_a_rate(gateway: Gateway, upstream: Upstream, path: str) -> None:
    token = gateway.token("rate = 2/hour")
    assert [gateway.ask("GET", path, token=token).status for _ in range(2)] == [200, 200]

    with upstream.hears_nothing():
        answer = gateway.ask("GET", path, token=token)

    assert (answer.status, problem(answer)["code"]) == (429, "rate_limited")
    assert problem(answer)["link"]["label"] == "team"
    assert 1700 < int(answer["retry-after"]) <= 1800


def test_a_rate_is_exact_under_two_workers(gateway: Gateway) -> None:
    token = gateway.token("rate = 20/day")
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: gateway.ask("GET", "/free/x", token=token).status, range(60)))
    assert sorted(statuses) == [200] * 20 + [429] * 40


def test_money_is_asked_before_the_rate(gateway: Gateway) -> None:
    token = gateway.token("rate = 1/hour", budget="0.01 USD")
    gateway.ask("GET", "/x", token=token)
    gateway.stands(token, spent="0.01", calls=1)
    assert refused(gateway, "/x", token)["code"] == "budget_exhausted"


def test_a_refused_call_does_not_use_the_rate_up(gateway: Gateway) -> None:
    token = gateway.token("rate = 2/hour")
    poor = child_of(token, "label = poor n", "budget = 0 USD")
    assert [gateway.ask("GET", "/x", token=poor).status for _ in range(5)] == [402] * 5
    assert [gateway.ask("GET", "/x", token=token).status for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("caveat", ["calls = 5", "rate = 5/minute"])
def test_a_limit_that_a_holder_appends_is_not_kept_for_free_calls(
    gateway: Gateway, upstream: Upstream, caveat: str
) -> None:
    """Nothing that costs its bearer nothing may grow a table."""
    child = child_of(gateway.token(), "label = child n", caveat)
    with upstream.hears_nothing():
        document = refused(gateway, "/free/x", child)
    assert (document["status"], document["code"]) == (402, "budget_missing")
    assert gateway.ask("GET", "/x", token=child).status == 200


def test_the_balance_shows_rates(gateway: Gateway) -> None:
    token = gateway.token("rate = 60/minute")
    answer = gateway.ask("GET", "/.tolsey/balance", token=token)
    (rate,) = json.loads(answer.body)["rates"]
    assert (rate["label"], rate["calls"], rate["period"]) == ("team", 60, "minute")
