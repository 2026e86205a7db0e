"""One view of a ledger in a SQLite file: a read transaction on a connection that cannot write.

It disturbs no gateway; only the WAL cannot be started anew as long as a view is open.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tolsey.errors import LedgerRefused, LedgerUnavailable
from tolsey.store.queries import Queries, check_readable
from tolsey.store.sqlite import SCHEMA_VERSION
from tolsey.store.sqlite_file import ERRORS, connect_read_only, errors_of, statements, unavailable

_Row = TypeVar("_Row")


class SqliteSnapshot(Queries):
    """A `Snapshot` (see `contract`) of the ledger at `path`. `now` returns nanoseconds since the epoch."""

    contiguous = True
    parameter = "?1"

    def __init__(self, path: Path, now: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self.id = ""
        self._now = now
        self._db: sqlite3.Connection
        self._unreadable: LedgerUnavailable | None = None

    def __enter__(self) -> Self:
        db = connect_read_only(self.path)
        self._unreadable = None
        try:
            db.execute("BEGIN")
            self.id = self._head(db)
        except ERRORS as error:
            # It was opened, and so may be looked at; whoever then reads from it is told.
            self._unreadable = unavailable("the ledger cannot be read", error)
        except LedgerRefused:
            db.close()
            raise
        self._db = db
        return self

    def _head(self, db: sqlite3.Connection) -> str:
        """The ledger's id. Raises `LedgerRefused` for one that must not be read as it is."""
        id_, version = db.execute("SELECT id, version FROM ledger").fetchone()
        present = version == SCHEMA_VERSION
        moved_to = db.execute("SELECT moved_to FROM ledger").fetchone()[0] if present else None
        check_readable(version, SCHEMA_VERSION, moved_to, f"the ledger {self.path}")
        return str(id_)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def damage(self) -> str | None:
        """What SQLite finds wrong with its file."""
        return next((row for row in self._rows(str, "PRAGMA integrity_check(1)") if row != "ok"), None)

    def schema_fault(self) -> str | None:
        """Which object of the schema is not as it was made."""
        with closing(sqlite3.connect(":memory:")) as fresh:
            for number in range(1, SCHEMA_VERSION + 1):
                script = resources.files("tolsey.store").joinpath(f"schema/sqlite/{number:04}.sql").read_text("utf-8")
                for statement in statements(script):
                    fresh.execute(statement)
            wanted = _objects(fresh)
        with errors_of("the ledger cannot be read"):
            found = _objects(self._db)
        for name, sql in wanted.items():
            if found.get(name) != sql:
                return f"{name} {'is missing' if name not in found else 'is not as it was made'}"
        return None

    def now(self) -> int:
        """The later of the clock and the last entry."""
        last = next(self._rows(int, "SELECT at FROM entry ORDER BY n DESC LIMIT 1"), 0)
        return max(self._now(), last)

    def number_before(self, at: int) -> int:
        """The number of the last entry before the instant `at`: times rise with the numbers."""
        low, high = 0, self.last_entry()
        while low < high:
            middle = (low + high + 1) // 2
            query = "SELECT n, at FROM entry WHERE n >= ? ORDER BY n LIMIT 1"
            n, when = next(self._rows(lambda n, at: (n, at), query, middle))
            if when < at:
                low = n
            else:
                high = middle - 1
        return low

    def _rows(self, make: Callable[..., _Row], query: str, *values: object) -> Iterator[_Row]:
        if self._unreadable is not None:
            raise self._unreadable
        with errors_of("the ledger cannot be read"):
            for row in self._db.execute(query, values):
                yield make(*row)


def _objects(db: sqlite3.Connection) -> dict[str, str]:
    """The definition of each index, trigger and table by its name; quotes and white space, which SQLite changes when
    something is renamed, left out.
    """
    rows = db.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema").fetchall()
    return {f"{kind} {name}": "".join(sql.replace('"', "").split()) for kind, name, sql in rows}
