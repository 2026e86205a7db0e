"""`tolsey payments`: what strangers have paid, and what they have left of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import emit, say, table
from tolsey.cli.program import command, new_app
from tolsey.token.caveats import format_time
from tolsey.units import format_nano

if TYPE_CHECKING:
    from tolsey.store.contract import PaymentRow

app = new_app()


@command(app, "payments", examples=["tolsey payments", "tolsey payments --json | jq .paid"])
def payments(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """List the payments that were taken, and what is left of them.

    A payment is here once its token was used: an invoice that was paid and never used is in the node's books alone.
    What was paid is in sat, or over x402 in the asset's unit; what it bought is in the unit of its purse. Different
    units are never added up.
    """
    show_payments(file, json)


def show_payments(file: ConfigFile, json: bool) -> None:
    """Print the payments of a config's ledger."""
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_config

    with snapshot_of(read_config(file)) as snapshot:
        rows = list(snapshot.payments())
    paid = {"sat": 0}
    bought: dict[str, int] = {}
    spent: dict[str, int] = {}
    for row in rows:
        paid[row.paid_unit] = paid.get(row.paid_unit, 0) + row.paid
        bought[row.unit] = bought.get(row.unit, 0) + row.limit
        spent[row.unit] = spent.get(row.unit, 0) + row.spent
    data = {
        "payments": [_row(row) for row in rows],
        "paid": {unit: format_nano(nano) for unit, nano in sorted(paid.items())},
        "bought": {unit: format_nano(nano) for unit, nano in sorted(bought.items())},
        "spent": {unit: format_nano(nano) for unit, nano in sorted(spent.items())},
    }
    emit(json, data, lambda: _show(rows, paid, spent))


def _row(row: "PaymentRow") -> dict[str, object]:
    return {
        "at": format_time(row.at),
        "payment_hash": row.hash,
        "paid": format_nano(row.paid),
        "paid_unit": row.paid_unit,
        "note": row.note,
        "account": row.account,
        "label": row.label,
        "unit": row.unit,
        "limit": format_nano(row.limit),
        "spent": format_nano(row.spent),
        "held": format_nano(row.held),
        "left": format_nano(row.limit - row.spent - row.held),
        "calls": row.calls,
    }


def _show(rows: "Sequence[PaymentRow]", paid: dict[str, int], spent: dict[str, int]) -> None:
    if not rows:
        say("nobody has paid yet")
        return
    cells = [
        (
            format_time(row.at),
            f"{format_nano(row.paid)} {row.paid_unit}",
            row.label or "-",
            format_nano(row.limit),
            format_nano(row.spent),
            format_nano(row.limit - row.spent - row.held),
            row.unit,
            str(row.calls),
            row.hash,
        )
        for row in rows
    ]
    heads = ("at", "paid", "offer", "bought", "spent", "left", "unit", "calls", "payment hash")
    table(heads, cells, right=("paid", "bought", "spent", "left", "calls"))
    used = " and ".join(f"{format_nano(nano)} {unit}" for unit, nano in sorted(spent.items()))
    taken = " and ".join(f"{format_nano(nano)} {unit}" for unit, nano in sorted(paid.items()))
    say(f"{len(rows)} payments, {taken} in all; of what they bought, {used} is spent")
