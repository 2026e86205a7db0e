"""`fsck` and the trail read a live ledger; every tampering is a difference; a strange ledger is refused."""

import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ledgers import Ledgers, clock_text, database, purse, replay, stands
from tests.reading import difference_after, fsck, trail
from tolsey.errors import LedgerRefused
from tolsey.ledger.events import Event, Expire, Granted, Kind, Open, Reserve, Settle, Void
from tolsey.store.keyring import Keyring, check_ledger
from tolsey.store.reports import Checked
from tolsey.testing import NOON, FaultyLedger

A = purse("root 100 / team 50 / a 30")
B = purse("root 100 / team 50 / b -")
OTHER = purse("other 10")
HISTORY: list[Event] = [
    Open(A[0], "minted"),  # entry 1
    Reserve("h1", A, 10),  # 2
    Settle("h1", 8),  # 3
    Reserve("h2", B, 5),  # 4
    Void("h2"),  # 5
    Reserve("h3", B, 6),  # 6
    Expire("h3"),  # 7
    Reserve("h4", A, 20),  # 8: open
    Reserve("h5", OTHER, 10),  # 9
    Settle("h5", 10),  # 10
    Void("h1"),  # 11: late
    Reserve("h6", B, 1),  # 12: open
]


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        yield ledgers


@pytest.fixture
def ledger(ledgers: Ledgers) -> FaultyLedger:
    ledger = ledgers.open("o1")
    for event in HISTORY:
        ledger.run([event], NOON)
    return ledger


def test_a_sound_ledger(ledger: FaultyLedger) -> None:
    """Open holds and a gateway that runs are no difference."""
    assert fsck(ledger.path) == Checked(5, 12, 2, None, logs=1, unsigned=12)
    ledger.turn.take()
    ledger.stage([Settle("h4", 20)], NOON)
    assert fsck(ledger.path).open_holds == 2, "a snapshot, beside a group that is being written"
    ledger.commit()
    ledger.turn.give()
    assert fsck(ledger.path) == Checked(5, 13, 1, None, logs=1, unsigned=13)
    ledger.checkpoint()
    ledger.close()
    assert fsck(ledger.path) == Checked(5, 13, 1, None, logs=1, unsigned=13)


def test_an_empty_ledger_is_sound(ledgers: Ledgers) -> None:
    ledgers.open()
    assert fsck(ledgers.path) == Checked(0, 0, 0, None)
    assert trail(ledgers.path) == []


DROP = "DROP INDEX entry_hold;"
AGAIN = "INSERT INTO entry (n, at, kind, hold, leaf, amount, owner, note)"
TAMPERED = [
    ("less spent", "UPDATE account SET spent = spent - 1 WHERE id = 'team'", "account team stands at"),
    ("less held", "UPDATE account SET held = 0 WHERE id = 'root'", "account root stands at"),
    ("fewer calls", "UPDATE account SET calls = 0 WHERE id = 'other'", "account other stands at"),
    ("fewer open", "UPDATE account SET open = 0 WHERE id = 'a'", "account a stands at"),
    (
        "money moved",
        "UPDATE account SET spent = spent + CASE id WHEN 'a' THEN -4 ELSE 4 END WHERE id IN ('a', 'b')",
        "account",
    ),
    ("no last entry", "DELETE FROM entry WHERE n = 12", "account root stands at"),
    ("no entry in the middle", "DELETE FROM entry WHERE n = 4", "entry 5 does not follow entry 3"),
    ("no first entry", "DELETE FROM entry WHERE n = 1", "entry 2 does not follow entry 0"),
    ("two entries the fewer", "DELETE FROM entry WHERE n IN (2, 3)", "entry 4 does not follow entry 1"),
    ("cheaper", "UPDATE entry SET amount = 7 WHERE n = 3", "account root stands at"),
    ("dearer than held", "UPDATE entry SET amount = 11 WHERE n = 3", "entry 3 settles 11 on hold h1 of 10"),
    ("a smaller hold", "UPDATE entry SET amount = 19 WHERE n = 8", "account root stands at"),
    ("a void that costs", "UPDATE entry SET amount = 1 WHERE n = 5", "entry 5 settles 1 on hold h2 of 5"),
    ("an expiry that costs less", "UPDATE entry SET amount = 5 WHERE n = 7", "entry 7 settles 5 on hold h3 of 6"),
    ("a settle made a void", "UPDATE entry SET kind = 'void' WHERE n = 3", "entry 3 settles 8 on hold h1 of 10"),
    (
        "a reserve made a note",
        "UPDATE entry SET kind = 'late' WHERE n = 2",
        "entry 3 resolves hold h1, which is not open",
    ),
    ("another hold", "UPDATE entry SET hold = 'h9' WHERE n = 3", "entry 3 resolves hold h9, which is not open"),
    ("another leaf", "UPDATE entry SET leaf = 4 WHERE n = 3", "entry 3 resolves hold h1, which is not open there"),
    ("no such leaf", "UPDATE entry SET leaf = 99 WHERE n = 8", "entry 8 names an account that is not in the ledger"),
    ("an earlier time", "UPDATE entry SET at = 1 WHERE n = 6", "entry 6 does not follow entry 5"),
    (
        "a second resolution",
        f"{DROP} {AGAIN} SELECT 13, at, 'void', 'h1', leaf, 0, owner, note FROM entry WHERE n = 3",
        "entry 13 resolves hold h1, which is not open",
    ),
    (
        "a second reserve",
        f"{DROP} {AGAIN} SELECT 13, at, kind, hold, leaf, amount, owner, note FROM entry WHERE n = 8",
        "entry 13 reserves hold h4 again",
    ),
    ("no open hold", "DELETE FROM hold WHERE id = 'h4'", "hold h4 is open in the journal or"),
    ("a smaller open hold", "UPDATE hold SET amount = 1 WHERE id = 'h4'", "hold h4 is open in the journal or"),
    (
        "a hold too many",
        "INSERT INTO hold SELECT 'h7', leaf, counter, amount, owner, at, until FROM hold WHERE id = 'h4'",
        "hold h7 is",
    ),
    (
        "another parent",
        "UPDATE account SET parent = 'other' WHERE id = 'team'",
        "after entry 4 account other has spent 8 and",
    ),
    ("no parent", "UPDATE account SET parent = NULL WHERE id = 'team'", "account root stands at"),
    (
        "an unknown parent",
        "UPDATE account SET parent = 'nobody' WHERE id = 'team'",
        "account team has a parent that is not",
    ),
    ("a circle", "UPDATE account SET parent = 'a' WHERE id = 'root'", "account root is its own ancestor"),
    ("no account", "DELETE FROM account WHERE id = 'other'", "entry 9 names an account that is not in the ledger"),
    ("a lower limit", "UPDATE account SET \"limit\" = 27 WHERE id = 'a'", ""),
    ("a limit below what was spent", "UPDATE account SET \"limit\" = 13 WHERE id = 'team'", ""),
    (
        "a kind of its own",
        "UPDATE entry SET kind = 'gift' WHERE n = 11",
        "entry 11 is of a kind that is not",
    ),
    ("granted and not written down", "UPDATE account SET granted = 5 WHERE id = 'a'", "account a stands at"),
    ("no index", "DROP INDEX entry_hold", "the schema was changed: index entry_hold is missing"),
    (
        "a lenient index",
        "DROP INDEX entry_hold; CREATE INDEX entry_hold ON entry (hold)",
        "the schema was changed: index entry_hold is not as it was made",
    ),
]


@pytest.mark.parametrize(("statements", "difference"), [row[1:] for row in TAMPERED], ids=[row[0] for row in TAMPERED])
def test_tampering_is_a_difference(ledger: FaultyLedger, statements: str, difference: str) -> None:
    assert difference_after(ledger, statements).startswith(difference)


def test_tampering_all_over_and_consistently_does_not_pass(ledger: FaultyLedger, tmp_path: Path) -> None:
    """What the seal and the mark are for: a forger who also mends the balances is not caught by sums."""
    keyring = Keyring.create(tmp_path / "keys")
    keyring.remember_ledger(ledger.id, entries=ledger.entry_count(), at=NOON)
    ledger.close()
    with database(ledger.path) as db:
        db.execute("DELETE FROM entry WHERE n = 12")
        db.execute("DELETE FROM hold WHERE id = 'h6'")
        db.execute("UPDATE account SET held = held - 1 WHERE id IN ('root', 'team', 'b')")
        db.execute("UPDATE account SET open = open - 1 WHERE id = 'b'")
        entries = db.execute("SELECT max(n) FROM entry").fetchone()[0]
    assert fsck(ledger.path).difference == "the seal is broken: log 1 has had 12 entries and ends at entry 11"
    refused = check_ledger(keyring, ledger_id=ledger.id, entries=entries)
    assert refused == "the ledger holds 11 entries where there were 12: it is older than its keys"


@pytest.mark.parametrize("seed", range(3))
def test_fsck_has_the_same_opinion_as_a_replay(ledgers: Ledgers, seed: int) -> None:
    """Two ways to add up the journal, over a history drawn at random."""
    chance = random.Random(seed)
    ledger = ledgers.open("o1")
    waiting: list[str] = []
    for number in range(120):
        events: list[Event] = [Reserve(f"h{number}", chance.choice((A, B, OTHER)), chance.randint(1, 9))]
        if waiting and chance.random() < 0.7:
            hold = waiting.pop(chance.randrange(len(waiting)))
            events.insert(0, chance.choice((Settle(hold, 0), Settle(hold, 1), Void(hold), Expire(hold))))
        if isinstance(ledger.run(events, NOON + number)[-1], Granted):
            waiting.append(f"h{number}")
    accounts = {account.id: account for account in (*A, *B, *OTHER)}
    found = dict(zip(accounts, stands(ledger, list(accounts.values())), strict=True))
    assert found == replay(ledgers.path)
    assert fsck(ledgers.path).difference is None


def test_the_trail_is_the_tree_depth_first(ledger: FaultyLedger) -> None:
    ledger.run([Reserve("h7", purse("root 100 / late 9"), 1)], NOON + 1)
    found = trail(ledger.path)
    assert [(row.depth, row.id, row.limit, row.spent, row.held, row.calls) for row in found] == [
        (0, "root", 100, 14, 22, 2),
        (1, "team", 50, 14, 21, 2),
        (2, "a", 30, 8, 20, 1),
        (2, "b", None, 6, 1, 1),
        (1, "late", 9, 0, 1, 0),
        (0, "other", 10, 10, 0, 1),
    ]
    assert [(row.depth, row.id) for row in trail(ledger.path, "team")] == [(0, "team"), (1, "a"), (1, "b")]
    assert trail(ledger.path, "nobody") == []
    assert found[3].to_json() == {
        "id": "b",
        "parent": "team",
        "label": "b",
        "unit": "USD",
        "limit": None,
        "period": None,
        "granted": "0",
        "spent": "0.000000006",
        "held": "0.000000001",
        "calls": 1,
        "observed": "0",
        "window": None,
        "opened_by": None,
        "first_seen": clock_text(NOON),
        "last_seen": clock_text(NOON),
        "refusals": {},
    }


def test_a_deep_trail_needs_no_deep_stack(ledgers: Ledgers) -> None:
    accounts = purse(" / ".join(f"a{n} -" for n in range(1500)))
    ledgers.open("o1").run([Open(account) for account in accounts], NOON)
    assert trail(ledgers.path)[-1].depth == 1499


class Keys:
    """A keyring beside a ledger, and what `check_ledger` says of the two."""

    def __init__(self, folder: Path) -> None:
        self.ring = Keyring.create(folder / "keys")

    def use(self, ledger: FaultyLedger) -> None:
        self.ring.remember_ledger(ledger.id, entries=ledger.entry_count(), at=NOON)
        self.ring.write_mark(ledger.id, ledger.entry_count(), NOON)

    def say(self, ledger: FaultyLedger) -> str | None:
        return check_ledger(self.ring, ledger_id=ledger.id, entries=ledger.entry_count())


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_new_keys_go_with_a_new_ledger_and_stay_with_it(ledger: FaultyLedger, keys: Keys) -> None:
    assert keys.say(ledger) is None
    keys.use(ledger)
    assert keys.say(ledger) is None
    ledger.run([Reserve("h7", OTHER, 1)], NOON)
    assert keys.say(ledger) is None


def test_an_empty_ledger_in_the_place_of_a_used_one_is_refused(ledger: FaultyLedger, keys: Keys) -> None:
    keys.use(ledger)
    ledger.close()
    for path in ledger.path.parent.glob("ledger.db*"):
        if path.is_file():
            path.unlink()
    said = check_ledger(keys.ring, ledger_id=None, entries=0)
    assert said == f"the ledger is empty, and these keys were used with ledger {ledger.id}"


def test_another_ledger_is_refused(ledger: FaultyLedger, keys: Keys, tmp_path: Path) -> None:
    keys.use(ledger)
    with Ledgers(tmp_path / "another.db", new_id="another") as others:
        other = others.open("o1")
        for number in range(50):
            other.run([Reserve(f"h{number}", A, 1)], NOON)
        assert keys.say(other) == f"this is ledger another, and these keys were used with ledger {ledger.id}"


def backup(path: Path, to: Path) -> None:
    with database(path) as db:
        copy = sqlite3.connect(to)
        db.backup(copy)
        copy.close()


def test_a_restored_backup_is_refused_until_its_loss_is_accepted(
    ledgers: Ledgers, ledger: FaultyLedger, keys: Keys, tmp_path: Path
) -> None:
    """RULES.md L1: otherwise a restored backup makes every budget fresh."""
    backup(ledgers.path, tmp_path / "backup.db")
    ledger.run([Reserve("h7", A, 2), Settle("h7", 2)], NOON)
    keys.use(ledger)
    ledger.close()
    shutil.copy(tmp_path / "backup.db", ledgers.path)
    for name in ("ledger.db-wal", "ledger.db-shm"):
        ledgers.path.with_name(name).unlink(missing_ok=True)

    restored = ledgers.open("o2")
    assert keys.say(restored) == "the ledger holds 12 entries where there were 14: it is older than its keys"
    restored.note(Kind.ACCEPT, "the disk broke on Monday", NOON)
    assert keys.say(restored) is not None, "an entry by itself accepts nothing"
    keys.ring.remember_ledger(restored.id, entries=restored.entry_count(), at=NOON, replace=True)
    assert keys.say(restored) is None
    with database(ledgers.path) as db:
        assert db.execute("SELECT n, kind, amount, note FROM entry ORDER BY n DESC").fetchone() == (
            13,
            "accept",
            0,
            "the disk broke on Monday",
        )
    assert fsck(ledgers.path).difference is None
    assert isinstance(restored.run([Reserve("h9", B, 1)], NOON)[0], Granted)
    assert fsck(ledgers.path).difference is None


def test_a_ledger_is_never_made_where_one_is_read(tmp_path: Path) -> None:
    for read in (fsck, trail):
        with pytest.raises(LedgerRefused):
            read(tmp_path / "ledger.db")
    assert not list(tmp_path.iterdir())
