"""The ledger alone: PostgreSQL beside SQLite, one and four processes on one hot root, and how the cost of a call grows
with the levels of its chain, with the accounts and with the entries that are there.

Every figure is a number of calls a second through the Book; a call is a reserve, durable before it counts, and its
settle. The engines take turns, so that what disturbs the machine disturbs both.
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

from rich.table import Table

from bench import Wrong
from bench.machine import ROOT, scratch
from bench.report import Facts, console, show_facts
from tests.postgres import Server, binaries

LANES = 128
LEVELS = (1, 2, 4, 8, 16)
ACCOUNTS = (1_000, 100_000)
MANY_ACCOUNTS = 1_000_000
ENTRIES = (10_000, 1_000_000)
MANY_ENTRIES = 10_000_000
LEAST_RATIO = 0.5
LEAST_RATE = 20_000
ENGINES = ("sqlite", "postgresql")
DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}


@dataclass(frozen=True)
class Case:
    """What is measured: processes that share the lanes, levels of each chain, and what is in the ledger before."""

    title: str
    processes: int = 1
    levels: int = 4
    leaves: int = 0
    entries: int = 0


@dataclass(frozen=True)
class Run:
    """One case on one engine in one round."""

    round: int
    case: Case
    engine: str
    rate: float


def version() -> str:
    """Which PostgreSQL it is."""
    done = subprocess.run([binaries() / "postgres", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip().replace("postgres (PostgreSQL)", "PostgreSQL")


def cases(quick: bool, large: bool) -> list[Case]:
    """All of them; the large ones take minutes to fill, and gigabytes."""
    accounts = (100, 1_000) if quick else (*ACCOUNTS, *((MANY_ACCOUNTS,) if large else ()))
    entries = (100, 1_000) if quick else (*ENTRIES, *((MANY_ENTRIES,) if large else ()))
    return [
        Case("1 process"),
        Case("4 processes", processes=4),
        *(Case(f"{levels} levels", levels=levels) for levels in LEVELS),
        *(Case(f"{count:,} accounts", leaves=count, levels=2) for count in accounts),
        *(Case(f"{count:,} entries", entries=count) for count in entries),
    ]


def measure(*, quick: bool, large: bool, rounds: int, seconds: float) -> list[Run]:
    """Every case on both engines, so many rounds."""
    runs = []
    with _server() as server:
        for case in cases(quick, large):
            with _filled(case, server) as places:
                for number in range(1, rounds + 1):
                    for engine in ENGINES:
                        rate = _load(places[engine], case, f"{engine[:1]}{number}", seconds)
                        print(
                            f"bench: round {number} {case.title:16} {engine:10} {rate:9,.0f} calls/s", file=sys.stderr
                        )
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
def _filled(case: Case, server: Server) -> Iterator[dict[str, str]]:
    """A ledger of each engine with what the case wants to be there."""
    with scratch() as folder:
        places = {"sqlite": str(folder / "ledger.db"), "postgresql": server.database()}
        for place in places.values():
            _load(place, Case("", levels=case.levels), "first", 0.05)
        with contextlib.closing(sqlite3.connect(places["sqlite"])) as db:
            for statement in _fill(
                case, "WITH RECURSIVE s (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < {})"
            ):
                db.execute(statement)
            db.commit()
        for statement in _fill(case, "WITH s (i) AS (SELECT generate_series(0, {}))"):
            server.psql(f"SET search_path = tolsey; {statement}")
        server.psql("VACUUM ANALYZE")
        server.psql("CHECKPOINT")
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
    counts = [str(case.levels), str(LANES // case.processes), str(case.leaves)]
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


def rate(runs: Sequence[Run], title: str, engine: str) -> float:
    """The median of a case."""
    return median(run.rate for run in runs if (run.case.title, run.engine) == (title, engine))


def ratio(runs: Sequence[Run], title: str) -> float:
    """PostgreSQL's calls a second to SQLite's, in the same round: the median."""
    pairs = zip(
        *([r.rate for r in runs if (r.case.title, r.engine) == (title, engine)] for engine in ENGINES), strict=True
    )
    return float(median(theirs / ours for ours, theirs in pairs))


def show(runs: Sequence[Run], facts: Facts, *, judge: bool) -> None:
    """Print everything. ``judge`` says whether the targets are held against the figures."""
    screen = console()
    table = Table(title=f"the ledger alone, calls/s through the Book, {LANES} at once (median)")
    table.add_column("case")
    for heading in ("SQLite", "PostgreSQL", "ratio", "SQLite µs", "PostgreSQL µs"):
        table.add_column(heading, justify="right")
    for title in dict.fromkeys(run.case.title for run in runs):
        rates = [rate(runs, title, engine) for engine in ENGINES]
        costs = [f"{1e6 / one:.1f}" for one in rates]
        table.add_row(title, *(f"{one:,.0f}" for one in rates), f"{ratio(runs, title):.2f}", *costs)
    screen.print(table)
    hot, four = rate(runs, "1 process", "postgresql"), rate(runs, "4 processes", "postgresql")
    for text, met in (
        (f"4 processes on PostgreSQL at least {LEAST_RATIO} times SQLite's", ratio(runs, "4 processes") >= LEAST_RATIO),
        (f"PostgreSQL at least {LEAST_RATE:,} reserves/s, each also settled", max(hot, four) >= LEAST_RATE),
    ):
        verdict = ("[green]met[/]" if met else "[red]not met[/]") if judge else "not judged (--quick)"
        screen.print(f"target: {text}: {verdict}")
    show_facts(screen, facts)


def document(runs: Sequence[Run], facts: Facts) -> dict[str, Any]:
    """All raw results."""
    rows = [{"round": r.round, "case": r.case.title, "engine": r.engine, "calls_per_second": r.rate} for r in runs]
    return {**facts, "ledger": rows}
