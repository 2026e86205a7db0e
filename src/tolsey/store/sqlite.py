"""The ledger in one SQLite file: WAL, several processes, one writer at a time.

A group of events is staged in one transaction (`stage`), committed (`commit`), and on disk after `sync`. Between groups
the balances stay in memory, and are read again only when another process has written meanwhile (`PRAGMA data_version`).
Whoever writes holds the `Turn`; a checkpoint is taken under it too, so that none ever runs beside a commit (which keeps
SQLite's WAL-reset bug, 3.7.0 to 3.51.2, out of reach).

The turn is given back before the sync: the next process writes while the disk is busy. It may build on what is not on
disk yet, as whatever it syncs comes behind that in the same file. Nobody is told that a group was written before its
sync is over. `durability="normal"` does not sync: it survives the crash of a process, not a power cut.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Final, TypeVar

from mypy_extensions import mypyc_attr

from tolsey.errors import LedgerMissing, LedgerRefused, LedgerUnavailable
from tolsey.ledger.books import Balance, Hold
from tolsey.ledger.events import (
    Entry,
    Event,
    Expire,
    Key,
    Kind,
    Outcome,
)
from tolsey.ledger.rules import apply
from tolsey.store.contract import TALLIED_HOURS, TallyRow
from tolsey.store.owners import OwnerLock, Turn, forget, is_dead
from tolsey.store.queries import check_moved
from tolsey.store.sealing import Sealer
from tolsey.store.sealing_sqlite import seal_all
from tolsey.store.sqlite_accounts import standing
from tolsey.store.sqlite_file import (
    ERRORS,
    Durability,
    check_file_system,
    check_library,
    connect,
    errors_of,
    identity,
    statements,
    unavailable,
)
from tolsey.store.sqlite_rows import PAYMENT, Rows
from tolsey.store.wal import Wal
from tolsey.token.chain import Account

SCHEMA_VERSION: Final = 11
"""How many files of `schema/sqlite/` a ledger of this version has gone through."""

NOT_SYNCED: Final = "the ledger cannot be synced"
"""Why a group is in doubt that the disk may not have."""

SEALED_FROM: Final = 8
"""Since which of them entries are sealed."""

_R = TypeVar("_R")


@mypyc_attr(allow_interpreted_subclasses=True)
class SqliteLedger:
    """One process's connection to a ledger file.

    `owner` is this process's number in the ledger, or 0 until `register`; `config` the number of the config that
    entries are made under. All times are nanoseconds since the epoch.
    """

    def __init__(
        self, path: Path, *, durability: Durability = "full", now: int, new_id: str, create: bool = True
    ) -> None:
        """Open the file, or make it with id `new_id`. Raises `LedgerRefused` or `LedgerUnavailable`."""
        self.path = path
        self.durability = durability
        self.owner = 0
        self.owner_id = ""
        self._lock: OwnerLock | None = None
        self.config: int | None = None
        self._rows = Rows()
        self._last_at = 0
        self._version = -1
        check_library(sqlite3.sqlite_version_info)
        check_file_system(path)
        if not create and (not path.exists() or path.stat().st_size == 0):
            raise LedgerMissing(f"there is no ledger at {path}")
        try:
            with contextlib.ExitStack() as opened:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                self.turn = Turn(path)
                opened.callback(self.turn.close)
                self._db = connect(path, "normal")
                opened.callback(self._db.close)
                self._file = identity(path)
                self.id: str = self._migrate(new_id, now)
                self.wal = Wal(path)
                opened.callback(self.wal.close)
                self.sync()
                opened.pop_all()
        except ERRORS as error:
            raise LedgerUnavailable(f"the ledger {path} cannot be opened: {error}") from None

    def _migrate(self, new_id: str, now: int) -> str:
        """Bring the file to the present schema, under the turn; return the ledger's id. Raises `LedgerRefused` for one
        that must not be used.
        """
        self.turn.take()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
                self._run_script(1)
                self._db.execute("INSERT INTO ledger VALUES (?, ?, ?)", (new_id, 1, now))
                self._db.execute("INSERT INTO owner VALUES (0, 'cli', ?, ?)", (now, now))
            row = self._db.execute("SELECT id, version FROM ledger").fetchone()
            if row is None or not 1 <= row[1] <= SCHEMA_VERSION:
                self._db.execute("ROLLBACK")
                raise LedgerRefused(f"the ledger {self.path} is of another version of Tolsey")
            for number in range(row[1] + 1, SCHEMA_VERSION + 1):
                self._run_script(number)
                self._db.execute("UPDATE ledger SET version = ?", (number,))
            if row[1] < SEALED_FROM:
                seal_all(self._db, row[0])
            self._db.execute("COMMIT")
            moved_to = self._db.execute("SELECT moved_to FROM ledger").fetchone()[0]
        finally:
            self.turn.give()
        check_moved(moved_to, f"the ledger {self.path}")
        return str(row[0])

    def _run_script(self, number: int) -> None:
        script = resources.files("tolsey.store").joinpath(f"schema/sqlite/{number:04}.sql").read_text("utf-8")
        for statement in statements(script):
            self._db.execute(statement)

    def register(self, owner_id: str, now: int) -> None:
        """Begin as a new owner: from here on this process may hold money. Takes the turn; blocks."""
        with errors_of("the ledger refused a new owner"):
            lock = OwnerLock(self.path, owner_id)
        self.turn.take()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            row = self._db.execute(
                "INSERT INTO owner (id, started_at) VALUES (?, ?) RETURNING n", (owner_id, now)
            ).fetchone()
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self.roll_back()
            lock.close()
            raise LedgerUnavailable(f"the ledger refused a new owner: {error}") from None
        finally:
            self.turn.give()
        self.sync()
        if self._lock is not None:
            self._lock.close()
        self._lock, self.owner, self.owner_id = lock, row[0], owner_id

    @errors_of("the ledger cannot be read")
    def is_ended(self) -> bool:
        """Whether somebody has taken this owner for dead."""
        return bool(self._db.execute("SELECT ended_at IS NOT NULL FROM owner WHERE n = ?", (self.owner,)).fetchone()[0])

    def number_config(self, generation: str, now: int) -> int:
        """Record a config's generation and return its number, for `config` of every process that uses it. Blocks."""
        self.turn.take()
        try:
            self._db.execute("INSERT OR IGNORE INTO config (generation, at) VALUES (?, ?)", (generation, now))
            row = self._db.execute("SELECT n FROM config WHERE generation = ?", (generation,)).fetchone()
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"the ledger refused the config's generation: {error}") from None
        finally:
            self.turn.give()
        return int(row[0])

    def time(self, now: int) -> int:
        """The ledger's time: the later of the clock and the last entry known here (RULES.md M11)."""
        return max(now, self._last_at)

    def stage(self, events: Sequence[Event], now: int) -> list[Outcome]:
        """Run a group of events in an open transaction, for `commit`. The caller holds the turn.

        Raises `LedgerUnavailable` with nothing changed. The first run takes a reserve's id to be new and a hold of our
        own to be as we know it. Where that is wrong (an id used again, a resolution by another process) the unique
        indexes say so; then everything is read and the group run once more.
        """
        for attempt in (1, 2):
            try:
                self._begin()
                at = self._last_at = max(now, self._last_at)
                self._rows.load(self._db, events, at, trusting=attempt == 1)
                outcomes = [apply(self._rows.books, event, at=at, owner=self.owner) for event in events]
                if attempt == 1 and self._rows.is_hasty(self._db, events, outcomes):
                    self.roll_back()
                    continue
                self._rows.write(self._db, at, self.config)
                return outcomes
            except (sqlite3.IntegrityError, AssertionError) as error:
                self.roll_back()
                if attempt == 2:
                    raise LedgerUnavailable(f"the ledger refused a group: {error}") from None
            except ERRORS as failure:
                self.roll_back()
                raise unavailable("the ledger cannot be written", failure) from failure
            except BaseException:
                self.roll_back()
                raise
        raise AssertionError("unreachable")

    def commit(self) -> None:
        """Commit the staged group; it is durable after `sync`. Raises `LedgerUnavailable`; then whether it was kept is
        unknown, and the same events may be staged again: a hold's id makes them idempotent.
        """
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._reopen()
            raise unavailable("the ledger cannot be committed", error) from None
        self._rows.committed()

    def sync(self) -> None:
        """Have on disk what was committed, by whomever, if this ledger is to be that durable. The caller has no turn;
        blocks. Raises `LedgerUnavailable`; then what was committed may be kept all the same.
        """
        if self.durability == "full":
            with errors_of(NOT_SYNCED):
                self._sync()

    def _sync(self) -> None:
        if self.wal.in_doubt:
            self.turn.take()
            try:
                self.wal.write_again()
            finally:
                self.turn.give()
        self.wal.sync()

    def roll_back(self) -> None:
        """Undo what is staged and forget what was read."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._forget()

    def _forget(self) -> None:
        self._rows = Rows()
        self._version = -1

    def _reopen(self) -> None:
        try:
            fresh = connect(self.path, "normal")
        except ERRORS:
            self.roll_back()
            return
        self._db.close()
        self._db = fresh
        self._forget()

    def _begin(self) -> None:
        if identity(self.path) != self._file:
            raise LedgerUnavailable("the ledger's file was moved or replaced while it was in use; restart the gateway")
        self._db.execute("BEGIN IMMEDIATE")
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            moved_to = self._db.execute("SELECT moved_to FROM ledger").fetchone()[0]
            if moved_to is not None:
                raise LedgerUnavailable(f"the ledger was moved to {moved_to} while it was in use")
            self._version = version
            self._rows.others_wrote(self._db.execute("SELECT coalesce(max(n), 0) FROM account").fetchone()[0] + 1)
            last = self._db.execute("SELECT at FROM entry ORDER BY n DESC LIMIT 1").fetchone()
            self._last_at = max(self._last_at, last[0] if last else 0)

    def run(self, events: Sequence[Event], now: int) -> list[Outcome]:
        """Stage, commit and sync a group at once, waiting for the turn. For tools and recovery; blocks."""
        self.turn.take()
        try:
            outcomes = self.stage(events, now)
            self.commit()
        finally:
            self.turn.give()
        self.sync()
        return outcomes

    @errors_of("the ledger cannot be read")
    def balances(self, accounts: Sequence[Account], now: int) -> list[Balance]:
        """The accounts as committed, by this process and others; one that does not exist yet stands at 0, one with a
        period as its running window does.
        """
        return standing(self._db, accounts, self.time(now))

    @errors_of("the ledger cannot be read")
    def paid(self, payment: str) -> Key | None:
        """The key of the account that a payment opened, as committed; None if it was not taken."""
        row = self._db.execute(PAYMENT, (payment,)).fetchone()
        return None if row is None else (row[0], row[1])

    @errors_of("the ledger cannot be read")
    def hold(self, hold_id: str) -> Hold | None:
        """A hold as committed, open or resolved; None if there is none."""
        rows = Rows()
        rows.load_holds(self._db, [hold_id])
        return rows.books.holds.get(hold_id)

    @errors_of("the ledger cannot be written")
    def note(self, kind: Kind, note: str, now: int) -> None:
        """Write down what moves no money: see `contract.Ledger.note`. Takes the turn; blocks."""
        self.turn.take()
        try:
            self._begin()
            self._last_at = max(now, self._last_at)
            entry = Entry(kind, self._last_at, None, None, 0, self.owner, note)
            self._rows.insert_entries(self._db, [entry], self.config)
            self.commit()
        finally:
            self.turn.give()
        self.sync()

    @errors_of("the ledger cannot be written")
    def change(self, work: Callable[[sqlite3.Connection, int], _R], now: int) -> _R:
        """Let `work` change the ledger in a transaction of its own, at the ledger's time. Takes the turn; blocks."""
        self.turn.take()
        try:
            self._begin()
            self._last_at = max(now, self._last_at)
            found = work(self._db, self._last_at)
            self.commit()
        except BaseException:
            self.roll_back()
            raise
        finally:
            self.turn.give()
        self.sync()
        return found

    @property
    def sealer(self) -> Sealer:
        """What seals the entries of this process: for a `change` that appends one."""
        return self._rows.sealer

    @errors_of("the ledger cannot be read")
    def look(self, work: Callable[[sqlite3.Connection, int], _R]) -> _R:
        """Let `work` read the ledger."""
        return work(self._db, self._last_at)

    @errors_of("the ledger cannot be written")
    def tally(self, rows: Sequence[TallyRow]) -> None:
        """Put rows in the place of those with the same keys. Takes the turn; blocks."""
        self.turn.take()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT INTO tally (hour, source, key, counts) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (hour, source, key) DO UPDATE SET counts = excluded.counts",
                [(row.hour, row.source, row.key, row.counts) for row in rows],
            )
            self._db.execute("DELETE FROM tally WHERE hour < ?", (max(row.hour for row in rows) - TALLIED_HOURS,))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self.roll_back()
            raise
        finally:
            self.turn.give()

    @errors_of("the ledger cannot be written")
    def expire(self, now: int) -> int:
        """Close every owner whose process is gone, and settle its open holds as held; likewise the holds whose time is
        over. Return how many holds. Blocks.
        """
        overdue = [row[0] for row in self._db.execute("SELECT id FROM hold WHERE until <= ?", (self.time(now),))]
        if overdue:
            self.run([Expire(hold, "unmetered: its time was over") for hold in overdue], now)
        expired = len(overdue)
        # One that was taken for dead while it lived may hold money although it has ended.
        owners = self._db.execute(
            "SELECT n, id FROM owner WHERE ended_at IS NULL OR n IN (SELECT owner FROM hold)"
        ).fetchall()
        for n, owner_id in owners:
            if n == self.owner or not is_dead(self.path, owner_id):
                continue
            # Ended first: an owner that lives and hears of an expired hold must find that it was taken for dead.
            self.turn.take()
            try:
                self._db.execute("UPDATE owner SET ended_at = ? WHERE n = ?", (now, n))
            finally:
                self.turn.give()
            holds = [row[0] for row in self._db.execute("SELECT id FROM hold WHERE owner = ?", (n,))]
            if holds:
                self.run([Expire(hold) for hold in holds], now)
            forget(self.path, owner_id)
            expired += len(holds)
        return expired

    @errors_of("the ledger cannot be read")
    def entry_count(self) -> int:
        """How many entries the journal has, all of them on disk; it never falls. Blocks."""
        count = int(self._db.execute("SELECT coalesce(max(n), 0) FROM entry").fetchone()[0])
        self.sync()
        return count

    @errors_of("the ledger cannot be written")
    def checkpoint(self) -> None:
        """Copy the WAL, synced while others still write, into the file under the turn; it is begun anew. Blocks."""
        self._sync()
        self.turn.take()
        try:
            busy = self._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0]
            if not busy:
                self.wal.copied()
        finally:
            self.turn.give()

    @errors_of("the ledger cannot be read")
    def wal_bytes(self) -> int:
        """How much of the WAL a checkpoint would copy, in bytes."""
        return self.wal.waiting()

    def close(self) -> None:
        """End this owner and close the file."""
        if self._lock is not None:
            if self.owner:
                self.turn.take()
                try:
                    left = self._db.execute("SELECT count(*) FROM hold WHERE owner = ?", (self.owner,)).fetchone()[0]
                    if not left:
                        self._db.execute("UPDATE owner SET ended_at = ? WHERE n = ?", (self._last_at, self.owner))
                except sqlite3.Error:
                    self.roll_back()
                finally:
                    self.turn.give()
            self._lock.close()
        self._db.close()
        self.wal.close()
        self.turn.close()
