"""`export`: the journal as JSON lines and as Parquet; and the instants that the command line takes."""

import json
import os
import stat
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tests.cli import answer, invoke, refusal, tolsey
from tests.cli_books import TEAM, book, chain_of, child, spend, write
from tests.ledgers import Ledgers, database, purse
from tolsey.audit.seal import stamp
from tolsey.cli.moments import TimeInvalid, parse_moment
from tolsey.ledger.events import Grant, Reserve, Settle
from tolsey.ledger.windows import DAY, HOUR
from tolsey.store import export as export_module
from tolsey.store.export import Line, encode, export
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.testing import NOON, SECOND
from tolsey.token.chain import Account
from tolsey.units import NANO


@pytest.fixture
def history(config: Path, c: tuple[str, str]) -> tuple[str, str]:
    """A minted team, a worker's call, a free call that is counted and still open, and a grant; the prefix ids."""
    token = child(answer(*TEAM, *c)["token"], "worker", "--budget", "5 USD")
    spend(config, token, "0.06 USD", hold="h1")
    counter = Account("counter", "call", None, "team", 9 * NANO)
    write(config, Reserve("h2", (), 0, "GET /free", (counter,), until=NOON * 2))
    accounts = chain_of(config, token).purse("USD")
    write(config, Grant(accounts[1][:2], 7, "a little"))
    return accounts[0].id, accounts[1].id


def lines(*args: str) -> list[dict[str, Any]]:
    status, out, err = invoke("export", *args)
    assert (status, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_a_line_says_it_all(config: Path, c: tuple[str, str], history: tuple[str, str]) -> None:
    team, worker = history
    with database(book(config)) as db:
        times = [at for (at,) in db.execute("SELECT at FROM entry ORDER BY n")]
        generation = db.execute("SELECT generation FROM config").fetchone()[0]
    found = lines(*c)
    assert [line.pop("at") for line in found] == [stamp(at) for at in times]
    user = found[0].pop("note")
    assert user.startswith("minted by ")
    nobody = {"hold": None, "counter": None, "until": None, "owner": 0, "config": None}
    chain = {"chain": [team, worker], "labels": ["team", "worker"], "account": worker, "unit": "USD"}
    assert found == [
        nobody
        | {"n": 1, "kind": "open", "amount": "0", "unit": "USD", "account": team, "chain": [team], "labels": ["team"]}
        | {"config": generation},
        nobody | chain | {"n": 2, "kind": "reserve", "hold": "h1", "amount": "0.06", "note": "GET /api/v1/search"},
        nobody | chain | {"n": 3, "kind": "settle", "hold": "h1", "amount": "0.06", "note": ""},
        nobody
        | {"n": 4, "kind": "reserve", "hold": "h2", "amount": "0", "unit": None, "account": None, "note": "GET /free"}
        | {"counter": "counter", "chain": ["counter"], "labels": ["team"], "until": "2082-07-01T00:00:00.000000000Z"},
        nobody | chain | {"n": 5, "kind": "grant", "amount": "0.000000007", "note": "a little"},
    ]


def test_the_bytes_of_a_line_are_canonical(c: tuple[str, str], history: tuple[str, str]) -> None:
    """What is archived and hashed must be the same everywhere: members in order, no white space, UTF-8."""
    line = Line(1, "t", "settle", "h", "1", "USD", "a", None, ("r", "a"), ("é", None), None, 2, None, 'say "ü"')
    assert encode(line) == (
        b'{"n":1,"at":"t","kind":"settle","hold":"h","amount":"1","unit":"USD","account":"a","counter":null,'
        b'"chain":["r","a"],"labels":["\xc3\xa9",null],"until":null,"owner":2,"config":null,'
        b'"note":"say \\"\xc3\xbc\\""}\n'
    )


def test_a_file_is_new_and_private_and_gone_where_it_fails(
    config: Path, c: tuple[str, str], history: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "journal.jsonl"
    assert answer("export", "--output", str(out), *c) == {"file": str(out), "format": "jsonl", "entries": 5}
    assert len(out.read_text().splitlines()) == 5
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    before = out.read_bytes()
    found = refusal("export", "--output", str(out), *c)
    assert (found["code"], "File exists" in found["detail"]) == ("file_unusable", True)
    assert out.read_bytes() == before
    with database(book(config), lawless=True) as db:
        db.execute("UPDATE entry SET leaf = 99 WHERE n = 5")
    assert refusal("export", "--output", str(tmp_path / "other"), *c)["code"] == "ledger_unavailable"
    assert not (tmp_path / "other").exists()


def test_a_parquet_file(c: tuple[str, str], history: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "journal.parquet"
    assert answer("export", "--format", "parquet", "-o", str(out), *c)["entries"] == 5
    table = parquet.read_table(out)
    assert table.column("amount").to_pylist() == [
        Decimal(0),
        Decimal("0.06"),
        Decimal("0.06"),
        Decimal(0),
        Decimal("0.000000007"),
    ]
    text = {name: table.column(name).to_pylist() for name in ("n", "kind", "hold", "chain", "labels", "config", "note")}
    exported = lines(*c)
    assert text == {name: [line[name] for line in exported] for name in text}
    # Python's datetime has no nanoseconds; the column has.
    assert [stamp(at.value) for at in table.column("at")] == [line["at"] for line in exported]


def test_parquet_wants_a_file_and_pyarrow(
    c: tuple[str, str], history: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    assert refusal("export", "--format", "parquet", *c, status=2)["code"] == "usage"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    found = refusal("export", "--format", "parquet", "-o", "x", *c)
    assert (found["code"], "tolsey[parquet]" in found["detail"]) == ("parquet_missing", True)


def test_a_reader_that_goes_away(c: tuple[str, str], history: tuple[str, str]) -> None:
    import subprocess

    from tests.cli import SCRIPT, environment

    done = subprocess.run(
        ["bash", "-c", f"{SCRIPT} export {' '.join(c)} | head -n 1"],
        capture_output=True,
        env=environment(),
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout)["n"] == 1
    assert done.stderr == b""


@pytest.fixture
def long(ledgers: Ledgers) -> SqliteSnapshot:
    """Forty entries, a call each hour."""
    ledger = ledgers.open("o1")
    for number in range(20):
        accounts = purse(f"root 1000 / a{number % 3} -")
        ledger.run([Reserve(f"h{number}", accounts, 5), Settle(f"h{number}", 4)], NOON + number * HOUR)
    return SqliteSnapshot(ledgers.path)


def numbers(snapshot: SqliteSnapshot, since: int | None, until: int | None) -> list[int]:
    return [line.n for _, line in export(snapshot, since=since, until=until, progress=lambda done, total: None)]


@pytest.mark.parametrize("piece", [1, 7, 40, 1000])
def test_it_is_read_in_pieces_and_between_two_instants(
    long: SqliteSnapshot, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "PIECE", piece)
    assert numbers(long, None, None) == list(range(1, 41))
    assert numbers(long, NOON + HOUR, NOON + 3 * HOUR) == [3, 4, 5, 6]
    assert numbers(long, NOON + 18 * HOUR + 1, None) == [39, 40]
    assert numbers(long, None, NOON) == []
    assert numbers(long, NOON + DAY, None) == []


def test_what_is_written_meanwhile_is_for_the_next_time(
    ledgers: Ledgers, long: SqliteSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a new account, or the removal of old entries, falls into the pause between two pieces."""
    monkeypatch.setattr(export_module, "PIECE", 10)
    found = []
    for _, line in export(long, since=None, until=None, progress=lambda done, total: None):
        found.append(line.n)
        if line.n == 10:
            ledgers.open().run([Reserve("new", purse("new 9"), 1)], NOON + DAY)
            with database(ledgers.path) as db:
                db.execute("DELETE FROM entry WHERE n BETWEEN 15 AND 30")
    assert found == [*range(1, 15), *range(31, 41)]


def test_progress_is_told(long: SqliteSnapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "PIECE", 16)
    told: list[tuple[int, int]] = []
    list(export(long, since=NOON + 4 * HOUR, until=None, progress=lambda done, total: told.append((done, total))))
    assert told == [(16, 32), (32, 32)]


# instants


@pytest.mark.parametrize(
    ("text", "at", "at_the_end"),
    [
        ("2026-04-01", NOON - 12 * HOUR, NOON + 12 * HOUR),
        ("2026-04-01T12:00:00Z", NOON, NOON),
        ("2026-04-01T14:00:00.5+02:00", NOON + SECOND // 2, NOON + SECOND // 2),
        ("7d", NOON - 7 * DAY, NOON - 7 * DAY),
        ("24h", NOON - DAY, NOON - DAY),
        ("90s", NOON - 90 * SECOND, NOON - 90 * SECOND),
        ("30m", NOON - 1800 * SECOND, NOON - 1800 * SECOND),
        ("2w", NOON - 14 * DAY, NOON - 14 * DAY),
    ],
)
def test_an_instant(text: str, at: int, at_the_end: int) -> None:
    assert parse_moment(text, NOON) == at
    assert parse_moment(text, NOON, end_of_day=True) == at_the_end


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "d",
        "0d",
        "-7d",
        "7 d",
        "7D",
        "1000000d",
        "\u0667d",
        "yesterday",
        "2026-02-30",
        "2026-4-1",
        "2026-04-01T12:00",
        "7d\n",
    ],
)
def test_no_instant(text: str) -> None:
    with pytest.raises(TimeInvalid, match="is no time"):
        parse_moment(text, NOON)


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,7}[smhdwy]"), st.booleans())
def test_any_text_is_an_instant_or_refused(text: str, end: bool) -> None:
    with suppress(TimeInvalid):
        assert 0 <= parse_moment(text, NOON, end_of_day=end) < 2**63


@given(st.integers(min_value=0, max_value=4_000_000_000))
def test_an_instant_that_is_written_is_read(seconds: int) -> None:
    assert parse_moment(stamp(seconds * SECOND + 123), NOON) == seconds * SECOND + 123


def test_a_wrong_instant_makes_no_file(c: tuple[str, str], history: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    assert refusal("export", "--since", "last week", "-o", str(out), *c)["code"] == "time_invalid"
    assert not os.path.exists(out)
    assert lines("--since", "1h", *c)[0]["n"] == 1
    assert lines("--until", "1h", *c) == []
    assert tolsey("export", "--since", "2999-01-01", *c) == (0, "", "")
