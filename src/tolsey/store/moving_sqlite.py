"""A SQLite ledger that is moved, or moved to: see `moving`."""

import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tolsey.errors import LedgerRefused
from tolsey.store.moving import ROWS, Row, Table
from tolsey.store.owners import Turn, is_dead
from tolsey.store.sqlite import SqliteLedger
from tolsey.store.sqlite_file import connect, errors_of

_CANNOT = "the ledger cannot be carried over"


class SqliteMovable:
    """A `Movable` over the file at `path`. Make one with `source_at` or `target_at`.

    As a source it holds the turn and SQLite's write lock, so that nothing is written meanwhile.
    """

    def __init__(self, path: Path, turn: Turn, db: sqlite3.Connection, *, is_target: bool) -> None:
        self.path = path
        self._turn = turn
        self._db = db
        self._unfinished = is_target
        self.id, self.created_at = db.execute("SELECT id, created_at FROM ledger").fetchone()

    async def count(self, table: Table) -> int:
        """How many rows a table has."""
        with errors_of(_CANNOT):
            return int(self._db.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0])  # noqa: S608 - one of ours

    async def dump(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """Its rows, in the order of its key."""
        with errors_of(_CANNOT):
            # The first columns of each are its key.
            cursor = self._db.execute(f"SELECT {table.column_list} FROM {table.name} ORDER BY 1, 2")  # noqa: S608 - ours
            while rows := cursor.fetchmany(ROWS):
                yield rows

    async def load(self, table: Table, rows: Sequence[Row]) -> None:
        """Put rows into an empty table."""
        marks = ",".join("?" * len(table.columns))
        sql = f"INSERT INTO {table.name} ({table.column_list}) VALUES ({marks})"  # noqa: S608 - names of ours
        with errors_of(_CANNOT):
            self._db.executemany(sql, rows)

    async def finish(self) -> None:
        """Keep what was loaded."""
        with errors_of(_CANNOT):
            self._db.execute("COMMIT")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._unfinished = False

    async def discard(self) -> None:
        """Remove the file."""
        self._unfinished = True

    async def mark_moved(self, to: str) -> None:
        """Write down where the ledger is now."""
        with errors_of("the ledger cannot be marked as moved"):
            self._db.execute("UPDATE ledger SET moved_to = ?", (to,))
            self._db.execute("COMMIT")

    async def close(self) -> None:
        """Undo what was not committed, and let go; a target that was not finished is removed."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._db.close()
        self._turn.close()
        if self._unfinished:
            _remove(self.path)


def source_at(path: Path, now: int) -> SqliteMovable:
    """Lock the ledger at `path`. Raises `LedgerRefused` where there is none, or while a gateway uses it."""
    SqliteLedger(path, now=now, new_id="", create=False).close()
    with errors_of(f"the ledger {path} cannot be locked"):
        turn, db = Turn(path), connect(path, "full")
        turn.take()
        db.execute("BEGIN IMMEDIATE")
    try:
        living = [name for name in _owner_files(path) if not is_dead(path, name)]
        if living:
            raise LedgerRefused(f"a gateway uses the ledger {path} (owner {living[0]}): stop it first")
        return SqliteMovable(path, turn, db, is_target=False)
    except BaseException:
        db.close()
        turn.close()
        raise


def target_at(path: Path, source_id: str, created_at: int) -> SqliteMovable:
    """Make a ledger at `path`, where nothing may be, with the source's id. Raises `LedgerRefused`."""
    if path.exists():
        raise LedgerRefused(f"there is something at {path} already; a ledger is moved to a new file")
    SqliteLedger(path, now=created_at, new_id=source_id).close()
    with errors_of(f"the ledger {path} cannot be written"):
        turn, db = Turn(path), connect(path, "full")
        turn.take()
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM owner")
        return SqliteMovable(path, turn, db, is_target=True)


def _owner_files(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path.with_name(f"{path.name}.owners")))
    except FileNotFoundError:
        return []


def _remove(path: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal", ".turn"):
        Path(f"{path}{end}").unlink(missing_ok=True)
