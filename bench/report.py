"""The report: tables for a human, one JSON document for a machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import fresh, workers
from bench.flood import Flood
from bench.fresh import Fresh
from bench.jobs import SEARCH
from bench.memory import LIMIT_MB, Memory
from bench.sheets import Sheet, sheets
from bench.speed import Run
from bench.steady import MOST_GROWTH, Steady
from bench.workers import Worked

Facts = Mapping[str, Any]


def console() -> Console:
    """The terminal; elsewhere wide enough for the tables."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=120)


def show(runs: Sequence[Run], facts: Facts, *, judge: bool) -> None:
    """Print everything. ``judge`` says whether the targets are held against the figures."""
    screen = console()
    show_sheets(screen, sheets(runs, judge=judge))
    for run in runs:
        if run.audit:
            audit = run.audit
            screen.print(
                f"correct during load: round {run.round} {run.contestant}: the ledger has {audit.calls:,} calls"
                f" ({audit.spent} USD, nothing held), the upstream saw {audit.seen:,}; fsck passed",
                soft_wrap=True,
            )
    show_facts(screen, facts)


def show_sheets(screen: Console, found: Sequence[Sheet]) -> None:
    """Print tables."""
    for sheet in found:
        table = Table(title=sheet.title)
        table.add_column(sheet.headings[0])
        for heading in sheet.headings[1:]:
            table.add_column(heading, justify="right")
        for row in sheet.rows:
            table.add_row(*(cell.replace("**", "") for cell in row))
        screen.print(table)


def show_memory(found: Memory, facts: Facts, *, judge: bool) -> None:
    """Print the memory figure."""
    screen = console()
    screen.print(
        f"worker: {found.after_mb:.1f} MB after {found.tokens:,} distinct tokens, each used once"
        f" ({found.before_mb:.1f} MB before, {found.peak_mb:.1f} MB at its highest; {found.seconds:.1f} s)",
        soft_wrap=True,
    )
    verdict = _verdict(found.met, judge=judge)
    screen.print(f"target: under {LIMIT_MB:.0f} MB: {verdict}")
    audit = found.audit
    screen.print(f"correct: the ledger has {audit.calls:,} calls, the upstream saw {audit.seen:,}; fsck passed")
    show_facts(screen, facts)


def show_flood(found: Sequence[Flood], facts: Facts) -> None:
    """Print what strangers cost."""
    screen = console()
    table = Table(title="calls without a token, each from another address")
    for name in ("limit", "answers", "CPU µs a call", "memory", "ledger"):
        table.add_column(name)
    for one in found:
        answers = ", ".join(f"{count:,} × {status}" for status, count in one.answers.items())
        table.add_row(one.what, answers, f"{one.cpu_us:.0f}", f"{one.grown_mb:+.1f} MB", f"{one.ledger_bytes:+,} B")
    screen.print(table)
    show_facts(screen, facts)


def show_steady(found: Steady, facts: Facts) -> None:
    """Print whether memory is flat."""
    screen = console()
    samples, verdict = found.memory_mb, _verdict(found.met, judge=True)
    screen.print(
        f"worker: {samples[0]:.1f} MB at first, {samples[len(samples) // 5]:.1f} after a fifth, {max(samples):.1f} at"
        f" most, {samples[-1]:.1f} at the end; {found.tokens:,} distinct tokens in {found.minutes} minutes",
        soft_wrap=True,
    )
    screen.print(f"target: flat, the last fifth at most {MOST_GROWTH} times the second: {found.growth:.3f}: {verdict}")
    audit = found.audit
    screen.print(f"correct: the ledger has {audit.calls:,} calls, the upstream saw {audit.seen:,}; fsck passed")
    show_facts(screen, facts)


def show_workers(found: Sequence[Worked], facts: Facts, *, judge: bool) -> None:
    """Print what two workers do, and what one."""
    screen = console()
    table = Table(title=f"{SEARCH.title}, 64 connections, as if load and upstream ran elsewhere")
    for name in ("round", "workers", "calls/s", "calls/s seen", "cores taken by load and upstream"):
        table.add_column(name, justify="right")
    for one in found:
        seen, taken = one.calls / one.seconds, one.others / one.seconds
        table.add_row(str(one.round), str(one.workers), f"{one.rate:,.0f}", f"{seen:,.0f}", f"{taken:.2f}")
    screen.print(table)
    ratio = workers.ratio(found)
    verdict = _verdict(ratio.mid >= workers.LEAST_RATIO, judge=judge)
    screen.print(f"target: two workers at least {workers.LEAST_RATIO} times one: {ratio.text()}: {verdict}")
    show_facts(screen, facts)


def show_fresh(found: Sequence[Fresh], facts: Facts, *, judge: bool) -> None:
    """Print what it costs to verify sub-tokens that are new."""
    screen = console()
    table = Table(title=f"processor time to verify each of {found[0].tokens:,} fresh sub-tokens of one link, µs")
    for name in ("links of the parent", "parent known", "parent not known"):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(str(one.depth), f"{one.known_us:.1f}", f"{one.unknown_us:.1f}")
    screen.print(table)
    ratio = fresh.ratio(found)
    verdict = _verdict(ratio <= fresh.MOST_RATIO, judge=judge)
    deep, flat = found[-1].depth, found[0].depth
    screen.print(
        f"target: under a known parent of {deep} links at most {fresh.MOST_RATIO} times the cost under one of {flat}:"
        f" {ratio:.2f}: {verdict}",
        soft_wrap=True,
    )
    show_facts(screen, facts)


def _verdict(met: bool, *, judge: bool) -> str:
    if not judge:
        return "not judged (--quick)"
    return "[green]met[/]" if met else "[red]not met[/]"


def show_facts(screen: Console, facts: Facts) -> None:
    """On what, with what, and by which command the figures came about."""
    machine = facts["machine"]
    screen.print("\nversions: " + "; ".join(facts["versions"].values()), soft_wrap=True)
    screen.print(
        f"machine: {machine['cores']} cores, server on core {machine['server_core']}, load and upstream on core"
        f" {machine['load_core']}; {machine['system']} {machine['architecture']}; fsync {machine['fsync_ms']} ms;"
        f" load average before {machine['load_average_before']}",
        soft_wrap=True,
    )
    if machine["server_core"] == machine["load_core"]:
        screen.print("[yellow]only one core: server and load stood in each other's way[/]")
    if machine["load_average_before"] > machine["cores"] / 4:
        screen.print("[yellow]the machine was busy with other work: the figures are noisy, only ratios count[/]")
    screen.print(f"command: {facts['command']}", soft_wrap=True)


def document(runs: Sequence[Run], facts: Facts) -> dict[str, Any]:
    """All raw results with what was made of them."""
    made = [{"title": one.title, "headings": one.headings, "rows": one.rows} for one in sheets(runs, judge=True)]
    return {**facts, "runs": [asdict(run) for run in runs], "sheets": made}


def save(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON document."""
    file.write_text(json.dumps(content, indent=2) + "\n")
