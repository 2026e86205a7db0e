"""Writing the sealed export (see `audit.sealed`)."""

import itertools
from collections.abc import Callable, Iterator
from typing import Final

from tolsey.audit.sealed import checkpoint_line, end_line, entry_line, gap_line, head_line
from tolsey.store.contract import Snapshot
from tolsey.store.sealing import Bodies

PIECE: Final = 20_000
"""How many entries are read in one view of the ledger."""


def export_sealed(snapshot: Snapshot, progress: Callable[[int, int], None]) -> Iterator[bytes]:
    """The lines of a ledger, as it is when this begins, each without its line break.

    The view is open all the while where entries may be numbered late, since a log must have no hole. `progress` is told
    how many numbers of how many it has passed. Raises `LedgerUnavailable`.
    """
    with snapshot:
        bodies = Bodies(snapshot.accounts(), snapshot.configs())
        last = snapshot.last_entry()
        yield head_line(snapshot.id)
        yield from map(gap_line, snapshot.gaps())
        yield from map(checkpoint_line, snapshot.checkpoints())
        after = count = 0
        while after < last:
            entries = list(itertools.islice(snapshot.entries(after), PIECE))
            if not entries:
                break
            for entry in entries:
                yield entry_line(bodies.body(entry), entry.seal)
            count += len(entries)
            after = entries[-1].n
            progress(after, last)
        yield end_line(count)
