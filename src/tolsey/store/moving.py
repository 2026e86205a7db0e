"""Carrying a ledger from one engine to another, row by row, with everything that money or safety depends on (RULES.md
L11): which rows those are, and the order in which they go. What an engine does for that is a `Movable`.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from tolsey.ledger.approving import Question

Row = Sequence[object]


class Table(NamedTuple):
    """A table that both engines have, and those of its columns that are carried."""

    name: str
    columns: tuple[str, ...]

    @property
    def column_list(self) -> str:
        """The columns in SQL."""
        return ", ".join(f'"{column}"' for column in self.columns)


_LIMITS: Final = ("n", "id", "unit", "parent", "label", "limit", "period", "granted")
_ENTRY: Final = (
    *("n", "at", "kind", "hold", "leaf", "counter", "amount", "until", "owner", "config", "note"),
    *("place", "seal"),
)

TABLES: Final = (
    Table("owner", ("n", "id", "started_at", "ended_at", "entries", "head")),
    Table("config", ("n", "generation", "at")),
    Table("account", (*_LIMITS, "spent", "held", "calls", "open", "observed", "opened_at", "opened_by", "seen_at")),
    Table("window", ("account", "start", "limit", "spent", "held", "granted", "observed")),
    Table("rate", ("id", "tat")),
    Table("claim", ("scope", "key", "request", "hold", "at", "done", "body", "response")),
    Table("rollup", ("n", "up_to", "at", "entries", "sha256", "made_at", "note")),
    Table("rolled", ("account", "spent", "calls", "granted", "observed")),
    Table("rolled_window", ("account", "start", "spent", "granted", "observed")),
    Table("gap", ("log", "first", "last", "before", "after")),
    Table("checkpoint", ("n", "document")),
    Table("checkpointed", ("log", "entries")),
    Table("entry", _ENTRY),
    Table("alert", ("id", "at", "kind", "body", "until", "tries", "next", "state", "fault")),
    Table("question", (*Question._fields, "granted", "answered", "note")),
    Table("revocation", ("id", "since", "expires", "note", "entry")),
    Table("tally", ("hour", "source", "key", "counts")),
    Table("hold", ("id", "leaf", "counter", "amount", "owner", "at", "until")),
)
"""In the order in which they are loaded."""

ROWS: Final = 2_000
"""How many rows go at once."""


class Movable(Protocol):
    """A ledger that is moved: a source that nobody else writes to meanwhile, or a target that nobody else can see yet.

    Methods raise `LedgerUnavailable`. Nothing is left of a target that was not finished, and no trace in a source that
    was not marked, when it is closed.
    """

    id: str
    created_at: int

    async def count(self, table: Table) -> int:
        """How many rows a table has."""

    def dump(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """Its rows, `ROWS` at a time, their columns in the order of `table.columns`; entries by number."""

    async def load(self, table: Table, rows: Sequence[Row]) -> None:
        """Put rows into an empty table."""

    async def finish(self) -> None:
        """Keep what was loaded; from here on it is a ledger."""

    async def discard(self) -> None:
        """Take back what was finished: the copy is not right."""

    async def mark_moved(self, to: str) -> None:
        """Write down where the ledger is now, durably: whoever opens it here is refused, and told (RULES.md L11)."""

    async def close(self) -> None:
        """Let go of it."""


async def copy(source: Movable, target: Movable, progress: Callable[[int, int], None]) -> None:
    """Carry everything over, and finish the target. `progress` is told how many rows of how many are done."""
    total = sum([await source.count(table) for table in TABLES])
    done = 0
    for table in TABLES:
        async for rows in source.dump(table):
            await target.load(table, rows)
            done += len(rows)
            progress(done, total)
    await target.finish()
