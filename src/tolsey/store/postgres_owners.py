"""Owners on PostgreSQL: leases that are renewed, and the end of those that were not (RULES.md L2 and L3).

An owner is alive as long as its lease has not lapsed by the database's clock. Whoever finds a lapsed one ends it under
the lock of its row, which every group of that owner takes too: so a group either comes before the end and is seen, or
after it and is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tolsey.errors import TolseyError
from tolsey.store.postgres_connection import ERRORS, Clock, Db, Session

LEASE_NS: Final = 10_000_000_000
"""How long a lease lasts, in nanoseconds."""

RENEW_SECONDS: Final = 3.0
"""How often it is renewed."""

SILENCE_SECONDS: Final = 5.0
"""Whoever was not served for so long does not hold it against others that they renewed no lease."""

AGAIN_SECONDS: Final = 0.5
"""How long to wait after a renewal that failed."""

_REGISTER: Final = """
    WITH before AS (DELETE FROM lease WHERE owner = $2),
        fresh AS (INSERT INTO owner (id, started_at) VALUES ($1, now_ns()) RETURNING n)
    INSERT INTO lease (owner, until) SELECT n, now_ns() + $3 FROM fresh RETURNING owner
"""
_RENEW: Final = "UPDATE lease SET until = now_ns() + $2 WHERE owner = $1 RETURNING now_ns()"

# One that is ended may hold money still: what ended it may not have come further. The few rows that are not cleared are
# found by an index, and no look at the holds is needed.
_LOOK: Final = """
    SELECT now_ns() AS now, s.since,
        s.started = pg_postmaster_start_time() AND s.timeline = t.timeline AS same,
        ARRAY (
            SELECT o.n FROM owner o LEFT JOIN lease l ON l.owner = o.n
            WHERE NOT o.cleared AND o.ended_at IS NULL AND coalesce(l.until, 0) < now_ns() AND o.n <> $1 ORDER BY o.n
        ) AS lapsed,
        ARRAY (SELECT n FROM owner WHERE NOT cleared AND ended_at IS NOT NULL ORDER BY n) AS ended,
        ARRAY (SELECT id FROM hold WHERE until <= now_ns() ORDER BY until LIMIT $2) AS overdue
    FROM (SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline) t LEFT JOIN server s ON true
"""
_SEE_SERVER: Final = """
    INSERT INTO server (started, timeline, since)
    VALUES (pg_postmaster_start_time(), left(pg_walfile_name(pg_current_wal_lsn()), 8), now_ns())
    ON CONFLICT (alone) DO UPDATE SET started = excluded.started, timeline = excluded.timeline, since = excluded.since
    WHERE (server.started, server.timeline) <> (excluded.started, excluded.timeline)
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to expire: owners to be ended, those that are ended and may hold something, holds beyond their
    time.
    """

    lapsed: list[int]
    ended: list[int]
    overdue: list[str]


async def register(db: Db, owner_id: str, before: int) -> int:
    """Begin as a new owner, with a lease; that of the owner `before` ends. Returns the new one's number."""
    number: int = await db.fetchval(_REGISTER, owner_id, before, LEASE_NS)
    return number


class Watch:
    """Whether the database was there long enough for everybody to renew a lease.

    A lease lapses also while nobody can renew it. So nobody's is held against him within one lease of the first sight
    of this run of the server on this timeline: after a restart or a promotion, by whoever looked first (that is kept in
    the database). Nor within one lease of a time of `SILENCE_SECONDS` in which this process itself was not served.
    """

    def __init__(self) -> None:
        self._served_at: float | None = None
        self._unbroken_from = float("-inf")

    async def look(self, db: Db, *, mine: int, most: int) -> Found:
        """Find what there is to expire, at most so many overdue holds."""
        (row,) = await db.fetch(_LOOK, mine, most)
        served = asyncio.get_running_loop().time()
        if self._served_at is not None and served - self._served_at > SILENCE_SECONDS:
            self._unbroken_from = served
        self._served_at = served
        if not row["same"]:
            await db.execute(_SEE_SERVER)
        too_early = not row["same"] or row["now"] - row["since"] < LEASE_NS
        if too_early or served - self._unbroken_from < LEASE_NS / 1e9:
            return Found([], row["ended"], row["overdue"])
        return Found(row["lapsed"], row["ended"], row["overdue"])


async def end(db: Db, owner: int, *, anyway: bool = False) -> bool:
    """End an owner whose lease has lapsed, or `anyway` if it holds nothing; return whether that is so now.

    Waits for a group of that owner that is under way.
    """
    async with db.transaction():
        if await db.fetchval("SELECT n FROM owner WHERE n = $1 AND ended_at IS NULL FOR UPDATE", owner) is None:
            return True
        # A statement of its own, to see what was committed while this one waited for the lock.
        if anyway:
            keeps = await db.fetchval("SELECT EXISTS (SELECT 1 FROM hold WHERE owner = $1)", owner)
        else:
            keeps = await db.fetchval("SELECT until >= now_ns() FROM lease WHERE owner = $1 FOR UPDATE", owner)
        if keeps and not anyway:
            return False
        await db.execute("DELETE FROM lease WHERE owner = $1", owner)
        if keeps:
            return False
        await db.execute("UPDATE owner SET ended_at = now_ns(), cleared = $2 WHERE n = $1", owner, anyway)
    return True


async def clear(db: Db, owner: int) -> None:
    """Write down that an owner that is ended holds nothing any more."""
    await db.execute("UPDATE owner SET cleared = true WHERE n = $1 AND ended_at IS NOT NULL", owner)


async def holds_of(db: Db, owner: int, most: int) -> list[str]:
    """Open holds of an owner, at most so many."""
    return [row[0] for row in await db.fetch("SELECT id FROM hold WHERE owner = $1 LIMIT $2", owner, most)]


class Lease:
    """The lease of one owner, renewed over a connection of its own, so that no group is in the way.

    `connect` opens a connection; `lost` is called when somebody has ended the owner.
    """

    def __init__(
        self, owner: int, connect: Callable[[], Awaitable[Session]], clock: Clock, lost: Callable[[], None]
    ) -> None:
        self._owner = owner
        self._connect = connect
        self._clock = clock
        self._lost = lost
        self._session: Session | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(), name="lease")

    async def _run(self) -> None:
        pause = RENEW_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = RENEW_SECONDS
            try:
                async with asyncio.timeout(RENEW_SECONDS):
                    there = await self._renew()
            except (*ERRORS, TolseyError):
                self._drop()
                pause = AGAIN_SECONDS
                continue
            if not there:
                self._lost()
                return

    async def _renew(self) -> bool:
        if self._session is None or not self._session.alive:
            self._session = await self._connect()
        asked = self._clock.local()
        said = await self._session.db.fetchval(_RENEW, self._owner, LEASE_NS)
        if said is not None:
            self._clock.heard(asked, said, None)
        return said is not None

    def _drop(self) -> None:
        if self._session is not None:
            self._session.drop()
            self._session = None

    async def close(self) -> None:
        """Renew no more."""
        self._task.cancel()
        await asyncio.wait({self._task})
        self._drop()
