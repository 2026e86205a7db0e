"""The commands on a ledger in PostgreSQL: minting, reading, checking, and a ledger that is not the one."""

import asyncio
from pathlib import Path

import pytest

from tests.cli import answer, invoke, refusal
from tests.ledgers import purse
from tests.postgres import Gateways, Server
from tests.reading import fsck, trail
from tolsey.ledger.events import Annul, Event, Expire, Extend, Grant, Open, Refund, Reserve, Settle, Void
from tolsey.store.keyring import Keyring
from tolsey.store.postgres_snapshot import PostgresSnapshot
from tolsey.token.chain import Rate

A = purse("root 100 / team 50/day / a 30")
COUNTERS = purse("calls 5 / more 2/hour", "call")
HISTORY: list[list[Event]] = [
    [Open(A[0], "minted")],
    [Reserve("h1", A, 10, "GET /x", COUNTERS, (Rate("r", None, 9, "day"),))],
    [Extend("h1", 5), Settle("h1", 12), Reserve("h2", A[:2], 6), Expire("h2")],
    [Refund("h1", 3, ""), Annul("h2", ""), Grant(A[0][:2], 7, ""), Void("h1")],
    [Reserve("h3", A, 4, "GET /open")],
]


@pytest.fixture
def config(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gateway's config whose ledger is on PostgreSQL."""
    file = tmp_path / "tolsey.toml"
    file.write_text('[ledger]\nurl = "postgresql://tolsey:${SESAME}@${DB_HOST}/postgres"\n')
    monkeypatch.setenv("SESAME", "a/secret")
    monkeypatch.setenv("DB_HOST", f"127.0.0.1:{postgres.port}")
    postgres.database()
    (tmp_path / "data").mkdir(mode=0o700)
    Keyring.create(tmp_path / "data/keys")
    return file


def run(url: str, *groups: list[Event]) -> None:
    async def write() -> None:
        gateways = Gateways(url)
        ledger = await gateways.open("o1")
        for group in groups:
            await ledger.write(group)
        await gateways.close()

    asyncio.run(write())


def test_minting_and_reading(config: Path) -> None:
    assert refusal("trail", "-c", str(config))["code"] == "ledger_refused"
    minted = answer("mint", "-c", str(config), "--label", "team", "--budget", "3 USD")
    (account,) = answer("trail", "-c", str(config))["accounts"]
    assert (account["id"], account["limit"], account["spent"]) == (minted["prefix_id"], "3", "0")
    assert answer("fsck", "-c", str(config))["difference"] is None
    assert answer("check", "-c", str(config))["errors"] == []


def test_a_ledger_that_is_not_the_one(config: Path, postgres: Server) -> None:
    answer("mint", "-c", str(config), "--label", "team", "--budget", "3 USD")
    postgres.database()
    for command in (("mint", "--label", "x", "--budget", "3 USD"), ("check",)):
        assert "the ledger is empty" in refusal(*command, "-c", str(config))["detail"]
    assert postgres.psql("SELECT count(*) FROM pg_namespace WHERE nspname = 'tolsey'") == "0", "nothing was made"


def test_what_check_warns_of(config: Path, postgres: Server) -> None:
    postgres.psql("ALTER ROLE tolsey SET synchronous_commit = off")
    try:
        warnings = answer("check", "-c", str(config))["warnings"]
    finally:
        postgres.psql("ALTER ROLE tolsey RESET synchronous_commit")
    assert [warning.split(" = ")[0] for warning in warnings][:2] == [
        "PostgreSQL runs with fsync",
        "PostgreSQL runs with full_page_writes",
    ]
    assert warnings[2].startswith("synchronous_commit is off for this server, database or user")


def test_a_server_that_is_not_there(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_HOST", "127.0.0.1:1")
    for command in ("check", "trail", "fsck"):
        status, out, err = invoke(command, "-c", str(config))
        assert (status, "secret" in out + err) == (1, False)
        assert "Connection refused" in err


def test_the_books_of_a_whole_history_add_up(postgres: Server) -> None:
    url = postgres.database()
    run(url, *HISTORY)
    snapshot = PostgresSnapshot(url)
    checked = fsck(snapshot)
    assert (checked.difference, checked.open_holds, checked.accounts) == (None, 1, 5)
    assert [row.id for row in trail(snapshot)] == ["root", "team", "a", "calls", "more"], "roots as they were opened"
    with snapshot:
        assert [(hold.id, hold.amount, hold.owner_id, hold.note) for hold in snapshot.holds()] == [
            ("h3", 4, "o1", "GET /open")
        ]
        assert [entry.kind for entry in snapshot.entries_of("h1")] == ["reserve", "extend", "settle", "refund"]
        first, *_, last = list(snapshot.entries())
        assert (snapshot.number_before(first.at), snapshot.number_before(last.at + 1)) == (0, last.n)
        assert snapshot.last_entry() == last.n
        assert snapshot.now() >= last.at


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("UPDATE account SET spent = spent - 1 WHERE id = 'root'", "account root"),
        ('UPDATE "window" SET spent = spent + 1 WHERE start > 0', "window"),
        ("DELETE FROM entry WHERE kind = 'settle'", "h1"),
        ("DELETE FROM hold", "h3"),
        ("DROP INDEX entry_resolution", "entry_resolution is missing"),
        ("ALTER TABLE account DROP CONSTRAINT account_check", "account_check is missing"),
    ],
)
def test_every_tampering_is_a_difference(postgres: Server, change: str, difference: str) -> None:
    url = postgres.database()
    run(url, *HISTORY)
    postgres.psql(f"SET search_path = tolsey; {change}")
    found = fsck(PostgresSnapshot(url)).difference
    assert found is not None
    assert difference in found
