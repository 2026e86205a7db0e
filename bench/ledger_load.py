"""One process that loads a ledger, as a worker would: ``bench.ledger_load WHERE NAME LEVELS LANES LEAVES SETTLED``.

``WHERE`` is a SQLite file or a PostgreSQL URL. It says ``ready``, reads for how many seconds, and then says how many
calls it made in which time: each is a reserve that is granted, and its settle. With ``SETTLED`` 0 only the reserves are
timed, at most so many as a link may have open, and all are settled afterwards.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import secrets
import sys
import time
from pathlib import Path

import uvloop

from tolsey.ledger.events import Granted, Reserve, Settle
from tolsey.ledger.rules import MAX_OPEN_HOLDS
from tolsey.store.book import Book
from tolsey.store.contract import Ledger
from tolsey.store.embedded import EmbeddedLedger
from tolsey.store.postgres import open_postgres
from tolsey.store.sqlite import SqliteLedger
from tolsey.token.chain import Account

TIMEOUT = 10.0


def chain(levels: int, leaf: str) -> tuple[Account, ...]:
    """So many accounts: the hot root, then others that all share, then the leaf, if there are more than one."""
    accounts: list[Account] = []
    for level in range(levels):
        name = "root" if level == 0 else leaf if level == levels - 1 else f"level{level}of{levels}"
        accounts.append(
            Account(name, "USD", accounts[-1].id if accounts else None, name, 10**18 if level == 0 else None)
        )
    return tuple(accounts)


async def open_ledger(where: str) -> Ledger:
    """The ledger at a file or a URL."""
    if where.startswith("postgresql://"):
        return await open_postgres(
            where, durability="full", seconds=TIMEOUT, now=time.time_ns, new_id="bench", create=True
        )
    file = SqliteLedger(Path(where), durability="full", now=time.time_ns(), new_id="bench")
    return EmbeddedLedger(file, timeout=TIMEOUT, now=time.time_ns)


async def load(where: str, name: str, levels: int, lanes: int, leaves: int, settled: int) -> dict[str, float]:
    """Make calls on so many ``lanes`` at once, each on one of ``leaves`` chains (0: one of its own). Settle each at its
    end if ``settled``, else all at the end.
    """
    ledger = await open_ledger(where)
    await ledger.register(f"{name}-{secrets.token_hex(4)}")
    book = Book(ledger, new_owner=lambda: secrets.token_hex(8))
    numbers = itertools.count()
    own = [chain(levels, f"{name}-{n}") for n in range(8 if settled else lanes)]
    held: list[str] = []
    calls = 0
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    seconds = float(await asyncio.to_thread(sys.stdin.readline))
    began = time.monotonic()

    async def call(lane: int) -> None:
        nonlocal calls
        chance = random.Random(lane)
        while time.monotonic() - began < seconds:
            number = next(numbers)
            if leaves:
                accounts = chain(levels, f"leaf{chance.randrange(leaves)}")
            elif settled:
                accounts = own[lane % len(own)]
            elif number < len(own) * MAX_OPEN_HOLDS:
                accounts = own[number // MAX_OPEN_HOLDS]
            else:
                break
            hold = f"{time.time_ns() // 1_000_000:x}-{name}-{number:x}"
            outcome = await book.reserve(Reserve(hold, accounts, 1_000, "GET /api/v1/item"))
            if not isinstance(outcome, Granted):
                raise TypeError(f"not granted: {outcome}")
            calls += 1
            if settled:
                book.resolve(Settle(hold, 1_000, "200"))
            else:
                held.append(hold)

    await asyncio.gather(*map(call, range(lanes)))
    took = time.monotonic() - began
    for at in range(0, len(held), lanes):
        for hold in held[at : at + lanes]:
            book.resolve(Settle(hold, 1_000, "200"))
        await book.balances(())
    left = await book.close(TIMEOUT)
    return {"calls": calls, "seconds": took, "left": left}


if __name__ == "__main__":
    place, called, *counts = sys.argv[1:]
    print(json.dumps(uvloop.run(load(place, called, *map(int, counts)))))
