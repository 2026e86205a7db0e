"""Revocations in a PostgreSQL ledger: how they are written, and how each worker reads them."""

import asyncio
from typing import Final

from tolsey.errors import LedgerUnavailable
from tolsey.ledger.revoking import Revised, Revocation, Revoke, Unrevoke, dropped_before, entry_of
from tolsey.store.postgres_connection import ERRORS, Db, Session, connect, unavailable
from tolsey.store.queries import check_moved
from tolsey.store.sealing import Sealer
from tolsey.store.sealing_postgres import append, now

SECONDS: Final = 1.0
"""How long an answer may take, connecting included."""

_LOCK: Final = "LOCK TABLE revocation IN SHARE ROW EXCLUSIVE MODE"
"""One change at a time, and none while the ledger is moved. Who reads does not wait."""

_STANDS: Final = "SELECT id, since, expires, note, entry FROM revocation WHERE id = $1"
_PUT: Final = """
    INSERT INTO revocation (id, since, expires, note, entry) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (id) DO UPDATE
    SET since = excluded.since, expires = excluded.expires, note = excluded.note, entry = excluded.entry
"""
_COUNT: Final = "UPDATE ledger SET revocations = revocations + 1 RETURNING moved_to"


async def revise(db: Db, sealer: Sealer, change: Revoke | Unrevoke, *, owner: int, config: int | None) -> Revised:
    """Make a change in a transaction of its own, under the ledger's `sealer`. Raises `LedgerRefused` where the ledger
    was moved elsewhere.
    """
    async with db.transaction():
        await db.execute(_LOCK)
        row = await db.fetchrow(_STANDS, change.id)
        stands = None if row is None else Revocation(*row)
        at = await now(db)
        entry = entry_of(change, stands, at=at, owner=owner)
        if entry is None:
            return Revised(changed=False, revocation=stands)
        n = await append(db, sealer, entry, config)
        if isinstance(change, Revoke):
            stands = Revocation(change.id, at, change.expires, change.note, n)
            await db.execute(_PUT, *stands)
        else:
            await db.execute("DELETE FROM revocation WHERE id = $1", change.id)
        await db.execute("DELETE FROM revocation WHERE expires <= $1", dropped_before(at))
        check_moved(await db.fetchval(_COUNT))
    return Revised(changed=True, revocation=stands)


class PostgresRevocations:
    """A `Source` (see `revocations`) of the ledger `ledger_id` in the database at `url`, which is asked where it takes
    writes: a standby may be behind.
    """

    def __init__(self, url: str, ledger_id: str) -> None:
        self._url = url
        self._id = ledger_id
        self._session: Session | None = None

    async def read(self, known: int | None) -> tuple[int, frozenset[str]] | None:
        """The count, and what is revoked if it is another than `known`."""
        try:
            async with asyncio.timeout(SECONDS):
                if self._session is None or not self._session.alive:
                    self._session = await connect(self._url, seconds=SECONDS)
                    # After a failover the same count may be of another list.
                    known = None
                return await self._read(self._session.db, known)
        except BaseException as error:
            self._drop()
            if isinstance(error, ERRORS):
                raise unavailable("revocations cannot be read", error) from None
            raise

    async def _read(self, db: Db, known: int | None) -> tuple[int, frozenset[str]] | None:
        ((id_, moved_to, count),) = await db.fetch("SELECT id, moved_to, revocations FROM ledger")
        if id_ != self._id:
            raise LedgerUnavailable("another ledger is in that database than at the start")
        check_moved(moved_to)
        if count == known:
            return None
        return count, frozenset(row[0] for row in await db.fetch("SELECT id FROM revocation"))

    def _drop(self) -> None:
        if self._session is not None:
            self._session.drop()
            self._session = None

    async def close(self) -> None:
        """Close the connection."""
        self._drop()
