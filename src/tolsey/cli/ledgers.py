"""The ledger that a config names, to be read, or changed by hand."""

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tolsey.config import Config
    from tolsey.store.contract import Ledger, Snapshot
    from tolsey.store.keyring import Keyring
    from tolsey.store.rollup import Rollable

_R = TypeVar("_R")


def snapshot_of(config: "Config") -> "Snapshot":
    """The config's ledger, to be read."""
    url = config.ledger.postgresql
    if url is not None:
        from tolsey.store.postgres_snapshot import PostgresSnapshot

        return PostgresSnapshot(url)
    from tolsey.store.sqlite_snapshot import SqliteSnapshot

    return SqliteSnapshot(config.ledger.path)


async def rollable_of(config: "Config") -> "Rollable":
    """The config's ledger, for its entries to be rolled up."""
    url = config.ledger.postgresql
    if url is not None:
        from tolsey.store.rollup_postgres import rollable_at

        return await rollable_at(url)
    from tolsey.store.rollup_sqlite import SqliteRollable

    return SqliteRollable(config.ledger.path)


def writing(
    config: "Config", keyring: "Keyring", write: "Callable[[Ledger], Awaitable[_R]]", *, create: bool = False
) -> _R:
    """Open the config's ledger as RULES.md L1 has it, let `write` change it, and raise the keyring's mark. A gateway
    may run meanwhile. Raises `LedgerRefused` or `LedgerUnavailable`.
    """
    from tolsey.cli.assemble import open_ledger

    async def run() -> _R:
        ledger = await open_ledger(config, keyring, new_id=secrets.token_hex(16), create=create)
        try:
            ledger.config = await ledger.number_config(config.generation)
            found = await write(ledger)
            keyring.write_mark(ledger.id, await ledger.entry_count(), time.time_ns())
        finally:
            await ledger.close()
        return found

    return asyncio.run(run())


def user() -> str:
    """The name of the operating system's user."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"
