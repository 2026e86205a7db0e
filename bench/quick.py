"""Where nginx or wrk cannot be had: Tolsey alone, with a tiny client and upstream. Checks the ledger, not the speed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench import gateway
from bench.client import call_all, tiny_upstream
from bench.ground import Audit
from bench.machine import Cores, scratch
from bench.origin import PATH

CALLS = 500


def check(places: Cores) -> Audit:
    """A few hundred calls through a gateway; its ledger must have exactly those."""
    with scratch() as folder:
        return asyncio.run(_check(places, folder))


async def _check(places: Cores, folder: Path) -> Audit:
    async with tiny_upstream() as upstream:
        place = await asyncio.to_thread(gateway.prepare, folder / "gateway", upstream.port, "full")
        token = await asyncio.to_thread(lambda: gateway.deepen(gateway.mint(place), 4))
        with gateway.serving(place, places.server, folder / "tolsey.log"):
            await call_all(place.port, PATH, [token] * CALLS, connections=16)
        return gateway.audit(place, upstream.count, runs_of_wrk=0)
