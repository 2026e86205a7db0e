"""OpenTelemetry, with the real exporter and a small collector: spans, metrics, and that calls never wait for them."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collector import Collector, Span
from tests.gateways import Gateway, lay_out, problem, until
from tests.ports import free_port
from tests.providers import KEY, READ, TEXT, Provider
from tests.scraping import scraped
from tests.swarm import ending
from tests.upstreams import Upstream
from tolsey.cli.assemble import telemetry_of
from tolsey.config import load
from tolsey.errors import ConfigError

CONFIG = """
[server]
[telemetry]
endpoint = "http://127.0.0.1:<collector>"
headers = { X-Collector-Key = "${COLLECTOR_KEY}" }
sample_ratio = <ratio>
[[upstream]]
name = "plain"
url = "http://127.0.0.1:<port>"
[[upstream]]
name = "gone"
url = "http://127.0.0.1:<closed>"
[[upstream]]
name = "provider"
url = "http://127.0.0.1:<provider>"
headers = { Authorization = "Bearer <key>", X-Api-Key = "<key>" }
[[route]]
path = "/priced/*"
methods = ["GET", "POST"]
upstream = "plain"
price = "0.01 USD"
[[route]]
path = "/gone"
methods = ["GET"]
upstream = "gone"
price = "0.01 USD"
[[route]]
path = "/v1/messages"
methods = ["POST"]
upstream = "provider"
llm = "anthropic"
[[route]]
path = "/v1/*"
methods = ["POST"]
upstream = "provider"
llm = "openai"
[[model]]
name = "llama-*"
input = "1 USD"
output = "2 USD"
context = 8000
max_output = 1000
"""
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
COLLECTOR_KEY = "the-key-of-the-collector"
QUICK = {
    "COLLECTOR_KEY": COLLECTOR_KEY,
    "OTEL_BSP_SCHEDULE_DELAY": "50",
    "OTEL_METRIC_EXPORT_INTERVAL": "200",
    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
}


@contextlib.contextmanager
def sending(folder: Path, upstream: Upstream, collector: int, provider: int = 1, ratio: float = 1.0,
            env: dict[str, str] | None = None) -> Iterator[Gateway]:  # fmt: skip
    """A gateway that sends to a collector."""
    values = {"collector": collector, "port": upstream.port, "provider": provider, "key": KEY, "ratio": ratio}
    gateway = lay_out(folder, CONFIG, closed=free_port(), **values)
    gateway.env = {**QUICK, **(env or {})}
    with ending(gateway):
        gateway.begin()
        yield gateway
        assert gateway.process is not None
        gateway.process.terminate()
        assert gateway.ends() == 0, gateway.said()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    running = Provider()
    yield running
    running.close()


@pytest.fixture(scope="module")
def gateway(
    upstream: Upstream, collector: Collector, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("telemetry")
    with sending(folder, upstream, collector.port, provider.port) as running:
        yield running


def come(collector: Collector, **wanted: object) -> Span:
    """The span with these attributes, once it has come."""
    until(lambda: collector.span(**wanted), "the span has come")
    found = collector.span(**wanted)
    assert found is not None
    return found


def test_the_gateways_span_stands_between_client_and_upstream(
    gateway: Gateway, upstream: Upstream, collector: Collector
) -> None:
    headers = (f"traceparent: 00-{TRACE}-{SPAN}-01", "tracestate: a=1")
    answer = gateway.ask("GET", "/priced/a?secret=1", *headers, token=gateway.token())
    span = come(collector, tolsey_hold=answer["tolsey-hold"])
    assert (span.name, span.kind, span.trace_id, span.parent) == ("GET /priced/*", 2, TRACE, SPAN)
    assert not span.failed
    assert upstream.last().all("traceparent") == [f"00-{TRACE}-{span.span_id}-01"]
    assert upstream.last().all("tracestate") == ["a=1"]
    assert span.attributes == {
        "http.request.method": "GET",
        "http.route": "/priced/*",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/priced/a",
        "tolsey.route": "/priced/*",
        "tolsey.upstream": "plain",
        "tolsey.hold": answer["tolsey-hold"],
        "tolsey.cost": 0.01,
        "tolsey.unit": "USD",
    }
    assert span.resource["service.name"] == "tolsey"
    assert span.resource["deployment.environment.name"] == "test"
    assert span.resource["service.instance.id"]


@pytest.mark.parametrize("headers", [(), ("traceparent: nonsense", "tracestate: a=1")])
def test_a_trace_begins_here_where_the_client_has_none(
    gateway: Gateway, upstream: Upstream, collector: Collector, headers: tuple[str, ...]
) -> None:
    answer = gateway.ask("GET", "/priced/a", *headers, token=gateway.token())
    span = come(collector, tolsey_hold=answer["tolsey-hold"])
    assert span.parent == ""
    (parent,) = upstream.last().all("traceparent")
    assert parent.startswith(f"00-{span.trace_id}-{span.span_id}-")
    assert "tracestate" not in upstream.last()
    assert gateway.line_of(answer["tolsey-hold"])["trace"] == span.trace_id


def test_refusals_and_failures_are_named(gateway: Gateway, collector: Collector) -> None:
    assert problem(gateway.ask("GET", "/priced/broke", token=gateway.token(budget="0.001 USD")))
    span = come(collector, url_path="/priced/broke")
    assert (span.attributes["tolsey.refusal"], span.attributes["error.type"]) == ("budget_exhausted",) * 2
    assert (span.attributes["http.response.status_code"], span.failed) == (402, False)
    assert gateway.ask("GET", "/gone", token=gateway.token()).status == 502
    span = come(collector, url_path="/gone")
    assert (span.attributes["tolsey.refusal"], span.attributes["error.type"]) == ("upstream_failed", "connect")
    assert span.failed
    assert gateway.ask("BREW", "/nowhere").status == 404
    span = come(collector, url_path="/nowhere")
    assert span.name in ("HTTP", "TRACE")


@pytest.mark.parametrize(
    ("path", "model", "provider_name", "operation"),
    [
        ("/v1/chat/completions", "gpt-4o-mini", "openai", "chat"),
        ("/v1/responses", "gpt-4o-mini", "openai", "chat"),
        ("/v1/embeddings", "text-embedding-3-small", "openai", "embeddings"),
        ("/v1/messages", "claude-haiku-4-5", "anthropic", "chat"),
    ],
)
def test_an_llm_call_has_what_the_conventions_say(
    gateway: Gateway, collector: Collector, path: str, model: str, provider_name: str, operation: str
) -> None:
    said = '"input": "private words"' if "messages" not in path and "chat" not in path else (
        '"messages": [{"role": "user", "content": "private words"}]'
    )  # fmt: skip
    body = f'{{"model": "{model}", "max_tokens": 50, {said}}}'.encode()
    answer = gateway.ask("POST", path, "Content-Type: application/json", token=gateway.token(), body=body)
    assert answer.status == 200, answer
    found = come(collector, tolsey_hold=answer["tolsey-hold"]).attributes
    assert found["gen_ai.operation.name"] == operation
    assert found["gen_ai.provider.name"] == provider_name
    assert found["gen_ai.request.model"] == found["gen_ai.response.model"] == model
    assert found["gen_ai.usage.input_tokens"] == READ
    assert found.get("gen_ai.usage.output_tokens") == (None if operation == "embeddings" else len(TEXT))
    scraped(gateway, lambda page: page.value("tolsey_llm_tokens_total", direction="input") >= READ)


def test_metrics_have_the_names_under_which_models_are_listed(gateway: Gateway, collector: Collector) -> None:
    for name in ("llama-one", "llama-two"):
        body = f'{{"model": "{name}", "max_tokens": 50, "messages": []}}'.encode()
        assert gateway.ask("POST", "/v1/chat/completions", token=gateway.token(), body=body).status == 200

    def counted(kind: str) -> list[tuple[int, float]]:
        return [
            (point.values, point.total)
            for point in collector.points
            if point.name == "gen_ai.client.token.usage"
            and point.attributes
            == {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": "llama-*",
                "gen_ai.token.type": kind,
            }
        ]

    until(lambda: counted("input") == [(2, 2 * READ)], "the tokens are counted")
    assert counted("output") == [(2, 2 * len(TEXT))]
    names = {(point.name, point.unit) for point in collector.points}
    assert names == {("gen_ai.client.token.usage", "{token}"), ("http.server.request.duration", "s")}
    assert not any("llama-one" in str(point) for point in collector.points)


def test_nothing_secret_is_sent(gateway: Gateway, upstream: Upstream, collector: Collector) -> None:
    token = gateway.token()
    upstream.answers["/priced/last?q=hidden"] = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nthe answer!"
    headers = ("Cookie: crumbs", "User-Agent: somebody")
    assert gateway.ask("POST", "/priced/last?q=hidden", *headers, token=token, body=b"the question").status == 200
    come(collector, url_path="/priced/last")
    assert all(each["x-collector-key"] == COLLECTOR_KEY for each in collector.headers)
    secrets = (token[:40], token.removeprefix("tolsey_")[:40], KEY, COLLECTOR_KEY, "hidden", "crumbs", "somebody")
    for text in (*secrets, "the question", "the answer!", "private words"):
        assert text.encode() not in collector.raw, text
    assert COLLECTOR_KEY not in gateway.said() + gateway.out.read_text()


def test_what_is_not_sampled_is_not_sent_and_passed_on_all_the_same(
    upstream: Upstream, collector: Collector, tmp_path: Path
) -> None:
    with sending(tmp_path, upstream, collector.port, ratio=0) as gateway:
        assert gateway.ask("GET", "/priced/unsampled", token=gateway.token()).status == 200
        (parent,) = upstream.last().all("traceparent")
        assert int(parent[-2:], 16) & 1 == 0
        sampled = (f"traceparent: 00-{TRACE}-{SPAN}-01",)
        assert gateway.ask("GET", "/priced/sampled", *sampled, token=gateway.token()).status == 200
        come(collector, url_path="/priced/sampled")
    assert collector.span(url_path="/priced/unsampled") is None


def test_calls_do_not_wait_for_a_collector(upstream: Upstream, tmp_path: Path) -> None:
    env = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}
    collector = Collector()
    collector.awake.clear()
    with sending(tmp_path, upstream, collector.port, env=env) as gateway, gateway.client() as client:
        token = gateway.token()

        def call() -> None:
            for number in range(100):
                client.ask("GET", f"/priced/{number}", token=token)
                assert client.answer().status == 200

        call()
        until(lambda: "telemetry is not sent" in gateway.said(), "it is complained of")
        collector.close()
        call()
        said = gateway.said()
        assert said.count("telemetry is not sent") == 1
        assert all(line.startswith("{") for line in said.splitlines())
    assert collector.spans == []


def test_without_the_extra_the_config_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = lay_out(tmp_path, CONFIG, collector=1, port=1, closed=1, provider=1, key="k", ratio=1)
    config = load(gateway.file, {"COLLECTOR_KEY": "k"})
    monkeypatch.delitem(sys.modules, "tolsey.gateway.telemetry", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'tolsey\[otel\]'"):
        telemetry_of(config, "i", print)
