"""`mint`, `trail` and `fsck`: tokens and the ledger, alone and beside a gateway that is serving."""

import json
import os
import pwd
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from tests.cli import answer, gateway, invoke, refusal, tolsey
from tests.cli_books import TEAM, book, chain_of, child, keyring, open_book, spend
from tolsey import Macaroon
from tolsey.cli import examining, place, trailing
from tolsey.ledger.events import Outcome, Reserve, Settle
from tolsey.store.sqlite import SqliteLedger
from tolsey.token.macaroon import prefix_id

# mint


def test_mint_prints_a_token_and_opens_its_account(config: Path, c: tuple[str, str]) -> None:
    status, out, err = tolsey(
        *TEAM, "--scope", "/api/*", "--expires", "2999-12-31", "-c", "tolsey.toml", cwd=config.parent
    )
    token = out.removesuffix("\n")
    macaroon = Macaroon.deserialize(token)
    name = prefix_id(macaroon.signature)
    assert (status, err) == (0, f"minted team, prefix id {name}\n")
    texts = [str(caveat) for caveat in macaroon.caveats]
    assert texts[0].startswith("label = team ")
    assert texts[1:] == ["scope = /api/*", "expires = 2999-12-31", "budget = 100 USD"]
    assert macaroon.location == "tolsey"
    assert macaroon.identifier.endswith(b":4")
    ((found,),) = answer("trail", *c).values()
    seen = found.pop("first_seen")
    assert answer("trail", *c, "--since", "1h")["accounts"][0]["first_seen"] == seen
    assert {"accounts": [found]} == {
        "accounts": [
            {
                "id": name,
                "parent": None,
                "label": "team",
                "unit": "USD",
                "limit": "100",
                "period": None,
                "granted": "0",
                "spent": "0",
                "held": "0",
                "calls": 0,
                "observed": "0",
                "window": None,
                "opened_by": f"minted by {pwd.getpwuid(os.getuid()).pw_name}",
                "last_seen": None,
                "refusals": {},
            }
        ]
    }
    with sqlite3.connect(book(config)) as db:
        rows = db.execute("SELECT kind, note, generation FROM entry JOIN config ON config.n = entry.config").fetchall()
    db.close()
    assert [(kind, note) for kind, note, _ in rows] == [("open", f"minted by {pwd.getpwuid(os.getuid()).pw_name}")]
    assert len(rows[0][2]) == 12


def test_what_mint_prints_as_json(config: Path, c: tuple[str, str]) -> None:
    found = answer(*TEAM, "--caveat", "method = GET", *c)
    macaroon = Macaroon.deserialize(found["token"])
    assert list(found) == ["token", "prefix_id", "label", "caveats"]
    assert (found["label"], found["prefix_id"]) == ("team", prefix_id(macaroon.signature))
    assert found["caveats"] == [str(caveat) for caveat in macaroon.caveats]
    assert found["caveats"][1:] == ["method = GET", "budget = 100 USD"]


def test_two_purses_are_two_accounts(config: Path, c: tuple[str, str]) -> None:
    token = answer(*TEAM, "--caveat", "budget = 5000 sat", *c)["token"]
    rows = answer("trail", *c)["accounts"]
    assert sorted((row["unit"], row["limit"], row["parent"]) for row in rows) == [
        ("USD", "100", None),
        ("sat", "5000", None),
    ]
    assert {row["id"] for row in rows} == {a["id"] for a in answer("verify", token, *c)["accounts"]}


def test_two_tokens_alike_are_two_tokens(config: Path, c: tuple[str, str]) -> None:
    first, second = answer(*TEAM, *c), answer(*TEAM, *c)
    assert first["prefix_id"] != second["prefix_id"]
    assert len(answer("trail", *c)["accounts"]) == 2


def test_a_token_without_a_budget_is_asked_for_by_name(config: Path, c: tuple[str, str]) -> None:
    found = refusal("mint", "--label", "a", *c, status=2)
    assert (found["code"], "--free-calls-only" in found["detail"]) == ("usage", True)
    assert refusal(*TEAM, "--free-calls-only", *c, status=2)["code"] == "usage"
    assert not book(config).exists()
    token = answer("mint", "--label", "a", "--free-calls-only", *c)["token"]
    assert answer("trail", *c) == {"accounts": []}
    assert answer("verify", token, *c, "--path", "/api/v1/free")["call"]["charged"] == []
    assert refusal("verify", token, *c, "--path", "/api/v1/search")["code"] == "budget_missing"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("--budget", "1e3 USD"), "caveat_invalid"),
        (("--budget", "1 USD/year"), "caveat_invalid"),
        (("--budget", "9223372036.854775808 USD"), "caveat_invalid"),
        (("--budget", "1 USD", "--caveat", "rate = 1/year"), "caveat_invalid"),
        (("--budget", "1 USD", "--caveat", "x" * 2000), "caveat_invalid"),
        (("--budget", "1 USD", *["--caveat", "purpose = p"] * 63), "token_malformed"),
    ],
)
def test_a_bad_caveat_mints_nothing(config: Path, c: tuple[str, str], args: tuple[str, ...], code: str) -> None:
    assert refusal("mint", "--label", "a", *args, *c)["code"] == code
    assert not book(config).exists()


def test_mint_keeps_the_limits_of_the_config(config: Path, c: tuple[str, str]) -> None:
    config.write_text(config.read_text() + "[limits]\ncaveats = 2\n")
    answer(*TEAM, *c)
    assert refusal(*TEAM, "--scope", "/*", *c)["code"] == "token_malformed"


# which ledger


def test_the_first_mint_ties_the_keys_to_the_ledger(config: Path, c: tuple[str, str]) -> None:
    assert keyring(config).ledger is None
    answer(*TEAM, *c)
    ledger = open_book(config)
    ring, mark = keyring(config), keyring(config).read_mark()
    assert ring.ledger == ledger.id
    assert mark is not None
    assert (mark.ledger, mark.entries) == (ledger.id, 1)
    ledger.close()


def gone(config: Path, old: Path) -> None:
    book(config).unlink()


def emptied(config: Path, old: Path) -> None:
    book(config).write_bytes(b"")


def older(config: Path, old: Path) -> None:
    shutil.copy(old, book(config))


def another(config: Path, old: Path) -> None:
    other = gateway(config.parent.parent / "other")
    answer(*TEAM, "-c", str(other))
    answer(*TEAM, "-c", str(other))
    answer(*TEAM, "-c", str(other))
    shutil.copy(book(other), book(config))


@pytest.mark.parametrize("swap", [gone, emptied, older, another])
def test_mint_refuses_a_ledger_that_is_not_the_one(
    config: Path, c: tuple[str, str], tmp_path: Path, swap: object
) -> None:
    answer(*TEAM, *c)
    old = tmp_path / "old.db"
    shutil.copy(book(config), old)
    answer(*TEAM, *c)
    assert callable(swap)
    swap(config, old)
    was = book(config).exists()
    found = refusal(*TEAM, *c)
    assert found["code"] == "ledger_refused"
    assert "--accept-lost-spend" in found["detail"]
    assert book(config).exists() == was
    assert refusal("check", *c, env={"SEARCH_API_KEY": "x"})["code"] == "ledger_refused"


def test_mint_beside_a_gateway_that_serves(config: Path, c: tuple[str, str]) -> None:
    token = answer(*TEAM, *c)["token"]
    purse = chain_of(config, token).purse("USD")
    ledger = open_book(config)
    ledger.register("gateway", time.time_ns())
    stopping = threading.Event()
    served: list[Outcome] = []

    def serve() -> None:
        ring = keyring(config)
        while not stopping.is_set():
            hold = f"hold {len(served)}"
            served.append(ledger.run([Reserve(hold, purse, 1000)], time.time_ns())[0])
            served.append(ledger.run([Settle(hold, 500)], time.time_ns())[0])
            if len(served) % 100 == 0:
                ring.write_mark(ledger.id, ledger.entry_count(), time.time_ns())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        outcomes = [tolsey(*TEAM, *c) for _ in range(3)]
        running = answer("trail", *c)["accounts"]
    finally:
        stopping.set()
        thread.join()
        ledger.close()
    assert [(status, len(out.split())) for status, out, _ in outcomes] == [(0, 1)] * 3, outcomes
    assert len(running) == 4
    assert len(served) > 10
    found = answer("fsck", *c)
    assert (found["accounts"], found["entries"], found["open_holds"]) == (4, 4 + len(served), 0)


def test_a_mark_that_is_raised_between_two_readings_is_no_reason_to_refuse(
    config: Path, c: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(*TEAM, *c)
    count, stale = SqliteLedger.entry_count, [1]
    monkeypatch.setattr(SqliteLedger, "entry_count", lambda ledger: count(ledger) - (stale.pop() if stale else 0))
    answer(*TEAM, *c)
    assert not stale
    look, late = place.identify, [1]

    def identify(path: Path) -> tuple[str | None, int]:
        name, entries = look(path)
        return name, entries - (late.pop() if late else 0)

    monkeypatch.setattr(examining, "identify", identify)
    answer("check", *c, env={"SEARCH_API_KEY": "x"})
    assert not late


# trail


def test_the_trail_of_a_delegation_tree(config: Path, c: tuple[str, str]) -> None:
    team = answer(*TEAM, *c)["token"]
    subtask = child(team, "subtask", "--budget", "50 USD")
    free = child(subtask, "free hand")
    worker = child(free, "worker", "--budget", "5 USD")
    spend(config, worker, "0.06 USD", hold="1")
    spend(config, worker, "1 USD", hold="2", settle=False)
    spend(config, subtask, "2 USD", hold="3")
    answer(*TEAM, *c)

    rows = answer("trail", *c)["accounts"]
    assert [(r["label"], r["limit"], r["spent"], r["held"], r["calls"]) for r in rows] == [
        ("team", "100", "2.06", "1", 2),
        ("subtask", "50", "2.06", "1", 2),
        ("free hand", None, "0.06", "1", 1),
        ("worker", "5", "0.06", "1", 1),
        ("team", "100", "0", "0", 0),
    ]
    assert [r["parent"] for r in rows] == [None, rows[0]["id"], rows[1]["id"], rows[2]["id"], None]
    assert rows[1]["id"] == answer("inspect", subtask)["prefix_id"]
    below = answer("trail", rows[2]["id"].upper(), *c)["accounts"]
    assert below == rows[2:4]

    status, out, err = invoke("trail", *c)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["account", "limit", "spent", "held", "left", "unit", "calls", "prefix", "id"]
    assert lines[2].split() == ["subtask", "50", "2.06", "1", "46.94", "USD", "2", rows[1]["id"]]
    assert lines[3].split() == ["free", "hand", "-", "0.06", "1", "-", "USD", "1", rows[2]["id"]]
    assert lines[4].startswith("      worker ")


def test_the_lines_of_the_tree_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trailing, "on_terminal", lambda: True)
    assert trailing._guides([0, 1, 2, 2, 1, 2, 0, 1]) == [
        "",
        "├─ ",
        "│  ├─ ",
        "│  └─ ",
        "└─ ",
        "   └─ ",
        "",
        "└─ ",
    ]


@pytest.mark.parametrize("name", ["0" * 32, "nope", "\u202e", ""])
def test_an_account_that_is_not_there(c: tuple[str, str], name: str) -> None:
    answer(*TEAM, *c)
    assert refusal("trail", name, *c)["code"] == "account_unknown"
    assert "\u202e" not in invoke("trail", name, *c)[2]


def test_a_ledger_without_accounts_is_said_to_be(c: tuple[str, str]) -> None:
    answer("mint", "--label", "a", "--free-calls-only", *c)
    assert invoke("trail", *c) == (0, "", "there is no account yet: mint a token first\n")


@pytest.mark.parametrize(
    ("command", "what", "code"),
    [
        ("trail", "nothing", "ledger_refused"),
        ("fsck", "nothing", "ledger_refused"),
        ("trail", "a directory", "ledger_unavailable"),
        ("fsck", "a directory", "ledger_unavailable"),
        ("mint", "a directory", "ledger_unavailable"),
        ("trail", "noise", "ledger_unavailable"),
        ("fsck", "noise", "ledger_differs"),
        ("mint", "noise", "ledger_unavailable"),
    ],
)
def test_a_ledger_that_cannot_be_read(config: Path, c: tuple[str, str], command: str, what: str, code: str) -> None:
    if what == "a directory":
        book(config).mkdir()
    elif what == "noise":
        book(config).write_bytes(b"no database" * 1000)
    found = refusal(*(TEAM if command == "mint" else (command,)), *c)
    assert found["code"] == code


# fsck


def test_fsck_says_that_everything_adds_up(config: Path, c: tuple[str, str]) -> None:
    token = answer(*TEAM, *c)["token"]
    spend(config, token, "1 USD", hold="1")
    spend(config, token, "1 USD", hold="2", settle=False)
    assert answer("fsck", *c) == {
        "accounts": 1,
        "entries": 4,
        "open_holds": 1,
        "rolled_up": 0,
        "rolled_up_until": None,
        "logs": 1,
        "checkpoints": 0,
        "unsigned": 4,
        "difference": None,
    }
    assert tolsey("fsck", *c) == (0, "accounts: 1, entries: 4, open holds: 1; everything adds up\n", "")


def test_fsck_ends_with_1_and_the_first_difference(config: Path, c: tuple[str, str]) -> None:
    token = answer(*TEAM, *c)["token"]
    spend(config, token, "1 USD", hold="1")
    with sqlite3.connect(book(config)) as db:
        db.execute("UPDATE account SET spent = spent - 1")
    db.close()
    status, out, err = tolsey("fsck", "--json", *c)
    document = json.loads(err)
    assert (status, document["code"]) == (1, "ledger_differs")
    assert json.loads(out)["difference"] == document["detail"]
    status, out, err = tolsey("fsck", *c)
    assert (status, out) == (1, "accounts: 1, entries: 3, open holds: 0; they do not add up\n")
    assert err == f"error: {document['detail']}\n"
