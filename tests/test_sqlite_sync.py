"""When a SQLite ledger is on disk: after each group, and not while others wait for their turn."""

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ledgers import Ledgers, database, journal, purse, say
from tests.reading import fsck
from tolsey.errors import LedgerFull, LedgerUnavailable
from tolsey.ledger.events import Kind, Open, Reserve, Settle
from tolsey.store import sqlite_file
from tolsey.store.sqlite import SqliteLedger
from tolsey.store.sqlite_file import Durability
from tolsey.testing import NOON

ROOT = purse("root 100")
SECTOR = 512


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


class Disk:
    """The disk under a WAL, as Linux keeps it: a sync that fails says so once, and what it has not written then counts
    as written. Only what was written since, be it the same, goes with the next one.
    """

    def __init__(self, ledger: Path, patch: pytest.MonkeyPatch) -> None:
        self.fails = False
        self._ledger, self._wal = ledger, Path(f"{ledger}-wal")
        self._seen = self._kept = self._wal.read_bytes()
        self._again: set[int] = set()
        self._pwrite = os.pwrite
        patch.setattr(os, "fdatasync", self.sync)
        patch.setattr(os, "pwrite", self.write)

    def write(self, fd: int, data: bytes, at: int) -> int:
        self._again |= set(range(at // SECTOR, (at + len(data) - 1) // SECTOR + 1))
        return self._pwrite(fd, data, at)

    def sync(self, _: int) -> None:
        before, now = cut(self._seen), cut(self._wal.read_bytes())
        dirty = {n for n, sector in enumerate(now) if n in self._again or before[n : n + 1] != [sector]}
        self._seen, self._again = b"".join(now), set()
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        kept = cut(self._kept)
        kept += [b"\0" * SECTOR] * (len(now) - len(kept))
        self._kept = b"".join(sector if n in dirty else kept[n] for n, sector in enumerate(now))

    def after_a_power_cut(self, folder: Path) -> Path:
        """The ledger with as much of the WAL as is on disk."""
        folder.mkdir()
        left = folder / self._ledger.name
        left.write_bytes(self._ledger.read_bytes())
        Path(f"{left}-wal").write_bytes(self._kept)
        return left


def cut(data: bytes) -> list[bytes]:
    return [data[at : at + SECTOR] for at in range(0, len(data), SECTOR)]


@pytest.mark.parametrize(
    "then",
    [
        lambda ledger: ledger.run([Reserve("h2", ROOT, 1)], NOON),
        lambda ledger: ledger.note(Kind.KEYS, "other keys", NOON),
        lambda ledger: ledger.entry_count(),
        lambda ledger: ledger.checkpoint(),
    ],
    ids=["a group", "a note", "a count for the keyring", "a copy"],
)
def test_a_sync_after_one_that_failed_leaves_no_gap(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, then: Callable[[SqliteLedger], object]
) -> None:
    ledger = ledgers.open("o1", durability="full")
    disk = Disk(ledgers.path, monkeypatch)
    ledger.run([Reserve("h0", ROOT, 1)], NOON)
    disk.fails = True
    for _ in range(2):
        with pytest.raises(LedgerUnavailable, match="cannot be synced"):
            ledger.run([Reserve("h1", ROOT, 1)], NOON)
    disk.fails = False
    then(ledger)
    left = disk.after_a_power_cut(tmp_path / "left")
    assert journal(left) == journal(ledgers.path)
    assert fsck(left).difference is None


def test_what_is_written_again_in_part_stays_in_doubt(ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledgers.open("o1", durability="full")
    disk = Disk(ledgers.path, monkeypatch)
    disk.fails = True
    with pytest.raises(LedgerUnavailable):
        ledger.run([Reserve("h1", ROOT, 1)], NOON)
    disk.fails = False
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: disk.write(fd, data[: SECTOR * 3], at))
        with pytest.raises(LedgerFull, match=r"cannot be synced: .*No space left"):
            ledger.run([Reserve("h1", ROOT, 1)], NOON)
    assert ledger.wal.in_doubt
    assert say(ledger.run([Reserve("h1", ROOT, 1)], NOON)[0]) == "granted, 99 left"
    assert not ledger.wal.in_doubt


def wal_size(ledgers: Ledgers) -> int:
    return os.stat(f"{ledgers.path}-wal").st_size


def test_a_wal_that_was_copied_is_overwritten(ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync of a file that does not grow is faster. What is synced is still the WAL that is written."""
    ledger = ledgers.open("o1", durability="full")
    ledger.run([Reserve("h0", ROOT, 1)], NOON)
    assert ledger.wal_bytes() == wal_size(ledgers)
    synced: list[os.stat_result] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd)))
    for n in range(1, 4):
        size, inode = wal_size(ledgers), os.stat(f"{ledgers.path}-wal").st_ino
        ledger.checkpoint()
        assert ledger.wal_bytes() == 0
        ledger.run([Reserve(f"h{n}", ROOT, 1)], NOON)
        assert (synced[-1].st_ino, synced[-1].st_size) == (inode, size) == (inode, wal_size(ledgers))
        assert 0 < ledger.wal_bytes() < size
    assert len(synced) == 6, "each copy has one of its own, before it"
    with database(ledgers.path) as db:
        assert db.execute("SELECT count(*) FROM entry").fetchone() == (4,)
    assert fsck(ledgers.path).difference is None


def test_before_a_copy_the_wal_is_synced_while_others_may_write(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `normal` nothing else has, and under the turn that would keep everybody waiting."""
    ledger, other = ledgers.open("o1", durability="normal"), ledgers.open("o2", durability="normal")
    ledger.run([Reserve("h1", ROOT, 1)], NOON)
    synced: list[str] = []

    def watch(fd: int) -> None:
        assert other.turn.try_take()
        other.turn.give()
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)

    monkeypatch.setattr(os, "fdatasync", watch)
    ledger.checkpoint()
    assert synced == ["ledger.db-wal"]
    assert ledger.wal_bytes() == 0


def test_what_others_wrote_after_a_copy_waits_to_be_copied(ledgers: Ledgers) -> None:
    ledger, other = ledgers.open("o1"), ledgers.open("o2")
    ledger.run([Reserve("h1", ROOT, 1)], NOON)
    with database(ledgers.path) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM entry").fetchone()
        ledger.checkpoint()
        assert ledger.wal_bytes() == wal_size(ledgers), "a reader keeps it from being begun anew"
        before = wal_size(ledgers)
        other.run([Reserve("h2", ROOT, 1)], NOON)
        assert ledger.wal_bytes() == wal_size(ledgers) > before
    ledger.checkpoint()
    assert ledger.wal_bytes() == 0
    other.run([Reserve("h3", ROOT, 1)], NOON)
    assert 0 < ledger.wal_bytes() < wal_size(ledgers)


@pytest.mark.interpreted
def test_a_wal_that_grew_too_large_is_cut_back(ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "MOST_KEPT_BYTES", 100_000)
    ledger = ledgers.open("o1")
    for n in range(20):
        ledger.run([Reserve(f"h{n}", ROOT, 1)], NOON)
    assert wal_size(ledgers) > 200_000
    ledger.checkpoint()
    ledger.run([Settle("h1", 1)], NOON)
    assert 0 < ledger.wal_bytes() <= wal_size(ledgers) <= 100_000
    assert fsck(ledgers.path).difference is None


def test_a_ledger_that_cannot_be_synced_is_not_opened_and_leaves_nothing_open(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(LedgerUnavailable, match="cannot be synced"):
            ledgers.open("o1", durability="full")
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_ledger_that_a_thread_is_closing_is_closed_once(ledgers: Ledgers) -> None:
    """As after a gateway that did not wait for its thread: SQLite crashes where two use a connection that is closed."""
    one, other = ledgers.open("o1"), ledgers.open("o2")
    with ThreadPoolExecutor(2) as threads:
        other.turn.take()
        closed = [threads.submit(one.close) for _ in range(2)]
        other.turn.give()
        assert [future.result() for future in closed] == [None, None]
