"""`grant`: more money or calls for an account, bounded by those above it, written down and seen everywhere."""

from pathlib import Path

import pytest

from tests import gateways
from tests.cli import answer, invoke, refusal, tolsey
from tests.cli_books import TEAM, book, child, spend, write
from tests.ledgers import database
from tests.reading import fsck
from tests.upstreams import Upstream
from tolsey.cli.ledgers import user
from tolsey.ledger.events import Open, Reserve
from tolsey.token.chain import Account
from tolsey.units import NANO

BECAUSE = ("--reason", "second quarter")

CONFIG = """
[server]
workers = 2
[[upstream]]
name = "search"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/*"
methods = ["*"]
upstream = "search"
price = "1 USD"
"""


def account(c: tuple[str, str], label: str) -> dict[str, object]:
    return next(a for a in answer("trail", *c)["accounts"] if a["label"] == label)


def test_a_grant_raises_the_limit_of_one_account(config: Path, c: tuple[str, str]) -> None:
    token = child(answer(*TEAM, *c)["token"], "worker", "--budget", "5 USD")
    spend(config, token, "5 USD", hold="h1")
    worker = str(account(c, "worker")["id"])
    found = answer("grant", worker.upper(), "2.50 USD", *BECAUSE, *c)
    assert found == {
        "prefix_id": worker,
        "granted": "2.5",
        "unit": "USD",
        "left": "2.5",
        "reason": "second quarter",
        "by": user(),
    }
    spend(config, token, "2.5 USD", hold="h2")
    assert (account(c, "worker")["limit"], account(c, "worker")["granted"]) == ("5", "2.5")
    assert account(c, "team")["granted"] == "0"
    with database(book(config)) as db:
        entry = db.execute("SELECT amount, note FROM entry WHERE kind = 'grant'").fetchone()
    assert entry == (2_500_000_000, f"granted by {user()}: second quarter")
    assert fsck(book(config)).difference is None
    (line,) = [line for line in invoke("trail", *c)[1].splitlines() if "worker" in line]
    assert line.split() == ["worker", "5", "+2.5", "7.5", "0", "0", "USD", "2", worker]


def test_those_above_still_bind(config: Path, c: tuple[str, str]) -> None:
    token = child(answer("mint", "--label", "team", "--budget", "6 USD", *c)["token"], "worker", "--budget", "5 USD")
    spend(config, token, "5 USD", hold="h1")
    answer("grant", str(account(c, "worker")["id"]), "100 USD", *BECAUSE, *c)
    spend(config, token, "1 USD", hold="h2")
    with pytest.raises(AssertionError):
        spend(config, token, "0.01 USD", hold="h3")
    assert fsck(book(config)).difference is None


def test_a_grant_of_a_running_window_and_of_calls(config: Path, c: tuple[str, str]) -> None:
    answer(*TEAM, *c)
    daily = Account("daily", "USD", None, "daily", 10 * NANO, "day")
    calls = Account("calls", "call", None, "calls", 3 * NANO)
    write(config, Open(daily), Open(calls), Reserve("h1", (daily,), 4 * NANO, "", (calls,)))
    assert answer("grant", "daily", "5 USD", *BECAUSE, *c)["left"] == "11"
    assert answer("grant", "calls", "1000 call", *BECAUSE, *c)["left"] == "1002"
    row = account(c, "daily")
    window = row["window"]
    assert isinstance(window, dict)
    assert (row["granted"], row["period"], window["granted"], window["held"]) == ("0", "day", "5", "4")
    lines = [line.split() for line in invoke("trail", *c)[1].splitlines()]
    assert lines[0] == [
        "account",
        "limit",
        "spent",
        "held",
        "left",
        "unit",
        "spent",
        "in",
        "all",
        "calls",
        "prefix",
        "id",
    ]
    assert lines[2] == ["daily", "10/day", "+5", "0", "4", "11", "USD", "0", "0", "daily"]
    assert lines[3] == ["calls", "3", "+1000", "0", "1", "1002", "call", "0", "0", "calls"]
    assert fsck(book(config)).difference is None


@pytest.mark.parametrize(
    ("args", "code", "detail"),
    [
        (("0" * 32, "1 USD"), "account_unknown", "no account"),
        (("team", "1 EUR"), "grant_refused", "is in USD, not in EUR"),
        (("free", "1 USD"), "grant_refused", "no limit"),
        (("team", "0 USD"), "grant_refused", "above 0"),
        (("team", "9223372036 USD"), "grant_refused", "fits an amount"),
        (("team", "1e3 USD"), "amount_invalid", ""),
        (("calls", "0.5 call"), "grant_refused", "whole number"),
    ],
)
def test_what_cannot_be_granted(
    config: Path, c: tuple[str, str], args: tuple[str, str], code: str, detail: str
) -> None:
    answer(*TEAM, *c)
    team, free = Account("team", "USD", None, "t", NANO), Account("free", "USD", "team", "free", None)
    write(config, Open(team), Open(free), Open(Account("calls", "call", None, "t", NANO)))
    found = refusal("grant", *args, *BECAUSE, *c)
    assert found["code"] == code
    assert detail in found["detail"]
    assert answer("fsck", *c)["entries"] == 4


def test_a_reason_is_needed(c: tuple[str, str]) -> None:
    assert refusal("grant", "a", "1 USD", *c, status=2)["code"] == "usage"


def test_beside_a_gateway_that_serves(tmp_path: Path, upstream: Upstream) -> None:
    """Grant, refund and void with two workers that know the account; each sees it at the next call."""
    with gateways.serving(tmp_path, CONFIG, port=upstream.port) as running:
        c = ("-c", str(running.file))
        token = running.token(budget="2 USD")
        served = [running.ask("GET", "/a", token=token) for _ in range(3)]
        assert [answer.status for answer in served] == [200, 200, 402]
        (row,) = answer("trail", *c)["accounts"]
        answer("grant", row["id"], "1 USD", *BECAUSE, *c)
        assert [running.ask("GET", "/a", token=token).status for _ in range(2)] == [200, 402]
        answer("refund", served[0]["tolsey-hold"], *BECAUSE, *c)
        assert [running.ask("GET", "/a", token=token).status for _ in range(2)] == [200, 402]
        status, out, _ = tolsey("holds", *c)
        assert (status, out) == (0, "")
        running.stands(token, spent="3", calls=4)
