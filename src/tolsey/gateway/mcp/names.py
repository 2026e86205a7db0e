"""What a message is about: the name that caveats and prices have for it, and whether its headers say the same."""

import base64
import binascii
import re
from typing import Final

from tolsey.gateway.mcp.messages import Message
from tolsey.gateway.mcp.servers import NAMED, PROMPT, RESOURCE
from tolsey.gateway.request import Request

_ENCODED = re.compile(rb"=\?base64\?([A-Za-z0-9+/]*={0,2})\?=")
_MIRRORED: Final = (b"mcp-method", b"mcp-name", b"mcp-protocol-version")


def named(message: Message) -> str | None:
    """The name of what a message is about, None if it has none."""
    method, params = message.method or "", message.params
    if method in NAMED:
        key, kind = NAMED[method]
        value = params.get(key)
    elif method in ("resources/subscribe", "resources/unsubscribe"):
        kind, value = RESOURCE, params.get("uri")
    elif method == "completion/complete":
        reference = params.get("ref")
        if not isinstance(reference, dict):
            return None
        kind = RESOURCE if "uri" in reference else PROMPT
        value = reference.get("uri", reference.get("name"))
    else:
        return None
    if type(value) is not str or not value or (not kind and ":" in value):
        # A tool that is called as a resource is, or a method, could pass for one.
        return None
    return kind + value


def header_fault(request: Request, message: Message) -> str | None:
    """Why what the headers say of a message is not what it says itself (2026-07-28, Server Validation), or None. Others
    may have decided by the headers, and the server may; here it is the message that counts.
    """
    key = NAMED.get(message.method or "", ("", ""))[0]
    said = {b"mcp-method": message.method, b"mcp-name": message.params.get(key)}
    for name in _MIRRORED:
        values = [value for header, value in request.headers if header == name]
        if len(values) > 1:
            return f"the header {name.decode('ascii')} is repeated"
        if values and name in said and _decoded(values[0]) != said[name]:
            return f"the header {name.decode('ascii')} is not what the message says"
    return None


def _decoded(value: bytes) -> str | None:
    encoded = _ENCODED.fullmatch(value.strip())
    try:
        data = value.strip() if encoded is None else base64.b64decode(encoded[1], validate=True)
        return data.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
