"""What all contestants share: the cores, the upstream, and what is known of a running server."""

from __future__ import annotations

from dataclasses import dataclass
from subprocess import Popen

from bench.machine import Cores
from bench.origin import Origin


@dataclass(frozen=True)
class Ground:
    """Where a contestant runs and what stands behind it."""

    places: Cores
    origin: Origin


@dataclass(frozen=True)
class Audit:
    """What Tolsey's ledger says after a run, beside what the upstream saw."""

    calls: int
    spent: str
    held: str
    seen: int


@dataclass
class Server:
    """A contestant that is up. ``audit`` is there once it has been stopped, if it keeps a ledger."""

    port: int
    process: Popen[bytes]
    token: str | None = None
    audit: Audit | None = None
