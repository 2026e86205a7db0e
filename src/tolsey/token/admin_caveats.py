"""What the caveats of admin tokens mean. An admin token has a vocabulary of its own: what limits calls, as `scope` and
`budget` do, says nothing about an act of an admin, so there it is not understood and refuses; and the other way round.

Here too every caveat is ANDed. One that lists several things, units or actions, lists all of them, so that another one
can only take away.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tolsey.call import Pattern, parse_pattern
from tolsey.errors import AmountInvalid, CaveatInvalid, PatternInvalid
from tolsey.token.caveats import (
    SECOND,
    Depth,
    Expires,
    Label,
    Meaning,
    Peer,
    Purpose,
    alternatives,
    parse_caveat,
    read_globs,
    split_caveat,
)
from tolsey.units import Budget, parse_budget

ACTIONS: Final = (
    *(
        "approvals",
        "approve",
        "attenuate",
        "config",
        "deny",
        "drop",
        "grant",
        "holds",
        "keys",
        "mint",
        "refund",
        "report",
    ),
    *("revoke", "revoked", "rotate", "trail", "unrevoke", "void"),
)
"""What an admin can do."""

ADMIN_PREFIX: Final = b"tolsey-admin:"
"""What the identifiers of admin tokens begin with."""

_LIFETIME = re.compile(r"([1-9][0-9]{0,4})([mhdw])", re.ASCII)
_LENGTHS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True, slots=True)
class Action:
    """Refuses every act but these."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MintBudget:
    """Opens an account for each unit, from which the budgets of minted tokens and grants are taken. Refuses those in
    another unit, and those for a period, whose sum has no end.
    """

    budgets: tuple[Budget, ...]


@dataclass(frozen=True, slots=True)
class MintScope:
    """Refuses to mint a token without a scope within these patterns."""

    patterns: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class MintLifetime:
    """Refuses to mint a token that does not expire within `span` nanoseconds."""

    span: int


@dataclass(frozen=True, slots=True)
class MintLabel:
    """Refuses to mint a token with a label that no glob names."""

    globs: tuple[str, ...]


MintBound = MintBudget | MintScope | MintLifetime | MintLabel
"""What limits the tokens that are minted, and what is granted."""

AdminMeaning = Label | Expires | Peer | Depth | Purpose | Action | MintBound
"""What a first-party caveat of an admin token can turn out to be."""


def parse_admin_caveat(cid: bytes) -> AdminMeaning:
    """Read one first-party caveat of an admin token. Raises `CaveatInvalid`, whose text says what is wrong with it."""
    name, value = split_caveat(cid)
    parse = _PARSERS.get(name)
    try:
        if parse is not None:
            return parse(value)
        if name in _SHARED:
            meaning = parse_caveat(cid)
            if isinstance(meaning, Label | Expires | Peer | Depth | Purpose):
                return meaning
    except (AmountInvalid, PatternInvalid) as error:
        raise CaveatInvalid(f"{name}: {error.detail}") from None
    raise CaveatInvalid(f"{name!r} is not a caveat of an admin token; known are {', '.join(ADMIN_CAVEAT_NAMES)}")


def parser_of(identifier: bytes) -> "Callable[[bytes], Meaning | AdminMeaning]":
    """The parser for the caveats of a token with this identifier."""
    return parse_admin_caveat if identifier.startswith(ADMIN_PREFIX) else parse_caveat


def parse_span(text: str) -> int:
    """Read `30m`, `24h`, `7d` or `2w`; return nanoseconds. Raises `CaveatInvalid`."""
    match = _LIFETIME.fullmatch(text)
    if match is None:
        raise CaveatInvalid(f"{text[:32]!r} is no length of time: write 30m, 24h, 7d or 2w")
    return int(match[1]) * _LENGTHS[match[2]] * SECOND


def _action(value: str) -> Action:
    names = alternatives("action", value)
    for name in names:
        if name not in ACTIONS:
            raise CaveatInvalid(f"action: {name[:32]!r} is not one of {', '.join(ACTIONS)}")
    return Action(names)


def _mint_budget(value: str) -> MintBudget:
    budgets = tuple(parse_budget(part.strip(" ")) for part in value.split(","))
    if len({budget.amount.unit for budget in budgets}) != len(budgets):
        raise CaveatInvalid("mint-budget: a unit is named twice")
    return MintBudget(budgets)


def _mint_scope(value: str) -> MintScope:
    return MintScope(tuple(parse_pattern(word) for word in alternatives("mint-scope", value)))


def _mint_lifetime(value: str) -> MintLifetime:
    try:
        return MintLifetime(parse_span(value))
    except CaveatInvalid as error:
        raise CaveatInvalid(f"mint-lifetime: {error.detail}") from None


_SHARED: Final = ("label", "expires", "peer", "depth", "purpose")
_PARSERS: Final[dict[str, Callable[[str], AdminMeaning]]] = {
    "action": _action,
    "mint-budget": _mint_budget,
    "mint-scope": _mint_scope,
    "mint-lifetime": _mint_lifetime,
    "mint-label": lambda value: MintLabel(read_globs("mint-label", value)),
}

ADMIN_CAVEAT_NAMES: Final = (*_SHARED, *_PARSERS)
"""Every caveat that an admin token can have."""
