"""The ASGI application: bytes in, a Call through the passage, bytes out. Any ASGI server can run it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tolsey.errors import Refusal
from tolsey.gateway.approving import answer_approvals, is_approval
from tolsey.gateway.bodies import Bodies
from tolsey.gateway.client import Client, Cut, Receive, Send, Watch
from tolsey.gateway.ended import Ended, Over
from tolsey.gateway.legs import Leg
from tolsey.gateway.mcp.endpoint import answer_mcp
from tolsey.gateway.own import OWN_PREFIX, answer_own
from tolsey.gateway.passage import Passage
from tolsey.gateway.record import CallRecord
from tolsey.gateway.request import Request, read_request
from tolsey.gateway.shop import answer_shop, is_shop

if TYPE_CHECKING:
    from tolsey.gateway.fast_path import FastPath


class Gateway:
    """The application on the data port, for one event loop.

    Each of `over` gets the record of every call that is over, whatever became of it, shortly after. `begun`, if there
    is one, gets it first, and may put another trace into it; it neither waits nor raises.
    """

    def __init__(
        self, passage: Passage, over: Sequence[Over], begun: Callable[[CallRecord], None] | None = None
    ) -> None:
        self._passage = passage
        self._begun = begun
        self._watch = Watch()
        self.ended = Ended(over)
        self.fast: FastPath | None = None
        """What takes calls past this application."""

    @property
    def bodies(self) -> Bodies:
        """Room for request bodies that are read before their calls are priced."""
        return self._watch.bodies

    @property
    def open_calls(self) -> int:
        """How many calls are under way."""
        return len(self._watch.clients) + (0 if self.fast is None else self.fast.open_calls)

    def cut_revoked(self) -> None:
        """Cut every call under way upstream whose token is revoked by now."""
        for client in tuple(self._watch.clients):
            refusal = None if client.chain is None else self._passage.revocations.revoked(client.chain)
            if refusal is not None:
                client.cut_off(Cut.REVOKED, refusal)
        if self.fast is not None:
            self.fast.cut_revoked()

    def forget(self) -> None:
        """The keys are others: nothing that was verified is remembered any more."""
        if self.fast is not None:
            self.fast.forget()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One ASGI scope."""
        if scope["type"] != "http":
            raise NotImplementedError(f"{scope['type']} is not served")
        request = read_request(scope)
        has_body = isinstance(request, Refusal) or request.size != 0
        await self.take(request, scope, receive, send, has_body=has_body)

    async def take(
        self,
        request: Request | Refusal,
        scope: dict[str, Any],
        receive: Receive,
        send: Send,
        *,
        has_body: bool,
        leg: Leg | None = None,
        own: bool = True,
    ) -> None:
        """Answer a request that was read from a scope, or why it could not be. `has_body` is whether its body is to be
        received, `leg` its way to whoever serves it; without `own` the gateway's own paths are as any other.
        """
        passage = self._passage
        record = CallRecord(passage.now(), time.perf_counter_ns(), scope["method"], scheme=scope["scheme"])
        if not isinstance(request, Refusal):
            record.method, record.path, record.trace = request.method, request.path, request.trace
        client = Client(self._watch, receive, send, record, has_body=has_body, marks=passage.marks)
        client.leg = leg
        if self._begun is not None:
            self._begun(record)
        try:
            if isinstance(request, Refusal):
                await client.refuse(request)
            elif not own:
                await passage.serve(request, client)
            elif is_shop(passage.desk, request.path):
                record.own = True
                await answer_shop(passage, request, client)
            elif is_approval(request.path):
                record.own = True
                await answer_approvals(passage, request, client)
            elif request.path.startswith(OWN_PREFIX):
                record.own = True
                await answer_own(passage, request, client)
            elif (endpoint := passage.routes.endpoints.get(request.path)) is not None:
                await answer_mcp(passage, endpoint, request, client)
            else:
                await passage.serve(request, client)
        except asyncio.CancelledError:
            if client.cut is None:
                raise
        finally:
            client.done()
            self.ended.add(record)
