"""A request's head, as it comes from an ASGI server."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tolsey.call import Call, path_fault, query_fault
from tolsey.errors import Refusal
from tolsey.gateway import headers as header_rules
from tolsey.gateway.trace import Trace, read_trace
from tolsey.token.caveats import Network


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request's head. `path` and `query` are raw and canonical; `size` is the announced body in bytes, None if there
    is a body of unknown size, 0 if there is none.
    """

    method: str
    path: str
    query: str
    headers: header_rules.Headers
    socket_peer: str
    scheme: str
    host: bytes
    size: int | None
    trace: Trace | None = None


def call_of(request: Request, trusted_proxies: Sequence[Network], at: int) -> Call:
    """What a request attempts at the instant `at`, while its upstream is not known yet."""
    peer = header_rules.client_address(request.headers, request.socket_peer, trusted_proxies)
    return Call(request.method, request.path, request.query, peer, at)


def read_request(scope: dict[str, Any]) -> Request | Refusal:
    """Read a request's head, or say what is wrong with it."""
    raw: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    fault = path_fault(raw)
    if fault is not None:
        return Refusal("path_invalid", f"the path is refused: {fault}")
    fault = query_fault(query)
    if fault is not None:
        return Refusal("path_invalid", f"the request target is refused: {fault}")
    size: int | None = 0
    hosts = []
    traced = False
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18:
                return Refusal("request_invalid", "the Content-Length is not a number")
            size = int(value)
        elif name == b"transfer-encoding":
            if scope["http_version"] == "1.0":
                return Refusal("request_invalid", "HTTP/1.0 has no Transfer-Encoding")
            size = None
        elif name == b"host":
            hosts.append(value)
        elif name == b"traceparent":
            traced = True
        elif name == b"upgrade" and value.strip().lower() != b"h2c":
            return Refusal("request_invalid", "upgrading the connection is not supported")
    if len(hosts) > 1 or (not hosts and scope["http_version"] == "1.1"):
        return Refusal("request_invalid", "a request has one Host header")
    client = scope.get("client")
    return Request(
        scope["method"],
        raw.decode("ascii"),
        query.decode("ascii"),
        scope["headers"],
        client[0] if client else "",
        scope["scheme"],
        hosts[0] if hosts else b"",
        size,
        read_trace(scope["headers"]) if traced else None,
    )
