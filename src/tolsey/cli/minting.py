"""`tolsey mint`: a new token, and the root's accounts in the ledger."""

from typing import TYPE_CHECKING, Annotated

import typer

from tolsey.cli.options import (
    DEFAULT_CONFIG,
    Budget,
    Caveats,
    ConfigFile,
    Expires,
    Json,
    Scopes,
    one_scope,
)
from tolsey.cli.output import UsageError
from tolsey.cli.program import command, new_app

if TYPE_CHECKING:
    from tolsey.config import Config
    from tolsey.store.contract import Ledger
    from tolsey.store.keyring import Keyring
    from tolsey.token.chain import Account

app = new_app()


@command(
    app,
    "mint",
    examples=[
        'tolsey mint --label team-research-q2 --budget "10000 USD" --scope "/api/v1/*" --expires 2030-06-30',
        'TOLSEY_TOKEN=$(tolsey mint --label team --budget "10 USD" --caveat "method = GET")',
    ],
)
def mint(
    label: Annotated[str, typer.Option("--label", metavar="NAME", help="Whose token it is.")],
    file: ConfigFile = DEFAULT_CONFIG,
    budget: Budget = None,
    scope: Scopes = None,
    expires: Expires = None,
    caveat: Caveats = None,
    free_calls_only: Annotated[
        bool, typer.Option("--free-calls-only", help="Without a budget: it can make calls that cost nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a new token, with the keys of this gateway.

    Opens its account in the ledger. A gateway may be running meanwhile. The token is printed on standard output, and
    nothing else is; whoever has it can use it.
    """
    from tolsey.cli.place import read_keyring
    from tolsey.cli.tokens import show_token
    from tolsey.store.minting import caveats_of, make

    texts = caveats_of(label=label, budget=budget, scope=one_scope(scope), expires=expires, caveats=caveat or ())
    _check_budget(texts, free_calls_only)
    config, keyring = read_keyring(file)
    macaroon, chain = make(keyring, texts, config.limits)
    _open_accounts(config, keyring, list(chain.accounts()))
    show_token("minted", macaroon, label, json)


def _check_budget(texts: list[str], free_calls_only: bool) -> None:
    from tolsey.store.minting import has_budget

    priced = has_budget(texts)
    if priced and free_calls_only:
        raise UsageError("--free-calls-only is for a token without a budget")
    if not priced and not free_calls_only:
        raise UsageError(
            'a token without a budget can make no priced call: give --budget "100 USD", or --free-calls-only if that is'
            " what you want"
        )


def _open_accounts(config: "Config", keyring: "Keyring", accounts: "list[Account]") -> None:
    """Write the root's accounts into the ledger, which the keyring then remembers (RULES.md L1)."""
    from tolsey.cli.ledgers import user, writing
    from tolsey.store.by_hand import noted, open_accounts

    async def write(ledger: "Ledger") -> None:
        await open_accounts(ledger, accounts, noted("minted", user(), ""))

    writing(config, keyring, write, create=True)
