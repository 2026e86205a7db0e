"""What is made of the runs: medians, ratios within a round, and the targets. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.speed import Run


@dataclass(frozen=True)
class Spread:
    """A median between the least and the greatest."""

    low: float
    mid: float
    high: float


@dataclass(frozen=True)
class Target:
    """A ratio that must be reached: of Tolsey's calls a second to a peer's, in the same round."""

    ours: str
    peer: str
    least: float
    more_than: bool = False

    @property
    def text(self) -> str:
        """As the issue words it."""
        return f"{'more than' if self.more_than else 'at least'} {self.least:.1f} times {self.peer}"

    def met(self, ratio: float) -> bool:
        """Whether a ratio reaches it."""
        return ratio > self.least if self.more_than else ratio >= self.least


TARGETS = (Target("tolsey", "caddy", 1.0), Target("tolsey", "envoy-authz", 1.0, more_than=True))


def spread(values: Sequence[float]) -> Spread:
    """Least, median and greatest."""
    return Spread(min(values), median(values), max(values))


def of(runs: Sequence[Run], contestant: str) -> list[Run]:
    """The runs of one contestant, by round."""
    return [run for run in runs if run.contestant == contestant]


def names(runs: Sequence[Run]) -> list[str]:
    """The contestants that ran, in order."""
    return list(dict.fromkeys(run.contestant for run in runs))


def ratio(runs: Sequence[Run], ours: str, peer: str) -> Spread | None:
    """Our calls a second to the peer's, round by round; None if either did not run."""
    pairs = list(zip(of(runs, ours), of(runs, peer), strict=True)) if {ours, peer} <= set(names(runs)) else []
    return spread([mine.load.rate / other.load.rate for mine, other in pairs]) if pairs else None
