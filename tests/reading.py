"""`fsck` and `trail` of a ledger file, for tests that have its path."""

from pathlib import Path

from tests.ledgers import database
from tolsey.store import reports, trails
from tolsey.store.checkpoints import AT_ONCE, take
from tolsey.store.contract import EntryRow, Snapshot
from tolsey.store.embedded import EmbeddedLedger
from tolsey.store.reports import Checked
from tolsey.store.signing import SealKey
from tolsey.store.sqlite import SqliteLedger
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.store.trails import TrailRow, Wanted
from tolsey.testing import FaultyLedger


def fsck(ledger: Path | Snapshot) -> Checked:
    """Whether everything adds up."""
    return reports.fsck(SqliteSnapshot(ledger) if isinstance(ledger, Path) else ledger)


def difference_after(ledger: FaultyLedger, statements: str) -> str:
    """What `fsck` finds once somebody has changed the file of a ledger, where no rule of it holds."""
    ledger.close()
    with database(ledger.path, lawless=True) as db:
        for statement in statements.split(";"):
            db.execute(statement)
    found = fsck(ledger.path).difference
    assert found is not None
    return found


async def sign(ledger: Path, now: int) -> None:
    """Take a checkpoint, by a key for tests, of everything that is in a ledger."""
    opened = EmbeddedLedger(SqliteLedger(ledger, now=now, new_id="", create=False), timeout=5, now=lambda: now)
    try:
        await take(opened, [SealKey(bytes(32))], AT_ONCE)
    finally:
        await opened.close()


def entries(ledger: Path) -> list[EntryRow]:
    """The journal."""
    with SqliteSnapshot(ledger) as snapshot:
        return list(snapshot.entries())


def trail(ledger: Path | Snapshot, prefix_id: str | None = None) -> list[TrailRow]:
    """The delegation tree, depth first."""
    snapshot = SqliteSnapshot(ledger) if isinstance(ledger, Path) else ledger
    return list(trails.trail(snapshot, Wanted(prefix_id)))
