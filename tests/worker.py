"""A process that uses a ledger, for tests that need another one: `python -m tests.worker PATH OWNER TASK …`.

live                says `ready` with one hold open, then waits for a line and ends well
turn                takes the turn, says `ready`, waits for a line and gives it back
spend TREE          spends one nano-unit at a time until there is no more; says how many it got
storm SEED VIA      reserves and resolves without end; says each hold once it is granted. VIA is `run` or `book`
"""

import asyncio
import os
import random
import sys
import time
from pathlib import Path

from tests.ledgers import purse
from tolsey.ledger.events import Event, Granted, Reserve, Settle, Shortfall, Void
from tolsey.store.book import Book
from tolsey.store.embedded import EmbeddedLedger
from tolsey.store.sqlite import SqliteLedger
from tolsey.token.chain import Account

ROOT_ACCOUNT = "root 4000000"
PURSES = tuple(purse(f"{ROOT_ACCOUNT} / {rest}") for rest in ("a 3000000", "a 3000000 / b 900", "c - / d 2000000"))
"""What a storm reserves on. One account is soon spent."""


def tell(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def live(ledger: SqliteLedger) -> None:
    ledger.run([Reserve(f"{ledger.owner_id}-1", purse("root 100"), 10)], time.time_ns())
    tell("ready")
    sys.stdin.readline()
    ledger.run([Settle(f"{ledger.owner_id}-1", 4)], time.time_ns())


def turn(ledger: SqliteLedger) -> None:
    ledger.turn.take()
    tell("ready")
    sys.stdin.readline()
    ledger.turn.give()


def spend(ledger: SqliteLedger, accounts: tuple[Account, ...]) -> None:
    tell("ready")
    sys.stdin.readline()
    granted, amount = 0, 2
    while amount:
        hold = f"{ledger.owner_id}-{granted}"
        (outcome,) = ledger.run([Reserve(hold, accounts, amount)], time.time_ns())
        if isinstance(outcome, Shortfall):
            # While the other process holds something, that may come back; the money is gone only when nothing is held.
            amount -= outcome.held == 0
            continue
        assert isinstance(outcome, Granted), outcome
        granted += 1
        ledger.run([Settle(hold, 1)], time.time_ns())
    tell(str(granted))


def storm_by_run(ledger: SqliteLedger, chance: random.Random) -> None:
    waiting: list[Event] = []
    number = 0
    while True:
        reserves = [
            Reserve(f"{ledger.owner_id}-{number + n}", chance.choice(PURSES), chance.randint(1, 50))
            for n in range(chance.randint(1, 8))
        ]
        number += len(reserves)
        outcomes = ledger.run([*waiting, *reserves], time.time_ns())[len(waiting) :]
        waiting = []
        for outcome in outcomes:
            if isinstance(outcome, Granted):
                tell(outcome.hold)
                waiting.append(_resolution(outcome, chance))
        if chance.random() < 0.02:
            ledger.checkpoint()


def _resolution(granted: Granted, chance: random.Random) -> Settle | Void:
    return Void(granted.hold) if chance.random() < 0.2 else Settle(granted.hold, chance.randint(0, granted.amount))


async def storm_by_book(ledger: SqliteLedger, chance: random.Random) -> None:
    embedded = EmbeddedLedger(ledger, timeout=5, now=time.time_ns)
    book = Book(embedded, new_owner=lambda: f"{ledger.owner_id}-again")

    async def calls(name: int) -> None:
        for number in range(1_000_000):
            reserve = Reserve(f"{ledger.owner_id}-{name}-{number}", chance.choice(PURSES), chance.randint(1, 50))
            outcome = await book.reserve(reserve)
            if isinstance(outcome, Granted):
                tell(outcome.hold)
                await asyncio.sleep(chance.choice((0, 0, 0.001)))
                book.resolve(_resolution(outcome, chance))

    async with asyncio.TaskGroup() as group:
        for name in range(12):
            group.create_task(calls(name))


def main(path: str, owner: str, task: str, *words: str) -> None:
    ledger = SqliteLedger(Path(path), durability="normal", now=time.time_ns(), new_id="the-ledger")
    ledger.register(owner, time.time_ns())
    if task == "live":
        live(ledger)
    elif task == "turn":
        turn(ledger)
    elif task == "spend":
        spend(ledger, purse(words[0]))
    elif words[1] == "run":
        storm_by_run(ledger, random.Random(words[0]))
    else:
        asyncio.run(storm_by_book(ledger, random.Random(words[0])))
    ledger.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
