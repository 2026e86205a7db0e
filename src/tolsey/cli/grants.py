"""`tolsey grant`: raise the limit of an account."""

from typing import TYPE_CHECKING, Annotated

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Reason
from tolsey.cli.output import emit
from tolsey.cli.program import command, new_app
from tolsey.units import Amount, format_nano, parse_amount

if TYPE_CHECKING:
    from tolsey.store.contract import Ledger

app = new_app()


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
    from tolsey.store.by_hand import check_grant
    from tolsey.store.by_hand import grant as grant_by_hand

    more = parse_amount(amount)
    check_grant(more)
    config, keyring = read_keyring(file)
    id_ = prefix_id.lower()

    async def write(ledger: "Ledger") -> Amount:
        return await grant_by_hand(ledger, snapshot_of(config), id_, more, who=user(), reason=reason)

    left = writing(config, keyring, write)
    data = {
        "prefix_id": id_,
        "granted": format_nano(more.nano),
        "unit": more.unit,
        "left": format_nano(left.nano),
        "reason": reason,
        "by": user(),
    }
    emit(json, data, lambda: print(f"granted {more} to {id_}: it has {left} left, as far as those above it allow"))
