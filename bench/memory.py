"""The memory figure: so many distinct tokens, each used once, then the memory of the worker that served them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench import Wrong, gateway
from bench.client import call_all
from bench.ground import Audit
from bench.load import CONNECTIONS
from bench.machine import Cores, pinned, scratch
from bench.origin import PATH, origin
from bench.processes import memory_mb, tree

LIMIT_MB = 120.0


@dataclass(frozen=True)
class Memory:
    """Memory of the worker before and after, at its highest, and what the ledger said."""

    tokens: int
    seconds: float
    before_mb: float
    after_mb: float
    peak_mb: float
    audit: Audit

    @property
    def met(self) -> bool:
        """Whether the worker stayed under the limit."""
        return self.after_mb < LIMIT_MB


def measure(places: Cores, count: int) -> Memory:
    """Each token is attenuated offline from one parent and has a budget, so an account, of its own."""
    with pinned(places.load), origin(places.load) as upstream, scratch() as folder:
        place = gateway.prepare(folder / "gateway", upstream.port, "full")
        parent = gateway.attenuate(gateway.mint(place), "swarm", "1000000 USD")
        before = upstream.seen()
        with gateway.serving(place, places.server, folder / "tolsey.log") as process:
            first = memory_mb(largest(process.pid))
            start = time.monotonic()
            made = asyncio.run(call_all(place.port, PATH, _tokens(parent, count), connections=CONNECTIONS))
            seconds = time.monotonic() - start
            worker = largest(process.pid)
            last, peak = memory_mb(worker), memory_mb(worker, "VmHWM")
        audit = gateway.audit(place, upstream.seen() - before, runs_of_wrk=0)
    if made != count or audit.calls != count:
        raise Wrong(f"{count} tokens, {made} calls answered, {audit.calls} in the ledger")
    return Memory(count, seconds, first, last, peak, audit)


def _tokens(parent: str, count: int) -> Iterator[str]:
    """Distinct children of one parent, made as they are needed."""
    from tolsey import attenuate

    for number in range(1, count + 1):
        if number % 10_000 == 0:
            print(f"bench: {number:,} tokens", file=sys.stderr)
        yield attenuate(parent, label=f"worker-{number}", budget="1 USD")


def largest(pid: int) -> int:
    """The largest process below ``serve``, which is the worker; ``serve`` itself if it has none."""
    _, *below = tree(pid)
    return max(below, key=memory_mb, default=pid)
