"""Making proofs and receipts from a ledger: see `audit.proof`."""

from collections.abc import Sequence
from hashlib import sha256
from typing import ClassVar

from tolsey.audit.canonical import Value, parse
from tolsey.audit.checkpoint import Checkpoint, read
from tolsey.audit.proof import proof, receipt, run
from tolsey.audit.seal import genesis, stamp
from tolsey.errors import TolseyError
from tolsey.store.by_hand import HoldUnknown
from tolsey.store.contract import EntryRow, Snapshot
from tolsey.store.sealing import Bodies
from tolsey.store.signing import SealKey, is_signed


class ProofRefused(TolseyError):
    """What cannot be proved: not signed yet, or beside entries that were rolled up."""

    code: ClassVar[str] = "proof_refused"


def prove(snapshot: Snapshot, hold: str) -> bytes:
    """A proof that the entries of a hold are under a checkpoint. Raises `HoldUnknown` or `ProofRefused`."""
    with snapshot:
        entries, bodies = _entries(snapshot, hold)
        runs: list[Value] = []
        for document, group in _covering(snapshot, entries):
            runs.append(_run(snapshot, bodies, document, group))
        return proof(hold, snapshot.id, runs)


def write_receipt(snapshot: Snapshot, hold: str, key: SealKey, *, caveats: Sequence[str] | None) -> bytes:
    """A receipt for a hold; `caveats` are those of the token that it was charged to, if it was shown. Raises
    `HoldUnknown`.
    """
    with snapshot:
        entries, bodies = _entries(snapshot, hold)
        shown = [_shown(bodies.body(entry)) for entry in entries]
        said: Value = None if caveats is None else list(caveats)
        return receipt(hold, snapshot.id, shown, caveats=said, at=stamp(snapshot.now()), key=key.public, sign=key.sign)


def chain_of(snapshot: Snapshot, hold: str) -> tuple[str, list[str]]:
    """The unit and the prefix ids of the accounts that a hold was charged to. Raises `HoldUnknown`."""
    with snapshot:
        entries, bodies = _entries(snapshot, hold)
        body = _shown(bodies.body(entries[0]))
    chain = body["chain"] or body["counters"]
    ids = [str(link["id"]) for link in chain if isinstance(link, dict)] if isinstance(chain, list) else []
    return str(body["unit"] or "call"), ids


def _entries(snapshot: Snapshot, hold: str) -> tuple[list[EntryRow], Bodies]:
    entries = snapshot.entries_of(hold)
    if not entries or entries[0].kind != "reserve":
        raise HoldUnknown(f"the ledger has no hold {hold}, or it was rolled up")
    return entries, Bodies(snapshot.accounts(), snapshot.configs())


def _shown(body: bytes) -> dict[str, Value]:
    value = parse(body)
    if not isinstance(value, dict):
        raise AssertionError("a body is an object")
    return value


def _covering(snapshot: Snapshot, entries: Sequence[EntryRow]) -> list[tuple[Value, list[EntryRow]]]:
    """The entries by log and by the first checkpoint that has them, each group with that checkpoint's document."""
    left = list(entries)
    found: list[tuple[Value, list[EntryRow]]] = []
    for data in snapshot.checkpoints():
        document = parse(data)
        checkpoint = read(document, is_signed)
        if not isinstance(checkpoint, Checkpoint):
            raise ProofRefused(f"a checkpoint in the ledger is damaged: {checkpoint}; see `tolsey fsck`")
        for log, head in checkpoint.logs:
            group = [entry for entry in left if entry.owner == log and entry.place <= head.entries]
            if group:
                found.append((document, group))
                left = [entry for entry in left if entry not in group]
        if not left:
            return found
    raise ProofRefused(f"entry {left[0].n} is under no checkpoint yet: `tolsey audit checkpoint` takes one")


def _run(snapshot: Snapshot, bodies: Bodies, document: Value, group: Sequence[EntryRow]) -> Value:
    checkpoint = read(document, is_signed)
    if not isinstance(checkpoint, Checkpoint):
        raise AssertionError("it was read before")
    log, first = group[0].owner, group[0]
    head = next(head for each, head in checkpoint.logs if each == log)
    mine = {entry.place for entry in group}
    items: list[bytes | dict[str, Value]] = []
    due = first.place
    for entry in snapshot.entries(first.n - 1):
        if entry.owner != log:
            continue
        if entry.place != due:
            break
        body = bodies.body(entry)
        items.append(_shown(body) if due in mine else sha256(body).digest())
        due += 1
        if due > head.entries:
            return run(_before(snapshot, first), items, document)
    raise ProofRefused(f"entries behind entry {first.n} were rolled up: only a sealed export can be verified")


def _before(snapshot: Snapshot, entry: EntryRow) -> bytes:
    if entry.place == 1:
        return genesis(snapshot.id, entry.owner)
    for gap in snapshot.gaps():
        if (gap.log, gap.last) == (entry.owner, entry.place - 1):
            return gap.after
    before = snapshot.entry_before(entry)
    if before is None or before.place != entry.place - 1:
        raise ProofRefused(f"the entry before entry {entry.n} is missing; see `tolsey fsck`")
    return before.seal
