"""The rounds: every contestant once, then all again, so that what disturbs the machine disturbs them all."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bench import BenchError, Wrong
from bench.contestants import Contestant
from bench.ground import Audit, Ground
from bench.load import Load, wrk
from bench.machine import Cores, pinned, scratch
from bench.origin import PATH, origin
from bench.processes import cpu_seconds, memory_mb, tree

WARM_UP = 1


@dataclass(frozen=True)
class Run:
    """One contestant in one round."""

    round: int
    contestant: str
    load: Load
    calls_per_cpu_second: float
    memory_mb: float
    audit: Audit | None


def measure(contestants: Sequence[Contestant], places: Cores, *, rounds: int, seconds: int) -> list[Run]:
    """All contestants, interleaved: A B C, A B C. The bench itself keeps to the core of the load."""
    runs = []
    with pinned(places.load), origin(places.load) as upstream:
        for number in range(1, rounds + 1):
            for contestant in contestants:
                run = _once(contestant, Ground(places, upstream), number, seconds)
                print(f"bench: round {number} {run.contestant:14} {run.load.rate:9,.0f} calls/s", file=sys.stderr)
                runs.append(run)
    return runs


def _once(contestant: Contestant, ground: Ground, number: int, seconds: int) -> Run:
    """Start it, warm it up, load it, stop it; whoever keeps a ledger is audited as it stops."""
    core = ground.places.load
    try:
        with contestant.start(ground) as server, scratch() as folder:
            wrk(server.port, PATH, seconds=WARM_UP, core=core, folder=folder, token=server.token)
            before = cpu_seconds(server.process.pid)
            load = wrk(server.port, PATH, seconds=seconds, core=core, folder=folder, token=server.token)
            cpu = cpu_seconds(server.process.pid) - before
            memory = max(memory_mb(pid) for pid in tree(server.process.pid))
        if load.failed or not load.calls:
            raise Wrong(f"{load.failed} of {load.calls} calls failed")
    except BenchError as error:
        raise type(error)(f"{contestant.name}, round {number}: {error}") from error
    return Run(number, contestant.name, load, load.calls / cpu if cpu else 0.0, memory, server.audit)
