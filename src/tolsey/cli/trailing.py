"""`tolsey trail`: the delegation tree, and what each level spent, holds and refused; once, or as it changes."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tolsey.cli.moments import parse_moment
from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import UsageError, emit, on_terminal, print_list, printable, say, table, warn
from tolsey.cli.program import command, new_app
from tolsey.errors import LedgerUnavailable
from tolsey.token.caveats import format_time
from tolsey.units import format_nano

if TYPE_CHECKING:
    from tolsey.store.contract import Snapshot
    from tolsey.store.trails import TrailRow, Wanted

app = new_app()

LOOK_SECONDS: Final = 1.0
"""How often the ledger is looked at for changes."""


@command(
    app,
    "trail",
    examples=[
        "tolsey trail",
        "tolsey trail --label 'research*' --since 7d --long",
        "tolsey trail --follow --json",
        "tolsey trail 3fd873c6f5a0b7705dbe21ac6dff08fb",
    ],
)
def trail(
    prefix_id: Annotated[
        str | None, typer.Argument(metavar="[PREFIX_ID]", help="Only this account and those below it.")
    ] = None,
    file: ConfigFile = DEFAULT_CONFIG,
    label: Annotated[
        str | None,
        typer.Option(
            "--label", metavar="LABEL", help="Only levels of this label, those above and below; '*' for any text."
        ),
    ] = None,
    unit: Annotated[str | None, typer.Option("--unit", metavar="UNIT", help="Only accounts in this unit.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="WHEN",
            help="Only what was used since a date, an RFC 3339 time or how long ago, with what it spent within.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Up to then; of a date, up to its end.")
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Also who opened each account, and when it was first and last seen.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Also accounts that count one approved call.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on, and print each account that changes.")] = False,
    json: Json = False,
) -> None:
    """Show the delegation tree, and what each level spent.

    For every account: the limit and what was granted on top, what was spent, what is held, what is left, how many calls
    there were and how many it refused in the last 90 days. Where the limit is for a period, spent, held and left are
    those of the running one. An account appears when its token is minted, or with the first call that is charged to
    it; a level whose every call was refused has none.
    """
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_config
    from tolsey.store.trails import Wanted, incomplete_before
    from tolsey.store.trails import trail as read_trail

    if follow and until is not None:
        raise UsageError("--follow goes on, and --until ends: choose one")
    now = time.time_ns()
    wanted = Wanted(
        None if prefix_id is None else prefix_id.lower(),
        label,
        unit,
        None if since is None else parse_moment(since, now),
        None if until is None else parse_moment(until, now, end_of_day=True),
        every,
    )
    snapshot = snapshot_of(read_config(file))
    if wanted.timed:
        gone = incomplete_before(snapshot, wanted.since or 0)
        if gone is not None:
            warn(f"entries made before {format_time(gone)} were rolled up: what was spent then is not within")
    rows = read_trail(snapshot, wanted)
    first = next(rows, None)
    if first is None and prefix_id is not None and wanted == Wanted(wanted.prefix_id):
        raise _unknown(prefix_id)
    found = rows if first is None else chain([first], rows)
    if follow:
        _follow(snapshot, wanted, list(found), long=long, json=json)
    elif json:
        print_list("accounts", (row.to_json() for row in found))
    else:
        _show(list(found), wanted, long=long)


def _unknown(prefix_id: str) -> Exception:
    from tolsey.store.by_hand import AccountUnknown

    return AccountUnknown(
        f"no account has the prefix id {prefix_id}. An account is there once a call was charged to it; that of a"
        " Link without a budget stands under the prefix id of its label, which `tolsey verify` shows"
    )


def _show(rows: "Sequence[TrailRow]", wanted: "Wanted", *, long: bool) -> None:
    from tolsey.store.trails import Wanted

    if not rows:
        say("there is no account yet: mint a token first" if wanted == Wanted() else "no account is like that")
        return
    periods = any(row.window for row in rows)
    refused = any(row.refusals for row in rows)
    heads = ["account", "limit", "spent", "held", "left", "unit"]
    heads += ["spent in all"] if periods else []
    heads += ["spent then", "calls then"] if wanted.timed else []
    heads += ["calls", *(["refused"] if refused else [])]
    heads += ["opened by", "first seen", "last seen"] if long else []
    cells = []
    for guide, row in zip(_guides([row.depth for row in rows]), rows, strict=True):
        purse = row.window or row
        line = [guide + (row.label or "(no label)"), _limit(row, purse.granted), format_nano(purse.spent)]
        line += [format_nano(purse.held), "-" if row.left is None else format_nano(row.left), row.unit]
        line += [format_nano(row.spent)] if periods else []
        if row.within is not None:
            line += [format_nano(row.within.spent), str(row.within.calls)]
        line += [str(row.calls), *([_refused(row)] if refused else [])]
        if long:
            nobody = "its first call" if row.parent is None else "attenuated offline"
            line += [row.opened_by or nobody, format_time(row.opened_at)]
            line += ["-" if row.seen_at is None else format_time(row.seen_at)]
        cells.append((*line, row.id))
    right = {"limit", "spent", "held", "left", "spent in all", "spent then", "calls then", "calls"} & set(heads)
    table((*heads, "prefix id"), cells, right=[head for head in heads if head in right])


def _refused(row: "TrailRow") -> str:
    """`budget_exhausted 3, scope_refused 1`."""
    return ", ".join(f"{code} {count}" for code, count in sorted(row.refusals.items())) or "-"


def _limit(row: "TrailRow", granted: int) -> str:
    """`100`, `20/day`, `100 +50` where 50 were granted."""
    if row.limit is None:
        return "-"
    period = "" if row.period is None else f"/{row.period}"
    return format_nano(row.limit) + period + (f" +{format_nano(granted)}" if granted else "")


def _guides(depths: Sequence[int]) -> list[str]:
    """What stands before each name of a tree, depth first: lines on a terminal, else spaces."""
    if not on_terminal():
        return ["  " * depth for depth in depths]
    guides = []
    goes_on: set[int] = set()
    for depth in reversed(depths):
        goes_on = {level for level in goes_on if level <= depth}
        above = "".join("│  " if level in goes_on else "   " for level in range(1, depth))
        guides.append(above + (("├─ " if depth in goes_on else "└─ ") if depth else ""))
        goes_on.add(depth)
    return guides[::-1]


def _follow(snapshot: "Snapshot", wanted: "Wanted", rows: "list[TrailRow]", *, long: bool, json: bool) -> None:
    """Print what is there, and from then on what changes, until it is interrupted."""
    if json:
        _print_changes(rows, {}, json=True)
    else:
        _show(rows, wanted, long=long)
    away = False
    known = {(row.id, row.unit): row for row in rows}
    try:
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                rows = list(_again(snapshot, wanted))
            except LedgerUnavailable as error:
                if not away:
                    warn(f"{error.detail}; trying again")
                away = True
                continue
            away = False
            _print_changes(rows, known, json=json)
            known = {(row.id, row.unit): row for row in rows}
    except KeyboardInterrupt:
        return


def _again(snapshot: "Snapshot", wanted: "Wanted") -> "Iterator[TrailRow]":
    from tolsey.store.trails import trail as read_trail

    return read_trail(snapshot, wanted)


def _print_changes(rows: "Sequence[TrailRow]", known: "dict[tuple[str, str], TrailRow]", *, json: bool) -> None:
    at = format_time(time.time_ns())
    path: list[str] = []
    for row in rows:
        path[row.depth :] = [row.label or "(no label)"]
        before = known.get((row.id, row.unit))
        if before is not None and replace(before, depth=row.depth) == row:
            continue
        text = printable(f"{at} {'/'.join(path)}: {_change(before, row)}")
        emit(json, {"at": at, **row.to_json()}, partial(print, text))
        sys.stdout.flush()


def _change(before: "TrailRow | None", row: "TrailRow") -> str:
    """`+0.01 USD (0.05 spent, 0 held, 49.95 left), 5 calls`."""
    more = row.spent - (0 if before is None else before.spent)
    purse = row.window or row
    left = "" if row.left is None else f", {format_nano(row.left)} left"
    refused = f", refused: {_refused(row)}" if row.refusals else ""
    return (
        f"{'' if more < 0 else '+'}{format_nano(more)} {row.unit} ({format_nano(purse.spent)} spent,"
        f" {format_nano(purse.held)} held{left}), {row.calls} calls{refused}"
    )
