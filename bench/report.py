"""The report: tables for a human, one JSON document for a machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.flood import Flood
from bench.memory import LIMIT_MB, Memory
from bench.sheets import Sheet, sheets
from bench.speed import Run

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


def document(runs: Sequence[Run], facts: Facts) -> dict[str, Any]:
    """All raw results with what was made of them."""
    made = [{"title": one.title, "headings": one.headings, "rows": one.rows} for one in sheets(runs, judge=True)]
    return {**facts, "runs": [asdict(run) for run in runs], "sheets": made}


def save(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON document."""
    file.write_text(json.dumps(content, indent=2) + "\n")
