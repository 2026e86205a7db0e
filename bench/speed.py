"""The rounds: every contestant once, then all again, so that what disturbs the machine disturbs them all."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench import BenchError, Wrong
from bench.contestants import OURS, Contestant
from bench.ground import Audit, Ground, Server
from bench.jobs import CHAT, JOBS, SEARCH, Job
from bench.load import Load, wrk
from bench.machine import Cores, by_process, pinned, scratch
from bench.origin import origin
from bench.pace import Paced, paced
from bench.processes import cpu_seconds, memory_mb, tree, written_bytes

WARM_UP = 1

NOT_WEIGHED = (
    "only root can have a core divided among processes alone (autogroup, sched(7)):"
    " at fixed rates what stands on the load's core, a database above all, is late by milliseconds"
)


class NotUp(BenchError):
    """A contestant cannot be called."""


@dataclass(frozen=True)
class Did:
    """One job under full load: calls for each second of processor time, and bytes written to disk for each call."""

    job: str
    load: Load
    calls_per_cpu_second: float
    bytes_per_call: float


@dataclass(frozen=True)
class Run:
    """One contestant in one round: each job under full load, and the first job at fixed rates."""

    round: int
    contestant: str
    cold_ms: float
    memory_mb: float
    did: list[Did]
    paced: list[Paced] = field(default_factory=list)
    audit: Audit | None = None

    def of(self, job: str) -> Did | None:
        """What it did of one job."""
        return next((did for did in self.did if did.job == job), None)


def measure(
    contestants: Sequence[Contestant],
    places: Cores,
    *,
    rounds: int,
    seconds: int,
    jobs: Sequence[Job] = JOBS,
    rates: Sequence[int] = (),
    warm_up: int = WARM_UP,
) -> list[Run]:
    """All contestants, interleaved: A B C, A B C, each job after so many seconds of it that do not count. The bench
    itself keeps to the core of the load. A peer that does not come up is left out of every round.
    """
    runs: list[Run] = []
    absent: set[str] = set()
    with pinned(places.load), by_process() as weighed, origin(places.load) as upstream:
        if not weighed:
            print(f"bench: {NOT_WEIGHED}", file=sys.stderr)
        for number in range(1, rounds + 1):
            for contestant in contestants:
                if contestant.name in absent:
                    continue
                try:
                    run = _once(contestant, Ground(places, upstream), number, seconds, jobs, rates, warm_up)
                except NotUp as error:
                    if contestant.tool == OURS:
                        raise
                    print(f"bench: {error}: left out", file=sys.stderr)
                    absent.add(contestant.name)
                    continue
                said = ", ".join(f"{did.job} {did.load.rate:,.0f}" for did in run.did)
                print(f"bench: round {number} {run.contestant:15} {said} calls/s", file=sys.stderr)
                runs.append(run)
    return [run for run in runs if run.contestant not in absent]


def _once(
    contestant: Contestant,
    ground: Ground,
    number: int,
    seconds: int,
    jobs: Sequence[Job],
    rates: Sequence[int],
    warm_up: int,
) -> Run:
    """Start it, load it with each job, stop it; whoever keeps a ledger is audited as it stops."""
    core = ground.places.load
    try:
        with _up(contestant, ground) as server:
            did = [_do(server, job, seconds, core, warm_up) for job in jobs if job in contestant.jobs]
            at_rates = [_pace(server, rate, seconds, core) for rate in rates if contestant.paced]
            memory = max((memory_mb(pid) for pid in tree(server.process.pid)), default=0.0) if server.process else 0.0
    except BenchError as error:
        raise type(error)(f"{contestant.name}, round {number}: {error}") from error
    return Run(number, contestant.name, server.cold_ms, memory, did, at_rates, server.audit)


@contextlib.contextmanager
def _up(contestant: Contestant, ground: Ground) -> Iterator[Server]:
    with contextlib.ExitStack() as started:
        try:
            server = started.enter_context(contestant.start(ground))
        except Exception as error:  # what others' programs do as they start is for them to say
            raise NotUp(f"it did not come up: {error}") from error
        yield server


def _do(server: Server, job: Job, seconds: int, core: int, warm_up: int) -> Did:
    assert server.process is not None
    pid = server.process.pid
    with scratch() as folder:
        if warm_up and not server.is_warm:
            wrk(server.port, job, seconds=warm_up, core=core, folder=folder, headers=server.headers)
        cpu, written = cpu_seconds(pid), written_bytes(pid)
        with _trying(server):
            load = wrk(server.port, job, seconds=seconds, core=core, folder=folder, headers=server.headers)
        cpu, written = cpu_seconds(pid) - cpu, written_bytes(pid) - written
    server.runs_of_wrk += 2
    server.llm_runs_of_wrk += 2 * (job is CHAT)
    if load.failed or not load.calls:
        raise Wrong(f"{job.title}: {load.failed} of {load.calls} calls failed")
    return Did(job.name, load, load.calls / cpu if cpu else 0.0, written / load.calls)


@contextlib.contextmanager
def _trying(server: Server) -> Iterator[None]:
    """Try both laws, once, while the block runs."""
    laws, server.laws = server.laws, None
    with ThreadPoolExecutor(1) as pool:
        trial = None if laws is None else pool.submit(laws, server.port)
        yield
        if trial is not None:
            trial.result()


def _pace(server: Server, rate: int, seconds: int, core: int) -> Paced:
    found = paced(server.port, SEARCH, rate, seconds=seconds, core=core, headers=server.headers)
    if found.failed:
        raise Wrong(f"at {rate} calls a second {found.failed} of {found.calls} failed")
    return found
