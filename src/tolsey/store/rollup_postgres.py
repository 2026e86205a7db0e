"""A PostgreSQL ledger whose entries are rolled up: see `rollup`."""

import asyncio
from collections.abc import Sequence
from typing import Final

import asyncpg

from tolsey.audit.seal import OPERATORS, Gap, genesis
from tolsey.errors import LedgerUnavailable
from tolsey.ledger.events import Entry, Kind
from tolsey.store.contract import EntryRow
from tolsey.store.postgres_connection import Db, connect, errors_of, prepare
from tolsey.store.queries import ENTRY, IS_LATER, IS_RESOLUTION
from tolsey.store.rollup import FIRST_OF_HOLD, Sums, runs
from tolsey.store.sealing import Sealer
from tolsey.store.sealing_postgres import append, now

SECONDS: Final = 10.0
"""How long connecting may take."""

LOCK_MS: Final = 200
"""How long a step waits for the journal before it lets those behind it pass, in milliseconds."""

PATIENCE_SECONDS: Final = 120.0
"""How long a step is tried in all: a long export or fsck keeps the journal."""

_FIRST: Final = f"{ENTRY} WHERE n > $1 AND n <= $2 AND {FIRST_OF_HOLD} ORDER BY n LIMIT $3"
_OF_HOLDS: Final = "WHERE hold = ANY ($1::text[])"
_REST: Final = f"""
    {ENTRY} {_OF_HOLDS} AND {IS_RESOLUTION}
    UNION ALL {ENTRY} {_OF_HOLDS} AND {IS_LATER} ORDER BY n
"""
_GAP: Final = "SELECT after FROM gap WHERE log = $1 AND last = $2"
_BEFORE: Final = "SELECT seal FROM entry WHERE owner = $1 AND n < $2 ORDER BY n DESC LIMIT 1"
_CANNOT: Final = "entries cannot be rolled up"


class PostgresRollable:
    """A `Rollable` over a connection. Each step has the journal for itself: who read a hold before the step has ended
    by then, and so gives nothing back of what is removed. Make one with `rollable_at`.
    """

    def __init__(self, db: Db) -> None:
        self._db = db

    async def take(self, after: int, up_to: int, most: int) -> list[list[EntryRow]]:
        """Begin a step."""
        with errors_of(_CANNOT):
            await self._lock()
            found = [[EntryRow(*row)] for row in await self._db.fetch(_FIRST, after, up_to, most)]
            holds = {entries[0].hold: entries for entries in found if entries[0].kind == "reserve"}
            for row in await self._db.fetch(_REST, list(holds)):
                entry = EntryRow(*row)
                holds[entry.hold].append(entry)
        return found

    async def _lock(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_SECONDS
        while True:
            await self._db.execute("BEGIN")
            try:
                await self._db.execute(f"SET LOCAL lock_timeout = {LOCK_MS}; LOCK TABLE entry IN ACCESS EXCLUSIVE MODE")
                return
            except asyncpg.LockNotAvailableError:
                await self._db.execute("ROLLBACK")
            if loop.time() > until:
                raise LedgerUnavailable("the journal is in use, perhaps by an export or an fsck; try again later")
            await asyncio.sleep(LOCK_MS / 1000)

    async def begin(self, up_to: int, at: int, made_at: int, note: str) -> int:
        """Write down a roll-up."""
        with errors_of(_CANNOT):
            return int(
                await self._db.fetchval(
                    "INSERT INTO rollup (up_to, at, entries, sha256, made_at, note) VALUES ($1, $2, 0, '', $3, $4)"
                    " RETURNING n",
                    up_to,
                    at,
                    made_at,
                    note,
                )
            )

    async def put(self, run: int, entries: Sequence[EntryRow], sums: Sums, digest: str) -> list[Gap]:
        """Replace entries by what they add up to."""
        with errors_of(_CANNOT):
            gaps = [
                Gap(run[0].owner, run[0].place, run[-1].place, await self._before(run[0]), run[-1].seal)
                for run in runs(entries)
            ]
            await self._db.executemany(
                "INSERT INTO gap (log, first, last, before, after) VALUES ($1, $2, $3, $4, $5)", gaps
            )
            numbers = [entry.n for entry in entries]
            await self._db.execute("DELETE FROM entry WHERE n = ANY ($1::bigint[])", numbers)
            await self._db.executemany(
                "INSERT INTO rolled AS r (account, spent, calls, granted, observed) VALUES ($1, $2, $3, $4, $5)"
                " ON CONFLICT (account) DO UPDATE SET spent = r.spent + excluded.spent,"
                " calls = r.calls + excluded.calls, granted = r.granted + excluded.granted,"
                " observed = least(r.observed, 9223372036854775807 - excluded.observed) + excluded.observed",
                [(account, *figures) for account, figures in sums.accounts.items()],
            )
            await self._db.executemany(
                "INSERT INTO rolled_window AS r (account, start, spent, granted, observed)"
                ' SELECT account, start, $3, $4, $5 FROM "window" WHERE account = $1 AND start = $2'
                " ON CONFLICT (account, start) DO UPDATE SET spent = r.spent + excluded.spent,"
                " granted = r.granted + excluded.granted,"
                " observed = least(r.observed, 9223372036854775807 - excluded.observed) + excluded.observed",
                [(*key, *figures) for key, figures in sums.windows.items()],
            )
            await self._db.execute(
                "UPDATE rollup SET entries = entries + $1, sha256 = $2 WHERE n = $3", len(entries), digest, run
            )
        return gaps

    async def _before(self, entry: EntryRow) -> bytes:
        """The seal before an entry."""
        if entry.place == 1:
            return genesis(await self._db.fetchval("SELECT id FROM ledger"), entry.owner)
        found: bytes | None = await self._db.fetchval(_GAP, entry.owner, entry.place - 1)
        if found is None:
            found = await self._db.fetchval(_BEFORE, entry.owner, entry.n)
        return found or b""

    async def seal(self, made_at: int, note: str) -> None:
        """Write down in a sealed entry what the step did."""
        with errors_of(_CANNOT):
            entry = Entry(Kind.ROLLUP, await now(self._db), None, None, 0, OPERATORS, note)
            await append(self._db, Sealer(), entry, None)

    async def end(self) -> None:
        """End the step."""
        with errors_of(_CANNOT):
            await self._db.execute("COMMIT")

    async def forget_windows(self) -> None:
        """Drop the sums of windows that are kept no more."""
        with errors_of(_CANNOT):
            await self._db.execute(
                'DELETE FROM rolled_window r WHERE NOT EXISTS (SELECT 1 FROM "window" w'
                " WHERE w.account = r.account AND w.start = r.start)"
            )

    async def close(self) -> None:
        """Let go; the server undoes a step that was not ended."""
        self._db.terminate()


async def rollable_at(url: str) -> PostgresRollable:
    """Connect to the ledger at `url`. Raises `LedgerRefused` where there is none."""
    session = await connect(url, seconds=SECONDS)
    try:
        with errors_of(_CANNOT):
            await prepare(session.db, "", create=False)
            await session.db.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
    except BaseException:
        session.drop()
        raise
    return PostgresRollable(session.db)
