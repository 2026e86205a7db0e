"""What a report proposes, as text: `tolsey mint` lines, and the diff of a config that enforces what it observes."""

import difflib
import os
import re
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tolsey.cli.options import DEFAULT_CONFIG
from tolsey.cli.output import printable, say
from tolsey.ledger.proposals import PERCENTILE, Proposal
from tolsey.units import format_nano

if TYPE_CHECKING:
    from tolsey.config import Config

BUDGETS: Final = (
    f"Budgets are the {PERCENTILE}th percentile (nearest rank) of what was spent in a day or an hour, with room for one"
    " call that holds more than it costs, rounded up to two digits."
)

_HEADER = re.compile(r"\s*(\[\[?[^\]]*\]\]?)\s*(?:#.*)?")
_MODE = re.compile(r"(\s*mode\s*=\s*)([\"'])observe\2(.*)", re.DOTALL)

CONTEXT: Final = 1
"""Lines beside a change that are shown. Those next to a mode are of its own table, or the head of another, so that no
secret of an upstream is among them.
"""


def enforced(text: str) -> str | None:
    """A config with `mode = "enforce"` wherever it has `mode = "observe"`. None where it is written otherwise than
    with one key a line, so that this cannot be sure to change all of them and nothing else.
    """
    table = ""
    lines = []
    for line in text.splitlines(keepends=True):
        header = _HEADER.fullmatch(line)
        table = table if header is None else header[1].replace(" ", "")
        mode = _MODE.fullmatch(line) if table in ("[server]", "[[route]]") else None
        lines.append(line if mode is None else f'{mode[1]}"enforce"{mode[3]}')
    new = "".join(lines)
    try:
        return new if tomllib.loads(new) == _wanted(tomllib.loads(text)) else None
    except tomllib.TOMLDecodeError:
        return None


def _wanted(document: dict[str, Any]) -> dict[str, Any]:
    for table in (document.get("server", {}), *document.get("route", [])):
        if table.get("mode") == "observe":
            table["mode"] = "enforce"
    return document


def config_diff(name: str, old: str, new: str) -> str:
    """A unified diff of a config, for `patch`; "" where nothing changes."""
    lines = (old.splitlines(keepends=True), new.splitlines(keepends=True))
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(*lines, fromfile=name, tofile=name, n=CONTEXT)
    )


def mint_line(proposal: Proposal, file: Path) -> str:
    """The command that mints what is proposed, for a shell."""
    words = proposal.words()
    return shlex.join(words if file == DEFAULT_CONFIG else [*words[:2], "-c", os.fspath(file), *words[2:]])


def reasons(proposal: Proposal) -> str:
    """What a proposal rests on, in one line that can be shown anywhere."""
    who = f"{'verified' if proposal.verified else 'without a token'}, {printable(proposal.agent) or '-'}"
    parts = [f"{proposal.calls} calls"]
    for budget, enough, count, room in proposal.budgets:
        amount = f"{format_nano(enough)} {budget.amount.unit}"
        periods = f"{count} {budget.period}{'s' if count > 1 else ''}"
        parts.append(f"p{PERCENTILE} of the {periods} with spend in {budget.amount.unit}: {amount}")
        if room:
            parts.append(f"one call holds up to {format_nano(room)} {budget.amount.unit} until its cost is known")
    return f"{who}: {'; '.join(parts)}"


def diff_of(config: "Config") -> tuple[str, str | None]:
    """The diff of the config that enforces what it observes, and what there is to say instead of one."""
    if not any(route.mode == "observe" for route in config.routes) and config.server.mode != "observe":
        return "", 'the config has no mode = "observe": there is nothing to change'
    text = config.source.decode("utf-8")
    new = enforced(text)
    if new is None:
        return "", 'the config is not written with one key a line: put mode = "enforce" where it says "observe"'
    return config_diff(config.file.name, text, new), None


def document(proposals: Sequence[Proposal], config: "Config", file: Path) -> dict[str, object]:
    """What `--propose --json` has beside the time."""
    diff, instead = diff_of(config)
    return {
        "percentile": PERCENTILE,
        "proposals": [
            {
                "agent": proposal.agent,
                "verified": proposal.verified,
                "calls": proposal.calls,
                "label": proposal.label,
                "budgets": [
                    {
                        "budget": str(budget),
                        "unit": budget.amount.unit,
                        "period": budget.period,
                        "percentile": format_nano(enough),
                        "periods": count,
                        "room": format_nano(room),
                    }
                    for budget, enough, count, room in proposal.budgets
                ],
                "scope": list(proposal.scope),
                "methods": list(proposal.methods),
                "models": list(proposal.models),
                "max_price": None if proposal.max_price is None else str(proposal.max_price),
                "command": mint_line(proposal, file),
            }
            for proposal in proposals
        ],
        "config_diff": diff,
        "note": instead,
    }


def show(proposals: Sequence[Proposal], window: str, config: "Config", file: Path) -> None:
    """Print what `--propose` does: commands with their reasons, and the diff of the config."""
    print(f"# {window}. {BUDGETS}\n# Read each line before you run it.")
    for proposal in proposals:
        print(f"\n# {reasons(proposal)}\n{mint_line(proposal, file)}")
    diff, instead = diff_of(config)
    if instead is not None:
        say(instead)
        return
    print(f"\n# Then, to enforce, change the config:\n{diff}", end="")
