"""`kill -9` of processes that use one ledger, twenty times, at moments drawn from a seed.

Each says a hold only once it was granted: that is a call that was forwarded. Whatever was under way when it died: every
such hold is in the journal, none stays open, and no account ever passed its limit. The gateway as a whole is killed in
`test_kill.py`.
"""

import os
import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ledgers import Child, Ledgers, journal, open_holds, replay
from tests.reading import fsck
from tests.worker import PURSES

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("TOLSEY_SEED", "8402"))
ROUNDS = 20


@pytest.mark.parametrize("seed", [SEED])
def test_killed_at_any_moment_nothing_that_was_granted_is_lost(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    granted: set[str] = set()
    expired = 0
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        watcher = ledgers.open("watcher")
        for number in range(ROUNDS):
            with ExitStack() as stack:
                ways = ("book", "run") if number % 2 else (chance.choice(("book", "run")),)
                storms = [
                    stack.enter_context(
                        Child(ledgers.path, f"o{number}-{n}", "storm", str(chance.randrange(10**9)), via)
                    )
                    for n, via in enumerate(ways)
                ]
                granted |= {storm.line() for storm in storms}
                time.sleep(chance.uniform(0, 0.08))
                for storm in storms:
                    granted |= set(storm.kill())
            expired += watcher.expire(time.time_ns())
            assert open_holds(ledgers.path) == set()
            assert granted <= {line.hold for line in journal(ledgers.path) if line.kind == "reserve"}
            assert fsck(ledgers.path).difference is None
            replay(ledgers.path)
        spent = {
            balance.account.id: balance.spent
            for balance in watcher.balances([a for p in PURSES for a in p], time.time_ns())
        }
    assert expired > 0, "some of them died with holds open"
    assert 0 < spent["b"] <= 900, "an account that soon had nothing left"
