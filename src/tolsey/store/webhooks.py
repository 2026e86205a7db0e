"""Webhooks as https://www.standardwebhooks.com has them: signed, delivered at least once, told apart by their id."""

import base64
import hmac
import http.client
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

SECONDS: Final = 10.0
"""How long a receiver may take."""

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what a secret begins with
"""A secret may be written so, in base64; anything else is taken as it is."""


def key_of(secret: str) -> bytes:
    """The signing key of a secret. Raises ValueError for `whsec_` with what is not base64."""
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode("utf-8")
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)


def sign(key: bytes, id_: str, seconds: int, body: str) -> str:
    """The signature of a webhook: HMAC-SHA256 over id, time (seconds since the epoch) and body."""
    digest = hmac.digest(key, f"{id_}.{seconds}.{body}".encode(), "sha256")
    return f"v1,{base64.b64encode(digest).decode('ascii')}"


def deliver(url: str, key: bytes, id_: str, seconds: int, body: str) -> str | None:
    """POST a webhook; None if it was taken (2xx), else what went wrong. Blocks; follows no redirect."""
    headers = {
        "webhook-id": id_,
        "webhook-timestamp": str(seconds),
        "webhook-signature": sign(key, id_, seconds, body),
    }
    return post(url, headers, body.encode("utf-8"))


def post(url: str, headers: Mapping[str, str], body: bytes) -> str | None:
    """POST JSON; None if it was taken (2xx), else what went wrong, without the URL. Blocks; follows no redirect."""
    parts = urlsplit(url)
    headers = {"Content-Type": "application/json", "User-Agent": "tolsey", **headers}
    try:
        connection = _connect(parts.scheme, parts.netloc)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", path, body, headers)
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        # ValueError: a host that is no name, which only the look-up finds out.
        return f"{type(error).__name__}: {error}"
    return None if 200 <= status < 300 else f"answered {status}"


def _connect(scheme: str, netloc: str) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(netloc, timeout=SECONDS, context=ssl.create_default_context())
    return http.client.HTTPConnection(netloc, timeout=SECONDS)
