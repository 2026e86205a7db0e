"""What tokens the agents that observe mode saw could do with: budgets, scopes and other caveats, from their tallies.

A proposal is for a person to read before it is used. What cannot be written as a caveat that allows exactly what was
seen is left narrower, and calls that all failed ask for nothing.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tolsey.call import METHODS, Pattern, parse_pattern
from tolsey.errors import PatternInvalid
from tolsey.ledger.report import OBSERVE, percentile
from tolsey.ledger.tallies import MAX_TEXT, OTHER, Counts, TallyKey
from tolsey.token.wire import LIMITS
from tolsey.units import MAX_NANO, Amount, Budget

PERCENTILE: Final = 95
"""Of what an agent spent in a day or an hour: the budget that is proposed, before it is rounded up."""

FEWEST_DAYS: Final = 3
"""With spend on fewer days than that, a budget is proposed for the hour."""

MAX_SCOPES: Final = 20
"""The most paths in a proposed scope; an agent with more gets the patterns of its routes."""

LONGEST_LABEL: Final = 64
"""The longest label that is proposed, in characters."""

MAX_COMPARED: Final = 500
"""The most patterns that are looked through for those that cover others."""

_NOT_IN_LABELS = re.compile(r"[^A-Za-z0-9_./:@+-]+", re.ASCII)
_MODEL = re.compile(r"[A-Za-z0-9_.:/@+-]+", re.ASCII)
_HOURS_A_DAY: Final = 24


class Measured(NamedTuple):
    """A budget, and what it rests on: the percentile (nano-units) of the days or hours with spend, how many those were,
    and the room (nano-units) for one call that holds more than it costs.
    """

    budget: Budget
    enough: int
    periods: int
    room: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """A token for one agent. `label` is its name as a label can be. `budgets` has one for each unit that it spent, and
    none if its calls were free. `scope` is never empty.
    """

    agent: str
    verified: bool
    label: str
    calls: int
    budgets: tuple[Measured, ...]
    scope: tuple[str, ...]
    methods: tuple[str, ...]
    models: tuple[str, ...]
    max_price: Amount | None

    def words(self) -> list[str]:
        """The command line that mints it."""
        budgets = [str(measured.budget) for measured in self.budgets]
        caveats = [f"method = {' '.join(self.methods)}"]
        caveats += [f"model = {' '.join(self.models)}"] if self.models else []
        caveats += [f"max-price = {self.max_price}"] if self.max_price else []
        caveats += [f"budget = {budget}" for budget in budgets[1:]]
        return [
            *("tolsey", "mint", "--label", self.label),
            *(("--budget", budgets[0]) if budgets else ("--free-calls-only",)),
            *(word for pattern in self.scope for word in ("--scope", pattern)),
            *(word for caveat in caveats for word in ("--caveat", caveat)),
        ]


@dataclass(slots=True)
class _Seen:
    calls: int = 0
    spend: dict[str, dict[int, int]] = field(default_factory=dict)
    dearest: dict[str, int] = field(default_factory=dict)
    room: dict[str, int] = field(default_factory=dict)
    priced: set[str] = field(default_factory=set)
    paths: dict[str, str] = field(default_factory=dict)
    methods: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)


class Proposals:
    """Proposals from the tallies that are added. `exact` are the patterns of routes whose calls hold what they cost."""

    def __init__(self, exact: Collection[str]) -> None:
        self._exact = exact
        self._agents: dict[tuple[str, bool], _Seen] = {}

    def add(self, hour: int, key: TallyKey, counts: Counts) -> None:
        """Add one tally of an hour since the epoch. What was not observed, or whose agent is not known, counts not."""
        if key.mode != OBSERVE or key.agent == OTHER:
            return
        seen = self._agents.get((key.agent, key.verified))
        if seen is None:
            seen = self._agents[key.agent, key.verified] = _Seen()
        seen.calls += counts.calls
        if counts.cost:
            hours = seen.spend.setdefault(key.unit, {})
            hours[hour] = hours.get(hour, 0) + counts.cost
            seen.dearest[key.unit] = max(counts.dearest, seen.dearest.get(key.unit, 0))
            seen.priced.add(key.route)
        if key.route not in self._exact:
            seen.room[key.unit] = max(counts.held, seen.room.get(key.unit, 0))
        if counts.errors < counts.calls:
            seen.paths[key.path] = key.route
            seen.methods.add(key.method)
            seen.models.add(key.model)

    def found(self) -> list[Proposal]:
        """A proposal for each agent of which some call worked, those with most calls first."""
        proposals = [
            proposal
            for (agent, verified), seen in self._agents.items()
            if (proposal := self._proposal(agent, verified, seen)) is not None
        ]
        return sorted(proposals, key=lambda proposal: (-proposal.calls, proposal.agent, proposal.verified))

    def _proposal(self, agent: str, verified: bool, seen: _Seen) -> Proposal | None:
        scope = _scope(seen.paths)
        methods = tuple(method for method in METHODS if method in seen.methods)
        if not scope or not methods:
            return None
        exact = seen.priced <= set(self._exact)
        dearest = next(iter(seen.dearest.items())) if exact and len(seen.dearest) == 1 else None
        return Proposal(
            agent=agent,
            verified=verified,
            label=label_of(agent),
            calls=seen.calls,
            budgets=tuple(_measured(unit, hours, seen.room.get(unit, 0)) for unit, hours in sorted(seen.spend.items())),
            scope=scope,
            methods=methods,
            models=_models(seen.models),
            max_price=None if dearest is None else Amount(round_up(dearest[1]), dearest[0]),
        )


def label_of(agent: str) -> str:
    """An agent's name as a label that is safe everywhere: all but letters, digits and `_./:@+-` is a `-`."""
    return _NOT_IN_LABELS.sub("-", agent)[:LONGEST_LABEL].strip("-") or "agent"


def round_up(nano: int) -> int:
    """An amount rounded up to two significant digits, in nano-units: 1234 becomes 1300."""
    step: int = 10 ** max(0, len(str(nano)) - 2)
    return min(-(-nano // step) * step, MAX_NANO)


def _measured(unit: str, hours: dict[int, int], room: int) -> Measured:
    """Days and hours without spend say nothing about how much is enough, and are left out."""
    days: dict[int, int] = {}
    for hour, spent in hours.items():
        days[hour // _HOURS_A_DAY] = days.get(hour // _HOURS_A_DAY, 0) + spent
    period, spends = ("day", days) if len(days) >= FEWEST_DAYS else ("hour", hours)
    enough = percentile(PERCENTILE, list(spends.values()))
    budget = Budget(Amount(round_up(min(enough + room, MAX_NANO)), unit), period)
    return Measured(budget, enough, len(spends), room)


def _scope(paths: dict[str, str]) -> tuple[str, ...]:
    """The patterns of the paths, else those of their routes, else all paths: the first that one caveat can hold."""
    for found in (
        (_pattern(path, route) for path, route in paths.items()),
        (_read(route) for route in paths.values()),
    ):
        distinct = {pattern.text: pattern for pattern in found if pattern is not None}
        if len(distinct) > MAX_COMPARED:
            continue
        patterns = _widest(distinct.values())
        if len(patterns) <= MAX_SCOPES and _fits("scope", patterns):
            return patterns
    return ("/*",)


def _pattern(path: str, route: str) -> Pattern | None:
    """The pattern of a path. It is the route's where that is narrower, or where a caveat cannot hold the path."""
    mine, whole = _read(path), _read(route)
    if mine is None or path.endswith(",") or (whole is not None and whole.within(mine)):
        return whole
    return mine


def _read(text: str) -> Pattern | None:
    try:
        return parse_pattern(text)
    except PatternInvalid:
        return None


def _widest(patterns: Iterable[Pattern]) -> tuple[str, ...]:
    """Those that no other one covers, sorted."""
    kept: list[Pattern] = []
    for pattern in patterns:
        if not any(pattern.within(other) for other in kept):
            kept = [other for other in kept if not other.within(pattern)] + [pattern]
    return tuple(sorted(pattern.text for pattern in kept))


def _models(models: set[str]) -> tuple[str, ...]:
    """The models, if every call named one: the caveat refuses calls that name none."""
    if "" in models:
        return ()
    found = tuple(sorted(model for model in models if _MODEL.fullmatch(model) and len(model) < MAX_TEXT))
    return found if _fits("model", found) else ()


def _fits(name: str, words: tuple[str, ...]) -> bool:
    return len(f"{name} = {' '.join(words)}".encode()) <= LIMITS.caveat_bytes
