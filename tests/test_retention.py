"""`compact`: old entries are replaced by what they add up to; nothing else changes, whatever happens meanwhile."""

import hashlib
import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import answer, refusal, tolsey
from tests.cli_books import TEAM, book, chain_of, open_book, spend
from tests.ledgers import Ledgers, database, journal, purse
from tests.reading import difference_after, fsck, sign, trail
from tolsey.ledger.events import (
    Annul,
    Event,
    Expire,
    Extend,
    Grant,
    Granted,
    Open,
    Refund,
    Reserve,
    Resolved,
    Settle,
    Unknown,
    Void,
)
from tolsey.ledger.windows import DAY, HOUR
from tolsey.store import rollup
from tolsey.store.contract import RollUp
from tolsey.store.export import export
from tolsey.store.rollup import roll_up
from tolsey.store.rollup_sqlite import SqliteRollable
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.testing import NOON, SECOND, FaultyLedger
from tolsey.units import NANO

ROOT = purse("root 100/day / a 60")
CALLS = purse("calls 9", unit="call")


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        yield ledgers


async def compact(path: Path, before: int, lines: list[bytes] | None = None) -> RollUp | None:
    """Sign everything, and roll up what is older; the lines go into a list."""
    await sign(path, before)
    ledger = SqliteRollable(path)
    put = (lambda data: None) if lines is None else lines.append
    try:
        return await roll_up(
            ledger,
            SqliteSnapshot(path, lambda: before),
            before=before,
            note="by test",
            archive=put,
            progress=lambda done, total: None,
        )
    finally:
        await ledger.close()


def run(ledger: FaultyLedger, at: int, *events: Event) -> None:
    for event in events:
        assert not isinstance(ledger.run([event], at)[0], Unknown)


@pytest.fixture
def ledger(ledgers: Ledgers) -> FaultyLedger:
    """A day of everything, and the next day."""
    ledger = ledgers.open("o1")
    run(
        ledger,
        NOON,
        Open(ROOT[0], "minted"),  # 1
        Reserve("h1", ROOT, 10, "", CALLS),  # 2
        Extend("h1", 2),  # 3
        Settle("h1", 11),  # 4
        Refund("h1", 1, "r"),  # 5
        Grant(("root", "USD"), 50, "g"),  # 6
        Grant(("a", "USD"), 5, "g"),  # 7
        Reserve("h2", ROOT, 20, "", CALLS),  # 8: open until tomorrow
        Reserve("h3", ROOT, 4, "", CALLS),  # 9
        Expire("h3"),  # 10: refunded tomorrow
        Reserve("h4", (), 0, "", CALLS),  # 11
        Void("h4"),  # 12
        Void("h1"),  # 13: late
        Reserve("h5", ROOT, 3),  # 14: open
    )
    run(
        ledger,
        NOON + DAY,
        Settle("h2", 20),  # 15
        Annul("h3", "n"),  # 16
        Reserve("h6", ROOT, 30, "", CALLS),  # 17
        Settle("h6", 30),  # 18
    )
    return ledger


def numbers(path: Path) -> list[int]:
    """The numbers of the entries that are left, but for those that say what was rolled up."""
    with database(path) as db:
        return [n for (n,) in db.execute("SELECT n FROM entry WHERE kind <> 'rollup' ORDER BY n")]


def tables(path: Path) -> dict[str, list[Any]]:
    """Everything that a gateway works with: none of it may change."""
    with database(path) as db:
        return {
            name: db.execute(f"SELECT * FROM {name}").fetchall()
            for name in ("account", "window", "hold", "claim", "rate")
        }


async def test_whole_holds_go_and_open_ones_stay(ledger: FaultyLedger) -> None:
    before = tables(ledger.path)
    lines: list[bytes] = []
    done = await compact(ledger.path, NOON + HOUR, lines)
    assert numbers(ledger.path) == [8, 9, 10, 14, 15, 16, 17, 18]
    assert tables(ledger.path) == before
    found = fsck(ledger.path)
    assert (found.difference, found.entries, found.open_holds) == (None, 9, 1)
    assert (found.rolled_up, found.rolled_until) == (10, NOON + HOUR)
    data = b"".join(lines)
    assert [json.loads(line)["n"] for line in data.splitlines()] == [1, 2, 3, 4, 5, 6, 7, 11, 12, 13]
    digest = hashlib.sha256(data).hexdigest()
    assert done == RollUp(1, 14, NOON + HOUR, 10, digest, NOON + DAY, "by test")
    with SqliteSnapshot(ledger.path) as snapshot:
        assert list(snapshot.rollups()) == [done]


async def test_what_was_left_goes_the_next_time(ledger: FaultyLedger) -> None:
    await compact(ledger.path, NOON + HOUR)
    run(ledger, NOON + 2 * DAY, Void("h5"), Reserve("h7", ROOT, 1))
    before = tables(ledger.path)
    second = await compact(ledger.path, NOON + 3 * DAY)
    assert second is not None
    assert (second.n, second.entries) == (2, 9)
    assert numbers(ledger.path) == [21]
    assert tables(ledger.path) == before
    found = fsck(ledger.path)
    assert (found.difference, found.entries, found.rolled_up) == (None, 3, 19)
    assert await compact(ledger.path, NOON + 3 * DAY) is None, "what is open stays"
    assert ledger.entry_count() == 22, "the 20, and what two roll-ups say of themselves"


async def test_the_ledger_works_on(ledger: FaultyLedger) -> None:
    await compact(ledger.path, NOON + HOUR)
    run(ledger, NOON + DAY, Reserve("h8", ROOT, 5), Settle("h5", 3), Refund("h3", None, "r"))
    assert ledger.hold("h1") is None
    assert ledger.run([Refund("h1", 1, "r"), Annul("h1", "r")], NOON + DAY) == [Unknown("h1")] * 2
    assert isinstance(ledger.run([Refund("h2", 5, "r")], NOON + DAY)[0], Resolved)
    assert fsck(ledger.path).difference is None


async def test_it_is_done_in_steps_that_each_leave_a_ledger_that_adds_up(
    ledger: FaultyLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "STEP", 1)
    end, seen = SqliteRollable.end, []

    async def look(self: SqliteRollable) -> None:
        await end(self)
        found = fsck(ledger.path)
        assert found.difference is None
        seen.append(found.rolled_up)

    monkeypatch.setattr(SqliteRollable, "end", look)
    whole: list[bytes] = []
    done = await compact(ledger.path, NOON + HOUR, whole)
    assert seen == [1, 5, 6, 7, 7, 7, 9, 10, 10, 10]
    assert done is not None
    assert done.sha256 == hashlib.sha256(b"".join(whole)).hexdigest()


@pytest.mark.parametrize("verb", ["take", "begin", "put", "end"])
@pytest.mark.parametrize("after", [0, 1, 3])
async def test_one_that_breaks_off_is_simply_done_again(
    ledger: FaultyLedger, monkeypatch: pytest.MonkeyPatch, verb: str, after: int
) -> None:
    monkeypatch.setattr(rollup, "STEP", 1)
    before = tables(ledger.path)
    original, calls = getattr(SqliteRollable, verb), [0]

    async def fail(self: SqliteRollable, *values: object) -> object:
        if calls[0] == after:
            raise RuntimeError("as told")
        calls[0] += 1
        return await original(self, *values)

    first: list[bytes] = []
    second: list[bytes] = []
    with monkeypatch.context() as patch:
        patch.setattr(SqliteRollable, verb, fail)
        if verb == "begin" and after:
            await compact(ledger.path, NOON + HOUR, first)
        else:
            with pytest.raises(RuntimeError):
                await compact(ledger.path, NOON + HOUR, first)
    assert fsck(ledger.path).difference is None
    assert tables(ledger.path) == before
    gone = set(range(1, 19)) - set(numbers(ledger.path))
    await compact(ledger.path, NOON + HOUR, second)
    assert numbers(ledger.path) == [8, 9, 10, 14, 15, 16, 17, 18]
    assert fsck(ledger.path).difference is None
    # Nothing was removed that is in no archive.
    archived = {json.loads(line)["n"] for line in b"".join(first).splitlines()}
    assert gone <= archived
    assert archived | {json.loads(line)["n"] for line in b"".join(second).splitlines()} == {*range(1, 8), 11, 12, 13}


TAMPERED = [
    ("less rolled up", "UPDATE rolled SET spent = spent - 1 WHERE account = 1", "account root stands at"),
    ("fewer calls", "UPDATE rolled SET calls = 0 WHERE account = 3", "account calls stands at"),
    ("more granted", "UPDATE rolled SET granted = 6 WHERE account = 2", "account a stands at"),
    ("less in the window", "UPDATE rolled_window SET spent = 0", "window"),
    ("more granted in the window", "UPDATE rolled_window SET granted = 51", "window"),
    ("no sums", "DELETE FROM rolled", "account"),
    ("no window", "DELETE FROM rolled_window", "window"),
    ("fewer entries", "UPDATE rollup SET entries = 9", "of the first 14 entries 9 were rolled up and 4 are left"),
    ("no roll-up", "DELETE FROM rollup", "entry 8 does not follow entry 0"),
    ("no entry that was left", "DELETE FROM entry WHERE n = 14", "of the first 14 entries 10 were rolled up and 3"),
    ("no entry behind", "DELETE FROM entry WHERE n = 15", "entry 16 does not follow entry 14"),
    ("no journal", "DELETE FROM entry WHERE n > 14", "the entries behind entry 14, up to which they were rolled up"),
    (
        "another account",
        "UPDATE rolled SET account = 99 WHERE account = 1",
        "entries of an account were rolled up",
    ),
    ("spent beyond the limit", "UPDATE account SET \"limit\" = 10 WHERE id = 'a'", "after entry 14 account a has"),
]


@pytest.mark.parametrize(("statement", "difference"), [row[1:] for row in TAMPERED], ids=[row[0] for row in TAMPERED])
async def test_tampering_with_what_was_rolled_up_is_a_difference(
    ledger: FaultyLedger, statement: str, difference: str
) -> None:
    await compact(ledger.path, NOON + HOUR)
    assert difference_after(ledger, statement).startswith(difference)


@pytest.mark.parametrize("seed", range(4))
async def test_over_a_history_drawn_at_random(ledgers: Ledgers, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With roll-ups in between, everything goes on as it would have without them."""
    text = f"{os.environ.get('TOLSEY_SEED', '')}{seed}"
    chance = random.Random(text)
    monkeypatch.setattr(rollup, "STEP", chance.choice((1, 3, 500)))
    other = Ledgers(ledgers.path.with_name("whole.db"))
    purses = (purse("root 500/day / a 60/hour"), purse("root 500/day / b - / c 90"), purse("other 200"))
    counters = ((), CALLS, purse("calls 9 / deep 2/hour", unit="call"))
    now = NOON
    holds: list[str] = []
    archived: list[bytes] = []
    with other:
        rolled, whole = ledgers.open("o1"), other.open("o1")
        for number in range(300):
            now += chance.choice((0, 0, 1, 600, 4000, 90_000, 400_000)) * SECOND
            if chance.random() < 0.05:
                await compact(ledgers.path, now - chance.choice((0, 1, HOUR, DAY, 9 * DAY)), archived)
                assert fsck(ledgers.path).difference is None, f"seed {text}"
            hold = chance.choice(holds[-12:]) if holds else "none"
            event: Event = chance.choice(
                (
                    Reserve(f"h{number}", chance.choice(purses), chance.randint(1, 20), "", chance.choice(counters)),
                    Reserve(f"h{number}", chance.choice(purses), chance.randint(1, 20), "", chance.choice(counters)),
                    Settle(hold, chance.randint(0, 9)),
                    Extend(hold, chance.randint(1, 9)),
                    Void(hold),
                    Expire(hold),
                    Refund(hold, chance.choice((None, 1)), "r"),
                    Annul(hold, "r"),
                    Grant(chance.choice((("root", "USD"), ("c", "USD"), ("calls", "call"))), NANO, "r"),
                )
            )
            if rolled.hold(hold) is None and not isinstance(event, Reserve | Grant):
                continue  # It was rolled up: from there on the two are allowed to differ.
            outcomes = [ledger.run([event], now)[0] for ledger in (rolled, whole)]
            assert outcomes[0] == outcomes[1], f"seed {text}"
            if isinstance(event, Reserve) and isinstance(outcomes[0], Granted):
                holds.append(event.hold)
        assert [row.to_json() for row in trail(ledgers.path)] == [row.to_json() for row in trail(other.path)]
        assert fsck(ledgers.path).difference is None, f"seed {text}"
        # What is archived and what is left are the journal, entry by entry; but it has what was rolled up too.
        left = [line for _, line in export(SqliteSnapshot(ledgers.path), since=None, until=None, progress=_quiet)]
        wanted = [line for _, line in export(SqliteSnapshot(other.path), since=None, until=None, progress=_quiet)]
        found = {line.n: (line.kind, line.hold, line.amount, line.at) for line in left}
        for data in archived:
            for line in map(json.loads, data.splitlines()):
                assert line["n"] not in found
                found[line["n"]] = (line["kind"], line["hold"], line["amount"], line["at"])
        kept = [found[n] for n in sorted(found) if found[n][0] != "rollup"]
        assert kept == [(line.kind, line.hold, line.amount, line.at) for line in wanted]


def _quiet(done: int, total: int) -> None:
    """Tell nobody."""


# the command


def test_the_command_and_its_archive(config: Path, c: tuple[str, str], tmp_path: Path) -> None:
    token = answer(*TEAM, *c)["token"]
    long_ago = time.time_ns()
    for number in range(3):
        spend(config, token, "1 USD", hold=f"h{number}", at=long_ago)
    archive = tmp_path / "old.jsonl"
    exported = tolsey("export", *c)[1].splitlines()
    found = answer("compact", "--before", "2999-01-01", "--archive", str(archive), *c)
    data = archive.read_bytes()
    assert (found["entries"], found["up_to"], found["archive"]) == (5, 6, str(archive))
    assert found["sha256"] == hashlib.sha256(data).hexdigest()
    assert data.decode().splitlines() == exported[:5]
    checked = answer("fsck", *c)
    assert (checked["entries"], checked["rolled_up"], checked["difference"]) == (3, 5, None)
    until = found["before"]
    assert checked["rolled_up_until"] == until < "2999"
    status, out, err = tolsey("fsck", *c)
    assert (status, out) == (0, "accounts: 1, entries: 3, open holds: 0; everything adds up\n")
    assert err == f"5 entries from before {until} were rolled up: they count by their totals\n"
    assert answer("trail", *c)["accounts"][0]["spent"] == "3"
    for command in ("void", "refund"):
        said = refusal(command, "h0", "--reason", "r", *c)
        assert said["code"] == "hold_unknown"
        assert "rolled up" in said["detail"]
    answer(*TEAM, *c)


def test_nothing_to_roll_up_and_nothing_overwritten(config: Path, c: tuple[str, str], tmp_path: Path) -> None:
    spend(config, answer(*TEAM, *c)["token"], "1 USD", hold="h1")
    archive = tmp_path / "old.jsonl"
    found = answer("compact", "--before", "1d", "--archive", str(archive), *c)
    assert (found["entries"], found["archive"], found["sha256"]) == (0, None, None)
    assert not archive.exists()
    archive.write_text("precious")
    assert refusal("compact", "--before", "0001-01-01", "--archive", str(archive), *c)["code"] == "file_unusable"
    assert refusal("compact", "--before", "2999-01-01", "--archive", str(archive), *c)["code"] == "file_unusable"
    assert refusal("compact", "--before", "soon", *c)["code"] == "time_invalid"
    assert archive.read_text() == "precious"
    assert answer("fsck", *c)["rolled_up"] == 0
    assert len(journal(book(config))) == 3


@pytest.mark.slow
def test_beside_a_gateway_that_writes(config: Path, c: tuple[str, str], tmp_path: Path) -> None:
    token = answer(*TEAM, *c)["token"]
    purse_ = chain_of(config, token).purse("USD")
    ledger = open_book(config)
    ledger.register("gateway", time.time_ns())
    for number in range(3000):
        ledger.run([Reserve(f"before {number}", purse_, 10), Settle(f"before {number}", 5)], time.time_ns())
    served = [0]
    stopping = threading.Event()
    failed: list[object] = []

    def serve() -> None:
        try:
            while not stopping.is_set():
                hold = f"hold {served[0]}"
                outcome = ledger.run([Reserve(hold, purse_, 1000)], time.time_ns())[0]
                assert isinstance(outcome, Granted)
                ledger.run([Settle(hold, 500)], time.time_ns())
                served[0] += 1
        except Exception as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        found = answer("compact", "--before", "2999-01-01", "--archive", str(tmp_path / "old.jsonl"), *c)
        during = served[0]
    finally:
        stopping.set()
        thread.join()
        ledger.close()
    assert not failed
    assert during > 0
    assert found["entries"] >= 6000
    checked = answer("fsck", *c)
    assert (checked["difference"], checked["rolled_up"]) == (None, found["entries"])
    (row,) = answer("trail", *c)["accounts"]
    with sqlite3.connect(book(config)) as db:
        assert db.execute("SELECT spent FROM account").fetchone() == (3000 * 5 + served[0] * 500,)
    db.close()
    assert row["calls"] == 3000 + served[0]
