"""Decisions for Envoy over gRPC: `Authorization/Check`, and its access log as reports.

A check is a question like any other on the decide port, and goes the same way. The hold goes into the dynamic metadata
that Envoy keeps of a call and logs at its end. Its clients and upstreams can write headers; they cannot write that.
Needs the extra `tolsey[grpc]`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from tolsey.errors import ConfigError, Refusal
from tolsey.gateway import problems
from tolsey.gateway.deciding import PATH, REMOVE, Decider
from tolsey.gateway.envoy_api import (
    CHECK,
    LOGS,
    CheckRequest,
    CheckResponse,
    StreamAccessLogsMessage,
    StreamAccessLogsResponse,
    Wire,
)
from tolsey.gateway.reports import Report, report_of

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""The largest message, in bytes: a question with its body, or lines of a log."""

FILTER: Final = "envoy.filters.http.ext_authz"
"""Under which name Envoy keeps what an answer says for the log."""

_ENDS: Final = (0, 6)
"""Types of log entries, of envoy.data.accesslog.v3.AccessLogType, that are about the end of a call: NotSet, as older
versions have it, and DownstreamEnd.
"""

_OVERWRITE: Final = 2
"""HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD."""

_PERMISSION_DENIED: Final = 7
"""google.rpc.Code; any but 0 denies."""

_NOTHING: Final = Refusal("request_invalid", "the question is about no HTTP request: it has no method, or no path")

_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "host"})


class GrpcServer:
    """Serves a `Decider` to Envoy."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider
        self._closing = asyncio.Event()
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE)])
        check = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=CheckRequest.FromString,
            response_serializer=CheckResponse.SerializeToString,
        )
        logs = grpc.stream_unary_rpc_method_handler(
            self._logs,
            request_deserializer=StreamAccessLogsMessage.FromString,
            response_serializer=StreamAccessLogsResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(CHECK, {"Check": check}),
                grpc.method_handlers_generic_handler(LOGS, {"StreamAccessLogs": logs}),
            )
        )

    async def listen(self, host: str, port: int) -> None:
        """Open the port, which several processes may open. Raises ConfigError if that is not possible."""
        try:
            self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise ConfigError(f"port {port} cannot be opened: {error}", key="decide.grpc_port") from None
        await self._server.start()

    async def drain(self, seconds: float) -> None:
        """Take no more questions, and let those under way be answered; at most `seconds`. Logs end at once."""
        self._closing.set()
        await self._server.stop(seconds)

    async def _check(self, question: Wire, _: object) -> Wire:
        """Answer one question. What goes wrong here is an error to Envoy, and then it forwards nothing."""
        http = question.attributes.request.http
        if not http.method or not http.path.startswith("/"):
            return _answer(*problems.response(_NOTHING))
        body: bytes = http.raw_body or http.body.encode("utf-8")
        asked = _Asked(body)
        await self._decider(_scope(question, len(body)), asked.receive, asked.send)
        return _answer(asked.status, asked.headers, asked.body)

    async def _logs(self, messages: AsyncIterator[Wire], context: "grpc.aio.ServicerContext[Any, Any]") -> Wire:
        """Settle by what a log says, for as long as Envoy keeps the stream."""
        if not self._decider.reported:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, 'no report is waited for: [decide] settle is not "reported"'
            )
        reading = asyncio.ensure_future(self._read(messages))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({reading, closing}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            closing.cancel()
        return StreamAccessLogsResponse()

    async def _read(self, messages: AsyncIterator[Wire]) -> None:
        async for message in messages:
            self._decider.report(reports_in(message))


class _Asked:
    """A question as ASGI sees it, and what it was answered."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.status = 0
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self.body = b""

    async def receive(self) -> dict[str, Any]:
        body, self._body = self._body, None
        if body is None:
            # Nobody leaves: where Envoy gives up, this call is cancelled.
            await asyncio.get_running_loop().create_future()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
        else:
            self.body += message["body"]


def _scope(question: Wire, size: int) -> dict[str, Any]:
    """The question as a request to `/decide/path/…`, with a body of so many bytes."""
    http, source = question.attributes.request.http, question.attributes.source.address.socket_address.address
    pairs = [(pair.key, pair.value.encode("utf-8")) for pair in http.headers]
    pairs += [(pair.key, pair.raw_value or pair.value.encode("utf-8")) for pair in http.header_map.headers]
    headers = [
        (name.lower().encode("latin-1", "replace"), value)
        for name, value in pairs
        if not name.startswith(":") and name.lower() not in _FRAMING
    ]
    headers.append((b"host", http.host.encode("utf-8")))
    if size:
        headers.append((b"content-length", str(size).encode("ascii")))
    path, _, query = http.path.partition("?")
    return {
        "type": "http",
        "http_version": "2",
        "method": http.method,
        "scheme": http.scheme,
        "raw_path": PATH + path.encode("utf-8"),
        "query_string": query.encode("utf-8"),
        "headers": headers,
        "client": (source, 0) if source else None,
    }


def _answer(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Wire:
    """What Envoy is told: to go on only if the answer is 200."""
    if status != 200:
        said = [_option(name, value) for name, value in headers if name != b"content-length"]
        denied = {"status": {"code": status}, "headers": said, "body": body.decode("utf-8")}
        return CheckResponse(status={"code": _PERMISSION_DENIED}, denied_response=denied)
    holds = [value for name, value in headers if name == b"tolsey-hold"]
    removed = [word for name, value in headers if name == REMOVE for word in value.decode("ascii").split(", ")]
    ok = {
        "headers": [_option(b"tolsey-hold", hold) for hold in holds],
        "headers_to_remove": removed,
        "response_headers_to_add": [_option(name, value) for name, value in headers if name.startswith(b"tolsey-")],
    }
    fields = [{"key": "hold", "value": {"string_value": hold.decode("ascii")}} for hold in holds]
    return CheckResponse(status={}, ok_response=ok, dynamic_metadata={"fields": fields})


def _option(name: bytes, value: bytes) -> dict[str, object]:
    """A header as Envoy is told it, in place of any other of that name."""
    text = {"key": name.decode("ascii"), "value": value.decode("latin-1")}
    return {"header": text, "append_action": _OVERWRITE}


def reports_in(message: Wire) -> list[Report]:
    """The reports in a message of an access log. What is about no hold, or not about the end of a call, is left out;
    so is what is no report, as it is from other logs.
    """
    found = []
    for entry in message.http_logs.log_entry:
        document = _document(entry)
        if document is not None:
            try:
                found.append(report_of(document))
            except ValueError:
                continue
    return found


def _document(entry: Wire) -> dict[str, Any] | None:
    common, response = entry.common_properties, entry.response
    if common.intermediate_log_entry or common.access_log_type not in _ENDS:
        return None
    holds = [
        field.value.string_value
        for filter_ in common.metadata.filter_metadata
        if filter_.key == FILTER
        for field in filter_.value.fields
        if field.key == "hold"
    ]
    if len(holds) != 1:
        return None
    # With retries these are about the last attempt alone.
    sent = common.upstream_wire_bytes_sent or common.HasField("time_to_first_upstream_tx_byte")
    document = {
        "hold": holds[0],
        "served": bool(sent) or common.upstream_request_attempt_count > 1,
        "headers": {pair.key: pair.value for pair in response.response_headers},
    }
    if response.HasField("response_code"):
        document["status"] = response.response_code.value
    if entry.HasField("request"):
        document["sent"] = entry.request.request_body_bytes
    if entry.HasField("response"):
        document["received"] = response.response_body_bytes
    if common.HasField("duration"):
        document["seconds"] = common.duration.seconds + common.duration.nanos / 1_000_000_000
    return document
