"""The gateways of a simulation, and their clients.

A gateway is what `gateway/passage.py` amounts to: reserve; forward only what was granted; settle what was sent, void
what surely was not, whatever happens. Its upstream is here too, and knows every hold that it was sent.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from tests.simulation_ledger import SimulatedLedger
from tests.simulation_loop import Loop, Process
from tests.simulation_store import Database
from tolsey.errors import LedgerUnavailable
from tolsey.ledger.events import Claim, Extend, Granted, Kept, Outcome, Repeated, Reserve, Settle, Void
from tolsey.store.book import Book
from tolsey.testing import SECOND
from tolsey.token.chain import Charge

RUN_SECONDS = 25.0
"""How long clients ask."""

CALL_SECONDS = 12.0
GRACE_SECONDS = 8.0
"""How long a call may take, and how long after that its hold may be expired."""


class Violation(AssertionError):
    """A promise that was not kept."""


@dataclass
class Told:
    """What a gateway knows of a hold: whether it was sent, and how it was resolved."""

    process: Process
    sent: bool = False
    end: Settle | Void | None = None
    held: int = 0


class Request(NamedTuple):
    """What a client sends."""

    charge: Charge
    amount: int
    key: str | None
    serve: float


@dataclass
class World:
    """All that is there in one run."""

    loop: Loop
    chance: Random
    database: Database
    charges: list[Charge]
    book: Callable[..., Book] = Book
    void_sent: bool = False
    quiet: bool = False
    """Nothing fails but gateways that die."""

    gateways: list["Gateway"] = field(default_factory=list)
    told: dict[str, Told] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    names: "itertools.count[int]" = field(default_factory=itertools.count)
    granted: int = 0
    repeated: int = 0

    def name(self, what: str) -> str:
        return f"{what}{next(self.names)}"

    def upstream_sees(self, hold: str) -> None:
        """Nothing is forwarded that is not in the journal."""
        if hold not in self.database.rows.holds:
            raise Violation(f"{hold} was forwarded, and is not in the journal")
        if hold in self.seen:
            raise Violation(f"{hold} was forwarded twice")
        self.seen.add(hold)


class Gateway:
    """A process with a Book; another one beside it that finds what the dead have left."""

    def __init__(self, world: World, skew: float) -> None:
        self.world = world
        self.skew = skew
        self.process = Process(world.name("gateway"))
        self.book: Book | None = None
        self.ledger = SimulatedLedger(world.database, self.process, self.clock, self.process.name)
        self.starting = world.loop.spawn(self.process, self._start())

    def clock(self) -> int:
        """Nanoseconds since the epoch, as this machine has it."""
        return self.world.database.clock() + int(self.skew * SECOND)

    async def _start(self) -> None:
        world, name = self.world, self.process.name
        watcher = SimulatedLedger(world.database, self.process, self.clock, f"{name}-watcher")
        await self._persist(watcher)
        while True:
            with contextlib.suppress(LedgerUnavailable):
                await self.ledger.register(world.name("owner"))
                break
            await asyncio.sleep(0.2)
        self.book = world.book(self.ledger, new_owner=lambda: world.name("owner"))
        while True:
            await asyncio.sleep(2.0)
            await self._persist(watcher)

    async def _persist(self, watcher: SimulatedLedger) -> None:
        while True:
            try:
                await watcher.expire()
            except LedgerUnavailable:
                await asyncio.sleep(0.5)
            else:
                return

    async def close(self) -> None:
        """End well, as far as there is time."""
        book, self.book = self.book, None
        if book is None:
            return
        handed = [name for name, told in self.world.told.items() if told.process is self.process and told.end]
        closing = self.world.loop.spawn(self.process, book.close(self.world.chance.uniform(0, 2)))
        done, _ = await asyncio.wait({closing}, timeout=3)
        if done and closing.result() == 0:
            missing = self.world.database.rows.open.keys() & set(handed)
            if missing:
                raise Violation(f"{missing} were said to be written, and are not")

    async def serve(self, request: Request) -> Outcome | None:
        """One call; None where nothing is known of it. As `Passage`."""
        world, book = self.world, self.book
        if book is None:
            return None
        hold = world.name("hold")
        accounts, counters, rates = request.charge
        claim = None if request.key is None else Claim("link", request.key, "request")
        until = self.clock() + int((CALL_SECONDS + GRACE_SECONDS) * SECOND)
        event = Reserve(hold, accounts, request.amount, "", counters, rates, claim, until)
        told = world.told[hold] = Told(self.process, held=request.amount)
        try:
            outcome = await book.reserve(event)
        except LedgerUnavailable:
            return None
        if not isinstance(outcome, Granted) or not (accounts or counters):
            world.repeated += isinstance(outcome, Repeated)
            return outcome
        world.granted += 1
        await self._forward(book, hold, told, request)
        return outcome

    async def _forward(self, book: Book, hold: str, told: Told, request: Request) -> None:
        world, chance = self.world, self.world.chance
        status = False
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await asyncio.sleep(chance.uniform(0, 0.02))
                if chance.random() < 0.05:
                    return
                told.sent = True
                world.upstream_sees(hold)
                await asyncio.sleep(request.serve / 2)
                if request.amount and chance.random() < 0.3:
                    await self._extend(book, hold, told)
                await asyncio.sleep(request.serve / 2)
                status = chance.random() < 0.95
        except TimeoutError:
            pass
        finally:
            if not told.sent or world.void_sent:
                told.end = Void(hold)
            elif not status:
                told.end = Settle(hold, told.held, "unmetered")
            else:
                kept = Kept("body", b"response") if chance.random() < 0.8 else None
                told.end = Settle(hold, chance.randint(0, told.held), "200", kept)
            book.resolve(told.end)

    async def _extend(self, book: Book, hold: str, told: Told) -> None:
        more = self.world.chance.randint(1, 20)
        with contextlib.suppress(LedgerUnavailable):
            outcome = await book.reserve(Extend(hold, more))
            if isinstance(outcome, Granted):
                told.held += more


class Client:
    """Sends requests over a network that loses, delays, repeats and reorders; asks again under the same key."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def run(self) -> None:
        chance = self.world.chance
        while self.world.loop.time() < RUN_SECONDS:
            await asyncio.sleep(chance.expovariate(1.0))
            charge = chance.choice(self.world.charges)
            key = self.world.name("key") if chance.random() < 0.4 else None
            serve = chance.choice((0.01, 0.1, 1.0, 5.0, 20.0 if chance.random() < 0.2 else 0.3))
            request = Request(charge, chance.randint(1, 40) if charge.accounts else 0, key, serve)
            for _ in range(1 if key is None else chance.randint(1, 4)):
                if await self._send(request) is not None:
                    break

    async def _send(self, request: Request) -> Outcome | None:
        """What was answered, if anything was."""
        world, chance = self.world, self.world.chance
        answers: list[asyncio.Task[Outcome | None]] = []
        for _ in range(2 if chance.random() < 0.1 else 1):
            gateway = chance.choice(world.gateways)
            answers.append(world.loop.spawn(gateway.process, self._deliver(gateway, request)))
        leaves_after = chance.choice((0.005, 0.05, 1.0)) if chance.random() < 0.15 else 30.0
        done, waiting = await asyncio.wait(answers, timeout=leaves_after, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            # The client has gone: what is under way for it is cancelled, if it lives.
            task.cancel()
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
            if not task.cancelled():
                return task.result()
        return None

    async def _deliver(self, gateway: Gateway, request: Request) -> Outcome | None:
        chance = self.world.chance
        await asyncio.sleep(chance.uniform(0, 2) if chance.random() < 0.1 else chance.uniform(0, 0.01))
        return None if chance.random() < 0.03 else await gateway.serve(request)
