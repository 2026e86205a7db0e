"""`tolsey grant`: raise the limit of an account."""

from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from tolsey.cli.books import AccountUnknown
from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Reason
from tolsey.cli.output import emit
from tolsey.cli.program import command, new_app
from tolsey.errors import TolseyError
from tolsey.ledger.events import Conflict, Grant, Granted, Outcome, Unknown
from tolsey.units import NANO, Amount, format_nano, parse_amount

if TYPE_CHECKING:
    from tolsey.store.contract import Ledger

app = new_app()


class GrantRefused(TolseyError):
    """An account to which this cannot be granted."""

    code: ClassVar[str] = "grant_refused"


@command(
    app,
    "grant",
    examples=[
        'tolsey grant 3fd873c6f5a0b7705dbe21ac6dff08fb "100 USD" --reason "second quarter"',
        'tolsey grant 91be0f0a3c3a6ed0d7c0b6f6f1d3e2aa "1000 call" --reason "a longer run"',
    ],
)
def grant(
    prefix_id: Annotated[str, typer.Argument(metavar="PREFIX_ID", help="The account's, as in `tolsey trail`.")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help='How much more it may spend: "100 USD", "50 call".')],
    reason: Reason,
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Raise the limit of an account.

    Its limit is that of its token and all grants. The accounts above it still bind: a grant to a child is worth no more
    than they have left. Where the limit is for a period, the grant is for the running one. Who granted it, and why,
    becomes an entry.
    """
    from tolsey.cli.ledgers import snapshot_of, user, writing
    from tolsey.cli.place import read_keyring

    more = parse_amount(amount)
    if more.unit == "call" and more.nano % NANO:
        raise GrantRefused(f"{more} is not a whole number of calls")
    config, keyring = read_keyring(file)
    id_ = prefix_id.lower()

    async def write(ledger: "Ledger") -> Outcome:
        return (await ledger.write([Grant((id_, more.unit), more.nano, f"granted by {user()}: {reason}")]))[0]

    outcome = writing(config, keyring, write)
    if isinstance(outcome, Conflict):
        raise GrantRefused(outcome.detail)
    if isinstance(outcome, Unknown):
        with snapshot_of(config) as snapshot:
            units = sorted(row.unit for row in snapshot.accounts() if row.id == id_)
        if units:
            raise GrantRefused(f"account {id_} is in {' and '.join(units)}, not in {more.unit}")
        raise AccountUnknown(f"no account has the prefix id {prefix_id}; `tolsey trail` lists them")
    if not isinstance(outcome, Granted):
        raise AssertionError(f"a grant cannot end in {outcome}")
    left = Amount(outcome.remaining or 0, more.unit)
    data = {
        "prefix_id": id_,
        "granted": format_nano(more.nano),
        "unit": more.unit,
        "left": format_nano(left.nano),
        "reason": reason,
        "by": user(),
    }
    emit(json, data, lambda: print(f"granted {more} to {id_}: it has {left} left, as far as those above it allow"))
