"""What it costs a worker to know what is revoked: `python -m bench.revocations [COUNT]`, on a SQLite ledger."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import sys
import time

from bench.machine import scratch
from tolsey.store.revocations_sqlite import SqliteRevocations
from tolsey.store.sqlite import SqliteLedger
from tolsey.store.sqlite_file import connect

COUNT = 100_000
TIMES = 9


async def measure(count: int) -> tuple[float, float]:
    """Seconds for the whole list of so many prefixes, and for the question whether it has changed; in the middle."""
    with scratch() as folder:
        path = folder / "ledger.db"
        SqliteLedger(path, now=time.time_ns(), new_id="bench").close()
        db = connect(path, "normal")
        rows = [(secrets.token_hex(16), n, "revoked by bench", n) for n in range(count)]
        db.execute("BEGIN")
        db.executemany("INSERT INTO revocation VALUES (?, ?, NULL, ?, ?)", rows)
        db.execute("COMMIT")
        db.close()
        source = SqliteRevocations(path, "bench")
        found = [await _seconds(source, None) for _ in range(TIMES)], [await _seconds(source, 0) for _ in range(TIMES)]
        await source.close()
    return statistics.median(found[0]), statistics.median(found[1])


async def _seconds(source: SqliteRevocations, known: int | None) -> float:
    began = time.perf_counter()
    await source.read(known)
    return time.perf_counter() - began


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    whole, question = asyncio.run(measure(number))
    print(
        f"the list of {number:,}: {whole * 1000:.0f} ms; the question whether it has changed: {question * 1000:.2f} ms"
    )
