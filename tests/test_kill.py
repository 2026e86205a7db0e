"""`kill -9` of a worker, of the supervisor, and of everything at once, under load, twenty times.

The times are drawn from a seed, which the test's name shows; TOLSEY_SEED sets another. Whatever was in flight: nothing
that the upstream saw is missing in the journal, no limit is passed, nobody pays twice, and no hold stays open.
"""

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests import swarm
from tests.swarm import Answer, Entry, Gateway
from tolsey import attenuate

SEED = int(os.environ.get("TOLSEY_SEED", "8402"))
ROUNDS = 5
WORKERS_KILLED = 3
"""In each round; at its end the whole gateway is killed. Five rounds of four make twenty."""

CLIENTS = 24
RESOLVED_SECONDS = 2.0
"""RULES.md L3."""


class Load:
    """Clients that never ask for the same thing twice, and what became of each call."""

    def __init__(self, gateway: Gateway, chance: random.Random) -> None:
        root = gateway.mint("label = team n1", "budget = 10000 USD")
        rich = attenuate(root, label="rich", budget="5000 USD")
        soon_dry = attenuate(rich, label="soon dry", budget="5 USD")
        self.answers: dict[str, int] = {}
        self._tokens = [root, rich, rich, soon_dry]
        self._port = gateway.port
        self._chance = chance
        self._count = itertools.count()
        self._stop = False
        self._task: asyncio.Task[None] | None = None

    def count(self, status: int) -> int:
        return Counter(self.answers.values())[status]

    def _following(self) -> tuple[str, str] | None:
        if self._stop:
            return None
        target = f"{swarm.ITEM}{next(self._count)}?ms={self._chance.randrange(3, 25)}"
        return self._chance.choice(self._tokens), target

    def _answered(self, target: str, answer: Answer) -> None:
        path = target.partition("?")[0]
        assert path not in self.answers
        self.answers[path] = answer.status

    def begin(self) -> None:
        self._stop = False
        self._task = asyncio.create_task(swarm.load(self._port, CLIENTS, self._following, self._answered))

    async def end(self) -> None:
        self._stop = True
        assert self._task is not None
        await asyncio.wait_for(self._task, 10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [SEED])
async def test_kill_9_twenty_times(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    with swarm.upstream(tmp_path) as upstream:
        gateway = swarm.lay_out(tmp_path, upstream.port)
        load = Load(gateway, chance)
        with swarm.ending(gateway):
            for number in range(ROUNDS):
                await start_with_nothing_open(gateway)
                load.begin()
                for _ in range(WORKERS_KILLED):
                    await under_way(gateway, load, chance)
                    await kill_a_worker(gateway, load, chance)
                await under_way(gateway, load, chance)
                await kill_everything(gateway, alone=number % 2 == 0)
                await load.end()
                gateway.fsck()
            await start_with_nothing_open(gateway)
            await gateway.stop()
        assert gateway.fsck().open_holds == 0
        assert_every_call_is_accounted_for(gateway.entries(), upstream.seen(), load)


async def start_with_nothing_open(gateway: Gateway) -> None:
    """When the port opens, all that the dead had held is resolved."""
    gateway.launch()
    await swarm.until(lambda: swarm.answers(gateway.port) or not gateway.runs(), "the port opens", 20)
    assert gateway.runs(), gateway.said()
    assert gateway.open_holds() == 0
    await gateway.ready()


async def under_way(gateway: Gateway, load: Load, chance: random.Random) -> None:
    """Let calls be served, and some time pass; then be sure that money is held."""
    before = load.count(200)
    await swarm.until(lambda: load.count(200) > before, "calls are served")
    await asyncio.sleep(chance.uniform(0.02, 0.4))
    await swarm.until(gateway.open_holds, "a call is in flight")


async def kill_a_worker(gateway: Gateway, load: Load, chance: random.Random) -> None:
    """Its holds are resolved within two seconds, and the gateway goes on meanwhile."""
    chance.choice(gateway.workers()).kill()
    killed_at, before = time.time_ns(), load.count(200)
    await swarm.until(lambda: not gateway.open_holds(killed_at), "the dead worker's holds end", RESOLVED_SECONDS)
    await swarm.until(lambda: load.count(200) > before, "the others go on", RESOLVED_SECONDS)
    assert gateway.runs()


async def kill_everything(gateway: Gateway, *, alone: bool) -> None:
    """The supervisor (the workers must follow it within a second), or the process group."""
    workers = gateway.workers()
    if alone:
        gateway.kill_supervisor()
    else:
        gateway.kill_group()
    await swarm.until(lambda: not any(map(lives, workers)), "the workers end too", 1.0)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_every_call_is_accounted_for(entries: list[Entry], seen: list[str], load: Load) -> None:
    reserves = [entry for entry in entries if entry.kind == "reserve"]
    hold_of = {entry.note: entry.hold for entry in reserves}
    assert len(hold_of) == len(reserves), "every call was reserved once"
    ends = {entry.hold: entry for entry in entries if entry.kind in ("settle", "void", "expire")}
    assert len(ends) == sum(entry.kind in ("settle", "void", "expire") for entry in entries), "and resolved once"
    assert ends.keys() == {entry.hold for entry in reserves}

    assert len(set(seen)) == len(seen), "no call was sent twice"
    for path in seen:
        end = ends[hold_of[f"GET {path}"]]
        assert (end.kind, end.amount) in (("settle", swarm.PRICE_NANO), ("expire", swarm.PRICE_NANO)), path
    for path, status in load.answers.items():
        if status == 200:
            assert ends[hold_of[f"GET {path}"]].amount == swarm.PRICE_NANO
        elif status:
            assert f"GET {path}" not in hold_of

    assert set(load.answers.values()) == {0, 200, 402}
    kinds = Counter(entry.kind for entry in entries)
    assert kinds["expire"] > ROUNDS, "the kills met calls in flight"


@pytest.mark.parametrize(
    ("change", "event"),
    [
        (lambda good: f"{good}\nnonsense", "the new config is refused; the old one goes on"),
        (lambda good: good.replace("data/ledger.db", "data/another.db"), "takes a restart; the old config goes on"),
    ],
    ids=["wrong", "another ledger"],
)
async def test_a_worker_dies_while_the_config_on_disk_cannot_be_used(
    change: Callable[[str], str], event: str, tmp_path: Path
) -> None:
    """The worker that takes its place goes on with what the gateway runs with, and not with what the file says."""
    with swarm.upstream(tmp_path) as upstream:
        async with swarm.serving(swarm.lay_out(tmp_path, upstream.port, workers=1)) as gateway:
            token = gateway.mint("label = team n1", "budget = 0.03 USD")
            gateway.file.write_text(change(gateway.file.read_text()))
            await swarm.until(lambda: event in gateway.said(), "it is noticed")
            for _ in range(3):
                assert (await swarm.one(gateway.port, token, swarm.ITEM)).status == 200
                await swarm.until(lambda: not gateway.open_holds(), "it is settled")
                (worker,) = gateway.workers()
                worker.kill()
                await swarm.until(lambda: worker not in gateway.workers(), "it is gone")  # noqa: B023 - awaited here
                await swarm.until(lambda: swarm.answers(gateway.port), "a new worker starts")
            assert (await swarm.one(gateway.port, token, swarm.ITEM)).status == 402
            assert not (tmp_path / "data" / "another.db").exists()
            await gateway.stop()
            gateway.fsck()
