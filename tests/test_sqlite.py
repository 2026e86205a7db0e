"""The SQLite ledger: groups, several connections and processes on one file, owners and their end."""

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ledgers import Child, Ledgers, database, journal, open_holds, owner_file, purse, replay, say, stands
from tests.reading import fsck
from tolsey.errors import LedgerUnavailable
from tolsey.ledger.events import Event, Expire, Grant, Granted, Kind, Open, Outcome, Reserve, Settle, Void
from tolsey.ledger.windows import window
from tolsey.store import ballast, sqlite, sqlite_accounts, sqlite_rows
from tolsey.store.owners import Turn, is_dead
from tolsey.store.sqlite import SqliteLedger
from tolsey.store.sqlite_file import Durability, connect
from tolsey.testing import NOON, SECOND, FaultyLedger

ROOT = purse("root 100")
TEAM = purse("root 100 / team 50")


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        yield ledgers


def in_full(outcomes: list[Outcome]) -> list[str]:
    return [say(outcome) for outcome in outcomes]


@pytest.mark.interpreted
def test_a_balance_is_of_one_instant(ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an account says and what its window says belong together, whatever is committed meanwhile."""
    one, other = ledgers.open("o1"), ledgers.open("o2")
    (account,) = accounts = purse("root 100/day")
    other.run([Reserve("h1", accounts, 10)], NOON)
    waiting = [Settle("h1", 4)]

    def meanwhile(period: str, at: int) -> tuple[int, int]:
        while waiting:
            other.run([waiting.pop()], NOON)
        return window(period, at)

    monkeypatch.setattr(sqlite_accounts, "window", meanwhile)
    (balance,) = one.balances([account], NOON)
    assert (balance.spent, balance.held, balance.calls, balance.open) == (4, 0, 1, 0)


def test_a_group_is_one_transaction(ledgers: Ledgers) -> None:
    one, other = ledgers.open("o1"), ledgers.open("o2")
    one.turn.take()
    one.stage([Reserve("h1", TEAM, 5), Reserve("h2", ROOT, 7), Settle("h1", 3)], NOON)
    assert stands(other, TEAM) == [(0, 0), (0, 0)]
    assert journal(ledgers.path) == []
    one.commit()
    one.turn.give()
    assert stands(other, TEAM) == [(3, 7), (3, 0)]
    assert journal(ledgers.path) == [("reserve", "h1", 5), ("reserve", "h2", 7), ("settle", "h1", 3)]


def test_a_large_group(ledgers: Ledgers) -> None:
    """More accounts, entries and resolutions than go into one statement."""
    one, other = ledgers.open("o1"), ledgers.open("o2")
    purses = [purse(f"root 2000 / leaf{n} 10") for n in range(150)]
    assert all(
        isinstance(outcome, Granted)
        for outcome in one.run([Reserve(f"h{n}", accounts, 7) for n, accounts in enumerate(purses)], NOON)
    )
    assert in_full(other.run([Settle(f"h{n}", 6) for n in range(149)], NOON)) == ["settle 6"] * 149
    assert stands(one, [*ROOT, purses[0][1], purses[149][1]]) == [(149 * 6, 7), (6, 0), (0, 7)]
    assert fsck(ledgers.path).difference is None


def test_what_is_rolled_back_never_was(ledgers: Ledgers) -> None:
    ledger = ledgers.open("o1")
    ledger.run([Reserve("h1", ROOT, 30)], NOON)
    ledger.turn.take()
    ledger.stage([Settle("h1", 30), Reserve("h2", TEAM, 50)], NOON)
    ledger.roll_back()
    ledger.turn.give()
    assert stands(ledger, TEAM) == [(0, 30), (0, 0)]
    assert journal(ledgers.path) == [("reserve", "h1", 30)]
    assert in_full(ledger.run([Settle("h1", 29), Reserve("h2", TEAM, 50)], NOON)) == ["settle 29", "granted, 0 left"]
    assert fsck(ledgers.path).difference is None


def test_a_failed_commit_leaves_nothing(ledgers: Ledgers) -> None:
    ledger = ledgers.open("o1")
    ledger.run([Reserve("h1", ROOT, 30)], NOON)
    ledger.fail("commit")
    with pytest.raises(LedgerUnavailable):
        ledger.run([Settle("h1", 10), Reserve("h2", TEAM, 50)], NOON)
    assert journal(ledgers.path) == [("reserve", "h1", 30)]
    assert in_full(ledger.run([Void("h2"), Settle("h1", 10)], NOON)) == ["unknown", "settle 10"]


def test_a_lost_answer_is_found_again_under_the_holds_id(ledgers: Ledgers) -> None:
    ledger = ledgers.open("o1")
    ledger.run([Reserve("h1", ROOT, 30)], NOON)
    events: list[Event] = [Settle("h1", 10), Reserve("h2", TEAM, 50)]
    ledger.fail("commit", lost=True)
    with pytest.raises(LedgerUnavailable):
        ledger.run(events, NOON)
    assert in_full(ledger.run(events, NOON)) == ["settle 10", "granted, 0 left"]
    assert in_full(ledger.run([Void("h2")], NOON)) == ["void 0"]
    assert journal(ledgers.path) == [
        ("reserve", "h1", 30),
        ("settle", "h1", 10),
        ("reserve", "h2", 50),
        ("void", "h2", 0),
    ]


def test_each_connection_sees_what_the_others_wrote(ledgers: Ledgers) -> None:
    """Balances stay in memory between groups, so each turn must notice that another process wrote meanwhile."""
    one, other = ledgers.open("o1"), ledgers.open("o2")
    assert in_full(one.run([Reserve("h1", TEAM, 20)], NOON)) == ["granted, 30 left"]
    assert in_full(one.run([Reserve("h2", TEAM, 10)], NOON)) == ["granted, 20 left"]
    assert in_full(other.run([Reserve("h3", TEAM, 15)], NOON)) == ["granted, 5 left"]
    assert in_full(one.run([Reserve("h4", TEAM, 6)], NOON)) == ["team is short: 0 spent, 45 held of 50"]
    assert in_full(one.run([Settle("h1", 1)], NOON)) == ["settle 1"]
    assert in_full(other.run([Reserve("h5", TEAM, 24)], NOON)) == ["granted, 0 left"]
    assert in_full(one.run([Reserve("h6", TEAM, 1)], NOON)) == ["team is short: 1 spent, 49 held of 50"]
    assert stands(one, TEAM) == stands(other, TEAM) == [(1, 49), (1, 49)]


def test_a_limit_that_another_process_raised_holds_at_once(ledgers: Ledgers) -> None:
    """What is known of a chain that was called before has its limits too."""
    one, other = ledgers.open("o1"), ledgers.open("o2")
    for n in range(3):
        one.run([Reserve(f"h{n}", TEAM, 10)], NOON)
    assert in_full(one.run([Reserve("h3", TEAM, 21)], NOON)) == ["team is short: 0 spent, 30 held of 50"]
    other.run([Grant(TEAM[1][:2], 5, "more")], NOON)
    assert in_full(one.run([Reserve("h4", TEAM, 21)], NOON)) == ["granted, 4 left"]
    assert in_full(one.run([Grant(TEAM[1][:2], 1, "more"), Reserve("h5", TEAM, 5)], NOON)) == [
        "granted, 5 left",
        "granted, 0 left",
    ]
    assert in_full(other.run([Reserve("h6", TEAM, 1)], NOON)) == ["team is short: 0 spent, 56 held of 56"]


@pytest.mark.interpreted
def test_accounts_that_are_not_there_take_a_bounded_place(ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder can make any number of children, whose calls are refused and open no account."""
    monkeypatch.setattr(sqlite_rows, "CACHED_BALANCES", 10)
    one = ledgers.open("o1")
    one.run([Reserve("h1", ROOT, 100)], NOON)
    for n in range(100):
        outcome = one.run([Reserve(f"c{n}", purse(f"root 100 / child{n} 5"), 1)], NOON)
        assert in_full(outcome) == ["root is short: 0 spent, 100 held of 100"]
        assert len(one._rows._current) <= 10


def test_an_account_that_another_process_opened_is_the_same_account(ledgers: Ledgers) -> None:
    one, other = ledgers.open("o1"), ledgers.open("o2")
    one.run([Open(ROOT[0])], NOON)
    other.run([Reserve("h1", purse("root 100 / a 10"), 1)], NOON)
    one.run([Reserve("h2", purse("root 100 / b 10"), 1), Reserve("h3", purse("root 100 / a 10"), 1)], NOON)
    assert in_full(other.run([Reserve("h4", purse("root 100 / b 10"), 9)], NOON)) == ["granted, 0 left"]
    assert fsck(ledgers.path).accounts == 3
    assert fsck(ledgers.path).difference is None


@pytest.mark.parametrize("others", [[], [Reserve("h9", ROOT, 1)], [Reserve("h9", ROOT, 60)]])
@pytest.mark.parametrize("late", [Settle("h1", 4), Settle("h1", 10), Void("h1")])
def test_a_hold_that_another_process_resolved_meanwhile_is_late(
    ledgers: Ledgers, late: Settle | Void, others: list[Reserve]
) -> None:
    """One's own open holds are remembered. Whether the account still holds enough for them or not makes no
    difference.
    """
    one, other = ledgers.open("o1"), ledgers.open("o2")
    one.run([Reserve("h1", ROOT, 10)], NOON)
    other.run([*others, Expire("h1")], NOON)
    assert in_full(one.run([late, Reserve("h2", ROOT, 20)], NOON))[0] == "late, after expire"
    assert journal(ledgers.path)[-2:] == [
        ("late", "h1", late.amount if isinstance(late, Settle) else 0),
        ("reserve", "h2", 20),
    ]
    assert stands(one, ROOT) == [(10, 20 + sum(reserve.amount for reserve in others))]
    assert fsck(ledgers.path).difference is None


def test_the_same_hold_from_two_processes(ledgers: Ledgers) -> None:
    one, other = ledgers.open("o1"), ledgers.open("o2")
    assert in_full(one.run([Reserve("h1", ROOT, 60)], NOON)) == ["granted, 40 left"]
    assert in_full(other.run([Reserve("h1", ROOT, 60)], NOON)) == ["granted, 40 left"]
    assert in_full(other.run([Reserve("h1", ROOT, 61)], NOON)) == ["conflict"]
    assert in_full(other.run([Settle("h1", 50)], NOON)) == ["settle 50"]
    assert in_full(one.run([Settle("h1", 50)], NOON)) == ["settle 50"]
    assert in_full(one.run([Reserve("h1", ROOT, 60)], NOON)) == ["granted, 50 left"]
    assert stands(one, ROOT) == [(50, 0)]


def test_two_processes_spend_all_there_is_and_no_more(ledgers: Ledgers) -> None:
    ledgers.open()
    tree = "root 5000 / team 700 / worker -"
    with Child(ledgers.path, "o1", "spend", tree) as one, Child(ledgers.path, "o2", "spend", tree) as other:
        for child in (one, other):
            assert child.line() == "ready"
        for child in (one, other):
            child.tell()
        granted = [int(child.wait()[-1]) for child in (one, other)]
    assert sum(granted) == 700
    assert replay(ledgers.path) == {"root": (700, 0), "team": (700, 0), "worker": (700, 0)}
    assert fsck(ledgers.path).difference is None


def test_many_open_a_new_file_at_once_and_it_is_one_ledger(tmp_path: Path) -> None:
    def open_one(number: int) -> str:
        ledger = SqliteLedger(tmp_path / "new" / "ledger.db", now=NOON, new_id=f"id {number}")
        ledger.register(f"o{number}", NOON)
        ledger.close()
        return ledger.id

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(open_one, range(8)))) == 1


def test_every_file_is_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Ledgers(tmp_path / "data" / "ledger.db") as ledgers:
            ledger = ledgers.open("o1")
            ledger.run([Reserve("h1", ROOT, 1)], NOON)
            assert ballast.keep(ledger.path)
            found = {path.relative_to(tmp_path).as_posix(): path.stat() for path in tmp_path.rglob("*")}
    finally:
        os.umask(before)
    assert found.keys() == {
        "data",
        "data/ledger.db",
        "data/ledger.db-wal",
        "data/ledger.db-shm",
        "data/ledger.db.turn",
        "data/ledger.db.ballast",
        "data/ledger.db.owners",
        "data/ledger.db.owners/o1",
    }
    for name, status in found.items():
        assert stat.S_IMODE(status.st_mode) == (0o700 if stat.S_ISDIR(status.st_mode) else 0o600), name


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Every connection that a ledger opens from here on."""
    found: list[sqlite3.Connection] = []

    def spy(path: Path, durability: Durability) -> sqlite3.Connection:
        found.append(connect(path, durability))
        return found[-1]

    monkeypatch.setattr(sqlite, "connect", spy)
    return found


@pytest.mark.interpreted
def test_each_connection_is_set_as_it_should_be(ledgers: Ledgers, connections: list[sqlite3.Connection]) -> None:
    ledgers.open("o1")
    for pragma, value in (("synchronous", 1), ("journal_mode", "wal"), ("wal_autocheckpoint", 0)):
        assert connections[-1].execute(f"PRAGMA {pragma}").fetchone() == (value,)


@pytest.mark.interpreted
def test_a_checkpoint_is_taken_under_the_turn(ledgers: Ledgers, connections: list[sqlite3.Connection]) -> None:
    said: list[str] = []

    class Told(Turn):
        def take(self) -> None:
            super().take()
            said.append("took the turn")

        def give(self) -> None:
            said.append("gave the turn")
            super().give()

    ledger = ledgers.open("o1")
    ledger.run([Reserve("h1", ROOT, 1)], NOON)
    assert ledger.wal_bytes() > 0
    ledger.turn.close()
    ledger.turn = Told(ledgers.path)
    connections[-1].set_trace_callback(said.append)
    ledger.checkpoint()
    assert said == ["took the turn", "PRAGMA wal_checkpoint(RESTART)", "gave the turn"]
    assert ledger.wal_bytes() == 0
    assert stands(ledger, ROOT) == [(0, 1)]


def test_a_checkpoint_beside_a_reader_waits_for_another_day(ledgers: Ledgers) -> None:
    ledger = ledgers.open("o1")
    ledger.run([Reserve("h1", ROOT, 1)], NOON)
    with database(ledgers.path) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM entry").fetchone() == (1,)
        ledger.run([Reserve("h2", ROOT, 1)], NOON)
        ledger.checkpoint()
        assert db.execute("SELECT count(*) FROM entry").fetchone() == (1,)
    ledger.checkpoint()
    assert ledger.wal_bytes() == 0
    assert fsck(ledgers.path).entries == 2


def test_a_writer_outside_the_turn_makes_the_ledger_unavailable_for_a_moment(ledgers: Ledgers) -> None:
    ledger = ledgers.open("o1")
    with database(ledgers.path) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailable, match="locked"):
            ledger.run([Reserve("h1", ROOT, 1)], NOON)
        db.execute("ROLLBACK")
    assert in_full(ledger.run([Reserve("h1", ROOT, 1)], NOON)) == ["granted, 99 left"]


def test_time_never_runs_backwards(ledgers: Ledgers) -> None:
    """RULES.md M11: the later of the clock and the last entry, whoever wrote it."""
    one, other = ledgers.open("o1"), ledgers.open("o2")
    clock = ledgers.clock
    one.run([Reserve("h1", ROOT, 1)], clock())
    clock.advance(-3600)
    one.run([Reserve("h2", ROOT, 1)], clock())
    other.run([Reserve("h3", ROOT, 1)], clock())
    assert other.time(clock()) == NOON
    clock.advance(3601)
    other.run([Reserve("h4", ROOT, 1)], clock())
    one.run([Reserve("h5", ROOT, 1)], clock() - 2 * SECOND)
    one.note(Kind.ACCEPT, "as an operator would", 0)
    with database(ledgers.path) as db:
        assert [at - NOON for (at,) in db.execute("SELECT at FROM entry")] == [0, 0, 0, SECOND, SECOND, SECOND]
    assert fsck(ledgers.path).difference is None


def test_an_owner_is_dead_when_its_process_is_gone(ledgers: Ledgers) -> None:
    ledgers.open()
    with Child(ledgers.path, "o1", "live") as child:
        assert child.line() == "ready"
        assert not is_dead(ledgers.path, "o1")
        child.kill()
        assert is_dead(ledgers.path, "o1")
        assert is_dead(ledgers.path, "o1"), "asking changes nothing"
    assert is_dead(ledgers.path, "somebody who never was")


def test_an_owner_whose_file_is_gone_is_dead(ledgers: Ledgers) -> None:
    ledgers.open("o1")
    assert not is_dead(ledgers.path, "o1")
    owner_file(ledgers.path, "o1").unlink()
    assert is_dead(ledgers.path, "o1")


def owners(path: Path) -> dict[str, bool]:
    """Each owner, and whether it has ended."""
    with database(path) as db:
        return dict(db.execute("SELECT id, ended_at IS NOT NULL FROM owner WHERE n > 0"))


def test_what_a_killed_process_held_is_settled_as_held(ledgers: Ledgers) -> None:
    watcher = ledgers.open("watcher")
    with Child(ledgers.path, "dies", "live") as dies, Child(ledgers.path, "lives", "live") as lives:
        assert (dies.line(), lives.line()) == ("ready", "ready")
        assert watcher.expire(NOON) == 0
        dies.kill()
        assert watcher.expire(NOON) == 1
        assert watcher.expire(NOON) == 0
        assert open_holds(ledgers.path) == {"lives-1"}
        assert stands(watcher, ROOT) == [(10, 10)]
        assert owners(ledgers.path) == {"watcher": False, "dies": True, "lives": False}
        assert not owner_file(ledgers.path, "dies").exists()
        lives.tell()
        lives.wait()
    with database(ledgers.path) as db:
        expired = db.execute("SELECT hold, amount, note FROM entry WHERE kind = 'expire'").fetchall()
        by = db.execute("SELECT o.id FROM entry e JOIN owner o ON o.n = e.owner WHERE kind = 'expire'").fetchall()
    assert (expired, by) == ([("dies-1", 10, "unmetered")], [("watcher",)])
    assert stands(watcher, ROOT) == [(14, 0)]
    assert fsck(ledgers.path).difference is None


def test_an_owner_that_closes_has_ended_unless_it_holds_money(ledgers: Ledgers) -> None:
    watcher, clean, busy = ledgers.open("watcher"), ledgers.open("clean"), ledgers.open("busy")
    clean.run([Reserve("h1", ROOT, 5), Settle("h1", 5)], NOON)
    busy.run([Reserve("h2", ROOT, 7)], NOON)
    clean.close()
    busy.close()
    assert owners(ledgers.path) == {"watcher": False, "clean": True, "busy": False}
    assert watcher.expire(NOON) == 1
    assert owners(ledgers.path) == {"watcher": False, "clean": True, "busy": True}
    assert stands(watcher, ROOT) == [(12, 0)]


def test_what_was_staged_when_the_process_died_never_was(ledgers: Ledgers) -> None:
    watcher, dies = ledgers.open("watcher"), ledgers.open("dies")
    dies.turn.take()
    dies.stage([Reserve("h1", ROOT, 5)], NOON)
    dies.close()
    assert watcher.expire(NOON) == 0
    assert journal(ledgers.path) == []


def test_an_owner_that_was_taken_for_dead_leaves_no_hold_behind(ledgers: Ledgers) -> None:
    """It may reserve once more before it hears of it. That hold, too, must be found when it is gone."""
    watcher, living = ledgers.open("watcher"), ledgers.open("living")
    living.run([Reserve("h1", ROOT, 5)], NOON)
    owner_file(ledgers.path, "living").unlink()
    assert watcher.expire(NOON) == 1
    living.run([Reserve("h2", ROOT, 7)], NOON)
    living.close()
    assert watcher.expire(NOON) == 1
    assert open_holds(ledgers.path) == set()
    assert stands(watcher, ROOT) == [(12, 0)]


def test_a_new_owner_leaves_the_old_ones_holds_to_others(ledgers: Ledgers) -> None:
    watcher, ledger = ledgers.open("watcher"), ledgers.open("first")
    ledger.run([Reserve("h1", ROOT, 5)], NOON)
    ledger.register("second", NOON)
    ledger.run([Reserve("h2", ROOT, 7)], NOON)
    assert watcher.expire(NOON) == 1
    assert open_holds(ledgers.path) == {"h2"}
    assert owners(ledgers.path) == {"watcher": False, "first": True, "second": False}


def test_several_recover_at_once(ledgers: Ledgers) -> None:
    dies = ledgers.open("dies")
    dies.run([Reserve(f"h{n}", ROOT, 1) for n in range(60)], NOON)
    dies.close()
    watchers = [ledgers.open(f"watcher {n}") for n in range(4)]
    start = threading.Barrier(len(watchers))

    def recover(ledger: FaultyLedger) -> int:
        start.wait()
        return ledger.expire(NOON)

    with ThreadPoolExecutor(len(watchers)) as threads:
        assert max(threads.map(recover, watchers)) == 60
    assert stands(watchers[0], ROOT) == [(60, 0)]
    assert {line.kind for line in journal(ledgers.path)} == {"reserve", "expire"}
    assert fsck(ledgers.path).difference is None
