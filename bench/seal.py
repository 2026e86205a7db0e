"""``python -m bench.seal``: what the seal costs a call, in processor time, on a SQLite ledger that never syncs.

A call is a reserve and a settle, in groups of 20 on a chain of four accounts. The seal's share is measured by sealing
the same entries once more.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

from tolsey.audit.seal import Head
from tolsey.ledger.books import Balance
from tolsey.ledger.events import Entry, Kind, Reserve, Settle
from tolsey.store.sealing import Sealer
from tolsey.store.sqlite import SqliteLedger
from tolsey.token.chain import Account

GROUP: Final = 20
GROUPS: Final = 400
ROUNDS: Final = 5
NOW: Final = 1_900_000_000_000_000_000


def chain() -> tuple[Account, ...]:
    """Four accounts, the first two with a budget."""
    ids = [f"{number:032x}" for number in range(4)]
    parents = [None, *ids]
    return tuple(
        Account(id_, "USD", parents[number], f"link {number}", 10**15 if number < 2 else None)
        for number, id_ in enumerate(ids)
    )


def calls(accounts: tuple[Account, ...]) -> float:
    """The processor time of a call, in microseconds."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = SqliteLedger(Path(folder) / "ledger.db", durability="normal", now=NOW, new_id="bench")
        ledger.register("bench", NOW)
        began = time.process_time()
        for number in range(GROUPS):
            holds = [f"{number}-{each}" for each in range(GROUP)]
            ledger.run([Reserve(hold, accounts, 10, "GET /api/v1/search", until=NOW + number) for hold in holds], NOW)
            ledger.run([Settle(hold, 5, "200") for hold in holds], NOW)
        took = time.process_time() - began
        ledger.close()
    return took / GROUPS / GROUP * 1e6


def seals(accounts: tuple[Account, ...]) -> float:
    """The processor time of the seals of a call, in microseconds."""
    sealer = Sealer()
    leaf = accounts[-1][:2]
    entries = [
        Entry(kind, NOW, f"{each}", leaf, 10, 1, "GET /api/v1/search", until=NOW + each)
        for each in range(GROUP)
        for kind in (Kind.RESERVE, Kind.SETTLE)
    ]
    sealer.wants(entries, {account[:2]: Balance(account) for account in accounts})
    began = time.process_time()
    head = Head(0, bytes(32))
    for _ in range(GROUPS):
        head = Head(*sealer.seal(head, entries, 1, None)[-1])
    return (time.process_time() - began) / GROUPS / GROUP * 1e6


def main() -> None:
    """Print the best of some rounds."""
    accounts = chain()
    whole = min(calls(accounts) for _ in range(ROUNDS))
    share = min(seals(accounts) for _ in range(ROUNDS))
    print(f"a call takes {whole:.1f} µs of the ledger, of which its two seals are {share:.1f} µs")


if __name__ == "__main__":
    main()
