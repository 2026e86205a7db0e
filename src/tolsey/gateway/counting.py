"""What a worker counts, and everything that `/metrics` shows, in one table.

A call is counted once, when it is over, in plain integers that only grow. A worker tells the supervisor the whole
of them twice a second, and that sums over the workers. What stands in a label comes from the config or from a closed
list, never from a caller, so that nobody can make up series (RULES.md L9); but for tags that a minter allowed, of which
only so many are told apart.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tolsey.gateway.record import TEAM, CallRecord
from tolsey.pricing.models import INPUT, OUTPUT
from tolsey.units import NANO

NONE: Final = "none"
"""The label of what is not there; no route is called so, as a path begins with a slash."""

OWN: Final = "own"
"""The route of calls to the gateway's own paths."""

_NO_ROUTE: Final = (NONE, NONE)
_OWN_PATHS: Final = (OWN, NONE)

OTHER: Final = "(other)"
"""The tag and value of those beyond `MAX_TAGGED`."""

MAX_TAGGED: Final = 100
"""How many tags with their values a worker tells apart."""

FAULTS: Final = ("connect", "connect_timeout", "broken", "silent", "too_long")
"""The kinds of upstream errors."""

STATUS_CLASSES: Final = (NONE, "1xx", "2xx", "3xx", "4xx", "5xx")

_WHOLE: Final = tuple(
    ms * 1_000_000 for ms in (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000)
)
_OWN_TIME: Final = tuple(
    us * 1000
    for us in (100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000)
)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metric(NamedTuple):
    """One metric. `kind` is that of Prometheus. `scale` is how many of what is counted make one of what is shown;
    `bounds` are the upper ends of a histogram's buckets, in what is counted.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    scale: int = 1
    bounds: tuple[int, ...] = ()


CALLS: Final = Metric(
    "tolsey_calls_total",
    "counter",
    "Calls that are over, by what the client was answered and why it was refused or cut",
    ("route", "mode", "method", "status", "code"),
)
SPEND: Final = Metric("tolsey_spend_total", "counter", "What calls were charged, in units", ("route", "unit"), NANO)
UNMETERED: Final = Metric(
    "tolsey_unmetered_total", "counter", "Calls charged all that was held, as their cost is not known", ("route",)
)
REPLAYS: Final = Metric(
    "tolsey_replays_total", "counter", "Calls answered with what the first of their idempotency key got", ("route",)
)
FAST: Final = Metric("tolsey_fast_path_calls_total", "counter", "Calls that took the fast path", ("route",))
TAGGED_CALLS: Final = Metric(
    "tolsey_tagged_calls_total",
    "counter",
    "Calls with a token, by tag; without a tag `team`, the label of the minted token stands for it",
    ("tag", "value"),
)
TAGGED_SPEND: Final = Metric(
    "tolsey_tagged_spend_total", "counter", "What those calls were charged, in units", ("tag", "value", "unit"), NANO
)
TOKENS: Final = Metric(
    "tolsey_llm_tokens_total", "counter", "Tokens of LLM calls as the provider reports them", ("route", "direction")
)
RECEIVED: Final = Metric("tolsey_request_bytes_total", "counter", "Bytes of request bodies", ("route",))
SENT: Final = Metric("tolsey_response_bytes_total", "counter", "Bytes of response bodies", ("route",))
DURATION: Final = Metric(
    "tolsey_call_seconds", "histogram", "From head to last byte, of calls that were forwarded", ("route",), NANO, _WHOLE
)
ADDED: Final = Metric(
    "tolsey_added_seconds",
    "histogram",
    "From the request's head to the request upstream: token, price, hold on disk",
    ("route",),
    NANO,
    _OWN_TIME,
)
FAULTS_SEEN: Final = Metric(
    "tolsey_upstream_errors_total", "counter", "Calls that failed at their upstream", ("upstream", "kind")
)
UNKNOWN_KEYS: Final = Metric(
    "tolsey_unknown_key_total", "counter", "Calls whose token was begun with a key that is not, or no longer, known"
)
WAITED: Final = Metric(
    "tolsey_ledger_wait_seconds", "histogram", "How long reserves waited for the ledger", (), NANO, _OWN_TIME
)
COMMIT_SECONDS: Final = Metric(
    "tolsey_ledger_commit_seconds", "histogram", "How long groups took to be committed", (), NANO, _OWN_TIME
)
COMMIT_EVENTS: Final = Metric(
    "tolsey_ledger_commit_events", "histogram", "How many events the groups had", (), 1, _SIZES
)
FAILED_GROUPS: Final = Metric("tolsey_ledger_failures_total", "counter", "Groups that could not be committed")
FENCED: Final = Metric(
    "tolsey_ledger_fenced_total", "counter", "Times a worker found itself taken for dead and began under a new name"
)
UNREAD: Final = Metric(
    "tolsey_revocations_unread", "gauge", "Workers that refuse calls, as they could not read what is revoked"
)
OPEN_CALLS: Final = Metric("tolsey_calls_open", "gauge", "Calls under way")
OPEN_HOLDS: Final = Metric("tolsey_holds_open", "gauge", "Holds of living workers that are not resolved on disk")

NODE_AWAY: Final = Metric(
    "tolsey_payment_node_away", "gauge", "Workers that got no invoice of the payment node when they last asked for one"
)

OF_WORKERS: Final = (
    CALLS, SPEND, TAGGED_CALLS, TAGGED_SPEND, UNMETERED, REPLAYS, FAST, TOKENS, RECEIVED, SENT, DURATION, ADDED,
    FAULTS_SEEN, UNKNOWN_KEYS, WAITED, COMMIT_SECONDS, COMMIT_EVENTS, FAILED_GROUPS, FENCED, UNREAD, OPEN_CALLS,
    OPEN_HOLDS, NODE_AWAY,
)  # fmt: skip
"""What workers count."""


class Row(NamedTuple):
    """One series: the metric's name, the values of its labels, and one number, or of a histogram how many there are in
    each bucket, then how many beyond them, then the sum.
    """

    name: str
    labels: tuple[str, ...]
    values: list[int]


def histogram(metric: Metric) -> list[int]:
    """The values of a histogram that nothing was observed in."""
    return [0] * (len(metric.bounds) + 2)


def observe(bounds: tuple[int, ...], values: list[int], value: int) -> None:
    """Put one value into a histogram."""
    values[bisect_left(bounds, value)] += 1
    values[-1] += value


class _OfRoute:
    """What is counted of one route; the keys of `calls` are method, hundreds of the status, code."""

    __slots__ = ("added", "calls", "duration", "fast", "llm", "received", "replays", "sent", "spend", "unmetered")

    def __init__(self) -> None:
        self.calls: dict[tuple[str, int, str], int] = {}
        self.spend: dict[str, int] = {}
        self.llm: dict[str, int] = {}
        self.unmetered = self.replays = self.fast = self.received = self.sent = 0
        self.duration = histogram(DURATION)
        self.added = histogram(ADDED)

    def rows(self, route: str, mode: str) -> Iterator[Row]:
        """All of it."""
        for (method, hundreds, code), count in self.calls.items():
            status = STATUS_CLASSES[min(hundreds, len(STATUS_CLASSES) - 1)]
            yield Row(CALLS.name, (route, mode, method, status, code), [count])
        for unit, nano in self.spend.items():
            yield Row(SPEND.name, (route, unit), [nano])
        for direction, tokens in self.llm.items():
            yield Row(TOKENS.name, (route, direction), [tokens])
        yield Row(UNMETERED.name, (route,), [self.unmetered])
        yield Row(REPLAYS.name, (route,), [self.replays])
        yield Row(FAST.name, (route,), [self.fast])
        yield Row(RECEIVED.name, (route,), [self.received])
        yield Row(SENT.name, (route,), [self.sent])
        yield Row(DURATION.name, (route,), self.duration)
        yield Row(ADDED.name, (route,), self.added)


class _OfTag:
    """What is counted of one tag: calls, and spend in nano-units by unit."""

    __slots__ = ("calls", "spend")

    def __init__(self) -> None:
        self.calls = 0
        self.spend: dict[str, int] = {}


class _Tagged:
    """Calls and spend by tag, of so many tags."""

    def __init__(self) -> None:
        self._tags: dict[tuple[str, str], _OfTag] = {}

    def count(self, record: CallRecord) -> None:
        self._count((TEAM, record.team), record)
        for tag in record.tags:
            if tag[0] != TEAM:
                self._count(tag, record)

    def _count(self, key: tuple[str, str], record: CallRecord) -> None:
        found = self._tags.get(key)
        if found is None:
            if len(self._tags) >= MAX_TAGGED:
                key = (OTHER, OTHER)
            found = self._tags.setdefault(key, _OfTag())
        found.calls += 1
        if record.nano is not None:
            found.spend[record.unit] = found.spend.get(record.unit, 0) + record.nano

    def rows(self) -> Iterator[Row]:
        """All of it."""
        for key, found in self._tags.items():
            yield Row(TAGGED_CALLS.name, key, [found.calls])
            for unit, nano in found.spend.items():
                yield Row(TAGGED_SPEND.name, (*key, unit), [nano])


class Counts:
    """What one worker counts."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], _OfRoute] = {}
        self._faults: dict[tuple[str, str], int] = {}
        self._tagged = _Tagged()
        self._unknown_keys = 0
        self._waited = histogram(WAITED)
        self._commit_seconds = histogram(COMMIT_SECONDS)
        self._commit_events = histogram(COMMIT_EVENTS)

    def over(self, records: Sequence[CallRecord]) -> None:
        """Count these calls."""
        for record in records:
            self._count(record)

    def _count(self, record: CallRecord) -> None:
        route = record.route
        labels = route.labels if route is not None else _OWN_PATHS if record.own else _NO_ROUTE
        found = self._routes.get(labels)
        if found is None:
            found = self._routes[labels] = _OfRoute()
        # A call without a route has whatever method its caller wrote; one with a route has one of the route's.
        method = NONE if route is None else record.method
        key = (method, (record.answered or 0) // 100, NONE if record.refusal is None else record.refusal.code)
        found.calls[key] = found.calls.get(key, 0) + 1
        found.received += record.received
        found.sent += record.sent
        found.fast += record.fast
        if record.reserving:
            observe(_OWN_TIME, self._waited, (record.forwarded or record.ended) - record.reserving)
        if record.forwarded:
            observe(_WHOLE, found.duration, record.ended - record.began)
            observe(_OWN_TIME, found.added, record.forwarded - record.began)
        if record.nano is not None:
            found.spend[record.unit] = found.spend.get(record.unit, 0) + record.nano
        if record.links and not record.own:
            self._tagged.count(record)
        if record.unmetered or record.replayed or record.unknown_key or record.fault is not None:
            self._count_rare(found, record)
        if record.llm is not None:
            for direction, unit in (("input", INPUT), ("output", OUTPUT)):
                found.llm[direction] = found.llm.get(direction, 0) + record.llm.counts.get(unit, 0)

    def _count_rare(self, found: _OfRoute, record: CallRecord) -> None:
        found.unmetered += record.unmetered
        found.replays += record.replayed
        self._unknown_keys += record.unknown_key
        if record.fault is not None and record.route is not None:
            key = (record.route.upstream.name, record.fault)
            self._faults[key] = self._faults.get(key, 0) + 1

    def committed(self, events: int, ns: int) -> None:
        """Count one group that the ledger committed, and the nanoseconds that it took."""
        observe(_SIZES, self._commit_events, events)
        observe(_OWN_TIME, self._commit_seconds, ns)

    def rows(self, others: Mapping[Metric, int]) -> list[Row]:
        """All that was counted, and `others`, which are counted elsewhere."""
        rows = [row for labels, found in self._routes.items() for row in found.rows(*labels)]
        rows += self._tagged.rows()
        rows += [Row(FAULTS_SEEN.name, key, [count]) for key, count in self._faults.items()]
        rows.append(Row(UNKNOWN_KEYS.name, (), [self._unknown_keys]))
        rows.append(Row(WAITED.name, (), self._waited))
        rows.append(Row(COMMIT_SECONDS.name, (), self._commit_seconds))
        rows.append(Row(COMMIT_EVENTS.name, (), self._commit_events))
        rows += [Row(metric.name, (), [value]) for metric, value in others.items()]
        return rows
