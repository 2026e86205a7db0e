"""The delegation tree of a live ledger: who opened each account, what it spent, when it was seen, what it refused.

It is read from one snapshot, so that open holds and running gateways are no difference.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from tolsey.ledger.windows import HOUR, SECOND, window
from tolsey.store.contract import TALLIED_HOURS, AccountRow, EntryRow, Snapshot, WindowRow
from tolsey.store.tallies import refusals
from tolsey.token.caveats import format_time
from tolsey.token.chain import CALL
from tolsey.token.once import APPROVAL_LABEL
from tolsey.units import MAX_NANO, NANO, format_nano

OUT_OF_ORDER_NS: Final = 60 * SECOND
"""How much later an entry may be numbered than one that was made after it, where several gateways write."""

_OF_ACCOUNTS: Final = frozenset(
    ("open", "pay", "grant", "reserve", "extend", "settle", "expire", "void", "observe", "refund", "annul")
)


@dataclass(frozen=True, slots=True)
class Standing:
    """An account's running window: from `start` to `end` (nanoseconds since the epoch), amounts in nano-units."""

    start: int
    end: int
    spent: int
    held: int
    granted: int
    observed: int


@dataclass(slots=True)
class Within:
    """What an account spent (nano-units) and how many of its calls were settled within some time."""

    spent: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class TrailRow:
    """One account of the delegation tree. Amounts are nano-units; `depth` counts the accounts above it.

    `spent`, `held`, `calls` and `observed` (what observe mode let through) count over its whole life. `window` is there
    where it has a period, `within` where a time was asked for. `opened_by` says who opened it by name; None if its
    first call did. `seen_at` is when a call last changed it, None for never, or not since that is written down.
    `refusals` are those that it made of the last 90 days, or of the time asked for, by code.
    """

    id: str
    parent: str | None
    label: str | None
    unit: str
    limit: int | None
    period: str | None
    granted: int
    spent: int
    held: int
    calls: int
    observed: int
    window: Standing | None
    depth: int
    opened_at: int = 0
    opened_by: str | None = None
    seen_at: int | None = None
    refusals: Mapping[str, int] = field(default_factory=dict)
    within: Within | None = None

    @property
    def left(self) -> int | None:
        """What it can still pay, in nano-units; None without a limit."""
        if self.limit is None:
            return None
        purse = self.window or self
        return self.limit + purse.granted - purse.spent - purse.held

    def to_json(self) -> dict[str, object]:
        """The row as `trail --json` prints it."""
        running = self.window
        found: dict[str, object] = {
            "id": self.id,
            "parent": self.parent,
            "label": self.label,
            "unit": self.unit,
            "limit": None if self.limit is None else format_nano(self.limit),
            "period": self.period,
            "granted": format_nano(self.granted),
            "spent": format_nano(self.spent),
            "held": format_nano(self.held),
            "calls": self.calls,
            "observed": format_nano(self.observed),
            "window": None
            if running is None
            else {
                "start": format_time(running.start),
                "end": format_time(running.end),
                "spent": format_nano(running.spent),
                "held": format_nano(running.held),
                "granted": format_nano(running.granted),
                "observed": format_nano(running.observed),
            },
            "opened_by": self.opened_by,
            "first_seen": format_time(self.opened_at),
            "last_seen": None if self.seen_at is None else format_time(self.seen_at),
            "refusals": dict(sorted(self.refusals.items())),
        }
        if self.within is not None:
            found["within"] = {"spent": format_nano(self.within.spent), "calls": self.within.calls}
        return found


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which accounts are wanted.

    `label` is the label of a level, with `*` for any characters: those accounts, what is above and what is below them.
    `since` and `until` (nanoseconds since the epoch): accounts of which the journal has an entry, or that refused a
    call, from then to before then, with what they spent within. The accounts that count a single approved call are left
    out unless `all`.
    """

    prefix_id: str | None = None
    label: str | None = None
    unit: str | None = None
    since: int | None = None
    until: int | None = None
    all: bool = False

    @property
    def timed(self) -> bool:
        """Whether a time is asked for."""
        return self.since is not None or self.until is not None


@dataclass(frozen=True, slots=True)
class _Trail:
    """What is needed of a snapshot for the rows of a trail."""

    at: int
    rows: dict[int, AccountRow]
    below: dict[int | None, list[int]]
    running: Mapping[int, WindowRow]
    refused: Mapping[str, Mapping[str, int]]
    within: Mapping[int, Within] | None


def trail(snapshot: Snapshot, wanted: Wanted = Wanted()) -> Iterator[TrailRow]:
    """The tree of accounts, depth first, roots by the time they were opened. Raises `TallyDamaged`."""
    with snapshot:
        found = _read(snapshot, wanted)
        shown = _chosen(found, wanted)
        # A list for the accounts still to come, since a tree may be deeper than Python's stack.
        stack = [(n, 0) for n in reversed(_roots(found, wanted))]
        while stack:
            n, depth = stack.pop()
            if shown is None or n in shown:
                yield _row(found, n, depth)
            stack += [(child, depth + 1) for child in reversed(found.below.get(n, ()))]


def incomplete_before(snapshot: Snapshot, since: int) -> int | None:
    """If entries made at `since` or later were rolled up: the instant before which they are gone."""
    with snapshot:
        until = max((each.at for each in snapshot.rollups()), default=0)
    return until if until > since else None


def _read(snapshot: Snapshot, wanted: Wanted) -> _Trail:
    at = snapshot.now()
    rows: dict[int, AccountRow] = {}
    below: dict[int | None, list[int]] = {}
    for row in snapshot.accounts():
        rows[row.n] = row
        below.setdefault(row.up, []).append(row.n)
    since, until = wanted.since or 0, MAX_NANO if wanted.until is None else wanted.until
    hour = max(since // HOUR, at // HOUR - TALLIED_HOURS)
    within = None
    if wanted.timed:
        within = _within(rows, snapshot.entries(snapshot.number_before(since)), since, until)
    running = running_windows(snapshot, rows, at)
    return _Trail(at, rows, below, running, refusals(snapshot, hour, -(-until // HOUR)), within)


def _roots(found: _Trail, wanted: Wanted) -> list[int]:
    if wanted.prefix_id is not None:
        return [row.n for row in found.rows.values() if row.id == wanted.prefix_id]
    return found.below.get(None, [])


def _row(found: _Trail, n: int, depth: int) -> TrailRow:
    row = found.rows[n]
    within = None if found.within is None else found.within.get(n, Within())
    return trail_row(row, found.running.get(n), found.at, depth, found.refused.get(row.id, {}), within)


def _within(rows: Mapping[int, AccountRow], entries: Iterable[EntryRow], since: int, until: int) -> dict[int, Within]:
    """What each account spent from `since` to before `until`, by its number."""
    found: dict[int, Within] = {}
    for entry in entries:
        if entry.at >= until + OUT_OF_ORDER_NS:
            break
        if not since <= entry.at < until or entry.kind not in _OF_ACCOUNTS:
            continue
        for leaf, amount in ((entry.leaf, entry.amount), (entry.counter, 0)):
            n = leaf
            while n is not None and n in rows:
                each = found.setdefault(n, Within())
                if entry.kind in ("refund", "annul"):
                    each.spent -= amount
                elif entry.kind in ("settle", "expire"):
                    each.spent += amount
                    each.calls += 1
                n = rows[n].up
    return found


def _chosen(found: _Trail, wanted: Wanted) -> set[int] | None:
    """The numbers of the accounts that are shown; None for all."""
    rows = found.rows
    chosen = set(rows) if wanted.all else {n for n, row in rows.items() if not _counts_an_approval(row)}
    if wanted.unit is not None:
        chosen = {n for n in chosen if rows[n].unit == wanted.unit}
    if found.within is not None:
        used = set(found.within) | {n for n, row in rows.items() if row.id in found.refused}
        chosen &= _with_those_above(rows, used)
    if wanted.label is not None:
        named = {n for n in chosen if fnmatchcase(rows[n].label or "", wanted.label)}
        chosen &= _with_those_above(rows, named) | _with_those_below(found.below, named)
    return None if len(chosen) == len(rows) else chosen


def _counts_an_approval(row: AccountRow) -> bool:
    """Whether it is of an approval. Whoever gives a Link that label hides no money."""
    return (row.label, row.unit, row.limit) == (APPROVAL_LABEL, CALL, NANO)


def _with_those_above(rows: Mapping[int, AccountRow], numbers: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for number in numbers:
        n: int | None = number
        while n is not None and n not in found:
            found.add(n)
            n = rows[n].up
    return found


def _with_those_below(below: Mapping[int | None, list[int]], numbers: Iterable[int]) -> set[int]:
    found: set[int] = set()
    left = list(numbers)
    while left:
        if (n := left.pop()) not in found:
            found.add(n)
            left += below.get(n, ())
    return found


def running_windows(snapshot: Snapshot, rows: Mapping[int, AccountRow], at: int) -> dict[int, WindowRow]:
    """The windows that run at the instant `at`, by the numbers of their accounts, which are in `rows`."""
    return {
        each.account: each
        for each in snapshot.windows()
        if (whose := rows.get(each.account)) is not None
        and whose.period is not None
        and each.start == window(whose.period, at)[0]
    }


def trail_row(
    row: AccountRow,
    stands: WindowRow | None,
    at: int,
    depth: int,
    refused: Mapping[str, int],
    within: Within | None = None,
) -> TrailRow:
    """An account as the trail shows it at the instant `at`; `stands` is its running window, if there is one."""
    standing: Standing | None = None
    if row.period is not None:
        figures = (0, 0, 0, 0) if stands is None else (stands.spent, stands.held, stands.granted, stands.observed)
        standing = Standing(*window(row.period, at), *figures)
    return TrailRow(
        row.id,
        row.parent,
        row.label,
        row.unit,
        row.limit,
        row.period,
        row.granted,
        row.spent,
        row.held,
        row.calls,
        row.observed,
        standing,
        depth,
        row.opened_at,
        row.opened_by,
        row.seen_at,
        refused,
        within,
    )
