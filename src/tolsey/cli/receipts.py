"""`tolsey receipt`: one signed document about a call."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json, read_token
from tolsey.cli.output import UsageError
from tolsey.cli.program import command, new_app

if TYPE_CHECKING:
    from tolsey.config import Config
    from tolsey.store.contract import Snapshot
    from tolsey.store.keyring import Keyring

app = new_app()


@command(
    app,
    "receipt",
    examples=[
        "tolsey receipt 1a218e4c54f-526167cc70dd3ab0-0 > receipt.json",
        "tolsey receipt 1a218e4c54f-526167cc70dd3ab0-0 --token - < token.txt",
    ],
)
def receipt(
    hold: Annotated[str, typer.Argument(metavar="HOLD", help="The call's hold, as in the header Tolsey-Hold.")],
    token: Annotated[
        str | None, typer.Option("--token", metavar="TOKEN", help="The token it was charged to; - is standard input.")
    ] = None,
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Print a signed receipt for one call.

    It has the chain, what was held, the cost and the entries, in canonical JSON.

    The journal has the labels and budgets of the chain, and not the other caveats. With the token, which is verified
    and does not go into the receipt, all caveats up to the account that paid are in it. `tolsey audit check` verifies
    a receipt offline.
    """
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_keyring
    from tolsey.store.checkpoints import seal_keys
    from tolsey.store.proofs import write_receipt

    config, keyring = read_keyring(file)
    snapshot = snapshot_of(config)
    caveats = None if token is None else _caveats(config, keyring, snapshot, hold, read_token(token))
    print(write_receipt(snapshot, hold, seal_keys(keyring)[-1], caveats=caveats).decode())


def _caveats(config: "Config", keyring: "Keyring", snapshot: "Snapshot", hold: str, text: str) -> list[str]:
    """The caveats of a token up to the last account of a hold. Raises `UsageError` for a token that did not pay it."""
    from tolsey.store.proofs import chain_of
    from tolsey.token.chain import CAPABILITY, L402
    from tolsey.token.l402 import read_identifier
    from tolsey.token.macaroon import Macaroon
    from tolsey.token.verifier import Verifier

    macaroon, *_ = Macaroon.deserialize_all(text.partition(":")[0])
    kind = CAPABILITY if read_identifier(macaroon.identifier) is None else L402
    chain = Verifier(kind, partial(keyring.derived, kind), config.limits).verify(text.partition(":")[0])
    _, ids = chain_of(snapshot, hold)
    if not ids or ids[-1] not in chain.prefix_ids:
        raise UsageError(f"hold {hold} was not charged to this token")
    return [str(caveat) for caveat in macaroon.caveats[: chain.prefix_ids.index(ids[-1])]]
