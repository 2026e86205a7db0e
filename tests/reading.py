"""`fsck` and `trail` of a ledger file, for tests that have its path."""

from pathlib import Path

from tolsey.store import reports
from tolsey.store.contract import Snapshot
from tolsey.store.reports import Checked, TrailRow
from tolsey.store.sqlite_snapshot import SqliteSnapshot


def fsck(ledger: Path | Snapshot) -> Checked:
    """Whether everything adds up."""
    return reports.fsck(SqliteSnapshot(ledger) if isinstance(ledger, Path) else ledger)


def trail(ledger: Path | Snapshot, prefix_id: str | None = None) -> list[TrailRow]:
    """The delegation tree, depth first."""
    return list(reports.trail(SqliteSnapshot(ledger) if isinstance(ledger, Path) else ledger, prefix_id))
