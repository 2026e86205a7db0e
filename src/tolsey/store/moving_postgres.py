"""A PostgreSQL ledger that is moved, or moved to: see `moving`."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from asyncpg.transaction import Transaction

from tolsey.errors import LedgerRefused
from tolsey.store.moving import ROWS, Row, Table
from tolsey.store.postgres_connection import SCHEMA, Db, connect, errors_of, find_ledger, prepare

SECONDS: Final = 10.0
"""How long connecting, and waiting for a lock, may take."""

_CANNOT: Final = "the ledger cannot be carried over"
_UNBOUNDED: Final = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"
_LOCK: Final = """
    LOCK TABLE owner, config, account, "window", rate, claim, entry, hold, checkpoint, gap, revocation
    IN EXCLUSIVE MODE
"""
_LIVING: Final = """
    SELECT o.id FROM owner o JOIN lease l ON l.owner = o.n WHERE o.ended_at IS NULL AND l.until >= now_ns() LIMIT 1
"""

_FENCE: Final = "ALTER TABLE owner ADD CONSTRAINT ledger_was_moved CHECK (false) NOT VALID"
"""Every group and every new owner writes into this table: who still has the ledger open writes no more, also who was
waiting for the lock.
"""

_NUMBERED: Final = ("owner", "config", "account", "rollup", "entry")


class PostgresMovable:
    """A `Movable` over a connection in one transaction. Make one with `source_at`, `view_at` or `target_at`."""

    def __init__(self, db: Db, transaction: Transaction, ledger_id: str, created_at: int) -> None:
        self.id = ledger_id
        self.created_at = created_at
        self._db = db
        self._transaction = transaction

    async def count(self, table: Table) -> int:
        """How many rows a table has."""
        with errors_of(_CANNOT):
            return int(await self._db.fetchval(f'SELECT count(*) FROM "{table.name}"'))  # noqa: S608 - one of ours

    async def dump(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """Its rows, in the order of its key."""
        with errors_of(_CANNOT):
            # The first columns of each are its key.
            sql = f'SELECT {table.column_list} FROM "{table.name}" ORDER BY 1, 2'  # noqa: S608 - names of ours
            # Not asyncpg's cursor, which is never closed: a table that it was over could not be altered.
            await self._db.execute(f"DECLARE of_{table.name} NO SCROLL CURSOR FOR {sql}")
            while rows := await self._db.fetch(f"FETCH {ROWS} FROM of_{table.name}"):
                yield [tuple(row) for row in rows]
            await self._db.execute(f"CLOSE of_{table.name}")

    async def load(self, table: Table, rows: Sequence[Row]) -> None:
        """Put rows into an empty table."""
        with errors_of(_CANNOT):
            await self._db.copy_records_to_table(
                table.name, records=rows, columns=table.columns, schema_name=SCHEMA, timeout=None
            )

    async def finish(self) -> None:
        """Keep what was loaded, and number what is new behind it."""
        with errors_of(_CANNOT):
            for name in _NUMBERED:
                await self._db.execute(
                    f"SELECT setval(pg_get_serial_sequence('{SCHEMA}.{name}', 'n'), greatest(max(n), 1)) FROM {name}"  # noqa: S608 - names of ours
                )
            await self._transaction.commit()
            await self._db.execute("ANALYZE")

    async def discard(self) -> None:
        """Remove the ledger."""
        with errors_of(_CANNOT):
            await self._db.execute(f"DROP SCHEMA {SCHEMA} CASCADE")

    async def mark_moved(self, to: str) -> None:
        """Write down where the ledger is now, and let nobody write here any more."""
        with errors_of("the ledger cannot be marked as moved"):
            await self._db.execute("UPDATE ledger SET moved_to = $1", to)
            await self._db.execute(_FENCE)
            await self._transaction.commit()

    async def close(self) -> None:
        """Let go of it; the server undoes what was not committed."""
        self._db.terminate()


async def source_at(url: str) -> PostgresMovable:
    """Lock the ledger at `url`. Raises `LedgerRefused` where there is none, or while a gateway uses it."""
    db = await _open(url)
    try:
        with errors_of("the ledger cannot be locked"):
            await prepare(db, "", create=False)
            transaction = await _begin(db)
            await db.execute(_LOCK)
            living = await db.fetchval(_LIVING)
        if living is not None:
            raise LedgerRefused(f"a gateway uses the ledger (owner {living}): stop it, and let its lease lapse")
        return await _movable(db, transaction)
    except BaseException:
        db.terminate()
        raise


async def view_at(url: str) -> PostgresMovable:
    """The ledger at `url` as it is at this instant, to be copied and not to be moved. Nobody waits for it."""
    db = await _open(url)
    try:
        with errors_of("the ledger cannot be read"):
            transaction = await _begin(db, isolation="repeatable_read", readonly=True)
            if await find_ledger(db) is None:
                raise LedgerRefused("there is no ledger in that database")
            return await _movable(db, transaction)
    except BaseException:
        db.terminate()
        raise


async def target_at(url: str, source_id: str, created_at: int) -> PostgresMovable:
    """Make a ledger at `url`, where there may be none, with the source's id. Raises `LedgerRefused`."""
    db = await _open(url)
    try:
        with errors_of("the ledger cannot be written"):
            transaction = await _begin(db)
            if await find_ledger(db) is not None:
                raise LedgerRefused("there is a ledger in that database already")
            await prepare(db, source_id, create=True)
            await db.execute("UPDATE ledger SET created_at = $1", created_at)
            await db.execute("DELETE FROM owner")
            return await _movable(db, transaction)
    except BaseException:
        db.terminate()
        raise


async def _open(url: str) -> Db:
    session = await connect(url, seconds=SECONDS)
    with errors_of("the database cannot be used"):
        await session.db.execute(_UNBOUNDED)
    return session.db


async def _begin(db: Db, **options: Any) -> Transaction:  # noqa: ANN401 - as asyncpg has them
    transaction = db.transaction(**options)
    await transaction.start()
    return transaction


async def _movable(db: Db, transaction: Transaction) -> PostgresMovable:
    row = await db.fetchrow("SELECT id, created_at FROM ledger")
    if row is None:
        raise LedgerRefused("there is no ledger in that database")
    return PostgresMovable(db, transaction, row["id"], row["created_at"])
