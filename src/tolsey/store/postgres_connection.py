"""Connections to a PostgreSQL server: made with every setting that the ledger relies on, checked, and brought to the
present schema.

A URL may hold a password, so none is ever quoted here, nor is an error about its form.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ECONNREFUSED
from importlib import resources
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tolsey.errors import LedgerFull, LedgerMissing, LedgerRefused, LedgerUnavailable
from tolsey.store.queries import check_moved
from tolsey.store.sealing_postgres import seal_all

SCHEMA: Final = "tolsey"
"""The schema that the ledger's tables are in."""

SCHEMA_VERSION: Final = 9
"""How many files of `schema/postgres/` a ledger of this version has gone through."""

SEALED_FROM: Final = 6
"""Since which of them entries are sealed."""

MINIMUM_SERVER: Final = 130_000
MIGRATING: Final = 0x746F6C736579
"""The advisory lock under which the schema is changed."""

MAX_SKEW: Final = 2_000_000_000
"""How far this machine's clock may be from the database's, in nanoseconds (RULES.md M11)."""

Durability = Literal["full", "normal"]
Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What the server, asyncpg and the network raise; `TimeoutError` is an `OSError`."""

LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.exceptions.OperatorInterventionError,
    OSError,
)
"""Those of `ERRORS` after which the connection is of no use, or may not be; a commit that ends in one is in doubt."""

_FACTS: Final = """
    SELECT pg_backend_pid() AS pid, current_setting('server_version_num')::bigint AS version,
        pg_is_in_recovery() AS standby, current_setting('synchronous_commit') AS commits,
        (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) AS started
"""

_TIME: Final = """
    SELECT now_ns(), e.n, e.at FROM (SELECT 1) one
    LEFT JOIN (SELECT n, at FROM entry ORDER BY n DESC LIMIT 1) e ON true
"""

# The plans are made once for each connection, on tables that may still be empty: whatever the planner makes of that,
# every row here is found by an index.
_SETTINGS: Final = f"""
    SET search_path = {SCHEMA};
    SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
    SET enable_material = off; SET jit = off; SET plan_cache_mode = force_generic_plan;
    SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off;
    SET client_min_messages = warning
"""


class Session:
    """One connection for writing. `warned` is set by every warning of the server: what it says beside a commit is that
    waiting for a standby was given up.
    """

    def __init__(self, db: Db, facts: asyncpg.Record) -> None:
        self.db = db
        self.pid: int = facts["pid"]
        self.started = facts["started"]
        self.warned = False
        db.add_log_listener(self._hear)

    def _hear(self, *_: object) -> None:
        self.warned = True

    @property
    def alive(self) -> bool:
        """Whether it can be used, as far as is known."""
        return not self.db.is_closed()

    def drop(self) -> None:
        """Let go of it without a word to the server, which may not be listening."""
        self.db.terminate()


class Clock:
    """The database's time, from this machine's clock and how far it was apart. `local` returns nanoseconds."""

    def __init__(self, local: Callable[[], int]) -> None:
        self.local = local
        self._offset: int | None = None
        self._last = 0

    def __call__(self) -> int:
        """The ledger's time: never earlier than the last entry known here."""
        return max(self.local() + (self._offset or 0), self._last)

    async def ask(self, db: Db) -> int:
        """Ask the database for the time; return the number of the last entry."""
        asked = self.local()
        ((said, last, at),) = await db.fetch(_TIME)
        self.heard(asked, said, at)
        return last or 0

    def heard(self, asked: int, said: int, last: int | None) -> int:
        """Take note of a time that the database said after it was asked at `asked`, and of that of the last entry;
        return the ledger's time. Raises `LedgerUnavailable` where the two clocks are certainly too far apart (RULES.md
        M11).
        """
        least, most = said - self.local(), said - asked
        if least > MAX_SKEW or most < -MAX_SKEW:
            apart = (least if least > 0 else most) / 1e9
            raise LedgerUnavailable(f"the database's clock and this machine's are {abs(apart):.1f} s apart")
        self._offset = least if self._offset is None else min(max(self._offset, least), most)
        self._last = max(self._last, last or 0)
        return max(said, self._last)


async def connect(url: str, *, seconds: float, durability: Durability = "full") -> Session:
    """Open a connection within so many `seconds`, at the first host of the URL that takes writes.

    Raises `LedgerUnavailable`; `LedgerRefused` for a server that cannot hold a ledger.
    """
    hosts = list(each_host(url))
    error: Exception = LedgerUnavailable("the database did not answer in time")
    for host in hosts:
        try:
            async with asyncio.timeout(seconds / len(hosts)):
                return await _open(host, seconds, durability)
        except LedgerUnavailable as found:
            error = found
        except TimeoutError:
            pass
        except ERRORS as found:
            error = unavailable("the database cannot be reached", found)
    raise error from None


async def connect_plain(url: str, seconds: float) -> Db:
    """Open a connection to a single host, with no setting of ours."""
    try:
        # asyncpg itself would wait a minute.
        return await asyncpg.connect(url, timeout=seconds, server_settings={"application_name": "tolsey"})
    except (ValueError, asyncpg.InterfaceError):
        raise LedgerUnavailable(
            "ledger.url is not a URL that can be connected to; special characters in a password are written as %XX"
        ) from None


async def _open(url: str, seconds: float, durability: Durability) -> Session:
    db = await connect_plain(url, seconds)
    try:
        (facts,) = await db.fetch(_FACTS)
        _check(db, facts)
        milliseconds = max(1, round(seconds * 1000))
        await db.execute(
            f"{_SETTINGS}; SET lock_timeout = {milliseconds}; SET statement_timeout = {milliseconds};"
            # So that a gateway which stops in the middle of a group does not stop the others for longer.
            f" SET idle_in_transaction_session_timeout = {max(1000, milliseconds)};"
            f" SET synchronous_commit = {_commits(durability, facts['commits'])}"
        )
        if facts["version"] >= 140_000:
            await db.execute("SET client_connection_check_interval = 1000")
        return Session(db, facts)
    except BaseException:
        db.terminate()
        raise


def _check(db: Db, facts: asyncpg.Record) -> None:
    if facts["pid"] != db.get_server_pid():
        raise LedgerRefused(
            "there is a proxy between Tolsey and PostgreSQL that pools connections; name the server itself"
        )
    if facts["version"] < MINIMUM_SERVER:
        raise LedgerRefused(f"PostgreSQL {facts['version'] // 10_000} is too old; 13 or later is needed")
    if facts["standby"]:
        raise LedgerUnavailable("the database is a standby, which takes no writes")


def _commits(durability: Durability, setting: str) -> str:
    """What `synchronous_commit` is set to: with "full" at least "on", and never less than the server has it."""
    if durability == "normal":
        return "off"
    return setting if setting == "remote_apply" else "on"


def each_host(url: str) -> Iterator[str]:
    """A URL for each host of a URL that names several, so that one which does not answer leaves time for the next."""
    try:
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
    except ValueError:
        yield url
        return
    for host in hosts.split(","):
        yield urlunsplit(parts._replace(netloc=f"{user}{at}{host}"))


async def find_ledger(db: Db) -> asyncpg.Record | None:
    """The row that says which ledger is in the database, with `id`, `version` and `moved_to`; None if there is none."""
    # Not by `to_regclass`, which may remember what was not there a moment ago.
    if await db.fetchval("SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'ledger'", SCHEMA) is None:
        return None
    return await db.fetchrow("SELECT id, version, moved_to FROM ledger")


async def prepare(db: Db, new_id: str, *, create: bool) -> str:
    """Bring the ledger to the present schema, or make it with id `new_id`; return its id. Raises `LedgerRefused`."""
    found = await find_ledger(db)
    if found is None and not create:
        raise LedgerMissing("there is no ledger in that database")
    if found is None or 1 <= found["version"] < SCHEMA_VERSION:
        async with db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock($1)", MIGRATING)
            found = await _migrate(db, await find_ledger(db), new_id)
    if found is None or found["version"] != SCHEMA_VERSION:
        raise LedgerRefused("the ledger in that database is of another version of Tolsey")
    check_moved(found["moved_to"])
    return str(found["id"])


async def _migrate(db: Db, found: asyncpg.Record | None, new_id: str) -> asyncpg.Record | None:
    if found is None and await db.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = $1", SCHEMA) is None:
        await db.execute(f"CREATE SCHEMA {SCHEMA}")
    for number in range(1 if found is None else found["version"] + 1, SCHEMA_VERSION + 1):
        script = resources.files("tolsey.store").joinpath(f"schema/postgres/{number:04}.sql").read_text("utf-8")
        await db.execute(script)
        if number == 1:
            await db.execute("INSERT INTO ledger VALUES ($1, 1, now_ns())", new_id)
        await db.execute("UPDATE ledger SET version = $1", number)
    if found is not None and found["version"] < SEALED_FROM:
        await seal_all(db, found["id"])
    return await find_ledger(db)


def unavailable(what: str, error: Exception) -> LedgerUnavailable:
    """The error to raise for one of `ERRORS`."""
    full = isinstance(error, asyncpg.DiskFullError)
    return (LedgerFull if full else LedgerUnavailable)(f"{what}: {first_line(error)}")


def first_line(error: Exception) -> str:
    """What an error says, without its details, which quote rows, and without addresses: callers of the gateway read it
    too.
    """
    if isinstance(error, OSError):
        return (
            "it did not answer in time" if isinstance(error, TimeoutError) else os.strerror(error.errno or ECONNREFUSED)
        )
    return str(error).partition("\n")[0] or type(error).__name__


@contextmanager
def errors_of(what: str) -> Iterator[None]:
    """Raise `ERRORS` as `LedgerUnavailable`."""
    try:
        yield
    except ERRORS as error:
        raise unavailable(what, error) from None
