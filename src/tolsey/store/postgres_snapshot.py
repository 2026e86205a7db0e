"""One view of a ledger in a PostgreSQL database: a read-only transaction, on a standby too.

It blocks nobody. But as long as it is open, PostgreSQL keeps every version of a row that was there when it began, and
a hot account's row has many: on a busy ledger a long look slows the gateways down, and is better had on a standby.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import asyncpg

from tolsey.errors import LedgerMissing, LedgerRefused
from tolsey.store.contract import AccountRow, EntryRow, HoldRow, RolledRow, RollUp, WindowRow
from tolsey.store.postgres_connection import (
    SCHEMA,
    SCHEMA_VERSION,
    Db,
    connect_plain,
    each_host,
    errors_of,
    find_ledger,
)

CONNECT_SECONDS: Final = 10.0
"""How long connecting may take."""

PIECE: Final = 5_000
"""How many rows are fetched at once."""

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
    {_ENTRY} WHERE hold = $1 AND kind = 'reserve'
    UNION ALL {_ENTRY} WHERE hold = $1 AND kind IN ('settle', 'void', 'expire')
    UNION ALL {_ENTRY} WHERE hold = $1 AND kind IN ('extend', 'refund', 'annul') ORDER BY n
"""
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
    "account_id_unit_key": "UNIQUE (id, unit)",
    "account_check": 'CHECK ((("limit" IS NULL) OR (period IS NOT NULL) OR ((spent + held) <= ("limit" + granted))))',
    "window_check": 'CHECK (((spent + held) <= ("limit" + granted)))',
    "hold_pkey": "PRIMARY KEY (id)",
    "window_pkey": "PRIMARY KEY (account, start)",
    "claim_pkey": "PRIMARY KEY (scope, key)",
    "rate_pkey": "PRIMARY KEY (id)",
}
"""What keeps a hold from being made or resolved twice, an account from being there twice, and a limit from being
passed: each constraint or index, as the server writes it.
"""

_Row = TypeVar("_Row")


class PostgresSnapshot:
    """A `Snapshot` (see `contract`) of the ledger at `url`, over a connection and an event loop of its own."""

    contiguous = False

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
        if found["version"] != SCHEMA_VERSION:
            older = found["version"] < SCHEMA_VERSION
            hint = "; `tolsey serve` or `tolsey mint` brings it up to date" if older else ""
            raise LedgerRefused(f"the ledger in that database is of {'an older' if older else 'a newer'} Tolsey{hint}")
        if found["moved_to"] is not None:
            raise LedgerRefused(f"the ledger was moved to {found['moved_to']}; put that into [ledger] url")
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

    def accounts(self) -> Iterator[AccountRow]:
        """Every account, in the order in which they were opened."""
        return self._rows(AccountRow, _ACCOUNTS)

    def windows(self) -> Iterator[WindowRow]:
        """Every window that is kept."""
        return self._rows(WindowRow, 'SELECT account, start, spent, held, granted FROM "window"')

    def entries(self, after: int = 0) -> Iterator[EntryRow]:
        """The journal behind entry `after`, by number."""
        return self._rows(EntryRow, f"{_ENTRY} WHERE n > $1 ORDER BY n", after)

    def entries_of(self, hold: str) -> list[EntryRow]:
        """What a hold's money did, in order."""
        return list(self._rows(EntryRow, _ENTRIES_OF, hold))

    def number_before(self, at: int) -> int:
        """The number before the first entry that was made at `at` or later."""
        return self._one(_BEFORE, at)

    def entry_count(self) -> int:
        """How many entries there are."""
        return self._one("SELECT count(*) FROM entry")

    def last_entry(self) -> int:
        """The number of the last entry."""
        return self._one("SELECT coalesce(max(n), 0) FROM entry")

    def configs(self) -> dict[int, str]:
        """The generations of configs by their numbers."""
        return dict(self._all("SELECT n, generation FROM config"))

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
