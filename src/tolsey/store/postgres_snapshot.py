"""One view of a ledger in a PostgreSQL database: a read-only transaction, on a standby too.

It blocks nobody. But as long as it is open, PostgreSQL keeps every version of a row that was there when it began, and
a hot account's row has many: on a busy ledger a long look slows the gateways down, and is better had on a standby.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import asyncpg

from tolsey.errors import LedgerMissing
from tolsey.store.postgres_connection import (
    SCHEMA,
    SCHEMA_VERSION,
    Db,
    connect_plain,
    each_host,
    errors_of,
    find_ledger,
)
from tolsey.store.queries import Queries, check_readable

CONNECT_SECONDS: Final = 10.0
"""How long connecting may take."""

PIECE: Final = 5_000
"""How many rows are fetched at once."""

_BEFORE: Final = """
    SELECT coalesce((SELECT min(n) - 1 FROM entry WHERE at >= $1), (SELECT max(n) FROM entry), 0)
"""

_GUARDED: Final = """
    SELECT c.conname AS name, pg_get_constraintdef(c.oid) AS made, c.convalidated AS sound
    FROM pg_constraint c WHERE c.connamespace = $1::regnamespace AND c.contype IN ('c', 'u', 'p')
    UNION ALL
    SELECT x.relname, substring(pg_get_indexdef(i.indexrelid) FROM 'USING .*'), i.indisvalid AND i.indisunique
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE x.relnamespace = $1::regnamespace AND NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conindid = x.oid)
"""
_GUARDS: Final = {
    "entry_reserve": "USING btree (hold) WHERE (kind = 'reserve'::text)",
    "entry_resolution": "USING btree (hold) WHERE (kind = ANY (ARRAY['settle'::text, 'void'::text, 'expire'::text]))",
    "entry_payment": "USING btree (hold) WHERE (kind = 'pay'::text)",
    "account_id_unit_key": "UNIQUE (id, unit)",
    "account_check": 'CHECK ((("limit" IS NULL) OR (period IS NOT NULL) OR ((spent + held) <= ("limit" + granted))))',
    "window_check": 'CHECK (((spent + held) <= ("limit" + granted)))',
    "hold_pkey": "PRIMARY KEY (id)",
    "window_pkey": "PRIMARY KEY (account, start)",
    "revocation_pkey": "PRIMARY KEY (id)",
    "claim_pkey": "PRIMARY KEY (scope, key)",
    "rate_pkey": "PRIMARY KEY (id)",
}
"""What keeps a hold from being made or resolved twice, an account from being there twice, and a limit from being
passed: each constraint or index, as the server writes it.
"""

_Row = TypeVar("_Row")


class PostgresSnapshot(Queries):
    """A `Snapshot` (see `contract`) of the ledger at `url`, over a connection and an event loop of its own."""

    contiguous = False
    parameter = "$1"

    def __init__(self, url: str) -> None:
        self.id = ""
        self._url = url
        self._db: Db
        self._runner: asyncio.Runner

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        try:
            self._db = self._ask(self._connect())
            self.id = self._ask(self._head())
        except BaseException:
            self._close()
            raise
        return self

    async def _connect(self) -> Db:
        *hosts, last = each_host(self._url)
        for host in hosts:
            try:
                return await connect_plain(host, CONNECT_SECONDS)
            except (asyncpg.PostgresError, OSError):
                continue
        return await connect_plain(last, CONNECT_SECONDS)

    async def _head(self) -> str:
        """Begin the view; the ledger's id. Raises `LedgerRefused` for one that must not be read as it is."""
        await self._db.execute(
            f"SET search_path = {SCHEMA}; SET statement_timeout = 0; SET jit = off;"
            " BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        )
        found = await find_ledger(self._db)
        if found is None:
            raise LedgerMissing("there is no ledger in that database")
        check_readable(found["version"], SCHEMA_VERSION, found["moved_to"], "the ledger in that database")
        return str(found["id"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if "_db" in self.__dict__:
            self._db.terminate()
        self._runner.close()

    def damage(self) -> str | None:
        """None: PostgreSQL looks after its files itself (checksums, `pg_amcheck`)."""
        return None

    def schema_fault(self) -> str | None:
        """Which constraint or index that guards the books is not as it was made."""
        found = {name: (made, sound) for name, made, sound in self._all(_GUARDED, SCHEMA)}
        for name, wanted in _GUARDS.items():
            made, sound = found.get(name, (None, False))
            if made is None:
                return f"{name} is missing"
            if made != wanted or not sound:
                return f"{name} is not as it was made"
        return None

    def now(self) -> int:
        """The later of the database's time and the last entry."""
        return self._one("SELECT greatest(now_ns(), (SELECT at FROM entry ORDER BY n DESC LIMIT 1))")

    def number_before(self, at: int) -> int:
        """The number before the first entry that was made at `at` or later."""
        return self._one(_BEFORE, at)

    def _rows(self, make: Callable[..., _Row], query: str, *values: object) -> Iterator[_Row]:
        """The rows of a query, a piece at a time."""
        cursor = self._ask(self._cursor(query, *values))
        while piece := self._ask(cursor.fetch(PIECE)):
            for row in piece:
                yield make(*row)

    async def _cursor(self, query: str, *values: object) -> "asyncpg.cursor.Cursor[asyncpg.Record]":
        return await self._db.cursor(query, *values)

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._ask(self._db.fetch(query, *values))]

    def _one(self, query: str, *values: object) -> int:
        ((found,),) = self._all(query, *values)
        return int(found)

    def _ask(self, asked: Coroutine[Any, Any, _Row]) -> _Row:
        with errors_of("the ledger cannot be read"):
            return self._runner.run(asked)
