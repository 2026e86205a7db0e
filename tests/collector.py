"""A local collector for OTLP over HTTP. `spans` and `points` are what it was sent; `raw` is all of that as it came."""

import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, cast

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

Attributes = dict[str, Any]


class Span(NamedTuple):
    """A span as it came; ids in hex. `failed` is whether its status says so."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent: str
    failed: bool
    attributes: Attributes
    resource: Attributes


class Point(NamedTuple):
    """A point of a histogram: how many values, and what they add up to."""

    name: str
    unit: str
    values: int
    total: float
    attributes: Attributes


class Collector(ThreadingHTTPServer):
    """The server. While `asleep` is not set it takes requests and does not answer them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.points: list[Point] = []
        self.raw = b""
        self.headers: list[dict[str, str]] = []
        self.awake = threading.Event()
        self.awake.set()
        self.port: int = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __enter__(self) -> "Collector":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving, and answer nothing that was not answered before."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""

    def span(self, **wanted: object) -> Span | None:
        """The span with these attributes, `_` for `.`; None if it has not come yet."""
        names = {name.replace("_", "."): value for name, value in wanted.items()}
        return next((span for span in self.spans if names.items() <= span.attributes.items()), None)

    def take_spans(self, data: bytes) -> None:
        """Keep what a request for traces has."""
        for each in ExportTraceServiceRequest.FromString(data).resource_spans:
            resource = _read(each.resource.attributes)
            for scope in each.scope_spans:
                for span in scope.spans:
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    failed = span.status.code == 2
                    self.spans.append(Span(span.name, span.kind, *ids, failed, _read(span.attributes), resource))

    def take_points(self, data: bytes) -> None:
        """Keep the latest of what a request for metrics has."""
        self.points = [
            Point(metric.name, metric.unit, point.count, point.sum, _read(point.attributes))
            for each in ExportMetricsServiceRequest.FromString(data).resource_metrics
            for scope in each.scope_metrics
            for metric in scope.metrics
            for point in metric.histogram.data_points
        ]


def _read(attributes: Iterable[KeyValue]) -> Attributes:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""

    def do_POST(self) -> None:
        collector = cast("Collector", self.server)
        data = self.rfile.read(int(self.headers["Content-Length"]))
        collector.awake.wait()
        collector.raw += data
        collector.headers.append({name.lower(): value for name, value in self.headers.items()})
        if self.path == "/v1/traces":
            collector.take_spans(data)
        elif self.path == "/v1/metrics":
            collector.take_points(data)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()
