"""Whether a ledger's seal is whole, for `fsck`: the same walk that verifies an export, over the rows themselves."""

from collections.abc import Iterator, Sequence

from tolsey.audit.canonical import NotCanonical, parse
from tolsey.audit.checkpoint import Chain, Checkpoint, read
from tolsey.audit.walk import Walk
from tolsey.errors import LedgerUnavailable
from tolsey.store.contract import EntryRow, Snapshot
from tolsey.store.sealing import Bodies
from tolsey.store.signing import is_signed


class SealCheck:
    """Goes through one open snapshot, told of its entries in order. `trusted` are public keys in hex, of which one must
    have signed the last checkpoint; None does without.
    """

    def __init__(self, snapshot: Snapshot, trusted: Sequence[str] | None = None) -> None:
        self.fault: str | None = None
        self.logs = 0
        self._snapshot = snapshot
        self._bodies = Bodies(snapshot.accounts(), snapshot.configs())
        self.checkpoints: list[Checkpoint] = list(self._checkpoints(trusted))
        self.walk = Walk(snapshot.id, snapshot.gaps(), self.checkpoints)

    def _checkpoints(self, trusted: Sequence[str] | None) -> Iterator[Checkpoint]:
        chain = Chain(self._snapshot.id, trusted or ())
        for n, document in enumerate(self._snapshot.checkpoints(), 1):
            try:
                found = read(parse(document), is_signed)
            except NotCanonical as error:
                found = error.detail
            fault = f"checkpoint {n}: {found}" if isinstance(found, str) else chain.follow(found)
            if fault is not None or isinstance(found, str):
                self.fault = fault
                return
            yield found
        if trusted is not None and chain.last is not None and not chain.is_trusted:
            self.fault = f"the last checkpoint is signed by key {chain.last.key[:16]}…, which is not in the keyring"

    def take(self, entry: EntryRow) -> None:
        """Take the next entry; of several faults the first is kept."""
        if self.fault is not None:
            return
        try:
            fault = self.walk.entry(
                entry.owner, entry.place, entry.kind, entry.note, self._bodies.body(entry), entry.seal
            )
        except (LedgerUnavailable, TypeError, ValueError, LookupError, AttributeError) as error:
            fault = f"entry {entry.place} of log {entry.owner} cannot be read: {error}"
        if fault is not None:
            self.fault = f"the seal is broken at entry {entry.n}: {fault}"

    def faults(self) -> Iterator[str]:
        """What is wrong, once every entry was taken; the caller takes the first."""
        if self.fault is not None:
            yield self.fault
            return
        for fault in self.walk.end():
            yield f"the seal is broken: {fault}"
        heads = dict(self.walk.heads)
        self.logs = len(heads)
        for owner in self._snapshot.owners():
            head = heads.pop(owner.n, None)
            if head is None or head != (owner.entries, owner.seal):
                there = 0 if head is None else head.entries
                yield f"the seal is broken: log {owner.n} has had {owner.entries} entries and ends at entry {there}"
        if heads:
            yield f"the seal is broken: log {min(heads)} has entries, and its owner has written none"
        yield from self._sums()

    def _sums(self) -> Iterator[str]:
        """What was rolled up adds up to what the sealed entries say of it, if all of it was rolled up under a seal."""
        if self.walk.rolled != sum(rollup.entries for rollup in self._snapshot.rollups()):
            return
        for row in self._snapshot.rolled():
            key = self._bodies.key(row.account)
            sealed = self.walk.sums.pop(key, [0, 0, 0, 0])
            if sealed != [row.spent, row.calls, row.granted, row.observed]:
                yield f"what was rolled up of account {key[0]} is not what its sealed entries say"
        if self.walk.sums:
            yield f"what was rolled up of account {min(self.walk.sums)[0]} is missing"
