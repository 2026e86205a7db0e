"""The check that everything in a ledger adds up. It reads one snapshot, so that open holds and running gateways are no
difference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tolsey.errors import LedgerUnavailable
from tolsey.store.contract import Snapshot
from tolsey.store.replay import Replay
from tolsey.store.sealcheck import SealCheck


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
