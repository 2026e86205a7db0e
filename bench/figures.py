"""What is made of the runs: medians, ratios within a round, and the targets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.contestants import DIRECT, OURS
from bench.jobs import SEARCH
from bench.speed import Did, Run

POSTGRESQL = "tolsey-postgres"


@dataclass(frozen=True)
class Spread:
    """A median between the least and the greatest."""

    low: float
    mid: float
    high: float

    def text(self, digits: int = 2) -> str:
        """`0.97 (0.91 to 1.02)`."""
        if self.low == self.high:
            return f"{self.mid:,.{digits}f}"
        return f"{self.mid:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


@dataclass(frozen=True)
class Target:
    """A figure that must be reached: a ratio of two contestants in the same round, or milliseconds."""

    text: str
    found: Callable[[Sequence[Run]], Spread | None]
    least: float | None = None
    most: float | None = None

    def met(self, found: Spread) -> bool:
        """Whether the median reaches it."""
        return (self.least is None or found.mid >= self.least) and (self.most is None or found.mid <= self.most)


def spread(values: Sequence[float]) -> Spread:
    """Least, median and greatest."""
    return Spread(min(values), median(values), max(values))


def of(runs: Sequence[Run], contestant: str) -> list[Run]:
    """The runs of one contestant, by round."""
    return [run for run in runs if run.contestant == contestant]


def names(runs: Sequence[Run]) -> list[str]:
    """The contestants that ran, in order."""
    return list(dict.fromkeys(run.contestant for run in runs))


def jobs(runs: Sequence[Run]) -> list[str]:
    """The jobs that were done, in order."""
    return list(dict.fromkeys(did.job for run in runs for did in run.did))


def rate(did: Did) -> float:
    """Calls answered a second."""
    return did.load.rate


def per_cpu(did: Did) -> float:
    """Calls for each second of processor time."""
    return did.calls_per_cpu_second


def each(runs: Sequence[Run], contestant: str, job: str, figure: Callable[[Did], float]) -> Spread | None:
    """A figure of a contestant's over the rounds; None if it did not do that job."""
    found = [figure(did) for run in of(runs, contestant) if (did := run.of(job)) is not None]
    return spread(found) if found else None


def ratio(
    runs: Sequence[Run], ours: str, peer: str, job: str = SEARCH.name, figure: Callable[[Did], float] = rate
) -> Spread | None:
    """Our figure to the peer's, round by round; None if either did not run."""
    pairs = [(mine.of(job), theirs.of(job)) for mine, theirs in zip(of(runs, ours), of(runs, peer), strict=False)]
    found = [figure(mine) / figure(theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
    return spread(found) if found else None


def rates(runs: Sequence[Run]) -> list[int]:
    """The fixed rates, in order."""
    return list(dict.fromkeys(paced.rate for run in runs for paced in run.paced))


def quarter(runs: Sequence[Run], contestant: str) -> int:
    """The fixed rate that is nearest to a quarter of the calls that a contestant makes a second; 0 if there is none."""
    greatest = each(runs, contestant, SEARCH.name, rate)
    found = {paced.rate for run in of(runs, contestant) for paced in run.paced}
    return 0 if greatest is None else min(found, key=lambda at: abs(at - greatest.mid / 4), default=0)


def late(runs: Sequence[Run], contestant: str, at: int, figure: str) -> Spread | None:
    """A percentile of latency (`p50_ms`, …) at a fixed rate."""
    found = [float(getattr(p, figure)) for run in of(runs, contestant) for p in run.paced if p.rate == at]
    return spread(found) if found else None


def added(runs: Sequence[Run], contestant: str, at: int) -> Spread | None:
    """What a contestant adds to the median latency of the upstream itself, in ms, in the same round."""
    pairs = [
        (mine.p50_ms, theirs.p50_ms)
        for ours, bare in zip(of(runs, contestant), of(runs, DIRECT), strict=False)
        for mine, theirs in zip(ours.paced, bare.paced, strict=True)
        if mine.rate == at
    ]
    return spread([mine - theirs for mine, theirs in pairs]) if pairs else None


def stretch(runs: Sequence[Run], contestant: str, at: int) -> Spread | None:
    """How many times the median latency the 99th percentile is, at a fixed rate."""
    found = [p.p99_ms / p.p50_ms for run in of(runs, contestant) for p in run.paced if p.rate == at]
    return spread(found) if found else None


def targets(runs: Sequence[Run]) -> list[Target]:
    """What issue after issue has asked for, as far as these runs can say it."""
    found = [
        Target("at least 1.0 times Caddy", lambda r: ratio(r, OURS, "caddy"), least=1.0),
        Target("at least 1.5 times Caddy", lambda r: ratio(r, OURS, "caddy"), least=1.5),
        Target("more than Envoy + ext_authz", lambda r: ratio(r, OURS, "envoy-authz"), least=1.0),
        Target("at least 1.75 times Envoy + ext_authz", lambda r: ratio(r, OURS, "envoy-authz"), least=1.75),
        Target("at least 2.5 times Caddy + forward_auth", lambda r: ratio(r, OURS, "caddy-auth"), least=2.5),
        Target("at least 1.0 times Envoy", lambda r: ratio(r, OURS, "envoy"), least=1.0),
        Target("at least 100 times LiteLLM", lambda r: ratio(r, OURS, "litellm", "llm"), least=100.0),
        Target(
            "a chain of 16 at most 1.3 times the cost of a chain of 1",
            lambda r: ratio(r, "tolsey-1", "tolsey-16", figure=per_cpu),
            most=1.3,
        ),
    ]
    if at := quarter(runs, OURS):
        found += [
            Target(f"p50 at {at:,}/s: at most 0.5 ms added", lambda r: added(r, OURS, at), most=0.5),
            Target(f"p99 at {at:,}/s: under 5 times p50", lambda r: stretch(r, OURS, at), most=5.0),
        ]
    if there := quarter(runs, POSTGRESQL):
        title = f"p50 at {there:,}/s, PostgreSQL: at most 2 ms added"
        found.append(Target(title, lambda r: added(r, POSTGRESQL, there), most=2.0))
    return found
