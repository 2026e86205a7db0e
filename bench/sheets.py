"""The tables that are made of the runs, for a terminal and for docs/performance.md alike. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench import plot
from bench.contestants import CONTESTANTS, DIRECT, OURS
from bench.figures import Spread, added, each, jobs, late, names, of, per_cpu, rate, rates, ratio, spread, targets
from bench.jobs import JOBS, SEARCH
from bench.speed import Run

TITLES = {one.name: one.title for one in CONTESTANTS}


@dataclass(frozen=True)
class Sheet:
    """A table: all columns but the first are figures."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def sheets(runs: Sequence[Run], *, judge: bool) -> list[Sheet]:
    """All of them. ``judge`` says whether the targets are held against the figures."""
    found = [_full(runs)]
    if len(jobs(runs)) > 1:
        found.append(_jobs(runs))
    if OURS in names(runs):
        found.append(_ratios(runs))
    found += [_latency(runs, at) for at in rates(runs)]
    if judge:
        found.append(_targets(runs))
    return [sheet for sheet in found if sheet.rows]


def _loaded(runs: Sequence[Run]) -> list[str]:
    return [name for name in names(runs) if name != DIRECT]


def _full(runs: Sequence[Run]) -> Sheet:
    rows = []
    for name in _loaded(runs):
        did = [found for run in of(runs, name) if (found := run.of(SEARCH.name)) is not None]
        cpu = each(runs, name, SEARCH.name, per_cpu)
        calls = each(runs, name, SEARCH.name, rate)
        if not did or calls is None or cpu is None:
            continue
        rows.append(
            (
                TITLES[name],
                calls.text(0),
                f"{cpu.mid:,.0f}",
                f"{spread([one.load.p50_ms for one in did]).mid:.2f}",
                f"{spread([one.load.p99_ms for one in did]).mid:.2f}",
                f"{max(run.memory_mb for run in of(runs, name)):.0f}",
                f"{spread([one.bytes_per_call for one in did]).mid:,.0f}",
                f"{spread([run.cold_ms for run in of(runs, name)]).mid:,.0f}",
            )
        )
    headings = (
        "contestant",
        "calls/s",
        "calls a CPU second",
        "p50 ms",
        "p99 ms",
        "memory MB",
        "bytes written a call",
        "ready after ms",
    )
    return Sheet(f"{SEARCH.title}, 64 connections, as fast as it goes", headings, rows)


def _jobs(runs: Sequence[Run]) -> Sheet:
    done = [job for job in JOBS if job.name in jobs(runs)]
    rows = []
    for name in _loaded(runs):
        found = [each(runs, name, job.name, rate) for job in done]
        if sum(one is not None for one in found) > 1:
            rows.append((TITLES[name], *(_figure(one, 0) for one in found)))
    return Sheet("Calls a second, by what is asked", ("contestant", *(job.title for job in done)), rows)


def _ratios(runs: Sequence[Run]) -> Sheet:
    done = [job for job in JOBS if job.name in jobs(runs)]
    rows = []
    for name in _loaded(runs):
        if name != OURS:
            cells = [ratio(runs, OURS, name, job.name) for job in done]
            cells.append(ratio(runs, OURS, name, figure=per_cpu))
            if any(cells):
                rows.append((TITLES[name], *(_figure(one, 2) for one in cells)))
    headings = ("Tolsey to", *(job.title for job in done), f"{SEARCH.title}, by processor time")
    return Sheet("Calls a second to those of others in the same round: median (least to greatest)", headings, rows)


def _latency(runs: Sequence[Run], at: int) -> Sheet:
    rows = []
    for name in names(runs):
        found = [late(runs, name, at, figure) for figure in ("p50_ms", "p99_ms", "p999_ms")]
        if all(found):
            more = None if name == DIRECT else added(runs, name, at)
            rows.append((TITLES[name], *(_figure(one, 2) for one in (*found, more))))
    headings = ("contestant", "p50 ms", "p99 ms", "p99.9 ms", "added to p50, ms")
    return Sheet(f"{SEARCH.title}, {at:,} calls a second, each timed from when it was due", headings, rows)


def _targets(runs: Sequence[Run]) -> Sheet:
    rows = []
    for target in targets(runs):
        found = target.found(runs)
        if found is not None:
            rows.append((target.text, found.text(), "met" if target.met(found) else "**not met**"))
    return Sheet("Wanted", ("of Tolsey", "found", ""), rows)


def _figure(found: Spread | None, digits: int) -> str:
    return "" if found is None else found.text(digits)


def picture(runs: Sequence[Run]) -> str:
    """Calls for each second of processor time, Caddy being 1, as SVG."""
    done = [job for job in JOBS if job.name in jobs(runs)]
    base = "caddy" if "caddy" in names(runs) else _loaded(runs)[0]
    rows = [
        (TITLES[name], [ratio(runs, name, base, job.name, per_cpu) for job in done])
        for name in _loaded(runs)
    ]  # fmt: skip
    title = f"Calls for each second of processor time ({TITLES[base]} = 1)"
    return plot.bars(title, [job.title for job in done], rows)
