"""The report: tables for a human, one JSON document for a machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.contestants import CONTESTANTS
from bench.figures import TARGETS, Spread, names, of, ratio, spread
from bench.flood import Flood
from bench.memory import LIMIT_MB, Memory
from bench.speed import Run

Facts = Mapping[str, Any]
OURS = ("tolsey", "tolsey-normal")


def console() -> Console:
    """The terminal; elsewhere wide enough for the tables."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=120)


def show(runs: Sequence[Run], facts: Facts, *, judge: bool) -> None:
    """Print everything. ``judge`` says whether the targets are held against the figures."""
    screen = console()
    screen.print(_speeds(runs))
    if set(OURS) & set(names(runs)) and len(names(runs)) > 1:
        screen.print(_ratios(runs))
    _targets(screen, runs, judge)
    for run in runs:
        if run.audit:
            audit = run.audit
            screen.print(
                f"correct during load: round {run.round} {run.contestant}: the ledger has {audit.calls:,} calls"
                f" ({audit.spent} USD, nothing held), the upstream saw {audit.seen:,}; fsck passed",
                soft_wrap=True,
            )
    show_facts(screen, facts)


def show_memory(found: Memory, facts: Facts, *, judge: bool) -> None:
    """Print the memory figure."""
    screen = console()
    screen.print(
        f"worker: {found.after_mb:.1f} MB after {found.tokens:,} distinct tokens, each used once"
        f" ({found.before_mb:.1f} MB before, {found.peak_mb:.1f} MB at its highest; {found.seconds:.1f} s)",
        soft_wrap=True,
    )
    verdict = ("[green]met[/]" if found.met else "[red]not met[/]") if judge else "not judged (--quick)"
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


def _speeds(runs: Sequence[Run]) -> Table:
    table = Table(title="one core, 64 connections, GET with a small JSON reply")
    table.add_column("contestant")
    for heading in ("min calls/s", "median", "max", "p50 ms", "p99 ms", "calls/CPU s", "MB"):
        table.add_column(heading, justify="right")
    for contestant in CONTESTANTS:
        mine = of(runs, contestant.name)
        if not mine:
            continue
        rate = spread([run.load.rate for run in mine])
        table.add_row(
            contestant.title,
            *(f"{value:,.0f}" for value in (rate.low, rate.mid, rate.high)),
            f"{spread([run.load.p50_ms for run in mine]).mid:.2f}",
            f"{spread([run.load.p99_ms for run in mine]).mid:.2f}",
            f"{spread([run.calls_per_cpu_second for run in mine]).mid:,.0f}",
            f"{max(run.memory_mb for run in mine):.0f}",
        )
    return table


def _ratios(runs: Sequence[Run]) -> Table:
    ours = [name for name in OURS if name in names(runs)]
    table = Table(title="calls/s to the peer's in the same round: median (least to greatest)")
    table.add_column("peer")
    for name in ours:
        table.add_column(name, justify="right")
    for contestant in CONTESTANTS:
        cells = [_cell(ratio(runs, name, contestant.name)) if name != contestant.name else "" for name in ours]
        if any(cells):
            table.add_row(contestant.title, *cells)
    return table


def _cell(found: Spread | None) -> str:
    return f"{found.mid:.2f} ({found.low:.2f} to {found.high:.2f})" if found else ""


def _targets(screen: Console, runs: Sequence[Run], judge: bool) -> None:
    if not judge:
        screen.print("targets: not judged (--quick)")
        return
    for target in TARGETS:
        found = ratio(runs, target.ours, target.peer)
        word = "not measured" if found is None else _verdict(target.met(found.mid), found)
        screen.print(f"target: {target.text}: {word}")


def _verdict(met: bool, found: Spread) -> str:
    word = "[green]met[/]" if met else "[red]not met[/]"
    return f"{word}, {_cell(found)}"


def document(runs: Sequence[Run], facts: Facts) -> dict[str, Any]:
    """All raw results with what was made of them."""
    ratios: dict[str, dict[str, Any]] = {}
    for ours in OURS:
        for peer in names(runs):
            found = ratio(runs, ours, peer)
            if found and peer != ours:
                ratios.setdefault(ours, {})[peer] = asdict(found)
    targets = []
    for target in TARGETS:
        found = ratio(runs, target.ours, target.peer)
        met = target.met(found.mid) if found else None
        targets.append({**asdict(target), "median": found.mid if found else None, "met": met})
    rows = [{**asdict(run), "calls_per_second": run.load.rate} for run in runs]
    return {**facts, "runs": rows, "ratios": ratios, "targets": targets}


def save(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON document."""
    file.write_text(json.dumps(content, indent=2) + "\n")
