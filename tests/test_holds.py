"""`holds`, `void` and `refund`: what is held for which call, and money given back by hand."""

import json
import re
import time
from pathlib import Path

import pytest

from tests.cli import answer, invoke, refusal, tolsey
from tests.cli_books import TEAM, book, child, open_book, spend, write
from tests.reading import fsck
from tolsey.cli.holds import age
from tolsey.cli.ledgers import user
from tolsey.ledger.events import Expire, Reserve, Settle
from tolsey.testing import NOON, SECOND
from tolsey.token.chain import Account
from tolsey.units import NANO

BECAUSE = ("--reason", "it was not served")
COUNTER = Account("counter", "call", None, "team", 5 * NANO)


@pytest.fixture
def worker(config: Path, c: tuple[str, str]) -> str:
    """The token of a worker below a team."""
    return child(answer(*TEAM, *c)["token"], "worker", "--budget", "5 USD")


def stands(c: tuple[str, str]) -> list[tuple[str, str, str, int]]:
    return [(a["label"], a["spent"], a["held"], a["calls"]) for a in answer("trail", *c)["accounts"]]


def notes(config: Path) -> list[tuple[str, int, str]]:
    from tests.ledgers import database

    with database(book(config)) as db:
        return db.execute("SELECT kind, amount, note FROM entry ORDER BY n").fetchall()


# holds


def test_open_holds_with_their_chain_call_and_owner(config: Path, c: tuple[str, str], worker: str) -> None:
    ledger = open_book(config)
    ledger.register("the-owner", NOON)
    ledger.run([Reserve("free", (), 0, "GET /free", (COUNTER,), until=NOON + 3600 * SECOND)], NOON)
    ledger.close()
    spend(config, worker, "1.50 USD", hold="h1", settle=False)
    spend(config, worker, "1 USD", hold="h2")
    first, second = answer("holds", *c)["holds"]
    team, sub = answer("trail", *c)["accounts"][:2]
    assert {**second, "since": "…"} == {
        "hold": "h1",
        "amount": "1.5",
        "unit": "USD",
        "since": "…",
        "until": None,
        "chain": [{"id": team["id"], "label": "team"}, {"id": sub["id"], "label": "worker"}],
        "call": "GET /api/v1/search",
        "owner": "cli",
    }
    assert {**first, "since": "…"} == {
        "hold": "free",
        "amount": "1",
        "unit": "call",
        "since": "…",
        "until": "2026-04-01T13:00:00Z",
        "chain": [{"id": "counter", "label": "team"}],
        "call": "GET /free",
        "owner": "the-owner",
    }
    status, out, err = invoke("holds", *c)
    assert (status, err) == (0, "")
    lines = [re.split(r"\s{2,}", line) for line in out.splitlines()]
    assert lines[0] == ["hold", "amount", "for", "until", "chain", "call", "owner"]
    assert lines[2][:2] == ["h1", "1.5 USD"]
    assert lines[2][4:] == ["team > worker", "GET /api/v1/search", "cli"]


def test_nothing_held(c: tuple[str, str], worker: str) -> None:
    assert answer("holds", *c) == {"holds": []}
    assert invoke("holds", *c) == (0, "", "nothing is held\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (-5, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_an_age(seconds: int, text: str) -> None:
    assert age(seconds * SECOND) == text


# void


def test_an_open_hold_is_voided(config: Path, c: tuple[str, str], worker: str) -> None:
    spend(config, worker, "2 USD", hold="h1", settle=False)
    assert answer("void", "h1", *BECAUSE, *c) == {
        "hold": "h1",
        "was": "open",
        "returned": "2",
        "unit": "USD",
        "reason": "it was not served",
        "by": user(),
    }
    assert stands(c) == [("team", "0", "0", 0), ("worker", "0", "0", 0)]
    assert notes(config)[-1] == ("void", 0, f"voided by {user()}: it was not served")
    assert refusal("void", "h1", *BECAUSE, *c)["detail"] == "hold h1 was voided before"
    assert fsck(book(config)).difference is None


@pytest.mark.parametrize("how", ["expired", "settled"])
def test_an_unmetered_hold_is_annulled(config: Path, c: tuple[str, str], worker: str, how: str) -> None:
    spend(config, worker, "2 USD", hold="h1", settle=False)
    write(config, Expire("h1") if how == "expired" else Settle("h1", 2 * NANO, "unmetered: nothing moved for too long"))
    assert stands(c)[0] == ("team", "2", "0", 1)
    found = answer("void", "h1", *BECAUSE, *c)
    assert (found["was"], found["returned"], found["unit"]) == ("unmetered", "2", "USD")
    assert stands(c) == [("team", "0", "0", 0), ("worker", "0", "0", 0)]
    assert notes(config)[-1] == ("annul", 2 * NANO, f"voided by {user()}: it was not served")
    assert refusal("void", "h1", *BECAUSE, *c)["detail"] == "hold h1 was voided before"
    assert fsck(book(config)).difference is None


def test_a_served_call_is_not_voided(config: Path, c: tuple[str, str], worker: str) -> None:
    spend(config, worker, "2 USD", hold="h1")
    found = refusal("void", "h1", *BECAUSE, *c)
    assert found["code"] == "hold_refused"
    assert found["detail"] == "the call of hold h1 was served, and charged 2 USD; `tolsey refund` gives money back"
    assert stands(c)[0] == ("team", "2", "0", 1)


def test_the_call_of_a_voided_hold_settles_too_late(config: Path, c: tuple[str, str], worker: str) -> None:
    """The gateway that served it knows the hold as open, and learns otherwise when it settles."""
    from tests.cli_books import chain_of

    ledger = open_book(config)
    ledger.register("gateway", time.time_ns())
    ledger.run([Reserve("h1", chain_of(config, worker).purse("USD"), NANO)], time.time_ns())
    answer("void", "h1", *BECAUSE, *c)
    outcome = ledger.run([Settle("h1", NANO)], time.time_ns())[0]
    ledger.close()
    assert type(outcome).__name__ == "Late"
    assert stands(c)[0] == ("team", "0", "0", 0)
    assert fsck(book(config)).difference is None


# refund


def test_a_refund_in_parts_and_of_the_rest(config: Path, c: tuple[str, str], worker: str) -> None:
    spend(config, worker, "2 USD", hold="h1")
    found = answer("refund", "h1", "--amount", "0.5 USD", "--reason", "half wrong", *c)
    assert found == {"hold": "h1", "returned": "0.5", "unit": "USD", "reason": "half wrong", "by": user()}
    assert stands(c) == [("team", "1.5", "0", 1), ("worker", "1.5", "0", 1)]
    too_much = refusal("refund", "h1", "--amount", "1.6 USD", *BECAUSE, *c)
    assert too_much["detail"] == "hold h1 was charged 2 USD, of which 1.5 USD can be refunded"
    assert tolsey("refund", "h1", *BECAUSE, *c) == (0, "refunded 1.5 USD of h1\n", "")
    assert stands(c) == [("team", "0", "0", 1), ("worker", "0", "0", 1)]
    assert refusal("refund", "h1", *BECAUSE, *c)["code"] == "hold_refused"
    assert notes(config)[-1] == ("refund", 1_500_000_000, f"refunded by {user()}: it was not served")
    assert fsck(book(config)).difference is None


@pytest.mark.parametrize(
    ("args", "code", "detail"),
    [
        (("void", "h9"), "hold_unknown", "no hold h9"),
        (("refund", "h9"), "hold_unknown", "no hold h9"),
        (("refund", "open"), "hold_refused", "still open"),
        (("refund", "served", "--amount", "1 EUR"), "hold_refused", "in USD, not in EUR"),
        (("refund", "served", "--amount", "0 USD"), "hold_refused", "2 USD can be refunded"),
        (("refund", "served", "--amount", "lots"), "amount_invalid", "lots"),
        (("refund", "free"), "hold_refused", "free call"),
    ],
)
def test_what_cannot_be_given_back(
    config: Path, c: tuple[str, str], worker: str, args: tuple[str, ...], code: str, detail: str
) -> None:
    spend(config, worker, "2 USD", hold="open", settle=False)
    spend(config, worker, "2 USD", hold="served")
    write(config, Reserve("free", (), 0, "", (COUNTER,)), Settle("free", 0))
    before = notes(config)
    found = refusal(*args, *BECAUSE, *c)
    assert found["code"] == code
    assert detail in found["detail"]
    assert notes(config) == before


def test_a_reason_is_needed(c: tuple[str, str], worker: str) -> None:
    for command in ("void", "refund"):
        assert refusal(command, "h1", *c, status=2)["code"] == "usage"
        assert refusal(command, "h1", "--reason", " ", *c, status=2)["code"] == "usage"


def test_a_gateway_without_a_ledger_gets_none(config: Path, c: tuple[str, str]) -> None:
    for args in (("holds",), ("void", "h", *BECAUSE), ("refund", "h", *BECAUSE), ("grant", "a", "1 USD", *BECAUSE)):
        assert refusal(*args, *c)["code"] == "ledger_refused"
    assert not book(config).exists()


def test_json_and_text_say_the_same(config: Path, c: tuple[str, str], worker: str) -> None:
    spend(config, worker, "2 USD", hold="h1", settle=False)
    status, out, err = tolsey("void", "h1", *BECAUSE, *c)
    assert (status, out, err) == (0, "voided h1, which was open: 2 USD returned\n", "")
    spend(config, worker, "2 USD", hold="h2", settle=False)
    assert json.loads(tolsey("void", "h2", *BECAUSE, "--json", *c)[1])["returned"] == "2"
