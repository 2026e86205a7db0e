"""What `tolsey check` and `tolsey doctor` look at on a PostgreSQL server: whether a ledger can be kept there, and what
would lose entries that were acknowledged. Changes nothing.
"""

import asyncio
import time
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


_FACTS = """
    SELECT current_setting('server_version') AS version, (extract(epoch FROM clock_timestamp()) * 1e9)::bigint AS now,
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - (SELECT sum(numbackends) FROM pg_stat_database)::int AS free,
        coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)
            OR inet_client_addr() IS NULL OR inet_client_addr() = inet_server_addr() AS private
"""


@dataclass(frozen=True, slots=True)
class Examined:
    """The id of the ledger (None: it is yet to be made), the number of its last entry, and what to warn of.

    `answered` is the seconds that the server took to answer, `apart` how many its clock is certainly off this one's,
    `free` the connections that are left on it, `private` whether nobody between here and there can listen.
    """

    id: str | None
    entries: int
    warnings: tuple[str, ...]
    version: str
    answered: float
    apart: float
    free: int
    private: bool


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
    asked = time.time_ns()
    (facts,) = await db.fetch(_FACTS)
    answered = time.time_ns()
    # As far as the clocks are known to be apart: the server read its own somewhere between the two.
    apart = max(facts["now"] - answered, asked - facts["now"], 0) / 1e9
    return Examined(
        None if found is None else found["id"],
        entries,
        tuple(_dangers(settings)),
        facts["version"].split()[0],
        (answered - asked) / 1e9,
        apart,
        facts["free"],
        facts["private"],
    )


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
