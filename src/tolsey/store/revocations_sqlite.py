"""Revocations in a SQLite ledger: how they are written, and how each worker reads them."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tolsey.errors import LedgerUnavailable
from tolsey.ledger.revoking import Revised, Revocation, Revoke, Unrevoke, dropped_before, entry_of
from tolsey.store.queries import check_moved
from tolsey.store.sealing import Sealer
from tolsey.store.sealing_sqlite import append
from tolsey.store.sqlite_file import CLOSE_SECONDS, connect_read_only, errors_of, identity

_STANDS: Final = "SELECT id, since, expires, note, entry FROM revocation WHERE id = ?"
_PUT: Final = "INSERT OR REPLACE INTO revocation (id, since, expires, note, entry) VALUES (?, ?, ?, ?, ?)"


def revise(
    db: sqlite3.Connection, sealer: Sealer, change: Revoke | Unrevoke, *, at: int, owner: int, config: int | None
) -> Revised:
    """Make a change in an open transaction, at the ledger's time `at`, under the ledger's `sealer`."""
    row = db.execute(_STANDS, (change.id,)).fetchone()
    stands = None if row is None else Revocation(*row)
    entry = entry_of(change, stands, at=at, owner=owner)
    if entry is None:
        return Revised(changed=False, revocation=stands)
    n = append(db, sealer, entry, config)
    if isinstance(change, Revoke):
        stands = Revocation(change.id, at, change.expires, change.note, n)
        db.execute(_PUT, stands)
    else:
        db.execute("DELETE FROM revocation WHERE id = ?", (change.id,))
    db.execute("DELETE FROM revocation WHERE expires <= ?", (dropped_before(at),))
    db.execute("UPDATE ledger SET revocations = revocations + 1")
    return Revised(changed=True, revocation=stands)


class SqliteRevocations:
    """A `Source` (see `revocations`) of the ledger `ledger_id` in the file at `path`. It reads in a thread: a long list
    must not keep calls waiting.
    """

    def __init__(self, path: Path, ledger_id: str) -> None:
        self._path = path
        self._id = ledger_id
        self._file = identity(path)
        self._executor = ThreadPoolExecutor(1, "revocations")
        self._db: sqlite3.Connection | None = None

    async def read(self, known: int | None) -> tuple[int, frozenset[str]] | None:
        """The count, and what is revoked if it is another than `known`."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, known)

    def _read(self, known: int | None) -> tuple[int, frozenset[str]] | None:
        if identity(self._path) != self._file:
            raise LedgerUnavailable("the ledger's file was moved or replaced while it was in use; restart the gateway")
        try:
            with errors_of("revocations cannot be read"):
                db = self._db = self._db or connect_read_only(self._path)
                id_, moved_to, count = db.execute("SELECT id, moved_to, revocations FROM ledger").fetchone()
                if id_ != self._id:
                    raise LedgerUnavailable("another ledger is in that file than at the start")
                check_moved(moved_to)
                if count == known:
                    return None
                return count, frozenset(row[0] for row in db.execute("SELECT id FROM revocation"))
        except LedgerUnavailable:
            self._drop()
            raise

    def _drop(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    async def close(self) -> None:
        """Close the file, once the thread has done what it is at.

        That is waited for: whoever closes last empties the WAL, and a connection that only reads cannot.
        """
        closed = asyncio.get_running_loop().run_in_executor(self._executor, self._drop)
        self._executor.shutdown(wait=False)
        await asyncio.wait({closed}, timeout=CLOSE_SECONDS)
