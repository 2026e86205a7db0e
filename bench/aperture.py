"""Aperture as a contestant: Lightning Labs' L402 proxy, called with a token that was paid for, before the upstream.

It needs a Lightning node to sell and one to buy: those of `make test-lightning`, on the core of the load. Its tokens
are for as many calls as their holder likes: it checks each and counts none. It sends a token on
in two headers `Authorization`, which nginx, the upstream here, refuses; `Connection: Authorization` has it leave them
out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import httpx

from bench import BenchError, Missing
from bench.ground import Ground, Server
from bench.jobs import JOBS, SEARCH
from bench.machine import pinned, scratch
from tests import aperture as real
from tests.lightning_rig import build, lightning
from tolsey.pay import LndWallet


@contextlib.contextmanager
def aperture(ground: Ground) -> Iterator[Server]:
    """Aperture before the upstream."""
    try:
        build()
    except RuntimeError as error:
        raise Missing(f"{error}; or leave aperture out with --only") from error
    paths = "|".join(f"^{job.path}$" for job in JOBS)
    with scratch() as folder, lightning(folder) as rig:
        with pinned(ground.places.server):
            began = time.monotonic()
            running = real.Aperture(folder / "aperture", rig.seller, ground.origin.port, paths=paths, path=SEARCH.path)
            cold = (time.monotonic() - began) * 1000
        try:
            wallet = LndWallet(rig.payer.url, rig.payer.macaroon("admin"))
            authorization = real.presented(*real.buy(running.url, wallet, SEARCH.path))
            headers = (("Authorization", authorization), ("Connection", "Authorization"))
            answer = httpx.get(running.url + SEARCH.path, headers=dict(headers))
            if answer.status_code != 200:
                raise BenchError(f"Aperture answered {answer.status_code}: {answer.text}")
            yield Server(running.port, running.program.process, headers, cold)
        finally:
            running.stop()
