"""A copy of a live SQLite ledger in one file."""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from tolsey.store.sqlite_file import connect_read_only, errors_of
from tolsey.store.sqlite_snapshot import SqliteSnapshot

PAGES: Final = 256
"""How many pages (of 4 KiB) are copied at once: 1 MiB."""

PAUSE_SECONDS: Final = 0.001
"""Between two steps, so that a gateway's own reads and syncs come between."""


def back_up(source: Path, target: Path, progress: Callable[[int, int], None]) -> None:
    """Copy the ledger at `source`, as it is at this instant, into the new file `target`, which is on disk afterwards.
    `progress` is told how many pages of how many are done.

    Raises `LedgerRefused`, `LedgerUnavailable`, and `OSError` (`FileExistsError` too). What was begun is removed.
    """
    with SqliteSnapshot(source):
        pass
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with (
            closing(connect_read_only(source)) as live,
            errors_of("the ledger cannot be copied"),
            closing(sqlite3.connect(target, isolation_level=None)) as copy,
        ):
            # Inside a read transaction the copy begins and ends with one state; without it every write of a gateway
            # would make SQLite begin anew.
            live.execute("BEGIN")
            live.execute("SELECT id FROM ledger").fetchone()
            live.backup(copy, pages=PAGES, progress=_step(progress))
            # One file that is whole by itself; a ledger that is opened for writing goes back to its WAL.
            copy.execute("PRAGMA journal_mode = DELETE").fetchone()
        _sync(target)
    except BaseException:
        for path in (target, *(target.with_name(target.name + end) for end in ("-wal", "-shm", "-journal"))):
            path.unlink(missing_ok=True)
        raise


def _step(progress: Callable[[int, int], None]) -> Callable[[int, int, int], None]:
    def step(status: int, remaining: int, total: int) -> None:
        progress(total - remaining, total)
        time.sleep(PAUSE_SECONDS)

    return step


def _sync(path: Path) -> None:
    for name, flags in ((path, os.O_RDWR), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        fd = os.open(name, flags | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
