"""What `tolsey check` looks at on a PostgreSQL server: whether a ledger can be kept there, and what would lose entries
that were acknowledged. Changes nothing.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg

from tolsey.store.postgres_connection import Db, connect, errors_of, find_ledger
from tolsey.store.queries import check_moved

_SETTINGS = """
    SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
        current_setting('synchronous_standby_names') AS standby_names,
        (SELECT count(*) FROM pg_stat_replication) AS standbys,
        (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit') AS commits
"""


@dataclass(frozen=True, slots=True)
class Examined:
    """The id of the ledger (None: it is yet to be made), the number of its last entry, and what to warn of."""

    id: str | None
    entries: int
    warnings: tuple[str, ...]


def examine(url: str, *, seconds: float) -> Examined:
    """Look at the database. Raises `LedgerUnavailable`, or `LedgerRefused` for one that cannot be used."""
    return asyncio.run(_examine(url, seconds))


async def _examine(url: str, seconds: float) -> Examined:
    session = await connect(url, seconds=seconds)
    try:
        with errors_of("the database cannot be read"):
            async with asyncio.timeout(seconds):
                return await _look(session.db)
    finally:
        session.drop()


async def _look(db: Db) -> Examined:
    found = await find_ledger(db)
    if found is not None:
        check_moved(found["moved_to"])
    entries = 0 if found is None else await db.fetchval("SELECT coalesce(max(n), 0) FROM entry")
    (settings,) = await db.fetch(_SETTINGS)
    return Examined(None if found is None else found["id"], entries, tuple(_dangers(settings)))


def _dangers(settings: asyncpg.Record) -> Iterator[str]:
    """What of the server's settings would lose acknowledged entries."""
    if settings["fsync"] == "off":
        yield "PostgreSQL runs with fsync = off: a crash of its machine loses acknowledged entries, or the whole ledger"
    if settings["full_page_writes"] == "off":
        yield "PostgreSQL runs with full_page_writes = off: a crash of its machine can damage the ledger"
    if settings["commits"] in ("off", "local", "remote_write"):
        yield (
            f"synchronous_commit is {settings['commits']} for this server, database or user; Tolsey sets it to on for"
            ' durability = "full", but whatever else writes to this ledger may lose acknowledged entries: reset it'
        )
    if settings["standbys"] and not settings["standby_names"]:
        yield (
            "PostgreSQL has a standby and no synchronous_standby_names: to promote the standby loses the entries that"
            " it had not received, and budgets are fresh again by as much"
        )
