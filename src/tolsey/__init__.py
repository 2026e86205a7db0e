"""Tolsey: a capability and budget gateway for AI agents.

What an agent needs to hand on a narrower token, with the standard library alone::

    from tolsey import attenuate

    child = attenuate(token, label="search-worker-12", budget="50 USD", scope="/api/v1/search?source=arxiv")

No key, no config, no network: the gateway learns of the child when the child makes its first call.
"""

import secrets
from collections.abc import Sequence

from tolsey.errors import CaveatInvalid, CaveatWider, TokenError, TokenMalformed, TolseyError
from tolsey.token.delegation import Inspection, UnverifiedLink, compose, inspection, narrow
from tolsey.token.macaroon import Macaroon

__all__ = [
    "CaveatInvalid",
    "CaveatWider",
    "Inspection",
    "Macaroon",
    "TokenError",
    "TokenMalformed",
    "TolseyError",
    "UnverifiedLink",
    "attenuate",
    "inspect",
]


def attenuate(
    token: str,
    *,
    label: str,
    budget: str | None = None,
    scope: str | None = None,
    expires: str | None = None,
    caveats: Sequence[str] = (),
) -> str:
    """Return a narrower token for a sub-agent, offline.

    `label` names the new Link (a random nonce is added, so that two equal children are two accounts); `budget` is as in
    `"50 USD"`, `scope` a path pattern, `expires` a date or an RFC 3339 time, `caveats` any others, as in
    `"method = GET"`. Raises `TokenMalformed` if `token` cannot be read, `CaveatInvalid` if a caveat is not one we know,
    and `CaveatWider` if it would allow more than `token` does.
    """
    parent = Macaroon.deserialize(token.strip())
    texts = compose(
        label=label, nonce=secrets.token_urlsafe(9), scope=scope, expires=expires, budget=budget, caveats=caveats
    )
    return narrow(parent, texts).to_text()


def inspect(token: str) -> Inspection:
    """Say what a token amounts to, without verifying it: that takes the gateway's key. Raises `TokenMalformed`."""
    macaroon, *discharges = Macaroon.deserialize_all(token.strip())
    return inspection(macaroon, discharges)
