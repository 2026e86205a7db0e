"""What all contestants share: the cores, the upstream, and what is known of a running server."""

from __future__ import annotations

from collections.abc import Callable
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
    """A contestant that is up. `process` is None where there is nothing between load and upstream. `headers`
    are in each call, beside the job's. `laws` tries both
    laws while it is loaded, ``is_warm`` says that it needs no load to warm it up, and ``audit`` is there once it has
    been stopped, if it keeps a ledger.
    """

    port: int
    process: Popen[bytes] | None
    headers: tuple[tuple[str, str], ...] = ()
    cold_ms: float = 0.0
    laws: Callable[[int], None] | None = None
    is_warm: bool = False
    runs_of_wrk: int = 0
    llm_runs_of_wrk: int = 0
    audit: Audit | None = None
