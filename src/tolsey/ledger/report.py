"""Tallies added up for people to read: calls, spend, errors and latency by whatever calls are told apart by.

Amounts of different units are never added. What a percentile of latency is known to is the bucket that it lies in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from tolsey.ledger.tallies import BUCKETS_MS, Counts, TallyKey
from tolsey.ledger.windows import HOUR
from tolsey.token.caveats import format_time
from tolsey.units import format_nano

OBSERVE: Final = "observe"
"""The mode of a route whose refusals are those that enforcement would have made."""

LATENCIES: Final = (50, 95)
"""The percentiles of latency that are shown."""


@lru_cache(maxsize=128)
def hour_text(hour: int) -> str:
    """An hour since the epoch, as `2026-06-30T18:00Z`."""
    return f"{format_time(hour * HOUR)[:16]}Z"


@lru_cache(maxsize=128)
def day_text(hour: int) -> str:
    """The day of an hour since the epoch, UTC, as `2026-06-30`."""
    return format_time(hour * HOUR)[:10]


_VALUES: Final[Mapping[str, Callable[[int, TallyKey], str]]] = {
    "agent": lambda _, key: key.agent,
    "verified": lambda _, key: "yes" if key.verified else "no",
    "team": lambda _, key: key.team,
    "tag": lambda _, key: key.tags,
    "route": lambda _, key: key.route,
    "path": lambda _, key: key.path,
    "method": lambda _, key: key.method,
    "model": lambda _, key: key.model,
    "tool": lambda _, key: key.tool,
    "upstream": lambda _, key: key.upstream,
    "mode": lambda _, key: key.mode,
    "code": lambda _, key: key.code,
    "hour": lambda hour, _: hour_text(hour),
    "day": lambda hour, _: day_text(hour),
}

DIMENSIONS: Final = tuple(_VALUES)
"""What calls can be told apart by. `tag` is all tags of a call together, so that no call counts twice."""


def read_dimensions(words: Sequence[str]) -> tuple[str, ...]:
    """Read `["agent", "route,day"]`, each dimension once. `agent` brings `verified`, for anybody can call himself what
    a verified chain is called. Raises ValueError, which names the word that is no dimension.
    """
    found: dict[str, None] = {}
    for name in ",".join(words).split(","):
        if name.strip() not in _VALUES:
            raise ValueError(f"{name.strip()[:32]!r} is no dimension; known are {', '.join(DIMENSIONS)}")
        found[name.strip()] = None
        if name.strip() == "agent":
            found["verified"] = None
    return tuple(found)


@dataclass(slots=True)
class Group:
    """The calls that have the same values. `spend` is in nano-units by unit, also what was only observed; `refused` are
    the calls that were refused, `would_refuse` those that enforcement would have refused.
    """

    values: tuple[str, ...]
    calls: int = 0
    errors: int = 0
    refused: int = 0
    would_refuse: int = 0
    spend: dict[str, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))

    def add(self, key: TallyKey, counts: Counts) -> None:
        """Add the calls of one tally."""
        self.calls += counts.calls
        self.errors += counts.errors
        if key.code and key.mode == OBSERVE:
            self.would_refuse += counts.calls
        elif key.code:
            self.refused += counts.calls
        if key.unit:
            self.spend[key.unit] = self.spend.get(key.unit, 0) + counts.cost
        for bucket, calls in enumerate(counts.buckets):
            self.buckets[bucket] += calls

    def latency(self, percent: int) -> int | None:
        """The upper end (milliseconds) of the bucket that holds the percentile by nearest rank; None for the last
        bucket, which has no end. There must be a call.
        """
        wanted = rank(percent, sum(self.buckets))
        below = 0
        for end, calls in zip(BUCKETS_MS, self.buckets, strict=False):
            below += calls
            if below >= wanted:
                return end
        return None


class Groups:
    """Groups by the dimensions `by`, of the tallies that are added."""

    def __init__(self, by: Sequence[str]) -> None:
        self.by = tuple(by)
        self._read = [_VALUES[name] for name in by]
        self._groups: dict[tuple[str, ...], Group] = {}

    def add(self, hour: int, key: TallyKey, counts: Counts) -> None:
        """Add one tally of an hour since the epoch."""
        values = tuple([read(hour, key) for read in self._read])
        group = self._groups.get(values)
        if group is None:
            group = self._groups[values] = Group(values)
        group.add(key, counts)

    def found(self) -> list[Group]:
        """The groups: in the order of time where they are told apart by it, else those with most calls first."""
        times = [n for n, name in enumerate(self.by) if name in ("hour", "day")]
        return sorted(
            self._groups.values(), key=lambda group: ([group.values[n] for n in times], -group.calls, group.values)
        )

    def units(self) -> list[str]:
        """Every unit that something was priced in, sorted."""
        return sorted({unit for group in self._groups.values() for unit in group.spend})


def document(groups: Groups, refusals: Groups) -> dict[str, object]:
    """A report for programs: what was called, and what enforcement would have refused of what was observed."""
    return {
        "by": list(groups.by),
        "groups": [
            _named(groups, group)
            | {
                "calls": group.calls,
                "errors": group.errors,
                "spend": {unit: format_nano(nano) for unit, nano in sorted(group.spend.items())},
                **{f"p{percent}_ms": group.latency(percent) for percent in LATENCIES},
                "refused": group.refused,
                "would_refuse": group.would_refuse,
            }
            for group in groups.found()
        ],
        "would_refuse": [_named(refusals, group) | {"calls": group.calls} for group in refusals.found()],
    }


def _named(groups: Groups, group: Group) -> dict[str, object]:
    values = dict(zip(groups.by, group.values, strict=True))
    return {name: value == "yes" if name == "verified" else value for name, value in values.items()}


def rank(percent: int, count: int) -> int:
    """The rank of a percentile among `count` values, from 1: nearest rank, the least that `percent` of 100 reach."""
    return max(1, -(-percent * count // 100))


def percentile(percent: int, values: Sequence[int]) -> int:
    """The percentile by nearest rank: one of the values, of which there is at least one."""
    return sorted(values)[rank(percent, len(values)) - 1]
