"""Idempotency keys: a call that is repeated under its key is answered with what came of the first, and charged once.

draft-ietf-httpapi-idempotency-key-header. The key belongs to the Link that sent it. What decides is in the ledger's
rules; here is what HTTP has to say of it. A request is the same if its method, path, query, content type and body are.
"""

import hashlib
from typing import Final

import msgspec

from tolsey.errors import Refusal
from tolsey.gateway.client import BodyBroken, BodyTooLarge, Client
from tolsey.gateway.headers import Headers
from tolsey.gateway.recorder import Response
from tolsey.ledger.events import Claim, Claimed

MAX_KEY: Final = 255
"""The longest key, in characters."""

_VISIBLE: Final = frozenset(range(0x21, 0x7F))


def key_of(headers: Headers) -> str | Refusal | None:
    """The request's idempotency key: a quoted string (RFC 9651, 3.3.3), or the bare text that many clients send."""
    values = [value for name, value in headers if name == b"idempotency-key"]
    if not values:
        return None
    text = values[0].strip()
    if text[:1] == b'"' and text[-1:] == b'"' and len(text) > 1:
        text = text[1:-1].replace(b'\\"', b"\x00").replace(b"\\\\", b"\x01")
        whole = b'"' not in text and b"\\" not in text
        text = text.replace(b"\x00", b'"').replace(b"\x01", b"\\") if whole else b""
    if len(values) > 1 or not 0 < len(text) <= MAX_KEY or not _VISIBLE.issuperset(text.replace(b" ", b"_")):
        return Refusal("request_invalid", f"send one Idempotency-Key of 1 to {MAX_KEY} visible characters")
    return text.decode("ascii")


def claim_of(key: str, scope: str, method: str, path: str, query: str, headers: Headers) -> Claim:
    """The claim of a request: `scope` is the prefix id of the bearer's Link."""
    kinds = [value for name, value in headers if name == b"content-type"]
    parts = [method.encode("ascii"), path.encode("ascii"), query.encode("ascii"), *kinds]
    head = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return Claim(scope, key, hashlib.sha256(head).hexdigest())


async def answer(claimed: Claimed, claim: Claim, client: Client, max_body: int | None) -> bool:
    """Answer a call whose key was used before; whether it was with what the first got."""
    if claimed.claim.request != claim.request:
        await client.refuse(_MISMATCH)
    elif claimed.done is None:
        await client.refuse(_busy(claimed, "that call is still running", retry_after=1))
    elif claimed.response is None:
        await client.refuse(_busy(claimed, "what came of it is not known, or was too large to keep"))
    elif await _digest(client, max_body) != claimed.body:
        await client.refuse(_MISMATCH)
    else:
        status, headers, body = msgspec.msgpack.decode(claimed.response, type=Response)
        await client.whole(status, [*headers, (b"tolsey-replayed", b"true")], body)
        return True
    return False


async def _digest(client: Client, max_body: int | None) -> str | None:
    """That of the request's body, None for one that does not come to its end."""
    sent = hashlib.sha256()
    try:
        async for piece in client.body(max_body):
            sent.update(piece)
    except (BodyTooLarge, BodyBroken):
        return None
    return sent.hexdigest()


_MISMATCH: Final = Refusal(
    "idempotency_mismatch", "this Idempotency-Key was used for another request within the last day"
)


def _busy(claimed: Claimed, why: str, retry_after: int | None = None) -> Refusal:
    detail = f"this Idempotency-Key is that of hold {claimed.hold}, and {why}"
    return Refusal("idempotency_busy", detail, retry_after=retry_after)
