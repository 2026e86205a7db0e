"""OpenTelemetry: a span for each call, and two metrics, sent over OTLP. Only with the extra `tolsey[otel]`.

A call only puts its span into a bounded queue; threads of the SDK send it, and when the collector is down the oldest
are dropped. Never sent: tokens, keys, queries, headers, bodies.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Final

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from tolsey.call import METHODS
from tolsey.gateway.record import CallRecord, LlmCall
from tolsey.gateway.trace import RANDOM, SAMPLED, Trace
from tolsey.pricing.llm import Api
from tolsey.pricing.models import INPUT, OUTPUT
from tolsey.units import NANO

MAX_ATTRIBUTE: Final = 1024
"""The longest text in a span, in characters; what is longer is cut."""

CLOSE_SECONDS: Final = 1.0
"""How long what is left may take to be sent at the end."""

COMPLAIN_SECONDS: Final = 60.0
"""How often it is said at most that the collector does not take what is sent."""

_DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_TOKEN_BUCKETS: Final = tuple(4**n for n in range(14))
_USAGE: Final = {
    "gen_ai.usage.input_tokens": INPUT,
    "gen_ai.usage.output_tokens": OUTPUT,
    "gen_ai.usage.cache_read.input_tokens": "cache_read_tokens",
    "gen_ai.usage.cache_creation.input_tokens": "cache_write_tokens",
}

Attributes = dict[str, str | int | float]


class Telemetry:
    """The spans and metrics of one worker. `endpoint` is the base URL of a collector, `headers` are sent to it with
    everything, `ratio` is the share of traces begun here that are sampled, `instance` tells the workers apart.
    `complain` is told, once in a while, what the SDK has to say of its sending.

    The name of the service and further attributes of the resource come from `OTEL_SERVICE_NAME` and
    `OTEL_RESOURCE_ATTRIBUTES`; queue and interval are those that the SDK reads from the environment.
    """

    def __init__(
        self,
        endpoint: str,
        headers: Sequence[tuple[str, str]],
        ratio: float,
        instance: str,
        complain: Callable[[str], None],
    ) -> None:
        _hear("opentelemetry", complain)
        resource = Resource.create(
            {"service.name": "tolsey", "service.version": version("tolsey"), "service.instance.id": instance}
        ).merge(OTELResourceDetector().detect())
        self._spans = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=resource,
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_span_attribute_length=MAX_ATTRIBUTE),
        )
        sent = dict(headers)
        self._spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces", headers=sent)))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{endpoint}/v1/metrics", headers=sent))
        self._metrics = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._tracer = self._spans.get_tracer("tolsey", version("tolsey"))
        meter = self._metrics.get_meter("tolsey", version("tolsey"))
        self._duration = meter.create_histogram(
            "http.server.request.duration",
            "s",
            "Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKEN_BUCKETS,
        )

    def begun(self, record: CallRecord) -> None:
        """A call begins: its span is the parent that the upstream will see."""
        before = record.trace
        span = self._tracer.start_span(_method(record), _context(before), otel.SpanKind.SERVER, start_time=record.at)
        made = span.get_span_context()
        flags = int(made.trace_flags) & (SAMPLED | RANDOM)
        state = "" if before is None else before.state
        record.trace = Trace(f"{made.trace_id:032x}", f"{made.span_id:016x}", flags, state)
        record.span = span

    def over(self, records: Sequence[CallRecord]) -> None:
        """These calls are over."""
        for record in records:
            self._end(record)

    def _end(self, record: CallRecord) -> None:
        shared = _shared(record)
        self._duration.record((record.ended - record.began) / NANO, shared)
        if record.llm is not None:
            about = _llm(record.llm)
            if record.llm.listed is not None:
                about["gen_ai.request.model"] = record.llm.listed
            for kind, unit in (("input", INPUT), ("output", OUTPUT)):
                if unit in record.llm.counts:
                    self._tokens.record(record.llm.counts[unit], {**about, "gen_ai.token.type": kind})
        span: otel.Span = record.span
        if span.is_recording():
            if record.route is not None:
                span.update_name(f"{_method(record)} {record.route.pattern.text}")
            span.set_attributes({**shared, **_details(record)})
            if (record.answered or 0) >= 500 or record.fault is not None:
                span.set_status(otel.StatusCode.ERROR)
        span.end(record.at + record.ended - record.began)

    def close(self) -> None:
        """Send what is left, for a short while."""
        for provider in (self._spans, self._metrics):
            # Daemons, since the SDK waits for half a minute for a collector that does not answer.
            closing = threading.Thread(target=provider.shutdown, daemon=True)
            closing.start()
            closing.join(CLOSE_SECONDS / 2)


def _context(before: Trace | None) -> Context:
    """The client's span as a parent; none if the trace begins here."""
    if before is None or not before.remote:
        return Context()
    parent = otel.SpanContext(
        int(before.trace_id, 16),
        int(before.span_id, 16),
        is_remote=True,
        trace_flags=otel.TraceFlags(before.flags),
        trace_state=otel.TraceState.from_header([before.state]),
    )
    return otel.set_span_in_context(otel.NonRecordingSpan(parent), Context())


def _method(record: CallRecord) -> str:
    return record.method if record.method in METHODS else "HTTP"


def _shared(record: CallRecord) -> Attributes:
    """What span and metric both have: from the config or from closed lists."""
    found: Attributes = {
        "http.request.method": record.method if record.method in METHODS else "_OTHER",
        "url.scheme": record.scheme,
    }
    if record.route is not None:
        found["http.route"] = record.route.pattern.text
    if record.answered is not None:
        found["http.response.status_code"] = record.answered
    if record.fault is not None:
        found["error.type"] = record.fault
    elif record.refusal is not None:
        found["error.type"] = record.refusal.code
    return found


def _llm(call: LlmCall) -> Attributes:
    """What an LLM call is, without what its caller chose."""
    return {
        "gen_ai.operation.name": "embeddings" if call.api is Api.EMBEDDINGS else "chat",
        "gen_ai.provider.name": "anthropic" if call.api is Api.MESSAGES else "openai",
    }


def _details(record: CallRecord) -> Attributes:
    """What only the span has."""
    optional: dict[str, str | int | float | None] = {
        "url.path": record.path or None,
        "tolsey.route": None if record.route is None else record.route.pattern.text,
        "tolsey.upstream": None if record.route is None else record.route.upstream.name,
        "tolsey.hold": record.hold,
        "tolsey.cost": None if record.nano is None else record.nano / NANO,
        "tolsey.unit": record.unit or None,
        "tolsey.refusal": None if record.refusal is None else record.refusal.code,
    }
    call = record.llm
    if call is not None:
        optional |= {**_llm(call), "gen_ai.request.model": call.model, "gen_ai.response.model": call.served_by}
        optional |= {name: call.counts.get(unit) for name, unit in _USAGE.items()}
    return {name: value for name, value in optional.items() if value is not None}


class _Hear(logging.Handler):
    """Passes on what a library logs, but not all of it."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._complain = complain
        self._since = -COMPLAIN_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._since >= COMPLAIN_SECONDS:
            self._since = now
            self._complain(record.getMessage()[:200])


def _hear(name: str, complain: Callable[[str], None]) -> None:
    logger = logging.getLogger(name)
    logger.handlers = [_Hear(complain)]
    logger.propagate = False
