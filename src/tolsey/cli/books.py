"""`tolsey trail` and `tolsey fsck`: what the ledger says, and whether it adds up. A gateway may run meanwhile."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import emit, on_terminal, say, table
from tolsey.cli.program import command, new_app
from tolsey.errors import TolseyError
from tolsey.units import format_nano

if TYPE_CHECKING:
    from tolsey.store.reports import TrailRow

app = new_app()


class AccountUnknown(TolseyError):
    """A prefix id under which nothing was charged."""

    code: ClassVar[str] = "account_unknown"


class LedgerDiffers(TolseyError):
    """A ledger whose balances are not what its entries add up to."""

    code: ClassVar[str] = "ledger_differs"


@command(
    app,
    "trail",
    examples=["tolsey trail", "tolsey trail 3fd873c6f5a0b7705dbe21ac6dff08fb --json"],
)
def trail(
    prefix_id: Annotated[
        str | None, typer.Argument(metavar="[PREFIX_ID]", help="Only this account and those below it.")
    ] = None,
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Show the delegation tree, and what each level spent.

    For every account: the limit, what was spent, what is held, what is left, how many calls. An account appears when
    its token is minted, or with the first call that is charged to it.
    """
    from tolsey.cli.place import read_config, reading
    from tolsey.store.reports import trail as read_trail

    path = read_config(file).ledger.path
    with reading(path):
        rows = read_trail(path, None if prefix_id is None else prefix_id.lower())
    if prefix_id is not None and not rows:
        raise AccountUnknown(
            f"no account has the prefix id {prefix_id}. An account is there once a call was charged to it; that of a"
            " Link without a budget stands under the prefix id of its label, which `tolsey verify` shows"
        )
    emit(json, {"accounts": [row.to_json() for row in rows]}, lambda: _show(rows))


def _show(rows: "Sequence[TrailRow]") -> None:
    if not rows:
        say("there is no account yet: mint a token first")
        return
    cells = []
    for guide, row in zip(_guides([row.depth for row in rows]), rows, strict=True):
        left = "-" if row.limit is None else format_nano(row.limit - row.spent - row.held)
        limit = "-" if row.limit is None else format_nano(row.limit)
        name = guide + (row.label or "(no label)")
        cells.append(
            (name, limit, format_nano(row.spent), format_nano(row.held), left, row.unit, str(row.calls), row.id)
        )
    heads = ("account", "limit", "spent", "held", "left", "unit", "calls", "prefix id")
    table(heads, cells, right=("limit", "spent", "held", "left", "calls"))


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


@command(app, "fsck", examples=["tolsey fsck", "tolsey fsck --json && echo the books are right"])
def fsck(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Recompute every balance from the journal, and compare.

    Exit status 1 and the first difference if there is one.
    """
    from tolsey.cli.place import read_config, reading
    from tolsey.store.reports import fsck as check

    path = read_config(file).ledger.path
    with reading(path), _progress(f"adding up {path}"):
        found = check(path)
    data = {
        "accounts": found.accounts,
        "entries": found.entries,
        "open_holds": found.open_holds,
        "difference": found.difference,
    }
    sizes = f"accounts: {found.accounts}, entries: {found.entries}, open holds: {found.open_holds}"
    verdict = "everything adds up" if found.difference is None else "they do not add up"
    emit(json, data, lambda: print(f"{sizes}; {verdict}"))
    if found.difference is not None:
        raise LedgerDiffers(found.difference)


def _progress(text: str) -> AbstractContextManager[object]:
    """A sign of life on a terminal, on standard error."""
    if not on_terminal(sys.stderr):
        return nullcontext()
    from rich.console import Console
    from rich.text import Text

    return Console(stderr=True).status(Text(text))
