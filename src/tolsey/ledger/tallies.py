"""Tallies: what became of the calls of one hour, added up by who called, where and how. Reports are made of them.

They are figures and not money: they may be lost, and no limit rests on them. What a caller can make up is bounded: an
hour tells only so many keys apart, and counts the calls behind further ones together.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tolsey.ledger.windows import HOUR

MAX_KEYS: Final = 2048
"""How many keys one process tells apart in an hour."""

MAX_STRANGERS: Final = 256
"""How many of them may be of callers without a token that was verified."""

MAX_REFUSED: Final = 1024
"""How many pairs of a prefix id and a code are told apart in an hour among refusals."""

OTHER: Final = "(other)"
"""What stands for callers, paths, models and tags beyond those."""

PUBLIC: Final = "public"
"""The mode of a route on which nobody shows a token, and a caller has no say in what is told apart."""

BUCKETS_MS: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)
"""The upper ends of the buckets of latency, in milliseconds; one more bucket has no end."""

_BUCKETS_US: Final = tuple(1000 * end for end in BUCKETS_MS)

MAX_SEGMENTS: Final = 8
"""How many segments of a path are told apart."""

LONGEST_NAME: Final = 40
"""A segment with more characters is taken for an id."""

SHORTEST_ID: Final = 12
"""One with a digit and so many characters is, too."""

MAX_TEXT: Final = 128
"""The longest text of a key that a caller chooses, in characters."""


class TallyKey(NamedTuple):
    """What calls are told apart by.

    `mode` is the route's. `agent` is who called: the labels of a verified chain from root to bearer, joined by `/`, or
    else what the gateway tells callers without a token apart by; `verified` says which. `team` is the tag of that name,
    else the label of the minted token. `tags` are `name=value` pairs, sorted, joined by a space. `path` is the call's
    with `*` for what looks like an id (observe), else the route's pattern. `unit` is that of the cost, "" where there
    was no price. `code` is that of the Refusal that the call met; on an observed one, that it would have met. It is ""
    where there was none.
    """

    mode: str
    verified: bool
    agent: str
    team: str
    tags: str
    method: str
    path: str
    route: str
    upstream: str
    model: str
    tool: str
    unit: str
    code: str


@dataclass(slots=True)
class Counts:
    """Of the calls under one key: how many, how many of them failed (no answer, or a status of 400 or more), their cost
    and that of the dearest (nano-units), their time in all (microseconds), how many were in each bucket of latency, and
    the most that one of them holds, or would hold, before its cost is known (nano-units).
    """

    calls: int = 0
    errors: int = 0
    cost: int = 0
    dearest: int = 0
    us: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))
    held: int = 0

    def add(self, *, cost: int, failed: bool, us: int, held: int = 0) -> None:
        """Count one call."""
        self.calls += 1
        self.errors += failed
        self.cost += cost
        if cost > self.dearest:
            self.dearest = cost
        if held > self.held:
            self.held = held
        self.us += us
        self.buckets[bisect_left(_BUCKETS_US, us)] += 1

    def merge(self, other: "Counts") -> None:
        """Add what was counted elsewhere."""
        self.calls += other.calls
        self.errors += other.errors
        self.cost += other.cost
        self.dearest = max(self.dearest, other.dearest)
        self.held = max(self.held, other.held)
        self.us += other.us
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]


class Tallies:
    """What one process has counted in the present hour, and what of it was not yet taken."""

    def __init__(self) -> None:
        self._hour = 0
        self._counts: dict[TallyKey, Counts] = {}
        self._strangers = 0
        self._changed: dict[tuple[int, TallyKey], Counts] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self._refused_since: dict[tuple[int, str, str], int] = {}

    def count(self, key: TallyKey, *, at: int, cost: int, failed: bool, us: int, held: int = 0) -> None:
        """Count a call at the instant `at` (nanoseconds since the epoch)."""
        self._turn(at)
        counts = self._counts.get(key)
        if counts is None:
            strange = not key.verified and key.mode != PUBLIC
            if len(self._counts) >= MAX_KEYS or (strange and self._strangers >= MAX_STRANGERS):
                key = key._replace(agent=OTHER, team="", tags="", path=OTHER, model="", tool="")
            counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = Counts()
            self._strangers += not key.verified and key.mode != PUBLIC
        counts.add(cost=cost, failed=failed, us=us, held=held)
        self._changed[self._hour, key] = counts

    def refuse(self, prefix_id: str, code: str, *, at: int) -> None:
        """Count a call that the Link or account with this prefix id refused; beyond `MAX_REFUSED` under no id."""
        self._turn(at)
        if (prefix_id, code) not in self._refused and len(self._refused) >= MAX_REFUSED:
            prefix_id = ""
        count = self._refused[prefix_id, code] = self._refused.get((prefix_id, code), 0) + 1
        self._refused_since[self._hour, prefix_id, code] = count

    def _turn(self, at: int) -> None:
        hour = at // HOUR
        if hour > self._hour:
            self._hour, self._counts, self._strangers, self._refused = hour, {}, 0, {}

    def take_refused(self) -> list[tuple[int, str, str, int]]:
        """Hour, prefix id, code and count of the refusals that were counted since this was last asked."""
        changed, self._refused_since = self._refused_since, {}
        return [(*key, count) for key, count in changed.items()]

    def take(self) -> list[tuple[int, TallyKey, Counts]]:
        """What has changed since it was last taken, as it stands now, with its hour."""
        changed, self._changed = self._changed, {}
        return [(hour, key, counts) for (hour, key), counts in changed.items()]


def shape(path: str) -> str:
    """A path as a pattern, with `*` for each segment that looks like an id: `/users/123/orders` is `/users/*/orders`.
    One with more than eight segments ends in `/*` after the eighth.
    """
    segments = path[1:].split("/")
    parts = ["*" if _is_id(segment) else segment for segment in segments[:MAX_SEGMENTS]]
    return "/" + "/".join(parts) + ("/*" if len(segments) > MAX_SEGMENTS else "")


def _is_id(segment: str) -> bool:
    """Whether it has a digit and nothing else of a word, or is long, or cannot stand in a pattern."""
    if "*" in segment or len(segment) > LONGEST_NAME:
        return True
    digits = sum(character.isdigit() for character in segment)
    if not digits:
        return False
    return digits == len(segment) or len(segment) >= SHORTEST_ID or digits * 2 > len(segment)
