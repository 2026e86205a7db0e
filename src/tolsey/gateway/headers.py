"""What is taken from a request's headers, and what is passed on, up and down (RULES.md T8, H4, H5)."""

import ipaddress
from collections.abc import Sequence
from typing import Final

from tolsey.errors import Refusal, TokenError
from tolsey.gateway.trace import Trace
from tolsey.token import mpp
from tolsey.token.caveats import Network
from tolsey.token.l402 import SCHEMES, Presented, read_credential
from tolsey.token.macaroon import Macaroon

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, as ASGI gives them."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
"""RFC 9110 section 7.6.1, and what its predecessors called so."""

OVERRIDES: Final = frozenset(
    {
        b"x-original-url",
        b"x-rewrite-url",
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
        b"x-envoy-original-path",
    }
)
"""With these a client could have one path or method priced and another served."""

_DROPPED_UP: Final = (
    HOP_BY_HOP | OVERRIDES | {b"host", b"expect", b"forwarded", b"content-length", b"traceparent", b"tracestate"}
)
_DROPPED_PREFIXES_UP: Final = (b"tolsey-", b"x-forwarded-")
_CREDENTIALS: Final = frozenset({b"authorization", b"x-api-key"})

PAYMENT_SIGNATURE: Final = b"payment-signature"
"""In which a call is paid for over x402. It is a credential where that is taken, on routes that enforce."""

_WITHHELD: Final = _CREDENTIALS | {PAYMENT_SIGNATURE}


def credential(headers: Headers) -> str | Presented | Refusal:
    """The token that a request carries, or why there is not exactly one. `L402` and `Payment` have paid ones."""
    found: str | Presented | Refusal | None = None
    count = 0
    for name, value in headers:
        if name in _CREDENTIALS:
            count += 1
            text = value.decode("latin-1").strip()
            if name == b"x-api-key":
                found = text
            else:
                scheme, _, rest = text.partition(" ")
                found = _of_scheme(scheme.lower(), rest.strip())
    if count > 1:
        return Refusal("credentials_ambiguous", "send one credential: Authorization or X-Api-Key, once")
    if found is None:
        return Refusal("token_missing", "send a token as 'Authorization: Bearer …' or 'X-Api-Key: …'")
    return found


def _of_scheme(scheme: str, rest: str) -> str | Presented | Refusal | None:
    if scheme in SCHEMES or scheme == mpp.SCHEME:
        try:
            return mpp.read_credential(rest) if scheme == mpp.SCHEME else read_credential(rest)
        except TokenError as error:
            return Refusal(error.code, error.detail)
    return rest if scheme == "bearer" else None


def signature(headers: Headers) -> str | Refusal | None:
    """The payment over x402 that a request carries, None where there is none; it is the only credential."""
    found = [value.decode("latin-1").strip() for name, value in headers if name == PAYMENT_SIGNATURE]
    if not found:
        return None
    if len(found) > 1 or any(name in _CREDENTIALS for name, _ in headers):
        return Refusal("credentials_ambiguous", "send one PAYMENT-SIGNATURE, and no other credential")
    return found[0]


def joined(headers: Headers, name: bytes) -> str:
    """The values of all headers of that name, joined by commas; `""` for none."""
    return ",".join([value.decode("latin-1") for other, value in headers if other == name])


def is_ours(name: bytes, value: bytes) -> bool:
    """Whether a credential header holds one of our tokens, whose place is never upstream."""
    text = value.decode("latin-1").strip()
    if text.startswith("tolsey"):
        return True
    if name == b"authorization":
        scheme, _, text = text.partition(" ")
        if scheme.lower() in SCHEMES:
            return True
        if scheme.lower() == mpp.SCHEME:
            # The upstream of a public route may ask for payments of its own under that scheme.
            return isinstance(_of_scheme(mpp.SCHEME, text.strip()), Presented)
    text = text.strip()
    if text.startswith("tolsey"):
        return True
    try:
        return any(macaroon.identifier.startswith(b"tolsey") for macaroon in Macaroon.deserialize_all(text))
    except TokenError:
        return False


def up(
    headers: Headers,
    *,
    peer: str,
    socket_peer: str,
    scheme: str,
    host: bytes,
    keep_foreign_credentials: bool,
    configured: Sequence[tuple[bytes, bytes]],
    trace: Trace | None,
) -> list[tuple[bytes, bytes]]:
    """The headers to send upstream: ours and the connection's taken out, forwarding rewritten, the configured ones set.

    `peer` is the client's address as far as it is trusted, `socket_peer` that of the connection. With
    `keep_foreign_credentials` (a public route) a credential that is not one of ours is the upstream's business. `trace`
    is what the upstream is to see as its parent, unless a configured header says otherwise.
    """
    dropped = {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}
    dropped.update([name for name, _ in configured])
    out = [
        (name, value)
        for name, value in headers
        if not (
            name in _DROPPED_UP
            or name in dropped
            or b"_" in name
            or name.startswith(_DROPPED_PREFIXES_UP)
            or (name in _WITHHELD and not (keep_foreign_credentials and not is_ours(name, value)))
        )
    ]
    chain = peer if peer == socket_peer else f"{peer}, {socket_peer}"
    out.append((b"x-forwarded-for", chain.encode("ascii")))
    out.append((b"x-forwarded-proto", scheme.encode("ascii")))
    if host:
        out.append((b"x-forwarded-host", host))
    if trace is not None and b"traceparent" not in dropped:
        out += trace.headers()
    out.extend(configured)
    return out


def goes_up(name: bytes) -> bool:
    """Whether a header reaches the upstream as the client sent it, unless the client or a config says otherwise."""
    dropped = name in _DROPPED_UP or name in _WITHHELD or b"_" in name
    return not (dropped or name.startswith(_DROPPED_PREFIXES_UP))


def down(headers: Headers, *, origin: bytes, prefix: bytes) -> list[tuple[bytes, bytes]]:
    """The upstream's headers as the client gets them.

    `origin` (`http://host:port`) and `prefix` are the upstream's: a Location there becomes one here.
    """
    dropped = {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}
    return [
        (name, local_location(value, origin=origin, prefix=prefix) if name == b"location" else value)
        for name, value in headers
        if not (name in HOP_BY_HOP or name in dropped or name.startswith(b"tolsey-"))
    ]


def local_location(value: bytes, *, origin: bytes, prefix: bytes) -> bytes:
    """A Location on the upstream's own origin as a path of ours; any other as it is."""
    rest = value
    if value.lower().startswith(origin.lower()) and value[len(origin) : len(origin) + 1] in (b"", b"/", b"?", b"#"):
        rest = value[len(origin) :] or b"/"
        if not rest.startswith(b"/"):
            rest = b"/" + rest
    if rest.startswith(b"/") and not rest.startswith(b"//") and prefix and rest.startswith(prefix):
        after = rest[len(prefix) :]
        if after[:1] in (b"", b"/", b"?", b"#"):
            return after if after.startswith(b"/") else b"/" + after
    return rest


def client_address(headers: Headers, socket_peer: str, trusted: Sequence[Network]) -> str:
    """The client's address: the socket's, or, behind trusted proxies, the last forwarded one that is not such a
    proxy.
    """
    if not trusted or not is_in(socket_peer, trusted):
        return socket_peer
    forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for")
    for word in reversed(forwarded.decode("latin-1").split(",")):
        address = word.strip()
        if not _is_address(address):
            break
        if not is_in(address, trusted):
            return address
    return socket_peer


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_in(text: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of these networks."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
