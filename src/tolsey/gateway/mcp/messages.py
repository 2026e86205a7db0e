"""JSON-RPC 2.0 as MCP has it: one message a body, read so that no two readers can disagree about it; and its errors.

A message is kept as the bytes of its members, and only what the gateway has to change is written anew: what it does not
know goes on as it came.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from tolsey.errors import Refusal
from tolsey.gateway import problems
from tolsey.pricing.document import DocumentInvalid, read_document

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
HEADER_MISMATCH: Final = -32020
REFUSED: Final = -32010
"""The code of every refusal: of those that MCP leaves to implementations (2026-07-28, Error Codes). Which one it is, is
in the `code` of its data.
"""

MAX_ID: Final = 256
"""The longest id, in bytes of JSON."""

MAX_METHOD: Final = 128

Members = dict[str, msgspec.Raw]
"""An object, each member as the bytes that it came as."""

_IN_HTTP: Final = frozenset({400, 401, 404, 405, 413, 431})
"""Statuses that are the response's own. Every other refusal is the answer to a message, which HTTP carried well."""

_OF_HTTP: Final = frozenset({"origin_refused"})
_encode = msgspec.json.encode
_members = msgspec.json.Decoder(Members)


class Fault(NamedTuple):
    """What is wrong with a message, under the code that JSON-RPC or MCP has for it."""

    code: int
    detail: str


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message. `id` is JSON (None: a notification), `method` is None for a response. `params` are read."""

    members: Members
    id: bytes | None
    method: str | None
    params: dict[str, object]

    def written(self, params: Mapping[str, object] | None = None, **others: object) -> bytes:
        """The message with some of its params, and of its own members, in the place of what they were."""
        members: dict[str, object] = {**self.members, **others}
        if params is not None:
            members["params"] = {**self.inner(), **params}
        return _encode(members)

    def inner(self) -> Members:
        """The params as they came."""
        return read_members(self.members["params"]) if "params" in self.members else {}


def read_members(data: bytes | msgspec.Raw) -> Members:
    """The members of an object. Raises `msgspec.DecodeError`."""
    return _members.decode(data)


def read_message(body: bytes) -> Message | Fault:
    """Read what a client sent."""
    try:
        document = read_document(body)
    except DocumentInvalid as error:
        return Fault(PARSE_ERROR, f"the message cannot be read: {error}")
    if isinstance(document, list):
        return Fault(INVALID_REQUEST, "send one message at a time: MCP has no batches since 2025-06-18")
    if not isinstance(document, dict) or document.get("jsonrpc") != "2.0":
        return Fault(INVALID_REQUEST, 'a message is an object with "jsonrpc": "2.0"')
    try:
        members = read_members(body)
    except msgspec.DecodeError:
        return Fault(PARSE_ERROR, "the message cannot be read: it is not JSON")
    fault = _fault(document, members)
    if fault is not None:
        return Fault(INVALID_REQUEST, fault)
    identifier = bytes(members["id"]) if "id" in members else None
    return Message(members, identifier, document.get("method"), document.get("params") or {})


def _fault(document: Mapping[str, object], members: Members) -> str | None:
    if "id" in document:
        identifier = document["id"]
        # A number that is no integer is read as a kind of text.
        if type(identifier) not in (str, int):
            return "an id is a string or an integer"
        if len(bytes(members["id"])) > MAX_ID:
            return f"an id has at most {MAX_ID} bytes"
    if not isinstance(document.get("params", {}), dict):
        return "params are an object"
    if "method" in document:
        method = document["method"]
        if type(method) is not str or not 0 < len(method) <= MAX_METHOD or not method.isascii():
            return f"a method is a text of 1 to {MAX_METHOD} characters of ASCII"
        if not method.isprintable() or " " in method:
            return "a method has no blanks and no control characters"
        return "a request has neither a result nor an error" if {"result", "error"} & document.keys() else None
    if "id" not in document or ("result" in document) == ("error" in document):
        return "a message has a method, or it has an id and either a result or an error"
    return None


def write_error(identifier: bytes | None, code: int, message: str, data: object = None) -> bytes:
    """An error, as the answer to the message with that id (None: it could not be read)."""
    error: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return _encode({"jsonrpc": "2.0", "id": msgspec.Raw(identifier or b"null"), "error": error})


def write_result(identifier: bytes, result: object) -> bytes:
    """A result, as the answer to the message with that id."""
    return _encode({"jsonrpc": "2.0", "id": msgspec.Raw(identifier), "result": result})


def refused(
    identifier: bytes | None, refusal: Refusal, more: Mapping[str, object] | None = None, code: int = REFUSED
) -> bytes:
    """A refusal, as the answer to the message with that id: its data has the members of the problem document."""
    return write_error(
        identifier, code, f"{refusal.title}: {refusal.detail}", {**problems.members(refusal), **(more or {})}
    )


def response_of(
    identifier: bytes | None, refusal: Refusal, more: Mapping[str, object] | None = None, code: int = REFUSED
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """A refusal as a response: status, headers and body."""
    status, headers, _ = problems.response(refusal, more)
    body = refused(identifier, refusal, more, code)
    kept = [header for header in headers if header[0] not in (b"content-type", b"content-length")]
    as_is = status in _IN_HTTP or refusal.code in _OF_HTTP
    return (status if as_is else 200), [*kept, *json_headers(body)], body


def json_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a body of JSON."""
    return [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode("ascii"))]
