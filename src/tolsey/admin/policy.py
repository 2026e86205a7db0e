"""Mint policy: which person or workload may do what, by the claims of an OpenID Connect token.

A policy amounts to the caveats of an admin token. It is made for each caller, always the same one, from an admin key:
so what is minted altogether is bounded by the same accounts as for anybody who holds such a token.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tolsey.token.caveats import MAX_LABEL_BYTES, glob_matches
from tolsey.token.chain import ADMIN, write_identifier
from tolsey.token.macaroon import Macaroon

_FOR_A_GLOB = re.compile(r"[A-Za-z0-9_.:/@+-]+", re.ASCII)
_CLAIM = re.compile(r"\{([^{}]+)\}")
_NONCE_BYTES: Final = 12
_LASTING: Final = 2
"""How many caveats make up the account: the label and the budget. The others may become more or fewer."""
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenID Connect provider. `issuer` is what its tokens say and where it is found, `audience` whom they must be
    for; `shown` is the claim that entries call a caller by; `ca` is the file of the certificate that it is trusted by.
    People log in to the dashboard with it where `login` is there, the URL at which their browsers find the dashboard;
    `secret` is what this gateway shows the provider then, as the client `audience`, "" for a public client.
    """

    name: str
    issuer: str
    audience: str
    shown: str
    ca: Path | None
    login: str | None = None
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class MintPolicy:
    """What those may do whose tokens are from `provider` and have one of the values (with `*` for any characters) of
    each of `claims`. `caveats` are those of an admin token but the last, `label`: which labels they may mint under, in
    which `{claim}` stands for a claim's value; None for any.
    """

    name: str
    provider: str
    claims: tuple[tuple[str, tuple[str, ...]], ...]
    caveats: tuple[str, ...]
    label: str | None


@dataclass(frozen=True, slots=True)
class Minting:
    """Who may mint without an admin token: the providers that are believed, and the policies in order."""

    providers: tuple[Provider, ...] = ()
    policies: tuple[MintPolicy, ...] = ()


def is_safe(url: str) -> bool:
    """Whether what is read at a URL can be relied upon: over TLS, or on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))


def choose(policies: Sequence[MintPolicy], provider: str, claims: Mapping[str, object]) -> MintPolicy | None:
    """The first policy that fits, None if none does."""
    for policy in policies:
        if policy.provider == provider and all(
            any(glob_matches(glob, value) for value in values_of(claims, name) for glob in globs)
            for name, globs in policy.claims
        ):
            return policy
    return None


def values_of(claims: Mapping[str, object], name: str) -> list[str]:
    """The texts that a claim has: its own, or those of a list. `realm_access.roles` is `roles` in `realm_access`, where
    no claim has the whole name.
    """
    found: object = claims.get(name)
    if found is None and "." in name:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    return [value for value in (found if isinstance(found, list) else [found]) if isinstance(value, str)]


def label_of(policy: MintPolicy, claims: Mapping[str, object]) -> str | None:
    """The labels of a policy, with the caller's claims put in. Raises ValueError where one is not there, is more than
    one, or would mean something else there: a `*` in a name must not become any characters.
    """
    if policy.label is None:
        return None

    def value(placeholder: re.Match[str]) -> str:
        values = values_of(claims, placeholder[1])
        if len(values) != 1 or _FOR_A_GLOB.fullmatch(values[0]) is None:
            raise ValueError(f"the claim {placeholder[1]} cannot be put into a label")
        return values[0]

    return _CLAIM.sub(value, policy.label)


def placeholders(label: str) -> str:
    """A label with something for each `{claim}`, to see whether it can be one."""
    return _CLAIM.sub("x", label)


def token_of(policy: MintPolicy, provider: Provider, claims: Mapping[str, object], key: tuple[str, bytes]) -> Macaroon:
    """The admin token that a policy amounts to for a caller: the same for the same `sub`, policy and admin key (its id
    and secret), so that its accounts are. Raises ValueError (see `label_of`).
    """
    subject = str(claims["sub"])
    seed = sha256("\0".join((provider.issuer, subject, policy.name)).encode("utf-8", "surrogatepass")).digest()
    nonce = base64.urlsafe_b64encode(seed).decode("ascii")
    label = label_of(policy, claims)
    texts = [f"label = {_label(provider.name, subject)} {nonce[:_NONCE_BYTES]}", *policy.caveats]
    texts += [] if label is None else [f"mint-label = {label}"]
    identifier = write_identifier(ADMIN, key[0], nonce[:22], _LASTING)
    return Macaroon.mint(root_key=key[1], identifier=identifier, location="tolsey").attenuate(*texts)


def shown_name(provider: Provider, claims: Mapping[str, object]) -> str:
    """What entries call a caller: the claim that its provider says, or its `sub`; on one line, and not too long."""
    (name, *_) = (*values_of(claims, provider.shown), str(claims["sub"]))
    return "".join(char if char.isprintable() else "?" for char in name)[:MAX_LABEL_BYTES]


def _label(provider: str, subject: str) -> str:
    """The name of a caller's Link. It need not be unique: the nonce is."""
    plain = "".join(char if char.isprintable() else "?" for char in f"{provider} {subject}")
    return plain.encode("utf-8", "replace")[: MAX_LABEL_BYTES - _NONCE_BYTES - 1].decode("utf-8", "ignore").strip()
