"""The chain of accounts behind a number in the journal, and what is open on it."""

from collections.abc import Iterator
from dataclasses import dataclass

from tolsey.errors import LedgerUnavailable
from tolsey.store.contract import AccountRow, Snapshot
from tolsey.token.caveats import format_time
from tolsey.units import NANO, Amount, format_nano


class Chains:
    """The accounts of an open snapshot, by number."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._rows = {row.n: row for row in snapshot.accounts()}

    def __contains__(self, n: int) -> bool:
        return n in self._rows

    def key(self, n: int) -> tuple[str, str]:
        """The id and the unit of an account."""
        row = self._rows[n]
        return row.id, row.unit

    def up(self, n: int | None) -> list[AccountRow]:
        """An account and those above it, root first; empty for None. Raises `LedgerUnavailable` for a broken chain."""
        chain: list[AccountRow] = []
        while n is not None:
            row = self._rows.get(n)
            if row is None or len(chain) > len(self._rows):
                raise LedgerUnavailable("the journal names an account that is not in the ledger; see `tolsey fsck`")
            chain.append(row)
            n = row.up
        return chain[::-1]


@dataclass(frozen=True, slots=True)
class OpenHold:
    """Money that is set aside for a call. `at` and `until` are in nanoseconds since the epoch; `labels` and `ids` (the
    prefix ids) run from root to bearer; `call` is the method and the path; `owner` is the id of who holds it.
    """

    id: str
    amount: Amount
    at: int
    until: int | None
    ids: tuple[str, ...]
    labels: tuple[str | None, ...]
    call: str
    owner: str

    def to_json(self) -> dict[str, object]:
        """The hold as `holds --json` prints it."""
        return {
            "hold": self.id,
            "amount": format_nano(self.amount.nano),
            "unit": self.amount.unit,
            "since": format_time(self.at),
            "until": None if self.until is None else format_time(self.until),
            "chain": [{"id": id_, "label": label} for id_, label in zip(self.ids, self.labels, strict=True)],
            "call": self.call,
            "owner": self.owner,
        }


def open_holds(snapshot: Snapshot) -> Iterator[OpenHold]:
    """The open holds of an open snapshot, oldest first. One that holds no money but counts a call is of 1 call."""
    chains = Chains(snapshot)
    for row in snapshot.holds():
        chain = chains.up(row.counter if row.leaf is None else row.leaf)
        amount = Amount(NANO if row.leaf is None else row.amount, chain[-1].unit)
        ids, labels = tuple(each.id for each in chain), tuple(each.label for each in chain)
        yield OpenHold(row.id, amount, row.at, row.until, ids, labels, row.note, row.owner_id)
