"""The ledger in simulation: gateways with the real Book and the real rules, clients, an operator, and much that fails.

`simulate(seed)` is one run. It draws a world from the seed (how many gateways, which accounts, what goes wrong and how
often), lets it go on for a while of its own time, heals everything, and asks at the end whether every promise was kept.
What is asked at every step stands in `simulation_audit.py`; the others are `simulation_loop.py` (time, order, death),
`simulation_store.py` and `simulation_ledger.py` (the engine), `simulation_gateway.py` (gateways, clients).
"""

import asyncio
import contextlib
from collections.abc import Callable
from random import Random

from tests.simulation_audit import Auditor
from tests.simulation_gateway import CALL_SECONDS, GRACE_SECONDS, RUN_SECONDS, Client, Gateway, Violation, World
from tests.simulation_ledger import SimulatedLedger
from tests.simulation_loop import Loop, Process
from tests.simulation_store import LEASE_SECONDS, Database, Faults, Flaws
from tolsey.errors import LedgerUnavailable
from tolsey.ledger.events import Annul, Grant, Kind, Open, Refund, Settle
from tolsey.store.book import Book
from tolsey.testing import SECOND
from tolsey.token.chain import Account, Charge, Rate
from tolsey.units import NANO

STARTS = (1_782_863_980, 1_782_777_585, 1_774_915_190, 1_775_044_800)
"""Seconds since the epoch: shortly before a month, a day, an hour ends; a noon."""

PATIENCE_SECONDS = 5.0
OUTAGE_SECONDS = 35.0
"""How long after its time a hold may still be open: until somebody has looked, and while the store fails."""


async def operate(world: World) -> None:
    """Somebody at the command line, once in a while."""
    chance, process = world.chance, Process("operator")
    ledger = SimulatedLedger(world.database, process, world.database.clock, "cli")
    while world.loop.time() < RUN_SECONDS:
        await asyncio.sleep(chance.expovariate(0.4))
        rows = world.database.rows
        with contextlib.suppress(LedgerUnavailable):
            accounts = [account for charge in world.charges for account in charge.accounts + charge.counters]
            if chance.random() < 0.2:
                account = chance.choice(accounts)
                await ledger.write([Open(account)])
            elif chance.random() < 0.4 and rows.balances:
                account = rows.balances[chance.choice(list(rows.balances))].account
                await ledger.write([Grant(account[:2], NANO if account.unit == "call" else 50, "more")])
            elif rows.holds:
                hold = chance.choice(list(rows.holds)[-20:])
                await ledger.write([chance.choice((Refund(hold, None, ""), Refund(hold, 3, ""), Annul(hold, "")))])


async def disturb(world: World, kills: float, stops: float, restarts: float) -> None:
    """Gateways die at whatever they are doing, end well, stand still, or are taken for dead; the database restarts."""
    chance, database = world.chance, world.database
    while world.loop.time() < RUN_SECONDS:
        await asyncio.sleep(chance.expovariate(1.0))
        which = chance.randrange(len(world.gateways))
        gateway = world.gateways[which]
        if chance.random() < kills:
            if chance.random() < 0.3:
                await gateway.close()
            world.loop.kill(gateway.process)
            await asyncio.sleep(chance.uniform(0, 1))
            world.gateways[which] = Gateway(world, gateway.skew)
        if chance.random() < stops and database.embedded and gateway.ledger.owner:
            database.rows.owners[gateway.ledger.owner].released = True
        elif chance.random() < stops:
            gateway.process.stopped_until = world.loop.time() + chance.uniform(0.1, 1.8 * LEASE_SECONDS)
        if chance.random() < restarts:
            database.restart(chance.uniform(0, 3))


async def watch(world: World, auditor: Auditor) -> None:
    """No hold outlives its time, and nobody finds the books in disorder."""
    while True:
        await asyncio.sleep(0.5)
        if world.loop.errors:
            raise Violation("; ".join(world.loop.errors))
        for gateway in world.gateways:
            if gateway.starting.done():
                gateway.starting.result()
        patience = PATIENCE_SECONDS + (0 if world.quiet else OUTAGE_SECONDS)
        for hold in world.database.rows.open:
            late = (world.database.clock() - auditor.holds[hold].until) / SECOND
            dead_at = world.told[hold].process.dead_at
            if dead_at is not None:
                late = max(late, world.loop.time() - dead_at - (0 if world.database.embedded else LEASE_SECONDS))
            if late > patience:
                raise Violation(f"{hold} is open {late:.0f} s after its time")


def accounts_of(chance: Random) -> list[Charge]:
    """A few trees of accounts that share what is above them, with windows, counters and rates."""
    charges: list[Charge] = []
    for root in range(chance.randint(1, 2)):
        chains: list[tuple[Account, ...]] = [()]
        counters: list[tuple[Account, ...]] = [()]
        for n in range(chance.randint(2, 5)):
            above = chance.choice(chains)
            name = f"a{root}{n}"
            limit = (
                None if chance.random() < 0.15 else chance.choice((chance.randint(30, 300), chance.randint(500, 5000)))
            )
            period = chance.choice((None, None, "hour", "day", "week", "month")) if limit is not None else None
            chains.append((*above, Account(name, "USD", above[-1].id if above else None, name, limit, period)))
            if chance.random() < 0.4:
                over = chance.choice(counters)
                counter = Account(
                    f"c{root}{n}",
                    "call",
                    over[-1].id if over else None,
                    "",
                    NANO * chance.randint(3, 60),
                    chance.choice((None, "hour", "day")),
                )
                counters.append((*over, counter))
        rates = [
            Rate(f"r{root}{n}", "", chance.randint(1, 4), chance.choice(("second", "minute")))
            for n in range(chance.randint(0, 2))
        ]
        for chain in chains[1:]:
            some = tuple(rate for rate in rates if chance.random() < 0.4)
            charges.append(Charge(chain, chance.choice(counters), some))
        if len(counters) > 1:
            charges.append(Charge((), counters[-1], ()))
        if rates and chance.random() < 0.3:
            charges.append(Charge((), (), (rates[0],)))
    return charges


def faults_of(chance: Random, *, quiet: bool) -> Faults:
    """Some kinds of faults, each often or seldom."""
    if quiet:
        return Faults()

    def often() -> float:
        return chance.choice((0.0, 0.0, 0.02, 0.15))

    return Faults(often(), often(), often(), often(), often() / 2, often() / 4)


def draw(
    seed: int, flaws: Flaws, book: Callable[..., Book], *, void_sent: bool, embedded: bool | None
) -> tuple[World, Auditor]:
    """A world of this seed."""
    chance = Random(seed)
    loop = Loop(chance)
    start = chance.choice(STARTS) * SECOND
    on_one_file, quiet = chance.random() < 0.35, chance.random() < 0.15

    def committed(*told: object) -> None:
        auditor.committed(*told)  # type: ignore[arg-type]  # passed on as they come

    database = Database(
        loop,
        chance,
        start,
        embedded=on_one_file if embedded is None else embedded,
        faults=faults_of(chance, quiet=quiet),
        flaws=flaws,
        told=committed,
    )

    auditor = Auditor(lambda: database.rows, database.lapsed)
    return World(loop, chance, database, accounts_of(chance), book, void_sent, quiet), auditor


async def live(world: World, auditor: Auditor) -> None:
    """One run from its beginning to its end."""
    chance = world.chance
    skews = [chance.uniform(-4, 4) for _ in range(chance.randint(2, 5))]
    world.gateways += [Gateway(world, skew) for skew in skews]
    watching = asyncio.create_task(watch(world, auditor))
    busy = [asyncio.create_task(Client(world).run()) for _ in range(chance.randint(4, 16))]
    busy.append(asyncio.create_task(operate(world)))
    kills, stops, restarts = (chance.choice((0.0, 0.03, 0.15)) for _ in range(3))
    if world.quiet:
        stops = restarts = 0.0
    busy.append(asyncio.create_task(disturb(world, kills, stops, restarts)))
    try:
        working = asyncio.create_task(until_done(busy))
        await asyncio.wait({watching, working}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
        await working
        await rest(world)
    finally:
        watching.cancel()
    accounts_for_all(world, auditor)


async def until_done(tasks: "list[asyncio.Task[None]]") -> None:
    """Wait for all."""
    await asyncio.gather(*tasks)


async def rest(world: World) -> None:
    """Everything is healed, and there is time for all that is owed."""
    world.database.faults = Faults()
    world.database.full_until = 0.0
    deadline = world.loop.time() + CALL_SECONDS + GRACE_SECONDS + 2 * LEASE_SECONDS + 20
    # Old backends may still commit; after that nothing comes.
    await asyncio.sleep(25)
    while world.database.rows.open and world.loop.time() < deadline:  # noqa: ASYNC110 - its own time costs nothing
        await asyncio.sleep(1)
    if world.loop.errors:
        raise Violation("; ".join(world.loop.errors))


def accounts_for_all(world: World, auditor: Auditor) -> None:
    """Every promise, at the end."""
    rows = world.database.rows
    if rows.open:
        raise Violation(f"{sorted(rows.open)} are open for ever")
    for name, told in world.told.items():
        hold = auditor.holds.get(name)
        end = None if hold is None else hold.end
        if hold is None or end is None:
            if told.sent:
                raise Violation(f"{name} was forwarded, and is not in the journal")
        elif told.sent:
            if end.kind is Kind.VOID:
                raise Violation(f"{name} was forwarded, and paid for by nobody")
            given_up = told.process.dead_at is not None or hold.late
            if not given_up and (
                not isinstance(told.end, Settle) or (end.kind, end.amount) != (Kind.SETTLE, told.end[1])
            ):
                raise Violation(f"{name} was to be settled as {told.end}, and ended as {end}")
        elif end.kind is not Kind.VOID and told.process.dead_at is None and not hold.late:
            raise Violation(f"{name} was never forwarded by a gateway that lives, and ended as {end}")


def simulate(
    seed: int,
    *,
    flaws: Flaws | None = None,
    book: Callable[..., Book] = Book,
    void_sent: bool = False,
    embedded: bool | None = None,
) -> World:
    """One run. Raises `Violation`."""
    world, auditor = draw(seed, flaws or Flaws(), book, void_sent=void_sent, embedded=embedded)
    world.loop.run(live(world, auditor))
    return world
