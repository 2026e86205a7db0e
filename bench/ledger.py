"""The ledger alone: PostgreSQL beside SQLite, one and four processes on one hot root, and how the cost of a call grows
with the levels of its chain, with the accounts and with the entries that are there.

Every figure is a number of calls a second through the Book; a call is a reserve, durable before it counts, and its
settle, but for one case that times reserves alone. Everything is filled first; then the cases take turns,
and in each the engines, round after round, so that what disturbs the machine disturbs them all. Cases that are held
against each other come one after the other. Machines differ, so a rate that is wanted is held against one that needs no
ledger, in the same round.

With many accounts `IN_USE` of them are called, as those of an afternoon among those of a year; where all are, most
calls have one that nobody remembers, and read it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import Wrong
from bench.ledger_raw import ON_THE_MACHINE_OF_THE_TARGET
from bench.machine import ROOT, scratch
from bench.report import Facts
from bench.sheets import Sheet
from tests.postgres import Server, binaries

LANES = 128
"""Calls at once in each process."""

IN_USE = 1_000
LEVELS = (1, 16, 2, 4, 8)
ACCOUNTS = (1_000, 100_000)
MANY_ACCOUNTS = 1_000_000
ENTRIES = (10_000, 1_000_000)
MANY_ENTRIES = 10_000_000
LEAST_RATIO = 0.5
LEAST_RATE = 20_000
MOST_BY_LEVELS, MOST_BY_SIZE = 1.3, 1.1
RESERVES = "4 processes, reserves alone"
ENGINES = ("sqlite", "postgresql")
DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}


@dataclass(frozen=True)
class Case:
    """What is measured: processes, levels of each chain, what is in the ledger before, and how many of the accounts
    there are called. Where it is not `settled`, only reserves are timed.
    """

    title: str
    processes: int = 1
    levels: int = 4
    leaves: int = 0
    used: int = 0
    entries: int = 0
    settled: bool = True


@dataclass(frozen=True)
class Run:
    """One case on one engine in one round."""

    round: int
    case: Case
    engine: str
    rate: float


YARDSTICK = Case("reserves without a ledger", processes=1, settled=False)
"""See `bench.ledger_raw`."""


def version() -> str:
    """Which PostgreSQL it is."""
    done = subprocess.run([binaries() / "postgres", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip().replace("postgres (PostgreSQL)", "PostgreSQL")


def cases(quick: bool, large: bool) -> list[Case]:
    """All of them; the large ones take minutes to fill, and gigabytes."""
    accounts = (100, 1_000) if quick else (ACCOUNTS[0], *((MANY_ACCOUNTS,) if large else ()), ACCOUNTS[1])
    entries = (100, 1_000) if quick else (ENTRIES[0], *((MANY_ENTRIES,) if large else ()), ENTRIES[1])
    return [
        Case("1 process"),
        Case("4 processes", processes=4),
        Case(RESERVES, processes=4, settled=False),
        *(Case(_levels(levels), levels=levels) for levels in LEVELS),
        *(Case(_accounts(count), leaves=count, used=min(count, IN_USE), levels=2) for count in accounts),
        Case(f"{accounts[-1]:,} accounts, all in use", leaves=accounts[-1], used=accounts[-1], levels=2),
        *(Case(_entries(count), entries=count) for count in entries),
    ]


def _accounts(count: int) -> str:
    return f"{count:,} accounts"


def _levels(count: int) -> str:
    return f"{count} level{'s' if count > 1 else ''}"


def _entries(count: int) -> str:
    return f"{count:,} entries"


def measure(*, quick: bool, large: bool, rounds: int, seconds: float) -> list[Run]:
    """Every case on both engines, so many rounds."""
    runs = []
    with _server() as server, contextlib.ExitStack() as stack:
        filled = []
        for count, case in enumerate(cases(quick, large)):
            print(f"bench: filling the ledgers of {case.title}", file=sys.stderr)
            filled.append((case, stack.enter_context(_filled(case, server, f"case{count}"))))
        server.psql("CREATE DATABASE raw")
        server.psql("CHECKPOINT")
        for number in range(1, rounds + 1):
            raw = _raw(server.url("raw"), seconds)
            print(
                f"bench: round {number} {YARDSTICK.title:28} {'postgresql':10} {raw:9,.0f} reserves/s", file=sys.stderr
            )
            runs.append(Run(number, YARDSTICK, "postgresql", raw))
            for case, places in filled:
                for engine in ENGINES:
                    rate = _load(places[engine], case, f"{engine[:1]}{number}", seconds)
                    print(f"bench: round {number} {case.title:28} {engine:10} {rate:9,.0f} calls/s", file=sys.stderr)
                    runs.append(Run(number, case, engine, rate))
    return runs


@contextlib.contextmanager
def _server() -> Iterator[Server]:
    """A server on the disk of the repository, as durable as a real one."""
    with scratch() as folder:
        server = Server(folder)
        server.settings = dict(DURABLE)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def _filled(case: Case, server: Server, database: str) -> Iterator[dict[str, str]]:
    """A ledger of each engine with what the case wants to be there."""
    with scratch() as folder:
        server.psql(f"CREATE DATABASE {database}")
        places = {"sqlite": str(folder / "ledger.db"), "postgresql": server.url(database)}
        for place in places.values():
            _load(place, Case("", levels=case.levels), "first", 0.05)
        with contextlib.closing(sqlite3.connect(places["sqlite"])) as db:
            for statement in _fill(
                case, "WITH RECURSIVE s (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < {})"
            ):
                db.execute(statement)
            db.commit()
        for statement in _fill(case, "WITH s (i) AS (SELECT generate_series(0, {}))"):
            server.psql(f"SET search_path = tolsey; {statement}", database)
        server.psql("VACUUM ANALYZE", database)
        yield places


def _fill(case: Case, series: str) -> Iterator[str]:
    if case.leaves:
        yield (
            'INSERT INTO account (id, unit, parent, label, "limit", granted, spent, held, calls, open, opened_at)'
            f" {series.format(case.leaves - 1)}"
            " SELECT 'leaf' || i, 'USD', 'root', 'leaf' || i, NULL, 0, 0, 0, 0, 0, 0 FROM s"
        )
    for kind in ("reserve", "settle") if case.entries else ():
        yield (
            "INSERT INTO entry (at, kind, hold, leaf, amount, owner, note)"
            f" {series.format(case.entries // 2 - 1)} SELECT 0, '{kind}', '0-old-' || i, 1, 1, 0, 'GET /old' FROM s"
        )


def _load(place: str, case: Case, name: str, seconds: float) -> float:
    """Calls a second of all processes together."""
    counts = [str(case.levels), str(LANES), str(case.used), str(int(case.settled))]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.ledger_load", place, f"{name}{number}", *counts],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(case.processes)
    ]
    try:
        found = [json.loads(line) for line in _answers(children, seconds)]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    if any(one["left"] for one in found):
        raise Wrong(f"{case.title} on {Path(place).name}: not everything was settled")
    calls: int = sum(one["calls"] for one in found)
    longest: float = max(one["seconds"] for one in found)
    return calls / longest


def _answers(children: Sequence[subprocess.Popen[str]], seconds: float) -> list[str]:
    """Let all begin once all are ready; what each says at its end."""
    lines = []
    for turn in ("ready", "go", "done"):
        for child in children:
            assert child.stdin is not None
            assert child.stdout is not None
            if turn == "go":
                child.stdin.write(f"{seconds}\n")
                child.stdin.flush()
                continue
            line = child.stdout.readline()
            if not line:
                raise Wrong("a process that loads the ledger ended too early")
            lines += [line] if turn == "done" else []
    return lines


def _raw(url: str, seconds: float) -> float:
    """Reserves a second without a ledger."""
    command = [sys.executable, "-m", "bench.ledger_raw", url, str(seconds)]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def rate(runs: Sequence[Run], title: str, engine: str) -> float:
    """The median of a case."""
    return median(run.rate for run in runs if (run.case.title, run.engine) == (title, engine))


def ratio(runs: Sequence[Run], title: str) -> float:
    """PostgreSQL's calls a second to SQLite's, in the same round: the median."""
    pairs = zip(
        *([r.rate for r in runs if (r.case.title, r.engine) == (title, engine)] for engine in ENGINES), strict=True
    )
    return float(median(theirs / ours for ours, theirs in pairs))


def grown(runs: Sequence[Run], one: str, more: str, engine: str) -> float:
    """What a call costs in the case `more`, where it costs 1 in the case `one`, in the same round: the median."""
    pairs = zip(*_rates(runs, (one, more), engine), strict=True)
    return float(median(few / many for few, many in pairs))


def _rates(runs: Sequence[Run], titles: Sequence[str], engine: str) -> list[list[float]]:
    """What each of these cases made in each round."""
    return [[r.rate for r in runs if (r.case.title, r.engine) == (title, engine)] for title in titles]


def sheets(runs: Sequence[Run], *, judge: bool) -> list[Sheet]:
    """The tables. ``judge`` says whether the targets are held against the figures."""
    rows = []
    for title in dict.fromkeys(run.case.title for run in runs if run.case != YARDSTICK):
        rates = [rate(runs, title, engine) for engine in ENGINES]
        costs = [f"{1e6 / one:.1f}" for one in rates]
        rows.append((title, *(f"{one:,.0f}" for one in rates), f"{ratio(runs, title):.2f}", *costs))
    headings = ("case", "SQLite", "PostgreSQL", "ratio", "SQLite µs", "PostgreSQL µs")
    found = [Sheet(f"Calls a second through the Book, {LANES} at once in each process", headings, rows)]
    if judge:
        found.append(Sheet("Wanted of the ledger", ("", "found", ""), list(_targets(runs))))
    return found


def _targets(runs: Sequence[Run]) -> Iterator[tuple[str, str, str]]:
    titles = {run.case.title for run in runs}
    four = ratio(runs, "4 processes")
    yield f"4 processes on PostgreSQL at least {LEAST_RATIO} times SQLite's", f"{four:.2f}", _met(four >= LEAST_RATIO)
    pairs = zip(*_rates(runs, (RESERVES, YARDSTICK.title), "postgresql"), strict=True)
    most, raw = rate(runs, RESERVES, "postgresql"), rate(runs, YARDSTICK.title, "postgresql")
    share = median(ours / bare for ours, bare in pairs)
    there = share * ON_THE_MACHINE_OF_THE_TARGET
    wanted = f"{LEAST_RATE:,} reserves/s where there are {ON_THE_MACHINE_OF_THE_TARGET:,} without a ledger"
    found = f"{there:,.0f} ({most:,.0f} where there are {raw:,.0f})"
    yield f"PostgreSQL, 4 processes: at least {wanted}", found, _met(there >= LEAST_RATE)
    for one, many, limit in (
        (_levels(LEVELS[0]), _levels(LEVELS[1]), MOST_BY_LEVELS),
        (_accounts(ACCOUNTS[0]), _accounts(MANY_ACCOUNTS), MOST_BY_SIZE),
        (_entries(ENTRIES[0]), _entries(MANY_ENTRIES), MOST_BY_SIZE),
    ):
        for engine, name in zip(ENGINES, ("SQLite", "PostgreSQL"), strict=True) if {one, many} <= titles else ():
            cost = grown(runs, one, many, engine)
            yield f"{name}: {many} at most {limit} times the cost of {one}", f"{cost:.2f}", _met(cost <= limit)


def _met(met: bool) -> str:
    return "met" if met else "**not met**"


def document(runs: Sequence[Run], facts: Facts) -> dict[str, Any]:
    """All raw results."""
    rows = [{"round": r.round, "case": r.case.title, "engine": r.engine, "calls_per_second": r.rate} for r in runs]
    return {**facts, "ledger": rows}
