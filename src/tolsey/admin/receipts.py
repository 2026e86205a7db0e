"""A call's receipt on the dashboard: the very document that `tolsey receipt` prints, and a page about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tolsey.store.contract import Snapshot
from tolsey.store.proofs import write_receipt
from tolsey.store.signing import SealKey


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as `data`, the signed bytes, and as what they say. `unsigned` is how many of its entries no checkpoint
    has yet.
    """

    data: bytes
    said: Mapping[str, Any]
    unsigned: int


def receipt_of(snapshot: Snapshot, hold: str, key: SealKey) -> Receipt:
    """The receipt of a hold, signed with `key`. Raises `HoldUnknown`."""
    data = write_receipt(snapshot, hold, key, caveats=None)
    with snapshot:
        signed = {owner.n: owner.signed for owner in snapshot.owners()}
        unsigned = sum(entry.place > signed.get(entry.owner, 0) for entry in snapshot.entries_of(hold))
    return Receipt(data, msgspec.json.decode(data, type=dict[str, Any]), unsigned)
