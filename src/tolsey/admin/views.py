"""What the dashboard's pages show, read from one snapshot each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Final

from tolsey.ledger.report import Group, Groups, hour_text
from tolsey.ledger.windows import HOUR
from tolsey.store.chains import Chains
from tolsey.store.contract import TALLIED_HOURS, AccountRow, EntryRow, Snapshot
from tolsey.store.tallies import refusals, tallies
from tolsey.store.trails import TrailRow, running_windows, trail_row
from tolsey.token.caveats import format_time
from tolsey.units import format_nano

HOURS: Final = 24
"""How far back the overview goes."""

PAGE: Final = 100
"""How many accounts of a level are shown at a time."""

TOP: Final = 8
"""How many routes and refusals the overview names."""

RECENT_ENTRIES: Final = 20_000
"""How far back calls of a chain are looked for in the journal."""

RECENT_CALLS: Final = 50

NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Node:
    """An account in the tree. `below` is how many accounts are right below it."""

    row: TrailRow
    below: int

    @property
    def key(self) -> str:
        """What tells it from all others: two units of one token have the same prefix id."""
        return f"{self.row.id}:{self.row.unit}"

    @property
    def whole(self) -> int | None:
        """The limit with what was granted, in the running window; None without a limit."""
        purse = self.row.window or self.row
        return None if self.row.limit is None else self.row.limit + purse.granted

    @property
    def spent(self) -> int:
        """What was spent, in the running window."""
        return (self.row.window or self.row).spent

    @property
    def held(self) -> int:
        """What is held, in the running window."""
        return (self.row.window or self.row).held

    def share(self, nano: int) -> float:
        """An amount as a part of the whole, in percent; of an account without a limit, of all that was taken."""
        whole = self.whole if self.whole is not None else self.spent + self.held
        return round(100 * nano / whole, 2) if whole else 0.0


@dataclass(frozen=True, slots=True)
class Level:
    """Accounts right below one, and the offset of those that follow (None: no more)."""

    nodes: list[Node]
    following: int | None


class Tree:
    """The accounts of an open snapshot, from which levels and single accounts are taken."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._at = snapshot.now()
        self.rows: dict[int, AccountRow] = {}
        self._below: dict[int | None, list[int]] = {}
        self._numbers: dict[str, int] = {}
        for row in snapshot.accounts():
            self.rows[row.n] = row
            self._below.setdefault(row.up, []).append(row.n)
            self._numbers[f"{row.id}:{row.unit}"] = row.n
        self._running = running_windows(snapshot, self.rows, self._at)

    def level(self, above: str | None, offset: int) -> Level:
        """The accounts below one, by its key (None: those below none), newest roots first."""
        numbers = self._below.get(None if above is None else self._numbers.get(above, 0), [])
        if above is None:
            numbers = numbers[::-1]
        shown = numbers[offset : offset + PAGE]
        more = offset + PAGE if len(numbers) > offset + PAGE else None
        return Level([self.node(n) for n in shown], more)

    def find(self, words: str) -> Level:
        """The accounts whose label holds these words, or whose prefix id begins so."""
        wanted = words.casefold()
        found = (
            row.n
            for row in self.rows.values()
            if wanted in (row.label or "").casefold() or row.id.startswith(words.lower())
        )
        return Level([self.node(n) for n in islice(found, PAGE)], None)

    def node(self, n: int, refused: Mapping[str, int] = NOTHING) -> Node:
        """An account by its number; `refused` are the refusals that it made, by code."""
        row = self.rows[n]
        return Node(trail_row(row, self._running.get(n), self._at, 0, refused), len(self._below.get(n, ())))

    def nodes(self, keys: Sequence[str]) -> list[Node]:
        """Accounts by their keys; those that are not there are left out."""
        return [self.node(self._numbers[key]) for key in keys if key in self._numbers]

    def family(self, numbers: Sequence[int]) -> set[int]:
        """Accounts and all below them: whatever was charged to one of these was charged to those above."""
        found: set[int] = set()
        left = list(numbers)
        while left:
            found.add(n := left.pop())
            left += self._below.get(n, ())
        return found

    def of_id(self, prefix_id: str) -> list[int]:
        """The numbers of the accounts under a prefix id, one for each unit."""
        return [row.n for row in self.rows.values() if row.id == prefix_id]


@dataclass(frozen=True, slots=True)
class Overview:
    """The last hours. `plots` are, for each unit, what was spent in each of them; amounts are in nano-units."""

    hours: list[str]
    plots: dict[str, list[int]]
    spent: dict[str, int]
    calls: int
    refused: int
    would_refuse: int
    routes: list[Group]
    refusals: list[Group]


def overview(snapshot: Snapshot) -> Overview:
    """Add up the last `HOURS` hours."""
    routes, refused_by = Groups(["route"]), Groups(["code", "mode"])
    calls = refused = would_refuse = 0
    with snapshot:
        end = snapshot.now() // HOUR + 1
        begin = end - HOURS
        plots: dict[str, list[int]] = {}
        for hour, key, counts in tallies(snapshot, begin, end):
            routes.add(hour, key, counts)
            calls += counts.calls
            if key.code:
                refused_by.add(hour, key, counts)
                refused += counts.calls if key.mode != "observe" else 0
                would_refuse += counts.calls if key.mode == "observe" else 0
            if key.unit:
                plots.setdefault(key.unit, [0] * HOURS)[hour - begin] += counts.cost
    return Overview(
        hours=[hour_text(hour) for hour in range(begin, end)],
        plots=dict(sorted(plots.items())),
        spent={unit: sum(each) for unit, each in sorted(plots.items())},
        calls=calls,
        refused=refused,
        would_refuse=would_refuse,
        routes=routes.found()[:TOP],
        refusals=refused_by.found()[:TOP],
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal. `label` is that of the last Link which it was charged to."""

    at: str
    kind: str
    hold: str | None
    label: str | None
    amount: str
    note: str


@dataclass(frozen=True, slots=True)
class ChainPage:
    """One account in all its units, those above it from the root, and what happened on it and below it lately, newest
    first. `family` is how many accounts there are, it and all below it.
    """

    nodes: list[Node]
    above: list[Node]
    entries: list[Entry]
    family: int


def chain_page(snapshot: Snapshot, prefix_id: str) -> ChainPage | None:
    """What is known of the accounts under a prefix id; None if there are none."""
    with snapshot:
        tree = Tree(snapshot)
        numbers = tree.of_id(prefix_id)
        if not numbers:
            return None
        chains = Chains(snapshot)
        above = [tree.node(row.n) for row in chains.up(numbers[0])[:-1]]
        family = tree.family(numbers)
        latest = snapshot.entries(max(0, snapshot.last_entry() - RECENT_ENTRIES))
        recent = [entry for entry in latest if entry.leaf in family or entry.counter in family]
        entries = [_entry(tree.rows, entry) for entry in recent[: -RECENT_CALLS - 1 : -1]]
        hour = snapshot.now() // HOUR
        refused = refusals(snapshot, hour - TALLIED_HOURS, hour + 1).get(prefix_id, NOTHING)
        return ChainPage([tree.node(n, refused) for n in numbers], above, entries, len(family))


def _entry(rows: Mapping[int, AccountRow], entry: EntryRow) -> Entry:
    number = entry.counter if entry.leaf is None else entry.leaf
    amount = ""
    if entry.leaf is not None:
        # What was paid is in sat, whatever it opened.
        unit = "sat" if entry.kind == "pay" else rows[entry.leaf].unit
        amount = f"{format_nano(entry.amount)} {unit}"
    label = None if number is None else rows[number].label
    return Entry(format_time(entry.at), entry.kind, entry.hold, label, amount, entry.note)
