"""docs/performance.md: what lies between two marks is written by the bench, the words around it by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench import BenchError
from bench.machine import ROOT
from bench.sheets import Sheet

PAGE = ROOT / "docs" / "performance.md"


def put(section: str, text: str) -> None:
    """Put a text in the place of the last one of this section. Raises `BenchError` where the page has no such place."""
    begin, end = f"<!-- bench {section} -->", f"<!-- end {section} -->"
    page = PAGE.read_text("utf-8")
    place = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if place.search(page) is None:
        raise BenchError(f"{PAGE.name} has no place for {section}: {begin} and {end}")
    PAGE.write_text(place.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", page), "utf-8")


def markdown(sheets: Sequence[Sheet], facts: Mapping[str, Any], *, pinned: bool = True) -> str:
    """The tables, and how they came about: with the server and its load `pinned` to cores, or not."""
    parts = [_facts(facts, pinned)]
    for sheet in sheets:
        lines = [sheet.headings, ["---", *["---:"] * (len(sheet.headings) - 1)], *sheet.rows]
        parts += [f"**{sheet.title}**", "\n".join(f"| {' | '.join(cells)} |" for cells in lines)]
    return "\n\n".join(parts)


def _facts(facts: Mapping[str, Any], pinned: bool) -> str:
    machine = facts["machine"]
    busy = machine["load_average_before"]
    cores = (
        f" the server under test alone on core {machine['server_core']}, the load and the upstream on core"
        f" {machine['load_core']};"
    )
    return (
        f"`{facts['command']}`, on a machine of {machine['cores']} cores ({machine['architecture']}):"
        f"{cores if pinned else ''} a disk that syncs in {machine['fsync_ms']} ms. Load average before: {busy}"
        + (", so the machine was busy with other work." if busy > machine["cores"] / 4 else ".")
        + f" {'; '.join(facts['versions'].values())}."
    )
