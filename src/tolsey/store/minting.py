"""Making a root token: its caveats, its macaroon with the current key, its accounts."""

import secrets
from collections.abc import Sequence
from typing import Final

from tolsey.store.keyring import Keyring
from tolsey.token.approvals import APPROVAL
from tolsey.token.caveats import BudgetCaveat, parse_caveat
from tolsey.token.chain import ADMIN, CAPABILITY, L402, Chain, write_identifier
from tolsey.token.delegation import compose
from tolsey.token.macaroon import Macaroon
from tolsey.token.verifier import Verifier
from tolsey.token.wire import Limits

LOCATION: Final = "tolsey"
"""The location in our tokens: a hint that nothing relies on."""

KIND_NAMES: Final = {CAPABILITY: "capability", ADMIN: "admin", L402: "paid", APPROVAL: "approval"}
"""What people call the kinds of token, and of key."""


def new_nonce() -> str:
    """The nonce of an identifier: 22 characters for 16 random bytes."""
    return secrets.token_urlsafe(16)


def caveats_of(
    *, label: str, budget: str | None, scope: str | None, expires: str | None, caveats: Sequence[str]
) -> list[str]:
    """The caveats that a minter asks for, with a fresh nonce in the label. Raises `CaveatInvalid`."""
    return compose(
        label=label, nonce=secrets.token_urlsafe(9), scope=scope, expires=expires, budget=budget, caveats=caveats
    )


def has_budget(texts: Sequence[str]) -> bool:
    """Whether a budget is among these caveats: without one a token can make no priced call."""
    return any(isinstance(parse_caveat(text.encode("utf-8")), BudgetCaveat) for text in texts)


def make(keyring: Keyring, texts: Sequence[str], limits: Limits) -> tuple[Macaroon, Chain]:
    """A new token with these caveats, and what it amounts to. Raises `TokenMalformed` for one beyond a limit."""
    key_id, secret = keyring.current(CAPABILITY)
    identifier = write_identifier(CAPABILITY, key_id, new_nonce(), len(texts))
    macaroon = Macaroon.mint(root_key=secret, identifier=identifier, location=LOCATION).attenuate(*texts)
    verifier = Verifier(CAPABILITY, lambda wanted: keyring.derived(CAPABILITY, wanted), limits)
    return macaroon, verifier.verify(macaroon.to_text())
