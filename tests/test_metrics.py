"""`/metrics`: what is counted, what is not, and that nobody can make up series."""

import itertools
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways import Gateway, child_of, lay_out, problem, serving, until
from tests.ports import free_port
from tests.scraping import OPEN_METRICS, Page, scrape, scraped
from tests.swarm import ending
from tests.upstreams import Upstream
from tolsey.admin.metrics import METRICS, Metrics
from tolsey.cli.worker import Control
from tolsey.gateway.counting import (
    ADDED,
    CALLS,
    MAX_TAGGED,
    OPEN_CALLS,
    OTHER,
    SPEND,
    TAGGED_CALLS,
    TAGGED_SPEND,
    Counts,
    Row,
    histogram,
    observe,
)
from tolsey.gateway.record import TEAM, CallRecord
from tolsey.token.chain import Link
from tolsey.token.macaroon import Macaroon

CONFIG = """
[server]
workers = <workers>
[[upstream]]
name = "plain"
url = "http://127.0.0.1:<port>"
[[upstream]]
name = "gone"
url = "http://127.0.0.1:<closed>"
[[route]]
path = "/priced/*"
methods = ["GET", "POST"]
upstream = "plain"
price = "0.01 USD"
[[route]]
path = "/sats"
methods = ["GET"]
upstream = "plain"
price = "3 sat"
[[route]]
path = "/open/*"
methods = ["*"]
upstream = "plain"
mode = "public"
[[route]]
path = "/gone"
methods = ["GET"]
upstream = "gone"
price = "0.01 USD"
[[route]]
path = "/llm/*"
methods = ["POST"]
upstream = "plain"
llm = "openai"
"""


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("metrics")
    with serving(folder, CONFIG, port=upstream.port, workers=1, closed=free_port()) as running:
        yield running


@pytest.fixture(scope="module")
def page(gateway: Gateway, upstream: Upstream) -> Page:
    """What is shown after one call of many kinds."""
    token = gateway.token("budget = 100 sat", budget="0.05 USD")
    assert gateway.ask("GET", "/priced/a", token=token).status == 200
    assert gateway.ask("POST", "/priced/b", token=token, body=b"12345").status == 200
    assert gateway.ask("GET", "/sats", token=token).status == 200
    assert gateway.ask("GET", "/gone", token=token).status == 502
    upstream.answers["/open/broken"] = b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"
    assert gateway.ask("GET", "/open/broken").status == 503
    for _ in range(2):
        key = "Idempotency-Key: twice"
        assert gateway.ask("GET", "/priced/c", key, token=token).status == 200
    narrow = child_of(token, "label = narrow n", "scope = /other")
    assert problem(gateway.ask("GET", "/priced/a", token=narrow))["code"] == "caveat_refused"
    strange = Macaroon.mint(root_key=b"k", identifier=b"tolsey:1:cafe0000:AAAAAAAAAAAAAAAAAAAAAA:0").to_text()
    assert problem(gateway.ask("GET", "/priced/a", token=strange))["code"] == "token_forged"
    assert problem(gateway.ask("GET", "/nowhere"))["code"] == "route_missing"
    assert problem(gateway.ask("GET", "/a/../b"))["code"] == "path_invalid"
    gateway.balance(token)
    return scraped(gateway, lambda found: found.value("tolsey_calls_total") == 12)


def test_calls_are_counted_by_route_and_by_what_became_of_them(page: Page) -> None:
    found = {
        tuple(dict(labels)[name] for name in CALLS.labels): value
        for (name, labels), value in page.series.items()
        if name == CALLS.name
    }
    assert found == {
        ("/priced/*", "enforce", "GET", "2xx", "none"): 3,
        ("/priced/*", "enforce", "POST", "2xx", "none"): 1,
        ("/priced/*", "enforce", "GET", "4xx", "caveat_refused"): 1,
        ("/priced/*", "enforce", "GET", "4xx", "token_forged"): 1,
        ("/sats", "enforce", "GET", "2xx", "none"): 1,
        ("/gone", "enforce", "GET", "5xx", "upstream_failed"): 1,
        ("/open/*", "public", "GET", "5xx", "none"): 1,
        ("none", "none", "none", "4xx", "route_missing"): 1,
        ("none", "none", "none", "4xx", "path_invalid"): 1,
        ("own", "none", "none", "2xx", "none"): 1,
    }


def test_spend_is_counted_in_units(page: Page) -> None:
    assert page.value("tolsey_spend_total", unit="USD") == pytest.approx(0.03)
    assert page.value("tolsey_spend_total", route="/priced/*", unit="USD") == pytest.approx(0.03)
    assert page.value("tolsey_spend_total", unit="sat") == 3


def test_calls_and_spend_are_counted_by_tag(page: Page) -> None:
    """The token's label stands for the team; what no token was verified for is not there."""
    assert page.value("tolsey_tagged_calls_total", tag="team", value="team") == 7
    assert page.value("tolsey_tagged_calls_total") == 7
    assert page.value("tolsey_tagged_spend_total", tag="team", value="team", unit="USD") == pytest.approx(0.03)
    assert page.value("tolsey_tagged_spend_total", tag="team", value="team", unit="sat") == 3


def test_no_more_than_so_many_tags_are_told_apart() -> None:
    """A minter that allows `project=*` lets holders choose, but not how much is kept of it."""
    counts = Counts()
    link = Link("team a", None, "00")
    for n in range(MAX_TAGGED + 20):
        tags = (("project", f"p{n}"), ("team", "b"))
        record = CallRecord(0, 0, "GET")
        record.links, record.tags = (link,), tags
        record.charge(5, "USD")
        counts.over([record])
    rows = {row.labels: row.values for row in counts.rows({}) if row.name == TAGGED_CALLS.name}
    assert len(rows) == MAX_TAGGED + 1
    assert rows[TEAM, "b"] == [MAX_TAGGED + 20]
    assert rows[OTHER, OTHER] == [21]
    spent = {row.labels: row.values for row in counts.rows({}) if row.name == TAGGED_SPEND.name}
    assert (spent[TEAM, "b", "USD"], spent[OTHER, OTHER, "USD"]) == ([5 * (MAX_TAGGED + 20)], [105])


def test_bytes_times_and_errors_are_counted(page: Page) -> None:
    assert page.value("tolsey_request_bytes_total", route="/priced/*") == 5
    assert page.value("tolsey_response_bytes_total", route="/sats") == 2
    assert page.value("tolsey_call_seconds_count", route="/priced/*") == 3
    assert page.value("tolsey_call_seconds_bucket", route="/priced/*", le="+Inf") == 3
    assert page.value("tolsey_added_seconds_count") == 6
    assert 0 < page.value("tolsey_added_seconds_sum") <= page.value("tolsey_call_seconds_sum")
    assert page.value("tolsey_upstream_errors_total", upstream="gone", kind="connect") == 1
    assert page.value("tolsey_upstream_errors_total") == 1
    assert page.value("tolsey_replays_total", route="/priced/*") == 1
    assert page.value("tolsey_unknown_key_total") == 1


def test_the_ledger_and_the_workers_are_shown(page: Page) -> None:
    assert page.value("tolsey_ledger_wait_seconds_count") == 6
    assert page.value("tolsey_ledger_commit_seconds_count") == page.value("tolsey_ledger_commit_events_count") > 5
    assert page.value("tolsey_ledger_commit_events_sum") == 6 + 5
    assert page.value("tolsey_ledger_up") == page.value("tolsey_workers_ready") == 1
    for name in ("worker_restarts", "holds_expired", "ledger_failures", "ledger_fenced", "unmetered"):
        assert page.value(f"tolsey_{name}_total") == 0
    assert page.value("tolsey_prices_info", package="genai-prices") == 1
    assert page.value("tolsey_build_info") == page.value("tolsey_config_info") == 1


def test_every_metric_of_the_table_is_shown_as_its_kind(page: Page) -> None:
    kinds = {metric.name.removesuffix("_total"): metric.kind for metric in METRICS}
    # What Prometheus' older format has no word for is a gauge there.
    assert page.kinds == {name: "gauge" if kind == "info" else kind for name, kind in kinds.items()}
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_open_metrics_are_spoken_when_asked_for(gateway: Gateway, page: Page) -> None:
    found = scrape(gateway, accept=OPEN_METRICS)
    assert found.value("tolsey_spend_total", unit="sat") == 3
    assert found.text.endswith("# EOF\n")
    assert found.kinds["tolsey_build"] == "info"
    for accept in ("application/openmetrics-text; version=x", "application/openmetrics-text;q=", ";,;", "\xff"):
        assert gateway.ask("GET", "/metrics", f"Accept: {accept}", admin=True).status == 200
    head = gateway.ask("HEAD", "/metrics", admin=True)
    assert (head.status, head.body) == (200, b"")
    assert gateway.ask("POST", "/metrics", admin=True).status == 404
    assert gateway.ask("GET", "/metrics").status == 404


def test_what_is_open_is_shown_while_it_is(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    with gateway.client() as client:
        client.ask("GET", "/priced/talk", token=token)
        talk = upstream.hear()
        scraped(gateway, lambda found: found.value("tolsey_calls_open") == found.value("tolsey_holds_open") == 1)
        talk.answers()
        assert client.answer().status == 200
    scraped(gateway, lambda found: found.value("tolsey_calls_open") == found.value("tolsey_holds_open") == 0)


def provoke(gateway: Gateway, chance: random.Random, times: int) -> set[int]:
    """Calls of many kinds, everything in which is made up by their caller; the statuses of the answers."""
    statuses = set()
    with gateway.client() as client:
        for _ in range(times):
            made_up = f"madeup{chance.randbytes(8).hex()}"
            minted = gateway.mint("label = minted n", "budget = 1 USD")
            good = child_of(minted, f"label = {made_up} n")
            forged = Macaroon.mint(root_key=b"k", identifier=made_up.encode()).to_text()
            model = f'{{"model": "{made_up}", "messages": []}}'.encode()
            headers = (f"User-Agent: {made_up}", f"Traceparent: {made_up}", f"Idempotency-Key: {made_up}")
            for method, target, token, body in (
                ("GET", f"/open/{made_up}?{made_up}", None, b""),
                ("GET", f"/priced/{made_up}", good, b""),
                ("GET", f"/priced/{made_up}", forged, b""),
                ("POST", "/llm/chat/completions", good, model),
                ("GET", f"/{made_up}", None, b""),
                (made_up.upper(), f"/open/{made_up}", None, b""),
            ):
                client.ask(method, target, *headers, token=token, body=body)
                statuses.add(client.answer().status)
    return statuses


def test_callers_cannot_make_up_series(gateway: Gateway) -> None:
    chance = random.Random(1)

    def total(at_least: float) -> Page:
        return scraped(gateway, lambda found: found.value("tolsey_calls_total") >= at_least)

    before = scrape(gateway).value("tolsey_calls_total")
    assert provoke(gateway, chance, 1) == {200, 401, 422, 404, 405}
    first = total(before + 6)
    provoke(gateway, chance, 500)
    last = total(first.value("tolsey_calls_total") + 3000)
    assert last.series.keys() == first.series.keys()
    assert "madeup" not in last.text.lower()


def test_the_counters_of_a_dead_worker_stay(upstream: Upstream, tmp_path: Path) -> None:
    gateway = lay_out(tmp_path, CONFIG, port=upstream.port, workers=2, closed=free_port())
    with ending(gateway):
        gateway.begin()
        token = gateway.token()
        for _ in range(20):
            assert gateway.ask("GET", "/priced/a", token=token).status == 200
        before = scraped(gateway, lambda found: found.value("tolsey_calls_total") == 20)
        victim = gateway.workers()[0]
        victim.kill()
        seen = [before]

        def restarted() -> bool:
            seen.append(scrape(gateway))
            return seen[-1].value("tolsey_worker_restarts_total") == seen[-1].value("tolsey_workers_ready") - 1 == 1

        until(restarted, "the worker was started again")
        for _ in range(10):
            assert gateway.ask("GET", "/priced/a", token=token).status == 200
        seen.append(scraped(gateway, lambda found: found.value("tolsey_calls_total") == 30))
        assert seen[-1].value("tolsey_spend_total", unit="USD") == pytest.approx(0.3)
        counters = [key for key in before.series if key[0].endswith(("_total", "_count", "_sum", "_bucket"))]
        for earlier, later in itertools.pairwise(seen):
            assert all(later.series[key] >= earlier.series[key] for key in counters)


def test_a_dead_worker_leaves_its_counters_and_not_its_gauges() -> None:
    metrics = Metrics(list)
    for worker in (0, 1):
        metrics.take(worker, [Row(SPEND.name, ("/a", "USD"), [10**9]), Row(OPEN_CALLS.name, (), [3])])
    metrics.take(1, [Row(SPEND.name, ("/a", "USD"), [2 * 10**9]), Row(OPEN_CALLS.name, (), [4])])
    for _ in range(2):
        metrics.bury(1)
    text = metrics.write("")[0].decode()
    assert 'tolsey_spend_total{route="/a",unit="USD"} 3.0' in text
    assert "tolsey_calls_open 3.0" in text


def test_a_bucket_takes_what_is_at_its_upper_end() -> None:
    values = histogram(ADDED)
    for value in (0, ADDED.bounds[0], ADDED.bounds[0] + 1, ADDED.bounds[-1] + 1):
        observe(ADDED.bounds, values, value)
    assert values[:2] == [2, 1]
    assert values[-2:] == [1, ADDED.bounds[0] * 2 + ADDED.bounds[-1] + 2]


def test_a_worker_does_not_wait_for_a_supervisor_that_does_not_listen() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        control = Control(ours)
        sent = 0
        while control.catch_up():
            control.tell(number=sent, text="x" * 50_000)
            sent += 1
        control.tell(number=sent, text="")
        assert not control.catch_up()
        theirs.settimeout(5)
        heard = theirs.makefile("rb")
        for number in range(sent - 1):
            assert heard.readline().startswith(b'{"number":%d,' % number)
        assert control.catch_up()
        assert [heard.readline()[:10] for _ in range(2)] == [b'{"number":'] * 2
