"""Decisions for a gateway that is there already: it asks for each call, and forwards what is granted itself.

Everything up to the reserve is the passage of any other call. Then the proxy is told to go on, and the hold is settled
by what is reported of the call; where nobody reports, at the held amount. The proxy asks on a listener of its own, as
whoever can ask here can say what was called, and what became of it.

Where the call stands in the question is chosen by the path that is asked, which the proxy's configuration fixes and its
clients cannot: `/decide/path/…` (method and path are those of the question), `/decide/original` (`X-Original-Method`,
`X-Original-URI`), `/decide/forwarded` (`X-Forwarded-Method`, `X-Forwarded-Uri`).
"""

import asyncio
import json
import socket
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, Final

import msgspec

from tolsey.call import Call
from tolsey.errors import Refusal
from tolsey.gateway import problems
from tolsey.gateway.asgi import Gateway
from tolsey.gateway.client import Client, Receive, Send
from tolsey.gateway.funds import funds_headers
from tolsey.gateway.legs import Leg
from tolsey.gateway.messages import Cleared
from tolsey.gateway.meter import Meter
from tolsey.gateway.record import CallRecord
from tolsey.gateway.reports import MAX_REPORT, Report, read_report, reports_in
from tolsey.gateway.request import Request, read_request
from tolsey.gateway.routes import Mode, Route
from tolsey.ledger.events import Granted

PATH: Final = b"/decide/path"
SETTLE: Final = b"/settle"
NAMES: Final = {
    b"/decide/original": (b"x-original-method", b"x-original-uri"),
    b"/decide/forwarded": (b"x-forwarded-method", b"x-forwarded-uri"),
}
"""In which headers method and target stand, by the path that is asked."""

REMOVE: Final = b"x-envoy-auth-headers-to-remove"
"""Names what Envoy takes out of a request before it forwards it; other proxies have it in their configuration."""

_PARTIAL: Final = (b"x-envoy-auth-partial-body", b"true")
"""Envoy says so where it sends only the beginning of a body, by which nothing can be priced."""

_NOT_OURS: Final = frozenset({b"content-length", b"transfer-encoding", b"idempotency-key"})
"""The framing is the question's; and no outcome is kept here that a repeated call could be answered with."""


class Decider:
    """The application on the decide port. With `reported` holds wait for a report, for at most `timeout` seconds; else
    they are settled at the decision. `pass_on` is given the reports about holds that are not of this worker.
    """

    def __init__(
        self, gateway: Gateway, *, reported: bool, timeout: float, pass_on: Callable[[Sequence[Report]], None]
    ) -> None:
        self._gateway = gateway
        self._pass_on = pass_on
        self._calls: set[asyncio.Task[None]] = set()
        self._awaited: dict[str, asyncio.Future[Report | None]] = {}
        self._loop = asyncio.get_running_loop()
        self.reported = reported
        self.timeout = timeout

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One ASGI scope."""
        if scope["type"] != "http":
            raise NotImplementedError(f"{scope['type']} is not served")
        if scope["raw_path"] == SETTLE:
            await _answer(send, await self._settle(scope, receive))
            return
        asked = read_asked(scope)
        if isinstance(asked, Refusal):
            await _answer(send, asked)
            return
        request, whole = asked
        answer = Answer(send, scope, self._loop.create_future())
        call = self._loop.create_task(
            self._gateway.take(request, scope, receive, answer.send, has_body=whole, leg=Decision(self), own=False)
        )
        self._calls.add(call)
        call.add_done_callback(self._over)
        try:
            await asyncio.wait({call, answer.sent}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            call.cancel()
            raise

    def _over(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        error = None if call.cancelled() else call.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self._loop.call_exception_handler({"message": "a decision failed", "exception": error})

    async def report_on(self, hold: str, seconds: float) -> Report | None:
        """Wait for what became of a call; None if nobody says so in time."""
        awaited = self._awaited[hold] = self._loop.create_future()
        try:
            await asyncio.wait({awaited}, timeout=min(seconds, self.timeout))
            return awaited.result() if awaited.done() else None
        finally:
            del self._awaited[hold]

    def take(self, reports: Sequence[Report]) -> list[Report]:
        """Settle by these reports; returns those of holds that nothing is waited for here."""
        others = []
        for report in reports:
            awaited = self._awaited.get(report.hold)
            if awaited is None:
                others.append(report)
            elif not awaited.done():
                awaited.set_result(report)
        return others

    def datagram(self, data: bytes) -> None:
        """Settle by what a log says. What is no report is dropped: a proxy logs refused calls too."""
        self.report(reports_in(data))

    def report(self, reports: Sequence[Report]) -> None:
        """Settle by these reports, and pass on those of holds that are not of this worker."""
        others = self.take(reports) if self.reported else []
        if others:
            self._pass_on(others)

    async def _settle(self, scope: dict[str, Any], receive: Receive) -> Refusal | None:
        """Take one report; None where it was."""
        if scope["method"] != "POST":
            return Refusal("method_not_allowed", "a report is posted", allow=("POST",))
        if not self.reported:
            return Refusal("route_missing", 'no report is waited for: [decide] settle is not "reported"')
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return Refusal("request_invalid", "the request body broke off")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_REPORT:
                return Refusal("body_too_large", f"a report has at most {MAX_REPORT} bytes")
        try:
            report = read_report(body)
        except ValueError as error:
            return Refusal("request_invalid", f"this is no report: {error}")
        self.report([report])
        return None

    async def close(self) -> None:
        """Wait for no more reports, and settle what was waited for."""
        for awaited in self._awaited.values():
            if not awaited.done():
                awaited.set_result(None)
        if self._calls:
            await asyncio.wait(self._calls)


class Decision(Leg):
    """The way of a call that the proxy takes itself: it is told to go on, and later says what came of it."""

    __slots__ = ("_decider", "_told")

    def __init__(self, decider: Decider) -> None:
        super().__init__()
        self._decider = decider
        self._told = False

    @property
    def sent(self) -> bool:
        """Whether the proxy may have forwarded the call."""
        return self._told

    async def run(
        self,
        request: Request,
        client: Client,
        route: Route,
        call: Call,
        cleared: Cleared | None,
        granted: Granted | None,
        meter: Meter | None,
        *,
        disclose_chain: bool,
    ) -> None:
        """Tell the proxy to go on, and wait for the report if one is due."""
        record, decider = client.record, self._decider
        waits = decider.reported and record.hold is not None
        if not waits and meter is None:
            record.status = 200
            if cleared is not None:
                record.charge(cleared.quote.cost(200).nano, cleared.quote.price.unit)
        headers = [(b"content-length", b"0"), (b"cache-control", b"no-store")]
        headers += funds_headers(record, cleared, granted, disclose_chain=disclose_chain)
        removed = [] if route.mode is Mode.PUBLIC else [b"authorization", b"x-api-key"]
        if record.hold is None:
            removed.append(b"tolsey-hold")
        if removed:
            headers.append((REMOVE, b", ".join(removed)))
        self._told = True
        await client.whole(200, headers, b"")
        # The proxy has its answer, and may close the connection.
        client.done()
        record.note = "settled at the decision"
        if not waits or record.hold is None:
            return
        report = await decider.report_on(record.hold, route.max_duration)
        if report is None:
            record.note = "nobody reported what became of it"
        elif not report.served:
            record.note = "reported as not sent"
            self._told = False
        else:
            await self._reported(record, report, cleared, meter)

    async def _reported(self, record: CallRecord, report: Report, cleared: Cleared | None, meter: Meter | None) -> None:
        """Write down what became of the call. What its price depends on, and was not said, has it charged in full."""
        record.note = f"reported: {report.status or 'no answer'}"
        if report.status is None:
            return
        if meter is not None:
            meter.usage.head(report.status, report.fields)
            if not await meter.report(report.sent, report.received, report.ns):
                record.note += ", without the bytes that it is charged by"
                return
        elif cleared is not None:
            record.charge(cleared.quote.cost(report.status).nano, cleared.quote.price.unit)
        record.status = report.status


class Answer:
    """The answer to a proxy's question. `sent` is done once it has it.

    A refusal's document goes in the header `Tolsey-Problem` too: nginx keeps no body of what it asked.
    """

    def __init__(self, send: Send, scope: dict[str, Any], sent: asyncio.Future[None]) -> None:
        self._send = send
        self._head: MutableMapping[str, Any] = {}
        self._problem = scope["raw_path"] in NAMES
        self._has_body = scope["method"] != "HEAD"
        self.sent = sent

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI: the head, and then the body, which is in one piece."""
        if message["type"] == "http.response.start":
            self._head = message
            return
        body: bytes = message["body"]
        # The record's method is that of the call, and the answer to HEAD has no body; the question may be a GET.
        headers = [(n, v) for n, v in self._head["headers"] if n != b"content-length" or not self._has_body]
        if self._has_body:
            headers.append((b"content-length", str(len(body)).encode("ascii")))
        if self._problem and self._head["status"] >= 300 and body:
            headers.append((b"tolsey-problem", json.dumps(json.loads(body)).encode("ascii")))
        await self._send({**self._head, "headers": headers})
        await self._send(message)
        if not self.sent.done():
            self.sent.set_result(None)


class _Logs(asyncio.DatagramProtocol):
    def __init__(self, decider: Decider) -> None:
        self._decider = decider

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._decider.datagram(data)


async def listen_for_logs(decider: Decider, host: str, port: int) -> None:
    """Take reports in datagrams, as proxies send their access logs (RFC 5426, or JSON alone)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: _Logs(decider), (host, port), family=family, reuse_port=True)


def read_asked(scope: dict[str, Any]) -> tuple[Request, bool] | Refusal:
    """The call that is asked about, and whether its body comes with the question."""
    raw, headers, method = scope["raw_path"], scope["headers"], scope["method"]
    names = NAMES.get(raw)
    query = scope["query_string"]
    if names is not None:
        found = [[value for name, value in headers if name == wanted] for wanted in names]
        for wanted, values in zip(names, found, strict=True):
            if len(values) != 1:
                fault = "repeated" if values else "missing"
                return Refusal("request_invalid", f"the proxy's header {wanted.decode('ascii')} is {fault}")
        method = found[0][0].decode("latin-1")
        raw, _, query = found[1][0].partition(b"?")
    elif raw.startswith(PATH + b"/"):
        raw = raw[len(PATH) :]
    else:
        return Refusal("route_missing", "what is asked here begins with /decide/")
    if _PARTIAL in headers:
        return Refusal("request_invalid", "the question has only a part of the body: raise max_request_bytes")
    whole = any(n == b"transfer-encoding" or (n == b"content-length" and v.strip(b"0")) for n, v in headers)
    dropped = {*(names or ()), *(_NOT_OURS if not whole else (b"idempotency-key",))}
    kept = [(name, value) for name, value in headers if name not in dropped]
    request = read_request({**scope, "method": method, "raw_path": raw, "query_string": query, "headers": kept})
    if isinstance(request, Refusal) or whole:
        return request if isinstance(request, Refusal) else (request, True)
    return msgspec.structs.replace(request, size=None), False


async def _answer(send: Send, refusal: Refusal | None) -> None:
    """Answer what is not a question about a call."""
    if refusal is None:
        status, headers, body = 202, [(b"content-length", b"0")], b""
    else:
        status, headers, body = problems.response(refusal)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
