"""The file under the SQLite ledger: its connections, its statements, and what it must not lie on."""

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, TypeVar

from tolsey.errors import LedgerFull, LedgerMissing, LedgerRefused, LedgerUnavailable
from tolsey.store.wal import MOST_KEPT_BYTES

MINIMUM_SQLITE: Final = (3, 37, 0)
CLOSE_SECONDS: Final = 0.5
"""How long the file may take to close."""

BUSY_MS: Final = 250
"""How long SQLite itself waits for a lock that somebody holds outside the turn, in milliseconds."""

MOST_ROWS: Final = 32
"""Rows in one statement, at most."""

CACHED_STATEMENTS: Final = 10 * MOST_ROWS
"""How many statements stay prepared: of each number of rows those of accounts, windows, rates, claims and closed holds,
of entries three (a reserve, a resolution, one more that has counters) and of open holds two.
"""

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.glusterfs"}
)

Durability = Literal["full", "normal"]


@lru_cache(maxsize=CACHED_STATEMENTS)
def insert_sql(insert: str, marks: str, rows: int, conflict: str) -> str:
    """The statement that inserts so many rows; `marks` are those of one."""
    return f"{insert} VALUES {','.join([marks] * rows)} {conflict}"


_T = TypeVar("_T")


def statements(script: str) -> Iterator[str]:
    """Cut a script into statements, keeping a trigger's body whole."""
    statement = ""
    for piece in script.split(";"):
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def parts(rows: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Cut rows into parts of `MOST_ROWS`, so that few enough statements are prepared to keep them all."""
    for at in range(0, len(rows), MOST_ROWS):
        yield rows[at : at + MOST_ROWS]


def connect(path: Path, durability: Durability) -> sqlite3.Connection:
    """Open a connection for writing, with every setting that the ledger relies on."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=CACHED_STATEMENTS)
    db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute(f"PRAGMA journal_size_limit = {MOST_KEPT_BYTES}")
    db.execute("PRAGMA trusted_schema = OFF")
    return db


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write, for reports on a live ledger. Raises `LedgerRefused` where there is none."""
    if not path.exists():
        raise LedgerMissing(f"there is no ledger at {path}")
    with errors_of(f"the ledger {path} cannot be read"):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        db.execute("PRAGMA query_only = ON")
        db.execute("PRAGMA busy_timeout = 5000")
    return db


ERRORS: Final = (sqlite3.Error, OSError, TypeError, ValueError, LookupError)
"""What SQLite and the disk raise, and what becomes of the values in a damaged file."""


def unavailable(what: str, error: Exception) -> LedgerUnavailable:
    """The error to raise for one of `ERRORS`."""
    full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or (
        isinstance(error, OSError) and error.errno == errno.ENOSPC
    )
    return (LedgerFull if full else LedgerUnavailable)(f"{what}: {error}")


@contextmanager
def errors_of(what: str) -> Iterator[None]:
    """Raise `ERRORS` as `LedgerUnavailable`."""
    try:
        yield
    except ERRORS as error:
        raise unavailable(what, error) from None


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is at the path at this moment, whatever its name was before; None for none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_library(version: tuple[int, int, int]) -> None:
    """Raise `LedgerRefused` for a SQLite that cannot hold the ledger."""
    if version < MINIMUM_SQLITE:
        raise LedgerRefused(f"SQLite {'.'.join(map(str, version))} is too old; 3.37.0 or later is needed")


def check_file_system(path: Path) -> None:
    """Raise `LedgerRefused` where the file would lie on a network file system, whose locks cannot be relied on."""
    kind = file_system(path)
    if kind in NETWORK_FILE_SYSTEMS:
        raise LedgerRefused(f"{path} lies on a network file system ({kind}); SQLite needs a local disk")


def file_system(path: Path) -> str:
    """The kind of file system that a file lies on or would, as the kernel names it; empty where it does not tell."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return ""
    best, kind = "", ""
    target = str(path.resolve())
    for fields in mounts:
        point = fields[4].replace("\\040", " ")
        if (target == point or target.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, fields[fields.index("-") + 1]
    return kind
