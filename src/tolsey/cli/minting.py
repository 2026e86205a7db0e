"""`tolsey mint`: a new token, and the root's accounts in the ledger."""

import secrets
from functools import partial
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
from tolsey.errors import LedgerConflict
from tolsey.token.caveats import BudgetCaveat, parse_caveat

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
    from tolsey.cli.place import LOCATION, new_nonce, read_keyring
    from tolsey.cli.tokens import show_token
    from tolsey.token.chain import CAPABILITY, write_identifier
    from tolsey.token.delegation import compose
    from tolsey.token.macaroon import Macaroon
    from tolsey.token.verifier import Verifier

    texts = compose(
        label=label,
        nonce=secrets.token_urlsafe(9),
        scope=one_scope(scope),
        expires=expires,
        budget=budget,
        caveats=caveat or (),
    )
    _check_budget(texts, free_calls_only)
    config, keyring = read_keyring(file)
    key_id, secret = keyring.current(CAPABILITY)
    identifier = write_identifier(CAPABILITY, key_id, new_nonce(), len(texts))
    macaroon = Macaroon.mint(root_key=secret, identifier=identifier, location=LOCATION).attenuate(*texts)
    verifier = Verifier(CAPABILITY, partial(keyring.derived, CAPABILITY), config.limits)
    chain = verifier.verify(macaroon.to_text())
    _open_accounts(config, keyring, list(chain.accounts()))
    show_token("minted", macaroon, label, json)


def _check_budget(texts: list[str], free_calls_only: bool) -> None:
    has_budget = any(isinstance(parse_caveat(text.encode("utf-8")), BudgetCaveat) for text in texts)
    if has_budget and free_calls_only:
        raise UsageError("--free-calls-only is for a token without a budget")
    if not has_budget and not free_calls_only:
        raise UsageError(
            'a token without a budget can make no priced call: give --budget "100 USD", or --free-calls-only if that is'
            " what you want"
        )


def _open_accounts(config: "Config", keyring: "Keyring", accounts: "list[Account]") -> None:
    """Write the root's accounts into the ledger, which the keyring then remembers (RULES.md L1)."""
    from tolsey.cli.ledgers import user, writing
    from tolsey.ledger.events import Conflict, Open, Outcome

    async def write(ledger: "Ledger") -> list[Outcome]:
        note = f"minted by {user()}"
        return await ledger.write([Open(account, note) for account in accounts]) if accounts else []

    for outcome in writing(config, keyring, write, create=True):
        if isinstance(outcome, Conflict):
            raise LedgerConflict(outcome.detail)
