"""`tolsey trail` and `tolsey fsck`: what the ledger says, and whether it adds up. A gateway may run meanwhile."""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import emit, on_terminal, print_list, say, table
from tolsey.cli.program import command, new_app
from tolsey.errors import TolseyError
from tolsey.token.caveats import format_time
from tolsey.units import format_nano

if TYPE_CHECKING:
    from tolsey.config import Config
    from tolsey.store.reports import TrailRow

app = new_app()


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

    For every account: the limit and what was granted on top, what was spent, what is held, what is left, how many
    calls. Where the limit is for a period, spent, held and left are those of the running one. An account appears when
    its token is minted, or with the first call that is charged to it.
    """
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_config
    from tolsey.store.by_hand import AccountUnknown
    from tolsey.store.reports import trail as read_trail

    rows = read_trail(snapshot_of(read_config(file)), None if prefix_id is None else prefix_id.lower())
    first = next(rows, None)
    if prefix_id is not None and first is None:
        raise AccountUnknown(
            f"no account has the prefix id {prefix_id}. An account is there once a call was charged to it; that of a"
            " Link without a budget stands under the prefix id of its label, which `tolsey verify` shows"
        )
    found = rows if first is None else chain([first], rows)
    if json:
        print_list("accounts", (row.to_json() for row in found))
    else:
        _show(list(found))


def _show(rows: "Sequence[TrailRow]") -> None:
    if not rows:
        say("there is no account yet: mint a token first")
        return
    windows = any(row.window for row in rows)
    cells = []
    for guide, row in zip(_guides([row.depth for row in rows]), rows, strict=True):
        purse = row.window or row
        cells.append(
            (
                guide + (row.label or "(no label)"),
                _limit(row, purse.granted),
                format_nano(purse.spent),
                format_nano(purse.held),
                "-" if row.left is None else format_nano(row.left),
                row.unit,
                *([format_nano(row.spent)] if windows else []),
                str(row.calls),
                row.id,
            )
        )
    in_all = ("spent in all",) if windows else ()
    heads = ("account", "limit", "spent", "held", "left", "unit", *in_all, "calls", "prefix id")
    table(heads, cells, right=("limit", "spent", "held", "left", *in_all, "calls"))


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


@command(app, "fsck", examples=["tolsey fsck", "tolsey fsck --json && echo the books are right"])
def fsck(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Recompute balances and seals from the journal, and compare.

    Exit status 1 and the first difference if there is one.
    """
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_config
    from tolsey.cli.progress import progress
    from tolsey.store.reports import fsck as check

    with progress("adding up") as tell:
        config = read_config(file)
        found = check(snapshot_of(config), tell, trusted=_trusted(config))
    until = None if found.rolled_until is None else format_time(found.rolled_until)
    data = {
        "accounts": found.accounts,
        "entries": found.entries,
        "open_holds": found.open_holds,
        "rolled_up": found.rolled_up,
        "rolled_up_until": until,
        "logs": found.logs,
        "checkpoints": found.checkpoints,
        "unsigned": found.unsigned,
        "difference": found.difference,
    }

    def human() -> None:
        if until is not None:
            say(f"{found.rolled_up} entries from before {until} were rolled up: they count by their totals")
        sizes = f"accounts: {found.accounts}, entries: {found.entries}, open holds: {found.open_holds}"
        verdict = "everything adds up" if found.difference is None else "they do not add up"
        print(f"{sizes}; {verdict}")

    emit(json, data, human)
    if found.difference is not None:
        raise LedgerDiffers(found.difference)


def _trusted(config: "Config") -> list[str] | None:
    """The public seal keys of the keyring; None where that cannot be read, which a check must not depend on."""
    from tolsey.errors import KeyringError
    from tolsey.store.checkpoints import seal_keys
    from tolsey.store.keyring import SEAL, Keyring

    try:
        keyring = Keyring.open(config.keys)
        return [key.public.hex() for key in seal_keys(keyring)] if keyring.key_ids(SEAL) else None
    except KeyringError:
        say("the keyring cannot be read: whose the checkpoints' signatures are was not checked")
        return None
