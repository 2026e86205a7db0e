"""A Refusal as an RFC 9457 problem document. Nothing else turns a refusal into HTTP."""

from collections.abc import Mapping
from typing import Final

import msgspec

from tolsey.errors import Refusal
from tolsey.units import format_nano

RETRY_AFTER_SECONDS: Final = 1
"""What `Retry-After` says where trying again may help."""

_RETRY: Final = frozenset({429, 503})


def members(refusal: Refusal) -> dict[str, object]:
    """The document's members. Amounts are plain decimal strings in `unit`."""
    found: dict[str, object] = {
        "type": f"urn:tolsey:problem:{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code,
    }
    if refusal.prefix_id is not None:
        found["link"] = {"label": refusal.link, "prefix_id": refusal.prefix_id}
    if refusal.caveat is not None:
        found["caveat"] = refusal.caveat
    if refusal.unit is not None:
        found["unit"] = refusal.unit
    if refusal.limit is not None and refusal.spent is not None and refusal.held is not None:
        found["limit"] = format_nano(refusal.limit)
        found["spent"] = format_nano(refusal.spent)
        found["held"] = format_nano(refusal.held)
        found["remaining"] = format_nano(refusal.limit - refusal.spent - refusal.held)
        found["resets_at"] = refusal.resets_at
    return found


def response(
    refusal: Refusal, more: Mapping[str, object] | None = None
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body; `more` are further members of the document."""
    body = msgspec.json.encode({**members(refusal), **(more or {})})
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
    ]
    if refusal.status == 401:
        error = b"" if refusal.code == "token_missing" else b' error="invalid_token"'
        headers.append((b"www-authenticate", b'Bearer realm="tolsey"' + (b"," + error if error else b"")))
    if refusal.status in _RETRY or refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after or RETRY_AFTER_SECONDS).encode("ascii")))
    if refusal.code == "method_not_allowed":
        headers.append((b"allow", ", ".join(refusal.allow).encode("ascii")))
    return refusal.status, headers, body
