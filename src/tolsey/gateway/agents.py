"""Who calls, where no verified token says so: good enough to tell callers apart in a report, and for nothing else.

Nothing here is trusted: a header can be made up and a JWT is not verified. No secret comes out: of an API key and of a
certificate only the beginning of a hash does.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from tolsey.gateway.headers import Headers
from tolsey.ledger.tallies import MAX_TEXT

MAX_JWT: Final = 16 * 1024
"""The longest JWT that is looked into, in bytes."""

_CERTIFICATES: Final = (b"x-forwarded-client-cert", b"x-client-cert", b"ssl-client-cert", b"x-ssl-client-s-dn")
_KEYS: Final = (b"x-api-key", b"api-key", b"x-goog-api-key")


def agent_of(headers: Headers, peer: str, sources: Sequence[str], *, trusted: bool) -> str:
    """The first of `sources` that the call has, as `user-agent curl/8.0`; "unknown" if it has none.

    `peer` is the client's address; only a `trusted` proxy is believed about a client certificate.
    """
    for source in sources:
        kind, _, name = source.partition(":")
        match kind:
            case "header":
                found = _header(headers, (name.encode("ascii"),))
            case "jwt":
                found = _claim(headers, name)
            case "certificate":
                found = _hash(_header(headers, _CERTIFICATES)) if trusted else ""
            case "api-key":
                found = _hash(_header(headers, _KEYS) or _bearer(headers))
            case "user-agent":
                found = _header(headers, (b"user-agent",))
            case _:
                found = peer
        if found:
            return f"{name or kind} {found}"[:MAX_TEXT]
    return "unknown"


def _header(headers: Headers, names: Sequence[bytes]) -> str:
    for name, value in headers:
        if name in names:
            return "".join(c for c in value.decode("latin-1") if c.isprintable()).strip()
    return ""


def _bearer(headers: Headers) -> str:
    scheme, _, rest = _header(headers, (b"authorization",)).partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else ""


def _hash(secret: str) -> str:
    return sha256(secret.encode("utf-8")).hexdigest()[:12] if secret else ""


def _claim(headers: Headers, name: str) -> str:
    """A claim of an unverified JWT; "" for anything that is none."""
    parts = _bearer(headers).split(".")
    if len(parts) != 3 or len(parts[1]) > MAX_JWT:
        return ""
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return ""
    value = claims.get(name) if isinstance(claims, dict) else None
    return "".join(c for c in value if c.isprintable()) if isinstance(value, str) else ""
