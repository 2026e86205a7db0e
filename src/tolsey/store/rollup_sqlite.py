"""A SQLite ledger whose entries are rolled up: see `rollup`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tolsey.audit.seal import OPERATORS, Gap, genesis
from tolsey.ledger.events import Entry, Kind
from tolsey.store.contract import EntryRow
from tolsey.store.owners import Turn
from tolsey.store.queries import ENTRY, IS_LATER, IS_RESOLUTION
from tolsey.store.rollup import FIRST_OF_HOLD, Sums, runs
from tolsey.store.sealing import Sealer
from tolsey.store.sealing_sqlite import append
from tolsey.store.sqlite_file import connect, errors_of

_FIRST: Final = f"{ENTRY} WHERE n > ? AND n <= ? AND {FIRST_OF_HOLD} ORDER BY n LIMIT ?"
_OF_HOLDS: Final = "WHERE hold IN (SELECT value FROM json_each(?1))"
_REST: Final = f"""
    {ENTRY} {_OF_HOLDS} AND {IS_RESOLUTION}
    UNION ALL {ENTRY} {_OF_HOLDS} AND {IS_LATER} ORDER BY n
"""
_GAP: Final = "SELECT after FROM gap WHERE log = ? AND last = ?"
_BEFORE: Final = "SELECT seal FROM entry WHERE owner = ? AND n < ? ORDER BY n DESC LIMIT 1"
_CANNOT: Final = "entries cannot be rolled up"


class SqliteRollable:
    """A `Rollable` over the file at `path`; each step holds the turn."""

    def __init__(self, path: Path) -> None:
        with errors_of(f"the ledger {path} cannot be opened"):
            self._turn = Turn(path)
            self._db = connect(path, "full")

    async def take(self, after: int, up_to: int, most: int) -> list[list[EntryRow]]:
        """Begin a step."""
        self._turn.take()
        with errors_of(_CANNOT):
            self._db.execute("BEGIN IMMEDIATE")
            found = [[EntryRow(*row)] for row in self._db.execute(_FIRST, (after, up_to, most))]
            holds = {entries[0].hold: entries for entries in found if entries[0].kind == "reserve"}
            for row in self._db.execute(_REST, (json.dumps(list(holds)),)):
                entry = EntryRow(*row)
                holds[entry.hold].append(entry)
        return found

    async def begin(self, up_to: int, at: int, made_at: int, note: str) -> int:
        """Write down a roll-up."""
        with errors_of(_CANNOT):
            row = self._db.execute(
                "INSERT INTO rollup (up_to, at, entries, sha256, made_at, note) VALUES (?, ?, 0, '', ?, ?) RETURNING n",
                (up_to, at, made_at, note),
            ).fetchone()
        return int(row[0])

    async def put(self, run: int, entries: Sequence[EntryRow], sums: Sums, digest: str) -> list[Gap]:
        """Replace entries by what they add up to."""
        with errors_of(_CANNOT):
            gaps = [
                Gap(run[0].owner, run[0].place, run[-1].place, self._before(run[0]), run[-1].seal)
                for run in runs(entries)
            ]
            self._db.executemany("INSERT INTO gap (log, first, last, before, after) VALUES (?, ?, ?, ?, ?)", gaps)
            numbers = json.dumps([entry.n for entry in entries])
            self._db.execute("DELETE FROM entry WHERE n IN (SELECT value FROM json_each(?))", (numbers,))
            self._db.executemany(
                "INSERT INTO rolled (account, spent, calls, granted, observed) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (account) DO UPDATE SET spent = spent + excluded.spent, calls = calls + excluded.calls,"
                " granted = granted + excluded.granted,"
                " observed = min(observed, 9223372036854775807 - excluded.observed) + excluded.observed",
                [(account, *figures) for account, figures in sums.accounts.items()],
            )
            self._db.executemany(
                "INSERT INTO rolled_window (account, start, spent, granted, observed)"
                " SELECT account, start, ?3, ?4, ?5 FROM window WHERE account = ?1 AND start = ?2"
                " ON CONFLICT (account, start) DO UPDATE"
                " SET spent = spent + excluded.spent, granted = granted + excluded.granted,"
                " observed = min(observed, 9223372036854775807 - excluded.observed) + excluded.observed",
                [(*key, *figures) for key, figures in sums.windows.items()],
            )
            self._db.execute(
                "UPDATE rollup SET entries = entries + ?, sha256 = ? WHERE n = ?", (len(entries), digest, run)
            )
        return gaps

    def _before(self, entry: EntryRow) -> bytes:
        """The seal before an entry."""
        if entry.place == 1:
            (ledger,) = self._db.execute("SELECT id FROM ledger").fetchone()
            return genesis(ledger, entry.owner)
        gap = self._db.execute(_GAP, (entry.owner, entry.place - 1)).fetchone()
        row = gap or self._db.execute(_BEFORE, (entry.owner, entry.n)).fetchone()
        return bytes(row[0])

    async def seal(self, made_at: int, note: str) -> None:
        """Write down in a sealed entry what the step did."""
        with errors_of(_CANNOT):
            (last,) = self._db.execute("SELECT at FROM entry ORDER BY n DESC LIMIT 1").fetchone()
            entry = Entry(Kind.ROLLUP, max(made_at, last), None, None, 0, OPERATORS, note)
            append(self._db, Sealer(), entry, None)

    async def end(self) -> None:
        """End the step."""
        with errors_of(_CANNOT):
            self._db.execute("COMMIT")
        self._turn.give()

    async def forget_windows(self) -> None:
        """Drop the sums of windows that are kept no more."""
        self._turn.take()
        try:
            with errors_of(_CANNOT):
                self._db.execute(
                    "DELETE FROM rolled_window WHERE NOT EXISTS (SELECT 1 FROM window w"
                    " WHERE w.account = rolled_window.account AND w.start = rolled_window.start)"
                )
        finally:
            self._turn.give()

    async def close(self) -> None:
        """Undo a step that was not ended, and let go."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._db.close()
        self._turn.close()
