"""The journal as others read it: a line for each entry, with labels, chain, unit, plain decimals and RFC 3339.

A line's bytes are canonical: the members in one order, no white space, UTF-8. What `compact` hashes and archives are
these lines too.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from tolsey.audit.seal import stamp
from tolsey.store.chains import Chains
from tolsey.store.contract import EntryRow, Snapshot
from tolsey.units import format_nano

PIECE: Final = 20_000
"""How many entries are read in one view of the ledger: a slow reader must not keep one open for hours."""


class Line(msgspec.Struct, frozen=True, gc=False):
    """One entry. `chain` and `labels` run from root to bearer, for the money or, where there is none, for the calls;
    `account` is the last of the chain, `counter` the last account whose calls were counted. `config` is the generation.
    """

    n: int
    at: str
    kind: str
    hold: str | None
    amount: str
    unit: str | None
    account: str | None
    counter: str | None
    chain: tuple[str, ...]
    labels: tuple[str | None, ...]
    until: str | None
    owner: int
    config: str | None
    note: str


class Lines:
    """Makes lines of entries. `open` views the ledger; what it says of accounts and configs is kept."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.read()

    def read(self) -> None:
        """Look again which accounts and configs there are. The snapshot is open."""
        self._chains = Chains(self._snapshot)
        self._configs = self._snapshot.configs()
        self._chain = functools.lru_cache(maxsize=4096)(self._read_chain)

    def line(self, entry: EntryRow) -> Line:
        """The line of an entry. The snapshot is open, in case that an account is newer than `read`."""
        if any(n is not None and n not in self._chains for n in (entry.leaf, entry.counter)):
            self.read()
        counter = None if entry.counter is None else self._chain(entry.counter)
        found = self._chain(entry.leaf) if entry.leaf is not None else counter
        ids, labels, unit = found or ((), (), None)
        return Line(
            entry.n,
            stamp(entry.at),
            entry.kind,
            entry.hold,
            format_nano(entry.amount),
            "sat" if entry.kind == "pay" else unit if entry.leaf is not None else None,
            ids[-1] if entry.leaf is not None else None,
            counter[0][-1] if counter is not None else None,
            ids,
            labels,
            None if entry.until is None else stamp(entry.until),
            entry.owner,
            None if entry.config is None else self._configs.get(entry.config),
            entry.note,
        )

    def _read_chain(self, n: int) -> tuple[tuple[str, ...], tuple[str | None, ...], str]:
        chain = self._chains.up(n)
        return tuple(row.id for row in chain), tuple(row.label for row in chain), chain[-1].unit


def encode(line: Line) -> bytes:
    """The canonical bytes of a line, with its line break."""
    return msgspec.json.encode(line) + b"\n"


def export(
    snapshot: Snapshot, *, since: int | None, until: int | None, progress: Callable[[int, int], None]
) -> Iterator[tuple[EntryRow, Line]]:
    """Every entry that was there when it began and was made from `since` on and before `until` (nanoseconds since the
    epoch; None: no bound), in order. `progress` is told now and then how many numbers of how many it has passed.
    """
    with snapshot:
        first = after = 0 if since is None else snapshot.number_before(since)
        last = snapshot.last_entry()
        if until is not None and snapshot.contiguous:
            last = snapshot.number_before(until)
        lines = Lines(snapshot)
    while after < last:
        with snapshot:
            entries = list(itertools.islice(snapshot.entries(after), PIECE))
            for entry in entries:
                if entry.n > last:
                    return
                if (since is None or entry.at >= since) and (until is None or entry.at < until):
                    yield entry, lines.line(entry)
        if not entries:
            return
        after = entries[-1].n
        progress(after - first, last - first)
