"""The SQL that both engines read a ledger with, and what is said of one that must not be read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final, TypeVar

from tolsey.audit.seal import Gap
from tolsey.errors import LedgerRefused
from tolsey.ledger.approving import Asked, Question
from tolsey.ledger.revoking import Revocation
from tolsey.store.contract import (
    AccountRow,
    AlertRow,
    EntryRow,
    HoldRow,
    OwnerRow,
    PaymentRow,
    RolledRow,
    RollUp,
    TallyRow,
    WindowRow,
)

QUESTION: Final = (
    "SELECT id, at, until, root, prefix_id, labels, ticket, method, path, query, nano, unit, purpose,"
    " granted, answered, note FROM question"
)
"""Questions, in the order of columns that `asked_of` reads."""

ENTRY: Final = "SELECT n, at, kind, hold, leaf, counter, amount, until, owner, config, note, place, seal FROM entry"
"""An `EntryRow`."""

ACCOUNTS: Final = """
    SELECT a.n, a.id, a.unit, a.parent, p.n, a.label, a."limit", a.period, a.granted, a.spent, a.held, a.calls, a.open,
        a.observed, a.opened_at, a.opened_by, a.seen_at
    FROM account a LEFT JOIN account p ON p.id = a.parent AND p.unit = a.unit ORDER BY a.n
"""
"""An `AccountRow`."""

IS_RESOLUTION: Final = "(kind = 'settle' OR kind = 'void' OR kind = 'expire')"
"""The SQL for an entry that closes a hold. With OR: SQLite takes a partial index only where it is asked for in the
words of the index.
"""

IS_LATER: Final = "(kind = 'extend' OR (kind = 'refund' OR kind = 'annul'))"
"""The SQL for one that changes what a hold amounts to."""

_HOLDS: Final = """
    SELECT h.id, h.leaf, h.counter, h.amount, h.at, h.until, h.owner, o.id, coalesce(e.note, '')
    FROM hold h LEFT JOIN owner o ON o.n = h.owner LEFT JOIN entry e ON e.hold = h.id AND e.kind = 'reserve'
    ORDER BY h.at, h.id
"""
_PAYMENTS: Final = """
    SELECT e.n, e.at, e.hold, e.amount, a.id, a.label, a.unit, a."limit" + a.granted, a.spent, a.held, a.calls, e.note
    FROM entry e JOIN account a ON a.n = e.leaf WHERE e.kind = 'pay' ORDER BY e.n
"""

_OWNERS: Final = """
    SELECT o.n, o.id, o.entries, o.head, coalesce(c.entries, 0) FROM owner o LEFT JOIN checkpointed c ON c.log = o.n
    WHERE o.entries > 0 ORDER BY o.n
"""

_TALLY: Final = "SELECT hour, source, key, counts FROM tally"

_Row = TypeVar("_Row")


def entries_of_hold(hold: str) -> str:
    """The SQL for what a hold's money did, in order. Each part is found by an index, whose words it has."""
    of = f"{ENTRY} WHERE hold = {hold}"
    return f"{of} AND kind = 'reserve' UNION ALL {of} AND {IS_RESOLUTION} UNION ALL {of} AND {IS_LATER} ORDER BY n"


class Queries(ABC):
    """What of a `Snapshot` (see `contract`) is the same on both engines. `parameter` is how one writes its first."""

    parameter: ClassVar[str]

    @abstractmethod
    def _rows(self, make: Callable[..., _Row], query: str, *values: object) -> Iterator[_Row]:
        """What `make` makes of each row of a query. Raises `LedgerUnavailable`."""

    def accounts(self) -> Iterator[AccountRow]:
        """Every account, in the order in which they were opened."""
        return self._rows(AccountRow, ACCOUNTS)

    def windows(self) -> Iterator[WindowRow]:
        """Every window that is kept."""
        return self._rows(WindowRow, 'SELECT account, start, spent, held, granted, observed FROM "window"')

    def entries(self, after: int = 0) -> Iterator[EntryRow]:
        """The journal behind entry `after`, by number."""
        return self._rows(EntryRow, f"{ENTRY} WHERE n > {self.parameter} ORDER BY n", after)

    def entries_of(self, hold: str) -> list[EntryRow]:
        """What a hold's money did, in order."""
        return list(self._rows(EntryRow, entries_of_hold(self.parameter), hold))

    def entry_before(self, entry: EntryRow) -> EntryRow | None:
        """The entry that stands before another in its log, None for none."""
        query = f"{ENTRY} WHERE owner = {self.parameter} AND n < {self.parameter[0]}2 ORDER BY n DESC LIMIT 1"
        return next(self._rows(EntryRow, query, entry.owner, entry.n), None)

    def entry_count(self) -> int:
        """How many entries there are."""
        return next(self._rows(int, "SELECT count(*) FROM entry"))

    def last_entry(self) -> int:
        """The number of the last entry, 0 for none."""
        return next(self._rows(int, "SELECT coalesce(max(n), 0) FROM entry"))

    def configs(self) -> dict[int, str]:
        """The generations of configs by their numbers."""
        return dict(self._rows(lambda n, generation: (n, generation), "SELECT n, generation FROM config"))

    def rollups(self) -> Iterator[RollUp]:
        """Every roll-up, in order."""
        return self._rows(RollUp, "SELECT n, up_to, at, entries, sha256, made_at, note FROM rollup ORDER BY n")

    def rolled(self) -> Iterator[RolledRow]:
        """What entries that were rolled up add up to."""
        return self._rows(RolledRow, "SELECT account, spent, calls, granted, observed FROM rolled")

    def rolled_windows(self) -> Iterator[WindowRow]:
        """The same for windows."""
        return self._rows(WindowRow, "SELECT account, start, spent, 0, granted, observed FROM rolled_window")

    def tallies(self, since: int, until: int) -> Iterator[TallyRow]:
        """What was counted of calls from the hour `since` to before the hour `until`."""
        return self._tallies("NOT LIKE", since, until)

    def refusals(self, since: int, until: int) -> Iterator[TallyRow]:
        """The same of refusals, by who refused."""
        return self._tallies("LIKE", since, until)

    def _tallies(self, is_like: str, since: int, until: int) -> Iterator[TallyRow]:
        within = f"hour >= {self.parameter} AND hour < {self.parameter[0]}2 AND key {is_like} '[\"refused\",%'"
        return self._rows(TallyRow, f"{_TALLY} WHERE {within}", since, until)

    def owners(self) -> Iterator[OwnerRow]:
        """Every log that has entries, by number."""
        return self._rows(OwnerRow, _OWNERS)

    def gaps(self) -> Iterator[Gap]:
        """Which entries of which logs were rolled up, in order."""
        return self._rows(Gap, "SELECT log, first, last, before, after FROM gap ORDER BY log, first")

    def checkpoints(self) -> Iterator[bytes]:
        """The documents of all checkpoints, in order."""
        return self._rows(bytes, "SELECT document FROM checkpoint ORDER BY n")

    def holds(self) -> Iterator[HoldRow]:
        """The open holds, oldest first."""
        return self._rows(HoldRow, _HOLDS)

    def alerts(self) -> Iterator[AlertRow]:
        """Every alert that is kept, newest first."""
        query = "SELECT id, at, kind, body, state, tries, fault FROM alert ORDER BY at DESC, id"
        return self._rows(AlertRow, query)

    def questions(self) -> Iterator[Asked]:
        """Every question that is kept, oldest first."""
        return self._rows(lambda *row: asked_of(row), f"{QUESTION} ORDER BY at, id")

    def payments(self) -> Iterator[PaymentRow]:
        """Every payment and its purse."""
        return self._rows(PaymentRow, _PAYMENTS)

    def revocations(self) -> Iterator[Revocation]:
        """What is revoked, oldest first."""
        return self._rows(Revocation, "SELECT id, since, expires, note, entry FROM revocation ORDER BY entry")


def check_moved(moved_to: str | None, ledger: str = "the ledger") -> None:
    """Raise `LedgerRefused` for a ledger that was moved elsewhere (RULES.md L11)."""
    if moved_to is not None:
        raise LedgerRefused(f"{ledger} was moved to {moved_to}; put that into [ledger] url")


def check_readable(version: int, present: int, moved_to: str | None, ledger: str) -> None:
    """Raise `LedgerRefused` for a ledger that must not be read as it is: its schema is of another `version` than the
    `present` one, or it was moved elsewhere.
    """
    if version != present:
        older = version < present
        hint = "; `tolsey serve` or `tolsey mint` brings it up to date" if older else ""
        raise LedgerRefused(f"{ledger} is of {'an older' if older else 'a newer'} Tolsey{hint}")
    check_moved(moved_to, ledger)


def asked_of(row: Sequence[Any]) -> Asked:
    """A question of one row of `QUESTION`."""
    *question, granted, answered, note = row
    return Asked(Question(*question), None if granted is None else bool(granted), answered, note)
