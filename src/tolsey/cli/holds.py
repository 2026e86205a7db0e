"""`tolsey holds`, `void` and `refund`: money that is held or was charged, and giving it back by hand."""

import asyncio
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Reason
from tolsey.cli.output import emit, print_list, say, table
from tolsey.cli.program import command, new_app
from tolsey.errors import TolseyError
from tolsey.ledger.events import Annul, Conflict, Late, Outcome, Refund, Resolved, Void
from tolsey.token.caveats import SECOND, format_time
from tolsey.units import Amount, format_nano, parse_amount

if TYPE_CHECKING:
    from tolsey.ledger.books import Hold
    from tolsey.store.chains import OpenHold
    from tolsey.store.contract import Ledger, Snapshot

app = new_app()

HoldId = Annotated[str, typer.Argument(metavar="HOLD", help="The hold's id, as in Tolsey-Hold and in the log.")]


class HoldUnknown(TolseyError):
    """An id under which nothing is held or was charged."""

    code: ClassVar[str] = "hold_unknown"


class HoldRefused(TolseyError):
    """A hold with which this cannot be done."""

    code: ClassVar[str] = "hold_refused"


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

    config, keyring = read_keyring(file)
    note = f"voided by {user()}: {reason}"

    async def write(ledger: "Ledger") -> tuple[str, int, str, Outcome]:
        known = await _known(ledger, hold)
        if known.resolution is None:
            return "open", known.amount, _unit(known), (await ledger.write([Void(hold, note)]))[0]
        await asyncio.to_thread(_check_unmetered, known, snapshot_of(config))
        amount = known.settled - known.refunded
        return "unmetered", amount, _unit(known), (await ledger.write([Annul(hold, note)]))[0]

    was, nano, unit, outcome = writing(config, keyring, write)
    _check(outcome, hold)
    back = Amount(nano, unit)
    data = {"hold": hold, "was": was, "returned": format_nano(nano), "unit": unit, "reason": reason, "by": user()}
    emit(json, data, lambda: print(f"voided {hold}, which was {was}: {back} returned"))


def _check_unmetered(hold: "Hold", snapshot: "Snapshot") -> None:
    """Refuse to void a hold whose call is known to have been served, or that was voided before."""
    if hold.resolution == "void" or hold.annulled:
        raise HoldRefused(f"hold {hold.id} was voided before")
    with snapshot:
        notes = [entry.note for entry in snapshot.entries_of(hold.id) if entry.kind == hold.resolution]
    if hold.resolution == "settle" and not any(note.startswith("unmetered") for note in notes):
        raise HoldRefused(
            f"the call of hold {hold.id} was served, and charged {Amount(hold.settled, _unit(hold))}; `tolsey refund`"
            " gives money back"
        )


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

    wanted = None if amount is None else parse_amount(amount)
    config, keyring = read_keyring(file)

    async def write(ledger: "Ledger") -> tuple[str, Outcome]:
        known = await _known(ledger, hold)
        unit = _unit(known)
        if known.resolution is None:
            raise HoldRefused(f"hold {hold} is still open; `tolsey void` gives it back")
        if not known.chain:
            raise HoldRefused(f"hold {hold} is of a free call: no money was charged")
        if wanted is not None and wanted.unit != unit:
            raise HoldRefused(f"hold {hold} was charged in {unit}, not in {wanted.unit}")
        left = known.settled - known.refunded
        if not left or (wanted is not None and not 0 < wanted.nano <= left):
            raise HoldRefused(
                f"hold {hold} was charged {Amount(known.settled, unit)}, of which {Amount(left, unit)} can be refunded"
            )
        nano = None if wanted is None else wanted.nano
        return unit, (await ledger.write([Refund(hold, nano, f"refunded by {user()}: {reason}")]))[0]

    unit, outcome = writing(config, keyring, write)
    back = Amount(_check(outcome, hold).amount, unit)
    data = {"hold": hold, "returned": format_nano(back.nano), "unit": unit, "reason": reason, "by": user()}
    emit(json, data, lambda: print(f"refunded {back} of {hold}"))


async def _known(ledger: "Ledger", hold: str) -> "Hold":
    known = await ledger.hold(hold)
    if known is None:
        raise HoldUnknown(
            f"the ledger has no hold {hold}. One that `tolsey compact` rolled up can no longer be voided or refunded"
        )
    return known


def _unit(hold: "Hold") -> str:
    return (hold.chain or hold.counters)[-1][1]


def _check(outcome: Outcome, hold: str) -> Resolved:
    """What was written. Raises `HoldRefused` where somebody else was faster."""
    match outcome:
        case Resolved():
            return outcome
        case Late(_, kind):
            raise HoldRefused(f"hold {hold} was resolved meanwhile ({kind}); try again")
        case Conflict(detail):
            raise HoldRefused(detail)
    raise AssertionError(f"a hold that was found cannot end in {outcome}")
