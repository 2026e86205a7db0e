"""A WAL that was cut short, and a clock that was set back: nothing is spent twice, and nothing stays held.

A full disk, a file that may only be read and flipped bytes are in `test_sqlite_disk.py`, a lost ledger in
`test_lost_ledger.py`, `kill -9` in `test_crash.py` and `test_kill.py`.
"""

import json
import os
import random
from pathlib import Path

import pytest

from tests import swarm
from tests.ledgers import Child, Ledgers, journal, open_holds, purse, replay, say
from tests.reading import fsck
from tolsey.ledger.events import Event, Reserve, Settle
from tolsey.store.keyring import Keyring, check_ledger
from tolsey.testing import SECOND
from tolsey.token.chain import Rate

SEED = int(os.environ.get("TOLSEY_SEED", "8402"))
CUTS = 40
HOUR = 3600 * SECOND
ROOT = purse("root 100 / team 10/hour")
RATE = (Rate("r", None, 2, "hour"),)


@pytest.mark.parametrize("seed", [SEED])
def test_a_wal_that_was_cut_anywhere_leaves_a_beginning_and_the_mark_knows_what_is_missing(
    tmp_path: Path, seed: int
) -> None:
    """What a power cut may leave with durability `normal`: whole groups from the beginning, and L1 refuses the rest."""
    chance = random.Random(seed)
    keyring = Keyring.create(tmp_path / "keys")
    copy = tmp_path / "copy" / "ledger.db"
    copy.parent.mkdir()
    with Ledgers(tmp_path / "ledger.db", durability="normal") as ledgers:
        ledger = ledgers.open("o1")
        ledger.checkpoint()
        keyring.remember_ledger(ledger.id)
        for n in range(60):
            group: list[Event] = [Reserve(f"h{n}", purse("root 1000 / team -"), 5)]
            ledger.run([*group, Settle(f"h{n - 1}", 3)] if n % 3 else group, ledgers.clock())
        whole = journal(ledgers.path)
        wal = (tmp_path / "ledger.db-wal").read_bytes()
        refused = 0
        for number in range(CUTS):
            keyring.write_mark(ledger.id, 1 + number * len(whole) // CUTS, ledgers.clock() + number)
            copy.write_bytes(ledgers.path.read_bytes())
            copy.with_name("ledger.db-wal").write_bytes(wal[: chance.randrange(len(wal) + 1)])
            with Ledgers(copy) as copies:
                found = copies.open()
                kept = journal(copy)
                assert kept == whole[: len(kept)]
                assert fsck(copy).difference is None
                replay(copy)
                why = check_ledger(keyring, ledger_id=found.id, entries=found.entry_count())
                assert (why is not None) == (len(kept) < entries_marked(keyring)), why
                refused += why is not None
        assert 0 < refused < CUTS


def entries_marked(keyring: Keyring) -> int:
    mark = keyring.read_mark()
    return 0 if mark is None else mark.entries


@pytest.mark.parametrize("left", [0.3, 0.7])
async def test_a_gateway_whose_wal_was_cut_after_a_crash_does_not_start_on_it(left: float, tmp_path: Path) -> None:
    with swarm.upstream(tmp_path) as upstream:
        gateway = swarm.lay_out(tmp_path, upstream.port, workers=1, durability="normal")
        with swarm.ending(gateway):
            await gateway.start()
            token = gateway.mint("label = team n1", "budget = 1 USD")
            async with swarm.Client(gateway.port) as client:
                for n in range(50):
                    assert (await client.call(token, f"{swarm.ITEM}{n}")).status == 200
            mark = gateway.keys.with_name("keys.mark")
            await swarm.until(lambda: json.loads(mark.read_bytes())["entries"] == 100, "the mark follows")
            gateway.kill_group()
            wal = gateway.ledger.with_name("ledger.db-wal")
            os.truncate(wal, round(wal.stat().st_size * left))
            gateway.launch()
            assert await gateway.ended() == 1
            assert "it is older than its keys" in gateway.said()
            gateway.fsck()
            await gateway.start(accept_lost_spend="a power cut")
            await gateway.stop()


def test_a_clock_set_back_an_hour_opens_no_fresh_limit(ledgers: Ledgers) -> None:
    """RULES.md L10, M11: also for a process that starts after it was set back."""
    knows, other = ledgers.open("o1"), ledgers.open("o2")
    ledgers.clock.advance(1800)
    knows.run([Reserve("h1", ROOT, 10), Settle("h1", 10)], ledgers.clock())
    for n in range(2):
        knows.run([Reserve(f"free {n}", (), 0, rates=RATE)], ledgers.clock())
    ledgers.clock.advance(-3600)
    for ledger in (knows, other, ledgers.open("o3")):
        for event in (Reserve("h2", ROOT, 1), Reserve("free", (), 0, rates=RATE)):
            (outcome,) = ledger.run([event], ledgers.clock())
            assert say(outcome).split(" until ")[0] in ("team is short: 10 spent, 0 held of 10", "r is too fast")
    ledgers.clock.advance(3600)
    assert say(knows.run([Reserve("h2", ROOT, 1)], ledgers.clock())[0]).startswith("team is short")
    ledgers.clock.advance(1800)
    assert say(other.run([Reserve("h2", ROOT, 1)], ledgers.clock())[0]) == "granted, 9 left"


def test_a_clock_set_back_leaves_the_entries_in_order(ledgers: Ledgers) -> None:
    ledger = ledgers.open("o1")
    for n in range(6):
        ledger.run([Reserve(f"h{n}", purse("root 100"), 1)], ledgers.clock())
        ledgers.clock.advance(-600 if n % 2 else 400)
    assert fsck(ledgers.path).difference is None


def test_holds_of_the_dead_end_at_once_whatever_the_clock_says(ledgers: Ledgers) -> None:
    watcher = ledgers.open("watcher")
    with Child(ledgers.path, "child", "live") as child:
        assert child.line() == "ready"
        assert watcher.expire(ledgers.clock() - HOUR) == 0
        child.kill()
    ledgers.clock.advance(-3600)
    assert watcher.expire(ledgers.clock()) == 1
    assert open_holds(ledgers.path) == set()


def test_a_hold_of_the_living_ends_when_the_ledgers_time_is_there(ledgers: Ledgers) -> None:
    """Its owner resolves it by a clock that only goes forward; this is for one that forgot it."""
    ledger, watcher = ledgers.open("o1"), ledgers.open("watcher")
    ledger.run([Reserve("h1", purse("root 100"), 10, until=ledgers.clock() + 60 * SECOND)], ledgers.clock())
    ledgers.clock.advance(-3600)
    assert watcher.expire(ledgers.clock()) == 0, "never early"
    ledgers.clock.advance(3659)
    assert watcher.expire(ledgers.clock()) == 0
    ledgers.clock.advance(1)
    assert watcher.expire(ledgers.clock()) == 1
