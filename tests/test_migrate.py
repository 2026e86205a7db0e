"""`migrate`: a ledger is carried elsewhere as it is, in one place at any time, and the keys go on working."""

import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli import answer, refusal, tolsey
from tests.cli_books import TEAM, book, chain_of, open_book, spend, write
from tests.ledgers import database
from tests.reading import fsck
from tolsey.cli.copying import UrlInvalid, resolve, shown
from tolsey.config_secrets import Secret
from tolsey.errors import LedgerUnavailable
from tolsey.ledger.events import Claim, Extend, Grant, Kept, Observe, Refund, Reserve, Settle
from tolsey.store.moving import TABLES
from tolsey.store.moving_sqlite import SqliteMovable
from tolsey.token.chain import Account, Rate
from tolsey.units import NANO

DAILY = Account("daily", "USD", None, "daily", 10 * NANO, "day")
CALLS = Account("calls", "call", None, "calls", 9 * NANO)
RATE = Rate("rate", "team", 5, "day")


@pytest.fixture
def token(config: Path, c: tuple[str, str]) -> str:
    """A ledger with everything in it that can be in one."""
    token: str = answer(*TEAM, *c)["token"]
    spend(config, token, "1 USD", hold="h1")
    spend(config, token, "2 USD", hold="h2", settle=False)
    write(
        config,
        Reserve("h3", (DAILY,), 5, "GET /x", (CALLS,), (RATE,), Claim("scope", "key", "request"), until=2**62),
        Settle("h3", 4, "", Kept("body", b"\x00\xffresponse")),
        Refund("h3", 1, "r"),
        Reserve("h4", (DAILY,), 5, "GET /y", until=2**62),
        Extend("h4", 2),
        Grant(("daily", "USD"), 3, "g"),
        Reserve("h5", (), 0, "", (CALLS,), (RATE,)),
        Observe("o1", (DAILY,), 7, 6, "GET /z", (CALLS,), (RATE,)),
    )
    answer("revoke", token, "--link", "0", *c)
    with database(book(config)) as db:
        db.execute("INSERT INTO tally VALUES (494000, 'a worker', '{}', '{}')")
        db.execute("INSERT INTO alert VALUES ('a', 1, 'test', '{}', NULL, 0, 1, 'waiting', '')")
        db.execute(
            "INSERT INTO question (id, at, until, root, prefix_id, labels, ticket, method, path, query, nano, unit,"
            " purpose) VALUES ('q1', 1, 2, 'r', 'p', 'a/b', 't', 'GET', '/x', '', 7, 'USD', '')"
        )
    answer("audit", "checkpoint", *c)
    return token


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with database(path) as db:
        return {
            table.name: sorted(db.execute(f"SELECT {table.column_list} FROM {table.name}"), key=repr)
            for table in TABLES
        }


def test_everything_is_carried_over(config: Path, c: tuple[str, str], token: str, tmp_path: Path) -> None:
    before = contents(book(config))
    assert all(before[table.name] for table in TABLES if not table.name.startswith(("roll", "gap")))
    target = tmp_path / "new" / "ledger.db"
    found = answer("migrate", url(book(config)), url(target))
    assert found == {
        "source": f"sqlite:///{book(config)}",
        "target": f"sqlite:///{target}",
        "accounts": 3,
        "entries": 14,
        "open_holds": 3,
    }
    assert contents(target) == before
    assert fsck(target).difference is None
    with database(target) as new, database(book(config)) as old:
        assert new.execute("SELECT id, created_at, moved_to FROM ledger").fetchone() == (
            *old.execute("SELECT id, created_at FROM ledger").fetchone(),
            None,
        )


def test_every_table_of_the_schema_is_named(config: Path, token: str) -> None:
    """A table or a column that is added later must be carried too, or left out on purpose."""
    with database(book(config)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        columns = {name: {row[1] for row in db.execute(f"PRAGMA table_info({name})")} for name in names}
    del columns["ledger"]
    assert {table.name: set(table.columns) for table in TABLES} == columns


def test_the_source_is_refused_and_says_where_the_ledger_is(
    config: Path, c: tuple[str, str], token: str, tmp_path: Path
) -> None:
    target = tmp_path / "new.db"
    status, out, err = tolsey("migrate", url(book(config)), url(target))
    assert (status, out) == (
        0,
        f"moved to {url(target)}: accounts: 3, entries: 14, open holds: 3; everything adds up\n",
    )
    assert err == f"put the new URL into [ledger] url; {url(book(config))} is refused from now on\n"
    reason = ("--reason", "r")
    for command in (TEAM, ("trail",), ("fsck",), ("holds",), ("export",), ("void", "h2", *reason), ("backup", "x")):
        found = refusal(*command, *c)
        assert found["code"] == "ledger_refused", command
        assert f"was moved to {url(target)}; put that into [ledger] url" in found["detail"]
    assert "was moved to" in refusal("check", *c, env={"SEARCH_API_KEY": "x"})["detail"]
    assert refusal("migrate", url(book(config)), url(tmp_path / "other.db"))["code"] == "ledger_refused"
    assert not (tmp_path / "other.db").exists()


def test_the_keys_go_on_working(config: Path, c: tuple[str, str], token: str, tmp_path: Path) -> None:
    target = tmp_path / "new.db"
    answer("migrate", url(book(config)), url(target))
    config.write_text(config.read_text().replace("data/ledger.db", str(target)))
    answer(*TEAM, *c)
    assert answer("void", "h2", "--reason", "r", *c)["returned"] == "2"
    assert answer("refund", "h1", "--reason", "r", *c)["returned"] == "1"
    assert answer("fsck", *c)["entries"] == 17
    # And back again, to a third place, since the first is taken.
    third = tmp_path / "third.db"
    answer("migrate", url(target), url(third))
    assert contents(third) == contents(target)


def test_not_while_a_gateway_runs(config: Path, token: str, tmp_path: Path) -> None:
    ledger = open_book(config)
    ledger.register("gateway", time.time_ns())
    found = refusal("migrate", url(book(config)), url(tmp_path / "new.db"))
    assert found["code"] == "ledger_refused"
    assert "owner gateway): stop it first" in found["detail"]
    ledger.run([Reserve("h9", chain_of(config, token).purse("USD"), 5)], time.time_ns())
    ledger.close()
    assert not list(tmp_path.glob("new.db*"))
    # What is left of one that died is carried over; the next start settles it.
    assert answer("migrate", url(book(config)), url(tmp_path / "new.db"))["open_holds"] == 4


def test_one_that_opened_the_ledger_before_writes_no_more(config: Path, token: str, tmp_path: Path) -> None:
    """It had not begun to hold money, so it was not in the way; now it would write into what was left behind."""
    ledger = open_book(config)
    answer("migrate", url(book(config)), url(tmp_path / "new.db"))
    with pytest.raises(LedgerUnavailable, match="was moved to"):
        ledger.run([Reserve("h9", (DAILY,), 5)], time.time_ns())
    ledger.close()


def test_nothing_is_changed_where_it_fails(
    config: Path, c: tuple[str, str], token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(book(config))
    target = tmp_path / "new.db"

    def try_it(code: str) -> None:
        assert refusal("migrate", url(book(config)), url(target))["code"] == code
        assert not list(tmp_path.glob("new.db*"))
        assert contents(book(config)) == before
        assert answer("fsck", *c)["difference"] is None

    async def fail(*_: object) -> None:
        raise LedgerUnavailable("as told")

    load = SqliteMovable.load

    async def lose(self: SqliteMovable, table: object, rows: list[object]) -> None:
        await load(self, table, rows[1:])  # type: ignore[arg-type]  # as it is called

    for verb in ("load", "finish", "mark_moved"):
        with monkeypatch.context() as patch:
            patch.setattr(SqliteMovable, verb, fail)
            if verb == "mark_moved":
                # The copy is whole by then, and there all the same: only the source says which of the two it is.
                assert refusal("migrate", url(book(config)), url(target))["code"] == "ledger_unavailable"
                for left in tmp_path.glob("new.db*"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            else:
                try_it("ledger_unavailable")
    monkeypatch.setattr(SqliteMovable, "load", lose)
    try_it("ledger_differs")
    monkeypatch.undo()
    with database(book(config), lawless=True) as db:
        db.execute("UPDATE account SET spent = spent + 1 WHERE id = 'daily'")
    assert refusal("migrate", url(book(config)), url(target))["code"] == "ledger_differs"
    assert not list(tmp_path.glob("new.db*"))


def test_nothing_is_overwritten(config: Path, token: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for target in (tmp_path / "mine", book(config)):
        assert refusal("migrate", url(book(config)), url(target))["code"] == "ledger_refused"
    assert (tmp_path / "mine").read_text() == "precious"
    assert refusal("migrate", url(tmp_path / "nothing.db"), url(tmp_path / "new.db"))["code"] == "ledger_refused"


# URLs


def test_a_url_from_the_environment_and_relative_to_here(config: Path, token: str) -> None:
    status, out, err = tolsey(
        "migrate", "sqlite:///data/ledger.db", "${WHERE}", cwd=config.parent, env={"WHERE": "sqlite:///moved.db"}
    )
    assert (status, "everything adds up" in out) == (0, True), err
    assert (config.parent / "moved.db").exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "begin with"),
        ("mysql://x", "begin with"),
        ("data/ledger.db", "begin with"),
        ("sqlite:///", "not the path of a file"),
        ("sqlite:///x?mode=ro", "without options"),
        ("postgresql://h", "name a database"),
        ("${NOT_SET}", "NOT_SET is not set"),
        ("${EMPTY}", "EMPTY is not set"),
    ],
)
def test_a_url_that_is_none(text: str, fault: str) -> None:
    with pytest.raises(UrlInvalid, match=fault):
        resolve(text, {"EMPTY": ""})


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://u:secret@h:5432/db", "postgresql://u@h:5432/db"),
        ("postgresql://h/db?password=secret", "postgresql://h/db"),
        ("postgresql://u:se%2Fcr%40et@h1,h2/db?x=1", "postgresql://u@h1,h2/db"),
        ("postgres:///db", "postgres:///db"),
        ("sqlite:////x/y.db", "sqlite:////x/y.db"),
    ],
)
def test_a_url_as_it_is_shown(url: str, text: str) -> None:
    assert shown(resolve(url, {})) == text


@given(st.text(min_size=1), st.sampled_from(["h/db", "h:1/db?a=b"]))
def test_a_password_is_never_shown(password: str, place: str) -> None:
    """However it is written: also one that no URL may hold as it is."""
    assert shown(Secret(f"postgresql://user:{password}@{place}")) == f"postgresql://user@{place.partition('?')[0]}"
