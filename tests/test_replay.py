"""`fsck` over windows, counts, extensions, grants and refunds: every tampering is a difference, and over
histories drawn at random it agrees with the rules.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ledgers import Ledgers, purse
from tests.reading import difference_after, fsck
from tolsey.ledger.events import Annul, Event, Expire, Extend, Grant, Granted, Refund, Reserve, Settle, Void
from tolsey.ledger.windows import DAY
from tolsey.store.reports import Checked
from tolsey.testing import NOON, SECOND, FaultyLedger
from tolsey.units import NANO

DAILY = purse("root 100/day / team -")
COUNTED = purse("calls 9", unit="call")
RICHER: list[Event] = [
    Reserve("w1", DAILY, 10, counters=COUNTED),  # entry 1
    Extend("w1", 5),  # 2
    Settle("w1", 12),  # 3
    Refund("w1", 2, "sorry"),  # 4
    Grant(("root", "USD"), 50, "more"),  # 5
    Reserve("w2", DAILY, 20, counters=COUNTED),  # 6
    Expire("w2"),  # 7
    Annul("w2", "was not served"),  # 8
    Reserve("w3", (), 0, counters=COUNTED),  # 9: open
    Reserve("w4", DAILY, 110),  # 10: open, within the grant
    Grant(("calls", "call"), 2 * NANO, "two more"),  # 11
    Reserve("w5", DAILY, 30),  # 12: open, and on the next day
]


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        yield ledgers


@pytest.fixture
def richer(ledgers: Ledgers) -> FaultyLedger:
    """A ledger with a window, a counter, and every kind of entry."""
    ledger = ledgers.open("o1")
    for event in RICHER[:-1]:
        ledger.run([event], NOON)
    ledger.run([RICHER[-1]], NOON + DAY)
    return ledger


TODAY = NOON - NOON % DAY
RICHER_TAMPERED = [
    (
        "a larger refund",
        "UPDATE entry SET amount = 13 WHERE n = 4",
        "entry 4 gives back 13 of hold w1, which has 12",
    ),
    ("a smaller refund", "UPDATE entry SET amount = 1 WHERE n = 4", "account root stands at"),
    (
        "a refund of an open hold",
        "UPDATE entry SET hold = 'w4' WHERE n = 4",
        "entry 4 gives back hold w4, which",
    ),
    ("a refund elsewhere", "UPDATE entry SET counter = NULL WHERE n = 4", "entry 4 gives back hold w1, which was not"),
    (
        "an annulment in part",
        "UPDATE entry SET amount = 19 WHERE n = 8",
        "entry 8 gives back 19 of hold w2",
    ),
    ("an annulment made a refund", "UPDATE entry SET kind = 'refund' WHERE n = 8", "account root stands at"),
    ("a refund made an annulment", "UPDATE entry SET kind = 'annul' WHERE n = 4", "entry 4 gives back 2 of hold w1"),
    (
        "an extension beyond the limit",
        "UPDATE entry SET amount = 99 WHERE n = 2",
        "after entry 2 account root has",
    ),
    ("an extension elsewhere", "UPDATE entry SET leaf = 1 WHERE n = 2", "entry 2 extends hold w1, which is not open"),
    (
        "an extension of nothing",
        "UPDATE entry SET hold = 'w9' WHERE n = 2",
        "entry 2 extends hold w9, which is",
    ),
    (
        "no grant",
        "UPDATE entry SET kind = 'accept' WHERE n = 5",
        "after entry 10 account root has spent 10 and",
    ),
    ("a smaller grant", "UPDATE entry SET amount = 1000000000 WHERE n = 11", "account calls stands at"),
    (
        "a grant without a limit",
        "UPDATE entry SET leaf = 2 WHERE n = 5",
        "entry 5 grants to account team, which",
    ),
    ("a grant to nobody", "UPDATE entry SET leaf = NULL WHERE n = 5", "entry 5 names no account"),
    (
        "a window with less",
        f"UPDATE window SET spent = 9 WHERE start = {TODAY}",
        f"window {TODAY} of account root",
    ),
    ("a window with more", f"UPDATE window SET granted = 51 WHERE start = {TODAY}", f"window {TODAY} of account root"),
    (
        "no running window",
        f"DELETE FROM window WHERE start > {TODAY}",
        f"window {TODAY + DAY} of account root is",
    ),
    ("no window of today", f"DELETE FROM window WHERE start = {TODAY}", f"window {TODAY} of account root is missing"),
    (
        "a window too many",
        "INSERT INTO window VALUES (1, 0, 100, 0, 0, 0, 0)",
        "window 0 of account root has no entries",
    ),
    ("more observed", "UPDATE account SET observed = 1 WHERE id = 'root'", "account root stands at"),
    ("more observed today", "UPDATE window SET observed = 1", f"window {TODAY} of account root stands at"),
    ("another period", "UPDATE account SET period = 'week' WHERE id = 'root'", ""),
    ("no period", "UPDATE account SET period = NULL WHERE id = 'root'", "account root stands at"),
    ("not counted", "UPDATE entry SET counter = NULL WHERE n = 9", "entry 9 names no hold or no account"),
    ("settled elsewhere", "UPDATE entry SET counter = NULL WHERE n = 3", "entry 3 resolves hold w1, which is not open"),
    ("no such counter", "UPDATE entry SET counter = 99 WHERE n = 9", "entry 9 names an account that is not"),
    ("counted elsewhere", "UPDATE hold SET counter = NULL WHERE id = 'w3'", "hold w3 is open in the journal or in"),
    (
        "held on another day",
        f"UPDATE entry SET at = {NOON + 1} WHERE n = 12",
        f"window {TODAY} of account root stands",
    ),
    ("fewer calls left", "UPDATE account SET spent = spent + 1 WHERE id = 'calls'", "account calls stands at"),
]


@pytest.mark.parametrize(
    ("statement", "difference"), [row[1:] for row in RICHER_TAMPERED], ids=[row[0] for row in RICHER_TAMPERED]
)
def test_tampering_with_what_is_newer_is_a_difference(richer: FaultyLedger, statement: str, difference: str) -> None:
    assert fsck(richer.path) == Checked(accounts=3, entries=12, open_holds=3, difference=None, logs=1, unsigned=12)
    assert difference_after(richer, statement).startswith(difference)


@pytest.mark.parametrize("seed", range(4))
def test_a_history_drawn_at_random_adds_up(ledgers: Ledgers, seed: int) -> None:
    """Hours go by, windows are closed and removed, and what is given back may be from long ago."""
    chance = random.Random(f"{os.environ.get('TOLSEY_SEED', '')}{seed}")
    purses = (purse("root 500/day / a 60/hour"), purse("root 500/day / b - / c 90"), purse("other 200"))
    counters = ((), COUNTED, purse("calls 9 / deep 2/hour", unit="call"))
    ledger = ledgers.open("o1")
    now = NOON
    holds: list[str] = []
    for number in range(400):
        now += chance.choice((0, 0, 1, 600, 4000, 90_000, 400_000)) * SECOND
        hold = chance.choice(holds[-12:]) if holds else "none"
        kind = chance.randrange(9)
        event: Event = Reserve(f"h{number}", chance.choice(purses), chance.randint(1, 20), "", chance.choice(counters))
        if kind > 3:
            chosen: tuple[Event, ...] = (
                Settle(hold, chance.randint(0, 9)),
                Extend(hold, chance.randint(1, 9)),
                chance.choice((Void(hold), Expire(hold))),
                chance.choice((Refund(hold, chance.choice((None, 1)), "r"), Annul(hold, "r"))),
                Grant(chance.choice((("root", "USD"), ("c", "USD"), ("calls", "call"), ("b", "USD"))), NANO, "r"),
            )
            event = chosen[kind - 4]
        outcome = ledger.run([event], now)[0]
        if isinstance(event, Reserve) and isinstance(outcome, Granted):
            holds.append(event.hold)
    found = fsck(ledgers.path)
    assert found.difference is None, f"seed {seed}"
    assert found.entries > 150
