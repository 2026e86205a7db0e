"""The ASGI application: bytes in, a Call through the passage, bytes out. Any ASGI server can run it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from tolsey.call import path_fault, query_fault
from tolsey.errors import Refusal
from tolsey.gateway.client import Client, Receive, Send, Watch
from tolsey.gateway.messages import Request
from tolsey.gateway.own import OWN_PREFIX, answer_own
from tolsey.gateway.passage import Passage
from tolsey.gateway.record import CallRecord
from tolsey.gateway.trace import read_trace

BATCH: Final = 64
"""How many calls that are over are handed on together: one by one it would cost each of them three times as much."""

HAND_ON_SECONDS: Final = 0.1
"""How long a call that is over waits for others at most."""

Over = Callable[[Sequence[CallRecord]], None]
"""Whoever counts or writes down what became of calls."""


class Gateway:
    """The application on the data port, for one event loop.

    Each of `over` gets the record of every call that is over, whatever became of it, shortly after. `begun`, if there
    is one, gets it first, and may put another trace into it. They neither wait nor raise.
    """

    def __init__(
        self, passage: Passage, over: Sequence[Over], begun: Callable[[CallRecord], None] | None = None
    ) -> None:
        self._passage = passage
        self._over = tuple(over)
        self._begun = begun
        self._watch = Watch()
        self._ended: list[CallRecord] = []

    @property
    def open_calls(self) -> int:
        """How many calls are under way."""
        return len(self._watch.clients)

    def hand_on(self) -> None:
        """Hand on what is over."""
        ended, self._ended = self._ended, []
        for over in self._over if ended else ():
            over(ended)

    def _end(self, record: CallRecord) -> None:
        record.ended = time.perf_counter_ns()
        self._ended.append(record)
        if len(self._ended) == 1:
            self._watch.loop.call_later(HAND_ON_SECONDS, self.hand_on)
        elif len(self._ended) == BATCH:
            # Not within this call: what goes wrong there is not its concern.
            self._watch.loop.call_soon(self.hand_on)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One ASGI scope."""
        if scope["type"] != "http":
            raise NotImplementedError(f"{scope['type']} is not served")
        passage = self._passage
        at, began = passage.now(), time.perf_counter_ns()
        request = read_request(scope)
        if isinstance(request, Refusal):
            record, has_body = CallRecord(at, began, scope["method"]), True
        else:
            record, has_body = CallRecord(at, began, request.method, request.path, request.trace), request.size != 0
        client = Client(self._watch, receive, send, record, has_body=has_body)
        if self._begun is not None:
            self._begun(record)
        try:
            if isinstance(request, Refusal):
                await client.refuse(request)
            elif request.path.startswith(OWN_PREFIX):
                record.own = True
                await answer_own(passage, request, client)
            else:
                await passage.serve(request, client)
        except asyncio.CancelledError:
            if client.cut is None:
                raise
        finally:
            client.done()
            self._end(record)


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
