"""`tolsey holds`, `void` and `refund`: money that is held or was charged, and giving it back by hand."""

from typing import TYPE_CHECKING, Annotated

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Reason
from tolsey.cli.output import emit, print_list, say, table
from tolsey.cli.program import command, new_app
from tolsey.token.caveats import SECOND, format_time
from tolsey.units import Amount, format_nano, parse_amount

if TYPE_CHECKING:
    from tolsey.store.chains import OpenHold
    from tolsey.store.contract import Ledger

app = new_app()

HoldId = Annotated[str, typer.Argument(metavar="HOLD", help="The hold's id, as in Tolsey-Hold and in the log.")]


@command(app, "holds", examples=["tolsey holds", "tolsey holds --json"])
def holds(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """List the open holds, oldest first.

    An open hold is money set aside for a call under way. For each: how much, for how long and until when at most, on
    which chain from root to bearer, for which call, and which worker holds it.
    """
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_config
    from tolsey.store.chains import open_holds

    with snapshot_of(read_config(file)) as snapshot:
        if json:
            print_list("holds", (each.to_json() for each in open_holds(snapshot)))
        else:
            _show(list(open_holds(snapshot)), snapshot.now())


def _show(found: "list[OpenHold]", now: int) -> None:
    if not found:
        say("nothing is held")
        return
    cells = [
        (
            each.id,
            str(each.amount),
            age(now - each.at),
            "-" if each.until is None else format_time(each.until),
            " > ".join(label or "(no label)" for label in each.labels),
            each.call,
            each.owner,
        )
        for each in found
    ]
    table(("hold", "amount", "for", "until", "chain", "call", "owner"), cells, right=("amount", "for"))


def age(nanoseconds: int) -> str:
    """An age as a person says it, rounded down: `5 s`, `12 min`, `3 h`, `2 d`."""
    seconds = max(0, nanoseconds) // SECOND
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


@command(app, "void", examples=['tolsey void 1a20f623f69-5d59c2eb4ba62f46-0 --reason "the upstream was down"'])
def void(hold: HoldId, reason: Reason, file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Say that a call was not served, and give its money back.

    What it holds or was charged returns, and it is not counted. It is for an open hold, and for one that was charged in
    full since nobody knew its outcome (`unmetered`). Who did it, and why, becomes an entry. For a call that was served
    there is `tolsey refund`.
    """
    from tolsey.cli.ledgers import snapshot_of, user, writing
    from tolsey.cli.place import read_keyring
    from tolsey.store.by_hand import Returned
    from tolsey.store.by_hand import void as void_by_hand

    config, keyring = read_keyring(file)

    async def write(ledger: "Ledger") -> Returned:
        return await void_by_hand(ledger, snapshot_of(config), hold, who=user(), reason=reason)

    back, was = writing(config, keyring, write)
    data = {
        "hold": hold,
        "was": was,
        "returned": format_nano(back.nano),
        "unit": back.unit,
        "reason": reason,
        "by": user(),
    }
    emit(json, data, lambda: print(f"voided {hold}, which was {was}: {back} returned"))


@command(
    app,
    "refund",
    examples=[
        'tolsey refund 1a20f623f69-5d59c2eb4ba62f46-0 --reason "the answer was wrong"',
        'tolsey refund 1a20f623f69-5d59c2eb4ba62f46-0 --amount "0.50 USD" --reason "half of it was wrong"',
    ],
)
def refund(
    hold: HoldId,
    reason: Reason,
    amount: Annotated[
        str | None, typer.Option("--amount", metavar="AMOUNT", help='"0.50 USD"; left out, all that is left of it.')
    ] = None,
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Give back what a call was charged, or a part of it.

    The money returns on every account of its chain; the call stays counted. Who did it, and why, becomes an entry.
    """
    from tolsey.cli.ledgers import user, writing
    from tolsey.cli.place import read_keyring
    from tolsey.store.by_hand import refund as refund_by_hand

    wanted = None if amount is None else parse_amount(amount)
    config, keyring = read_keyring(file)

    async def write(ledger: "Ledger") -> Amount:
        return await refund_by_hand(ledger, hold, wanted, who=user(), reason=reason)

    back = writing(config, keyring, write)
    data = {"hold": hold, "returned": format_nano(back.nano), "unit": back.unit, "reason": reason, "by": user()}
    emit(json, data, lambda: print(f"refunded {back} of {hold}"))
