"""What is read from a live ledger without disturbing it: the delegation tree, and the check that everything adds up.

Each reads one snapshot, so that open holds and running gateways are no difference.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tolsey.errors import LedgerUnavailable
from tolsey.ledger.windows import window
from tolsey.store.contract import AccountRow, Snapshot, WindowRow
from tolsey.store.replay import Replay
from tolsey.store.sealcheck import SealCheck
from tolsey.token.caveats import format_time
from tolsey.units import format_nano


@dataclass(frozen=True, slots=True)
class Standing:
    """An account's running window: from `start` to `end` (nanoseconds since the epoch), amounts in nano-units."""

    start: int
    end: int
    spent: int
    held: int
    granted: int
    observed: int


@dataclass(frozen=True, slots=True)
class TrailRow:
    """One account of the delegation tree. Amounts are nano-units; `depth` counts the accounts above it.

    `spent`, `held`, `calls` and `observed` (what observe mode let through) count over its whole life. `window` is there
    where it has a period.
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
        return {
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
        }


def trail(snapshot: Snapshot, prefix_id: str | None = None) -> Iterator[TrailRow]:
    """The tree of accounts, depth first, roots by the time they were opened; below `prefix_id` if one is given."""
    with snapshot:
        at = snapshot.now()
        rows: dict[int, AccountRow] = {}
        below: dict[int, list[int]] = {}
        roots: list[int] = []
        for row in snapshot.accounts():
            rows[row.n] = row
            if row.up is not None:
                below.setdefault(row.up, []).append(row.n)
            if row.id == prefix_id or (prefix_id is None and row.up is None):
                roots.append(row.n)
        running = running_windows(snapshot, rows, at)
        # A list for the accounts still to come, since a tree may be deeper than Python's stack.
        stack = [(n, 0) for n in reversed(roots)]
        while stack:
            n, depth = stack.pop()
            yield trail_row(rows[n], running.get(n), at, depth)
            stack += [(child, depth + 1) for child in reversed(below.get(n, ()))]


def running_windows(snapshot: Snapshot, rows: Mapping[int, AccountRow], at: int) -> dict[int, WindowRow]:
    """The windows that run at the instant `at`, by the numbers of their accounts, which are in `rows`."""
    return {
        each.account: each
        for each in snapshot.windows()
        if (whose := rows.get(each.account)) is not None
        and whose.period is not None
        and each.start == window(whose.period, at)[0]
    }


def trail_row(row: AccountRow, stands: WindowRow | None, at: int, depth: int) -> TrailRow:
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
    )


@dataclass(frozen=True, slots=True)
class Checked:
    """What `fsck` went through, and the first difference it met (None: everything adds up).

    `rolled_up` entries, made before `rolled_until` (nanoseconds since the epoch), are known by their totals alone.
    `unsigned` entries lie behind the last of the `checkpoints`.
    """

    accounts: int
    entries: int
    open_holds: int
    difference: str | None
    rolled_up: int = 0
    rolled_until: int | None = None
    logs: int = 0
    checkpoints: int = 0
    unsigned: int = 0


_SILENT: Final[Callable[[int, int], None]] = lambda done, total: None  # noqa: E731 - the default of a parameter


def fsck(
    snapshot: Snapshot,
    progress: Callable[[int, int], None] = _SILENT,
    *,
    trusted: Sequence[str] | None = None,
) -> Checked:
    """Recompute every balance from the journal, in order, and compare: entries, accounts, windows, open holds, grants,
    both laws; and the seal. `progress` is told now and then how many entries of how many are done. `trusted` are public
    keys (hex) one of which must have signed the last checkpoint; None does not ask whose they are.

    Raises `LedgerUnavailable` or `LedgerRefused` if the ledger cannot be opened; damage in it is a difference.
    """
    with snapshot:
        try:
            entries = snapshot.entry_count()
            holds = sum(1 for _ in snapshot.holds())
            seal = SealCheck(snapshot, trusted)
            replay = Replay(snapshot, seal, lambda done: progress(done, entries))
            fault = next(replay.faults(), None)
            progress(entries, entries)
        except LedgerUnavailable as error:
            return Checked(0, 0, 0, error.detail)
        except (TypeError, ValueError, LookupError) as error:
            # What becomes of the values in a damaged ledger.
            return Checked(0, 0, 0, f"the ledger cannot be read: {error}")
    return Checked(
        len(replay.accounts),
        entries,
        holds,
        fault,
        replay.rolled_up,
        replay.rolled_until,
        seal.logs,
        len(seal.checkpoints),
        seal.walk.unsigned,
    )
