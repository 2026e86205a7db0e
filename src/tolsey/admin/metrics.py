"""`/metrics`: what the workers counted, summed, and what the supervisor knows, in Prometheus' formats.

A worker that died leaves its counters behind, so that no sum ever falls; its gauges go with it.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.exposition import choose_encoder

from tolsey.gateway.counting import OF_WORKERS, Metric, Row

READY: Final = Metric("tolsey_workers_ready", "gauge", "Workers that take calls")
RESTARTS: Final = Metric("tolsey_worker_restarts_total", "counter", "Workers that died and were started again")
LEDGER_UP: Final = Metric("tolsey_ledger_up", "gauge", "1 while nobody here has trouble with ledger or keys, else 0")
SEAL_UP: Final = Metric("tolsey_seal_up", "gauge", "1 while this gateway can sign checkpoints, else 0")
EXPIRED: Final = Metric(
    "tolsey_holds_expired_total", "counter", "Holds that this supervisor settled for dead workers or as overdue"
)
REVOKED: Final = Metric("tolsey_revoked_prefixes", "gauge", "Prefixes of tokens that are revoked in the ledger")
BUILD: Final = Metric("tolsey_build_info", "info", "The versions that run", ("version", "python"))
PRICES: Final = Metric("tolsey_prices_info", "info", "Where the prices of models are from", ("package", "version"))
CONFIG: Final = Metric("tolsey_config_info", "info", "The config that is in use", ("generation",))

METRICS: Final = (*OF_WORKERS, READY, RESTARTS, LEDGER_UP, SEAL_UP, EXPIRED, REVOKED, BUILD, PRICES, CONFIG)
"""Everything that `/metrics` shows."""

_BY_NAME: Final[Mapping[str, Metric]] = {metric.name: metric for metric in METRICS}

_Sums = dict[tuple[str, tuple[str, ...]], list[int]]


class Metrics:
    """The sums over all workers. `own` returns the rows that the supervisor has itself."""

    def __init__(self, own: Callable[[], Iterable[Row]]) -> None:
        self._own = own
        self._of_workers: dict[int, list[Row]] = {}
        self._of_the_dead: _Sums = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def take(self, worker: int, rows: list[Row]) -> None:
        """What a worker has counted since it was started, all of it."""
        self._of_workers[worker] = rows

    def bury(self, worker: int) -> None:
        """A worker is dead: keep its counters."""
        counted = [row for row in self._of_workers.pop(worker, ()) if _BY_NAME[row.name].kind != "gauge"]
        _add(self._of_the_dead, counted)

    def write(self, accept: str) -> tuple[bytes, str]:
        """The page in the format that the header `Accept` asks for, and its content type."""
        # Not the header itself: one that is malformed makes prometheus-client raise.
        is_open = "application/openmetrics-text" in accept.lower()
        encoder, content_type = choose_encoder("application/openmetrics-text; version=1.0.0" if is_open else "")
        return encoder(self._registry), content_type

    def collect(self) -> Iterator[Family]:
        """prometheus-client: all metrics as they stand."""
        sums: _Sums = {key: list(values) for key, values in self._of_the_dead.items()}
        for rows in (*self._of_workers.values(), self._own()):
            _add(sums, rows)
        found: dict[str, list[tuple[tuple[str, ...], list[int]]]] = {}
        for (name, labels), values in sorted(sums.items()):
            found.setdefault(name, []).append((labels, values))
        for metric in METRICS:
            yield _family(metric, found.get(metric.name, []))


def _add(sums: _Sums, rows: Iterable[Row]) -> None:
    for name, labels, values in rows:
        before = sums.get((name, labels))
        sums[name, labels] = list(values) if before is None else [a + b for a, b in zip(before, values, strict=True)]


def _family(metric: Metric, series: list[tuple[tuple[str, ...], list[int]]]) -> Family:
    match metric.kind:
        case "counter":
            counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, (value,) in series:
                counter.add_metric(labels, _scaled(metric, value))
            return counter
        case "gauge":
            gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, (value,) in series:
                gauge.add_metric(labels, _scaled(metric, value))
            return gauge
        case "info":
            info = InfoMetricFamily(metric.name.removesuffix("_info"), metric.help)
            for labels, _ in series:
                info.add_metric([], dict(zip(metric.labels, labels, strict=True)))
            return info
    histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    ends = [str(bound / metric.scale) for bound in metric.bounds] + ["+Inf"]
    for labels, (*buckets, total) in series:
        below = [sum(buckets[: n + 1]) for n in range(len(buckets))]
        histogram.add_metric(labels, list(zip(ends, below, strict=True)), total / metric.scale)
    return histogram


def _scaled(metric: Metric, value: int) -> float:
    return value / metric.scale if metric.scale != 1 else value


def about(generation: str) -> list[Row]:
    """The rows that say what is running; `generation` is the config's."""
    prices = "genai-prices"
    return [
        Row(BUILD.name, (version("tolsey"), platform.python_version()), [1]),
        Row(PRICES.name, (prices, version(prices)), [1]),
        Row(CONFIG.name, (generation,), [1]),
    ]
