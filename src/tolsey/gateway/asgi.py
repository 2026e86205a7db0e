"""The ASGI application: bytes in, a Call through the passage, bytes out. Any ASGI server can run it."""

import asyncio
from typing import Any

from tolsey.call import path_fault, query_fault
from tolsey.errors import Refusal
from tolsey.gateway.client import Client, Receive, Send, Watch
from tolsey.gateway.own import OWN_PREFIX, answer_own
from tolsey.gateway.passage import Passage, Request


class Gateway:
    """The application on the data port, for one event loop."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage
        self._watch = Watch()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One ASGI scope."""
        if scope["type"] != "http":
            raise NotImplementedError(f"{scope['type']} is not served")
        passage = self._passage
        request = read_request(scope)
        has_body = isinstance(request, Refusal) or request.size != 0
        client = Client(self._watch, receive, send, scope["method"], has_body=has_body)
        try:
            if isinstance(request, Refusal):
                await client.refuse(request)
            elif request.path.startswith(OWN_PREFIX):
                await answer_own(passage, request, client)
            else:
                await passage.serve(request, client)
        except asyncio.CancelledError:
            if client.cut is None:
                raise
        finally:
            client.done()


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
    )
