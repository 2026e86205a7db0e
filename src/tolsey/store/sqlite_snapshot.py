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
from typing import Final, Self, TypeVar

from tolsey.errors import LedgerRefused, LedgerUnavailable
from tolsey.store.contract import AccountRow, EntryRow, HoldRow, RolledRow, RollUp, WindowRow
from tolsey.store.sqlite import SCHEMA_VERSION
from tolsey.store.sqlite_file import ERRORS, connect_read_only, errors_of, statements, unavailable

_ENTRY: Final = "SELECT n, at, kind, hold, leaf, counter, amount, until, owner, config, note FROM entry"
_ACCOUNTS: Final = """
    SELECT a.n, a.id, a.unit, a.parent, p.n, a.label, a."limit", a.period, a.granted, a.spent, a.held, a.calls, a.open,
        a.opened_at
    FROM account a LEFT JOIN account p ON p.id = a.parent AND p.unit = a.unit ORDER BY a.n
"""
_HOLDS: Final = """
    SELECT h.id, h.leaf, h.counter, h.amount, h.at, h.until, h.owner, o.id, coalesce(e.note, '')
    FROM hold h LEFT JOIN owner o ON o.n = h.owner LEFT JOIN entry e ON e.hold = h.id AND e.kind = 'reserve'
    ORDER BY h.at, h.id
"""
_ENTRIES_OF: Final = f"""
    {_ENTRY} WHERE hold = ?1 AND kind = 'reserve'
    UNION ALL {_ENTRY} WHERE hold = ?1 AND kind IN ('settle', 'void', 'expire')
    UNION ALL {_ENTRY} WHERE hold = ?1 AND kind IN ('extend', 'refund', 'annul') ORDER BY n
"""

_Row = TypeVar("_Row")


class SqliteSnapshot:
    """A `Snapshot` (see `contract`) of the ledger at `path`. `now` returns nanoseconds since the epoch."""

    contiguous = True

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
        if version != SCHEMA_VERSION:
            older = version < SCHEMA_VERSION
            hint = "; `tolsey serve` or `tolsey mint` brings it up to date" if older else ""
            raise LedgerRefused(f"the ledger {self.path} is of {'an older' if older else 'a newer'} Tolsey{hint}")
        moved_to = db.execute("SELECT moved_to FROM ledger").fetchone()[0]
        if moved_to is not None:
            raise LedgerRefused(f"the ledger {self.path} was moved to {moved_to}; put that into [ledger] url")
        return str(id_)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def damage(self) -> str | None:
        """What SQLite finds wrong with its file."""
        return next((row for row in self._rows(_text, "PRAGMA integrity_check(1)") if row != "ok"), None)

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
        last = next(self._rows(_number, "SELECT at FROM entry ORDER BY n DESC LIMIT 1"), 0)
        return max(self._now(), last)

    def accounts(self) -> Iterator[AccountRow]:
        """Every account, in the order in which they were opened."""
        return self._rows(AccountRow, _ACCOUNTS)

    def windows(self) -> Iterator[WindowRow]:
        """Every window that is kept."""
        return self._rows(WindowRow, "SELECT account, start, spent, held, granted FROM window")

    def entries(self, after: int = 0) -> Iterator[EntryRow]:
        """The journal behind entry `after`, in order."""
        return self._rows(EntryRow, f"{_ENTRY} WHERE n > ? ORDER BY n", after)

    def entries_of(self, hold: str) -> list[EntryRow]:
        """What a hold's money did, in order."""
        return list(self._rows(EntryRow, _ENTRIES_OF, hold))

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

    def entry_count(self) -> int:
        """How many entries there are."""
        return next(self._rows(_number, "SELECT count(*) FROM entry"))

    def last_entry(self) -> int:
        """The number of the last entry."""
        return next(self._rows(_number, "SELECT coalesce(max(n), 0) FROM entry"))

    def configs(self) -> dict[int, str]:
        """The generations of configs by their numbers."""
        return dict(self._rows(lambda n, generation: (n, generation), "SELECT n, generation FROM config"))

    def rollups(self) -> Iterator[RollUp]:
        """Every roll-up, in order."""
        return self._rows(RollUp, "SELECT n, up_to, at, entries, sha256, made_at, note FROM rollup ORDER BY n")

    def rolled(self) -> Iterator[RolledRow]:
        """What entries that were rolled up add up to."""
        return self._rows(RolledRow, "SELECT account, spent, calls, granted FROM rolled")

    def rolled_windows(self) -> Iterator[WindowRow]:
        """The same for windows."""
        return self._rows(WindowRow, "SELECT account, start, spent, 0, granted FROM rolled_window")

    def holds(self) -> Iterator[HoldRow]:
        """The open holds, oldest first."""
        return self._rows(HoldRow, _HOLDS)

    def _rows(self, make: Callable[..., _Row], query: str, *values: object) -> Iterator[_Row]:
        if self._unreadable is not None:
            raise self._unreadable
        with errors_of("the ledger cannot be read"):
            for row in self._db.execute(query, values):
                yield make(*row)


def _text(value: str) -> str:
    return value


def _number(value: int) -> int:
    return value


def _objects(db: sqlite3.Connection) -> dict[str, str]:
    """The definition of each index, trigger and table by its name; quotes and white space, which SQLite changes when
    something is renamed, left out.
    """
    rows = db.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema").fetchall()
    return {f"{kind} {name}": "".join(sql.replace('"', "").split()) for kind, name, sql in rows}
