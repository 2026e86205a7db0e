"""Whether a worker's memory is flat: so many minutes of load, each call with a token that was never seen before."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import Wrong, gateway
from bench.client import call_all
from bench.ground import Audit
from bench.load import CONNECTIONS
from bench.machine import Cores, pinned, scratch
from bench.memory import largest
from bench.origin import PATH, origin
from bench.processes import memory_mb
from tolsey import attenuate

SAMPLES = 100
"""How often memory is read, whatever the time."""

MOST_GROWTH = 1.05
"""How many times what it was in the second fifth memory may be in the last one. In the first fifth caches fill."""


@dataclass(frozen=True)
class Steady:
    """Memory of the worker over the load, in MB at equal distances, and what the ledger said."""

    minutes: float
    tokens: int
    memory_mb: list[float]
    audit: Audit

    @property
    def growth(self) -> float:
        """How many times the second fifth the last fifth is, by their medians."""
        return growth(self.memory_mb)

    @property
    def met(self) -> bool:
        """Whether it is flat."""
        return self.growth <= MOST_GROWTH


def growth(samples: Sequence[float]) -> float:
    """How many times the second fifth the last fifth is, by their medians. There are at least five samples."""
    fifth = len(samples) // 5
    return median(samples[-fifth:]) / median(samples[fifth : 2 * fifth])


def measure(places: Cores, minutes: float, count: int | None) -> Steady:
    """Each token is attenuated offline from one parent and has a budget, so an account, of its own. At most `count` are
    used, evenly over the time; with None as many as can be.
    """
    every = 0.0 if count is None else CONNECTIONS * minutes * 60 / count
    with pinned(places.load), origin(places.load) as upstream, scratch() as folder:
        place = gateway.prepare(folder / "gateway", upstream.port, "full")
        parent = gateway.attenuate(gateway.mint(place), "swarm", "1000000 USD")
        before = upstream.seen()
        with gateway.serving(place, places.server, folder / "tolsey.log") as process:
            samples = _Samples(largest(process.pid), minutes * 60 / SAMPLES)
            tokens = _tokens(parent, minutes)
            try:
                made = asyncio.run(call_all(place.port, PATH, tokens, connections=CONNECTIONS, every=every))
            finally:
                samples.stop()
        _empty(folder / "tolsey.log")
        audit = gateway.audit(place, upstream.seen() - before, runs_of_wrk=0)
    if audit.calls != made:
        raise Wrong(f"{made} calls answered, {audit.calls} in the ledger")
    return Steady(minutes, made, samples.found, audit)


def _empty(log: Path) -> None:
    """A line for each call of an hour need not lie about while the ledger is looked through."""
    log.write_bytes(b"")


def _tokens(parent: str, minutes: float) -> Iterator[str]:
    """Distinct children of one parent, until the time is over."""
    until = time.monotonic() + minutes * 60
    number = 0
    while time.monotonic() < until:
        number += 1
        yield attenuate(parent, label=f"worker-{number}", budget="1 USD")


class _Samples:
    """Reads the memory of a process every so many seconds, in a thread of its own."""

    def __init__(self, pid: int, seconds: float) -> None:
        self.found: list[float] = []
        self._pid = pid
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            self.found.append(memory_mb(self._pid))

    def stop(self) -> None:
        """No more."""
        self._over.set()
        self._thread.join()
