"""When a SQLite ledger is on disk: after each group, and not while others wait for their turn."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ledgers import Ledgers, journal, purse, say
from tests.reading import fsck
from tolsey.errors import LedgerFull, LedgerUnavailable
from tolsey.ledger.events import Open, Reserve, Settle
from tolsey.store.sqlite_file import Durability
from tolsey.testing import NOON

ROOT = purse("root 100")


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        yield ledgers


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_group_is_synced_once_it_is_committed_and_the_turn_is_free(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    ledger, other = ledgers.open("o1", durability=durability), ledgers.open("o2", durability="normal")
    synced: list[tuple[str, int]] = []
    real = os.fdatasync

    def watch(fd: int) -> None:
        assert other.turn.try_take()
        other.turn.give()
        other.run([Open(purse(f"other{len(synced)} 1")[0])], NOON)
        synced.append((Path(os.readlink(f"/proc/self/fd/{fd}")).name, len(journal(ledgers.path))))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", watch)
    ledger.run([Reserve("h1", ROOT, 1)], NOON)
    ledger.run([Settle("h1", 1), Reserve("h2", ROOT, 1)], NOON)
    assert synced == ([("ledger.db-wal", 2), ("ledger.db-wal", 5)] if durability == "full" else [])
    assert [say(outcome) for outcome in ledger.run([Settle("h2", 1)], NOON)] == ["settle 1"]
    assert fsck(ledgers.path).difference is None


@pytest.mark.parametrize(("number", "raised"), [(errno.ENOSPC, LedgerFull), (errno.EIO, LedgerUnavailable)])
def test_a_sync_that_fails_says_why(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch, number: int, raised: type[LedgerUnavailable]
) -> None:
    ledger = ledgers.open("o1", durability="full")

    def fail(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(LedgerUnavailable, match=f"cannot be synced: .*{os.strerror(number)}") as found:
            ledger.run([Reserve("h1", ROOT, 60)], NOON)
    assert found.type is raised
    assert [say(outcome) for outcome in ledger.run([Reserve("h1", ROOT, 60)], NOON)] == ["granted, 40 left"]


def test_a_wal_that_was_begun_anew_is_synced_too(ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint leaves the file in its place: what is synced afterwards is still the WAL that is written."""
    ledger = ledgers.open("o1", durability="full")
    synced: list[os.stat_result] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd)))
    for n in range(3):
        ledger.run([Reserve(f"h{n}", ROOT, 1)], NOON)
        now = os.stat(f"{ledgers.path}-wal")
        assert (synced[-1].st_ino, synced[-1].st_size) == (now.st_ino, now.st_size)
        ledger.checkpoint()
    assert len(synced) == 3
