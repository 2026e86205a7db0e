"""`tolsey report`: who called what, at what cost, what enforcement would have refused, and what to enforce."""

import csv
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tolsey.cli.moments import parse_moment
from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import UsageError, emit, printable, say, table
from tolsey.cli.program import command, new_app
from tolsey.ledger.report import LATENCIES
from tolsey.ledger.tallies import BUCKETS_MS
from tolsey.ledger.windows import DAY, HOUR
from tolsey.units import format_nano

if TYPE_CHECKING:
    from tolsey.config import Config
    from tolsey.ledger.proposals import Proposals
    from tolsey.ledger.report import Group, Groups

app = new_app()

DAYS: Final = 7
"""How far a report goes back by default."""

NOTHING: Final = 'no calls were counted: set mode = "observe" on a route, and make calls to it'
NOTHING_TO_PROPOSE: Final = "none of these calls was observed and worked, so there is nothing to propose"

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Report:
    """What was read, from `since` to before `until` (hours since the epoch)."""

    since: int
    until: int
    groups: "Groups"
    refusals: "Groups"
    spends: "Groups"
    routes: "Groups"
    proposals: "Proposals"


@command(
    app,
    "report",
    examples=[
        "tolsey report --by agent,route --since 30d",
        "tolsey report --propose --agent research",
        "tolsey report --html report.html",
    ],
)
def report(
    file: ConfigFile = DEFAULT_CONFIG,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="WHAT",
            help="What calls are told apart by: agent, team, tag, route, path, method, model, tool, upstream, mode,"
            " code, hour, day. Several with commas.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="WHEN", help=f"A date, an RFC 3339 time, or how long ago. [default: {DAYS}d]"),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Up to then; of a date, up to its end.")
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Only the calls of this agent.")] = None,
    propose: Annotated[
        bool, typer.Option("--propose", help="Propose tokens for what was observed, and the config that enforces.")
    ] = False,
    of_payments: Annotated[
        bool, typer.Option("--payments", help="What strangers have paid, and what is left of it: as `tolsey payments`.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the groups as CSV.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write all of it as a page to a new file.")
    ] = None,
    json: Json = False,
) -> None:
    """Show who called what at what cost, and what to enforce.

    Also what enforcement would have refused of the calls that were observed. Hours are whole ones, UTC. Latency is the
    upper end of the bucket that the percentile is in. A gateway may run meanwhile.
    """
    from tolsey.cli.payments import show_payments
    from tolsey.cli.place import read_config
    from tolsey.ledger.report import read_dimensions

    if propose + of_payments + as_csv + (html is not None) > 1 or (as_csv and json):
        raise UsageError("choose one of --csv, --html, --payments and --propose; --json is for all but --csv")
    if of_payments:
        show_payments(file, json)
        return
    now = time.time_ns()
    begin = parse_moment(f"{DAYS}d" if since is None else since, now) // HOUR
    end = -(-(now if until is None else parse_moment(until, now, end_of_day=True)) // HOUR)
    try:
        dimensions = read_dimensions(by or ["agent"])
    except ValueError as error:
        raise UsageError(f"--by: {error}") from None
    config = read_config(file)
    found = _read(config, dimensions, begin, end, agent)
    if html is not None:
        _write_page(html, found, config, file)
        emit(json, {"file": os.fspath(html)}, lambda: print(f"wrote {printable(os.fspath(html))}"))
    elif as_csv:
        _print_csv(found)
    elif propose:
        _print_proposals(found, config, file, json)
    else:
        emit(json, _reported(found), lambda: _show(found))


def _read(config: "Config", by: Sequence[str], since: int, until: int, agent: str | None) -> Report:
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.ledger.proposals import Proposals
    from tolsey.ledger.report import OBSERVE, Groups
    from tolsey.store.tallies import tallies

    period = "hour" if until - since <= 2 * DAY // HOUR else "day"
    found = Report(
        since,
        until,
        Groups(by),
        Groups(["code", "agent", "verified"]),
        Groups([period, "agent", "verified"]),
        Groups(["route"]),
        Proposals(_exact_routes(config)),
    )
    with snapshot_of(config) as snapshot:
        for hour, key, counts in tallies(snapshot, since, until):
            if agent not in (None, key.agent):
                continue
            for part in (found.groups, found.spends, found.routes, found.proposals):
                part.add(hour, key, counts)
            if key.mode == OBSERVE and key.code:
                found.refusals.add(hour, key, counts)
    return found


def _exact_routes(config: "Config") -> set[str]:
    """The patterns of routes whose calls hold just what they cost: every price that such a route has is a fixed one."""
    inexact = set()
    for route in config.routes:
        prices = [price for price in (route.price, *(rule.price for rule in route.rules)) if price is not None]
        if any(
            price.per_second or price.per_request_mb or price.per_response_mb or price.reported or price.llm
            for price in prices
        ):
            inexact.add(route.pattern.text)
    return {route.pattern.text for route in config.routes} - inexact


def _window(found: Report) -> str:
    from tolsey.ledger.report import hour_text

    return f"from {hour_text(found.since)} to {hour_text(found.until)}"


def spend_text(group: "Group") -> str:
    """What a group spent, by unit: `0.5 USD, 20 sat`."""
    return ", ".join(f"{format_nano(nano)} {unit}" for unit, nano in sorted(group.spend.items())) or "-"


def latency_text(group: "Group", percent: int) -> str:
    """A percentile of latency as what is known of it: `≤ 30 ms`."""
    end = group.latency(percent)
    return f"> {BUCKETS_MS[-1]} ms" if end is None else f"≤ {end} ms"


def cells_of(group: "Group") -> tuple[str, ...]:
    """A group as the cells of a table; `HEADS` are the heads after those of its values."""
    return (
        *(value or "-" for value in group.values),
        str(group.calls),
        str(group.errors),
        f"{100 * group.errors / group.calls:.1f}%",
        spend_text(group),
        *(latency_text(group, percent) for percent in LATENCIES),
        str(group.refused),
        str(group.would_refuse),
    )


HEADS: Final = (
    *("calls", "errors", "share", "spend"),
    *(f"p{percent}" for percent in LATENCIES),
    *("refused", "would be refused"),
)
"""The heads of the figures."""


def _show(found: Report) -> None:
    say(_window(found))
    groups = found.groups.found()
    if not groups:
        say(NOTHING)
        return
    table((*found.groups.by, *HEADS), [cells_of(group) for group in groups], right=HEADS)
    refusals = found.refusals.found()
    if refusals:
        print("\nenforcement would have refused:\n")
        rows = [(*group.values, str(group.calls)) for group in refusals]
        table((*found.refusals.by, "calls"), rows, right=("calls",))


def _reported(found: Report) -> dict[str, object]:
    """The document of `--json`."""
    from tolsey.ledger.report import document

    return {**_since_until(found), **document(found.groups, found.refusals)}


def _since_until(found: Report) -> dict[str, object]:
    from tolsey.token.caveats import format_time

    return {"since": format_time(found.since * HOUR), "until": format_time(found.until * HOUR)}


def _print_csv(found: Report) -> None:
    units = found.groups.units()
    out = csv.writer(sys.stdout, lineterminator="\n")
    heads = [f"spend_{unit}" for unit in units]
    latencies = [f"p{percent}_ms" for percent in LATENCIES]
    out.writerow([*found.groups.by, "calls", "errors", *heads, *latencies, "refused", "would_refuse"])
    for group in found.groups.found():
        ends = [group.latency(percent) for percent in LATENCIES]
        out.writerow(
            [
                *(_harmless(value) for value in group.values),
                group.calls,
                group.errors,
                *(format_nano(group.spend[unit]) if unit in group.spend else "" for unit in units),
                *(f">{BUCKETS_MS[-1]}" if end is None else end for end in ends),
                group.refused,
                group.would_refuse,
            ]
        )


def _harmless(text: str) -> str:
    """A caller's text that no spreadsheet takes for a formula, and no terminal for an order."""
    return printable(f"'{text}" if text.startswith(_FORMULA) else text)


def _print_proposals(found: Report, config: "Config", file: Path, json: bool) -> None:
    from tolsey.cli.proposing import document, show

    proposals = found.proposals.found()
    data = _since_until(found) | document(proposals, config, file)
    if json or proposals:
        emit(json, data, lambda: show(proposals, _window(found), config, file))
    else:
        say(f"{_window(found)}: {NOTHING_TO_PROPOSE if found.groups.found() else NOTHING}")


def _write_page(path: Path, found: Report, config: "Config", file: Path) -> None:
    from tolsey.cli import report_page as page
    from tolsey.cli.exporting import new_file
    from tolsey.cli.proposing import BUDGETS, diff_of, mint_line, reasons

    groups = found.groups.found()
    sections = [f"<p>{page.text(_window(found))}</p>"]
    if not groups:
        sections.append(f"<p>{page.text(NOTHING)}</p>")
    else:
        proposals = [(reasons(each), mint_line(each, file)) for each in found.proposals.found()]
        diff, instead = diff_of(config)
        rows = [cells_of(group) for group in groups]
        spent = page.spends(found.spends, found.since, found.until)
        sections += [
            page.section("Spend", "By agent; what was only observed is in it.", spent or "<p>-</p>"),
            page.section("Calls by route", "", page.bars(("route",), found.routes.found())),
            page.section(
                "Refusals",
                "What enforcement would have refused of the calls that were observed.",
                page.bars(found.refusals.by, found.refusals.found()),
            ),
            page.section("Calls", "", page.table_of((*found.groups.by, *HEADS), rows, HEADS)),
            page.section("Proposed tokens", BUDGETS, page.commands(proposals)),
            page.section("The config that enforces", instead or "", "" if instead else page.lines(diff)),
        ]
    with new_file(path) as out:
        out.write(page.page("Tolsey report", sections).encode("utf-8", "backslashreplace"))
