"""What the accounts right below others spent."""

from collections.abc import Sequence
from typing import Final

from tolsey.ledger.books import Child
from tolsey.store.contract import Ledger

_BELOW: Final = """
    SELECT n, id, label, unit, "limit", period, granted, spent, held, calls FROM account
    WHERE parent = $1 ORDER BY n LIMIT $2
"""


async def children_of(ledger: Ledger, ids: Sequence[str], most: int) -> list[Child]:
    """The accounts whose parent is one of those and that are none of them, in any unit, in the order in which they were
    opened; at most so many. Raises `LedgerUnavailable`.
    """
    found = await ledger.transact([(_BELOW, (id_, most + len(ids))) for id_ in ids])
    rows = sorted(row for rows in found for row in rows if row[1] not in ids)
    return [Child(*row[1:]) for row in rows[:most]]
