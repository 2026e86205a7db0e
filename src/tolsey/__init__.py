"""Tolsey: a capability and budget gateway for AI agents.

What an agent needs to hand on a narrower token, with the standard library alone::

    from tolsey import Delegation

    parent = Delegation.from_environment()
    with parent.delegate("search-worker-12", budget="50 USD", scope="/api/v1/search?source=arxiv") as child:
        work(child.token)

No key, no config, no network: the gateway learns of the child when the child makes its first call. What a gateway
refuses is in `tolsey.refusals`, a token for httpx clients in `tolsey.httpx`.
"""

import os
import secrets
from collections.abc import Sequence
from typing import Final, Self

from tolsey.errors import CaveatInvalid, CaveatWider, TokenError, TokenMalformed, TokenMissing, TolseyError
from tolsey.token.admin_caveats import parser_of
from tolsey.token.delegation import Inspection, UnverifiedLink, compose, inspection, narrow
from tolsey.token.macaroon import Macaroon
from tolsey.token.wire import LIMITS

__all__ = [
    "CaveatInvalid",
    "CaveatWider",
    "Delegation",
    "Inspection",
    "Macaroon",
    "TokenError",
    "TokenMalformed",
    "TokenMissing",
    "TolseyError",
    "UnverifiedLink",
    "attenuate",
    "inspect",
]

VARIABLE: Final = "TOLSEY_TOKEN"
"""The environment variable that a token is handed to a process in."""


def attenuate(
    token: str,
    *,
    label: str,
    budget: str | None = None,
    scope: str | None = None,
    expires: str | None = None,
    caveats: Sequence[str] = (),
    approval: str | None = None,
    approver: str | None = None,
) -> str:
    """Return a narrower token for a sub-agent, offline.

    `label` names the new Link (a random nonce is added, so that two equal children are two accounts); `budget` is as in
    `"50 USD"`, `scope` a path pattern, `expires` a date or an RFC 3339 time, `caveats` any others, as in
    `"method = GET"`. With `approval`, as in `"above 5 USD"` or `"always"`, somebody has to say yes to a call;
    `approver` is the gateway that asks them, as `tolsey approver` prints it there. This needs PyNaCl.

    Raises `TokenMalformed` if `token` cannot be read, `CaveatInvalid` if a caveat is not one we know, and `CaveatWider`
    if it would allow more than `token` does.
    """
    parent = Macaroon.deserialize(token.strip())
    texts = compose(
        label=label,
        nonce=secrets.token_urlsafe(9),
        scope=scope,
        expires=expires,
        budget=budget,
        caveats=caveats,
        parse=parser_of(parent.identifier),
    )
    child = narrow(parent, texts)
    if approval is not None:
        child = _with_approval(parent, texts, approval, approver or "")
    return child.to_text()


def _with_approval(parent: Macaroon, texts: Sequence[str], approval: str, approver: str) -> Macaroon:
    """The same child with an approval before its budgets, which come last."""
    from tolsey.token.approvals import Ticket, parse_approver, parse_condition, require

    ticket = Ticket(secrets.token_bytes(32), parse_condition(approval))
    first = next((n for n, text in enumerate(texts) if text.startswith("budget")), len(texts))
    asking = require(
        parent.attenuate(*texts[:first]),
        ticket,
        parse_approver(approver),
        ephemeral=secrets.token_bytes(32),
        nonce=secrets.token_bytes(24),
    )
    child = asking.attenuate(*texts[first:])
    if len(child.caveats) > LIMITS.caveats or len(child.serialize()) > LIMITS.token_bytes:
        raise CaveatInvalid(f"a token has at most {LIMITS.caveats} caveats and {LIMITS.token_bytes} bytes")
    return child


def inspect(token: str) -> Inspection:
    """Say what a token amounts to, without verifying it: that takes the gateway's key. Raises `TokenMalformed`."""
    macaroon, *discharges = Macaroon.deserialize_all(token.strip())
    return inspection(macaroon, discharges)


class Delegation:
    """A token in its holder's hands, to call with and to hand on::

        with parent.delegate("search-worker", budget="50 USD", scope="/api/v1/search") as child:
            ...

    A budget is a limit and nothing is set aside for it, so there is nothing to give back: what the child did not spend
    was the parent's all along. When the block ends, this object lets go of the token, and `token` raises. Whoever was
    given the token itself still has it; `expires`, or revoking it at the gateway, ends that.
    """

    __slots__ = ("_prefix_id", "_token")

    def __init__(self, token: str) -> None:
        """Hold a token as it was given. Raises `TokenMalformed`."""
        self._token: str | None = token.strip()
        self._prefix_id = inspect(token).prefix_id

    @classmethod
    def from_environment(cls) -> Self:
        """Hold the token in `TOLSEY_TOKEN`. Raises `TokenMissing` and `TokenMalformed`."""
        token = os.environ.get(VARIABLE, "")
        if not token.strip():
            raise TokenMissing(f"there is no token in {VARIABLE}")
        return cls(token)

    @property
    def token(self) -> str:
        """The token, to be sent as `Authorization: Bearer`. Raises `TokenMissing` when the block has ended."""
        if self._token is None:
            raise TokenMissing("the block of this delegation has ended")
        return self._token

    @property
    def prefix_id(self) -> str:
        """The public name of the token, in the trail and for revoking; it can be logged."""
        return self._prefix_id

    def delegate(
        self,
        label: str,
        *,
        budget: str | None = None,
        scope: str | None = None,
        expires: str | None = None,
        caveats: Sequence[str] = (),
    ) -> "Delegation":
        """Hand on a narrower token, as `attenuate` does."""
        return Delegation(
            attenuate(self.token, label=label, budget=budget, scope=scope, expires=expires, caveats=caveats)
        )

    def environment(self) -> dict[str, str]:
        """This process's environment with the token in `TOLSEY_TOKEN`, for a subprocess."""
        return os.environ | {VARIABLE: self.token}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._token = None

    def __repr__(self) -> str:
        """Never shows the token."""
        return f"<Delegation {self._prefix_id}{'' if self._token else ', ended'}>"
