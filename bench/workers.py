"""Two workers on two cores against one on one.

The load and the upstream need processor time too. Where there are three cores or more they have one that no worker
runs on. Where there are two, one worker has a core for itself; two workers share both with load and upstream, and what
these two used is taken from the time that the workers had. So the figure is calls for each second of a core that the
workers could have used, whether they did or waited for each other.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import Wrong, gateway
from bench.figures import Spread, spread
from bench.ground import Audit
from bench.jobs import SEARCH
from bench.load import wrk
from bench.machine import Cores, pinned, scratch
from bench.origin import Origin, origin
from bench.processes import cpu_seconds
from bench.speed import WARM_UP

LEAST_RATIO = 1.7
"""How many times one worker two must do."""


@dataclass(frozen=True)
class Worked:
    """What so many workers did in one round: calls in so many seconds, on so many cores, of which load and upstream
    took `others` seconds.
    """

    round: int
    workers: int
    calls: int
    seconds: float
    others: float
    audit: Audit

    @property
    def rate(self) -> float:
        """Calls a second, had the workers had their cores for themselves."""
        return self.workers * self.calls / (self.workers * self.seconds - self.others)


def measure(places: Cores, *, rounds: int, seconds: int) -> list[Worked]:
    """One worker, two workers, and again. Raises Wrong where there is one core only."""
    if places.shared:
        raise Wrong("two workers need two cores")
    found = []
    with pinned(places.load), origin(places.load) as upstream:
        for number in range(1, rounds + 1):
            for workers in (1, 2):
                one = _once(places, upstream, number, workers, seconds)
                print(f"bench: round {number} {workers} workers {one.rate:,.0f} calls/s", file=sys.stderr)
                found.append(one)
    return found


def ratio(found: Sequence[Worked]) -> Spread:
    """Two workers to one, round by round."""
    return spread([two.rate / one.rate for one, two in zip(found[::2], found[1::2], strict=True)])


def _once(places: Cores, upstream: Origin, number: int, workers: int, seconds: int) -> Worked:
    cores = [places.server] if workers == 1 else places.workers
    with scratch() as folder:
        place = gateway.prepare(folder / "gateway", upstream.port, "full")
        headers = gateway.bearer(gateway.deepen(gateway.mint(place), 4))
        before = upstream.seen()
        with gateway.serving(place, cores, folder / "tolsey.log", workers):
            wrk(place.port, SEARCH, seconds=WARM_UP, core=places.load, folder=folder, headers=headers)
            used, began = _used(upstream), time.monotonic()
            load = wrk(place.port, SEARCH, seconds=seconds, core=places.load, folder=folder, headers=headers)
            took, used = time.monotonic() - began, _used(upstream) - used
        audit = gateway.audit(place, upstream.seen() - before, runs_of_wrk=2)
    if load.failed or not load.calls:
        raise Wrong(f"{load.failed} of {load.calls} calls failed")
    others = used * load.seconds / took if places.load in cores else 0.0
    return Worked(number, workers, load.calls, load.seconds, others, audit)


def _used(upstream: Origin) -> float:
    """Processor time of the upstream and of every load that has ended, in seconds."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return cpu_seconds(upstream.pid) + ended.ru_utime + ended.ru_stime
