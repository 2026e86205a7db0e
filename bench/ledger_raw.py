"""The yardstick for reserves on PostgreSQL: ``python -m bench.ledger_raw URL SECONDS`` says how many a second there are
where nothing is done but what must be: four accounts locked in the order of their numbers, moved in one statement, and
a line for each reserve, in groups of 32 that are synced. No limits are looked at, no holds kept, nothing is sealed.

``20,000 reserves/s`` was asked for on a machine where this makes 42,200.
"""

from __future__ import annotations

import itertools
import sys
import time

import asyncpg
import uvloop

GROUP = 32
ON_THE_MACHINE_OF_THE_TARGET = 42_200

_MAKE = """
    CREATE TABLE raw_account (n bigint PRIMARY KEY, held bigint NOT NULL);
    CREATE TABLE raw_entry (n bigserial PRIMARY KEY, hold text NOT NULL UNIQUE, leaf bigint NOT NULL, amount bigint);
    INSERT INTO raw_account SELECT generate_series(1, 4), 0
"""
_LOCK = "SELECT n, held FROM raw_account WHERE n = ANY ($1::bigint[]) ORDER BY n FOR UPDATE"
_MOVE = """
    UPDATE raw_account a SET held = m.held FROM unnest($1::bigint[], $2::bigint[]) AS m (n, held) WHERE a.n = m.n
"""
_WRITE = """
    INSERT INTO raw_entry (hold, leaf, amount) SELECT hold, 4, 1000 FROM unnest($1::text[]) AS l (hold)
"""


async def load(url: str, seconds: float) -> float:
    """Reserves a second."""
    db = await asyncpg.connect(url)
    await db.execute("DROP TABLE IF EXISTS raw_account, raw_entry")
    await db.execute(_MAKE)
    numbers = itertools.count()
    done, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        async with db.transaction():
            rows = await db.fetch(_LOCK, [1, 2, 3, 4])
            await db.execute(_MOVE, [row["n"] for row in rows], [row["held"] + GROUP * 1000 for row in rows])
            await db.execute(_WRITE, [f"{time.time_ns() // 1_000_000:x}-raw-{next(numbers):x}" for _ in range(GROUP)])
        done += GROUP
    took = time.monotonic() - began
    await db.close()
    return done / took


if __name__ == "__main__":
    print(uvloop.run(load(sys.argv[1], float(sys.argv[2]))))
