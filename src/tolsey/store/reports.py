"""What is read from a live ledger without disturbing it: the delegation tree, and the check that everything adds up.

Both read one snapshot (a WAL read transaction), so that open holds and running gateways are no difference.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tolsey.errors import LedgerUnavailable
from tolsey.store.sqlite_file import ERRORS, connect_read_only
from tolsey.units import format_nano


@dataclass(frozen=True, slots=True)
class TrailRow:
    """One account of the delegation tree. Amounts are nano-units; `depth` counts the accounts above it."""

    id: str
    parent: str | None
    label: str | None
    unit: str
    limit: int | None
    spent: int
    held: int
    calls: int
    depth: int

    def to_json(self) -> dict[str, str | int | None]:
        """The row as `trail --json` prints it."""
        return {
            "id": self.id,
            "parent": self.parent,
            "label": self.label,
            "unit": self.unit,
            "limit": None if self.limit is None else format_nano(self.limit),
            "spent": format_nano(self.spent),
            "held": format_nano(self.held),
            "calls": self.calls,
        }


def trail(path: Path, prefix_id: str | None = None) -> list[TrailRow]:
    """The tree of accounts, depth first, roots by the time they were opened; below `prefix_id` if one is given."""
    db = connect_read_only(path)
    try:
        rows = db.execute(
            'SELECT id, parent, label, unit, "limit", spent, held, calls FROM account ORDER BY opened_at, n'
        ).fetchall()
    except ERRORS as error:
        raise LedgerUnavailable(f"the ledger cannot be read: {error}") from None
    finally:
        db.close()
    children: dict[tuple[str | None, str], list[_Row]] = {}
    roots: list[_Row] = []
    for row in rows:
        children.setdefault((row[1], row[3]), []).append(row)
        if row[0] == prefix_id or (prefix_id is None and row[1] is None):
            roots.append(row)
    found: list[TrailRow] = []
    stack = [(row, 0) for row in reversed(roots)]
    while stack:
        row, depth = stack.pop()
        found.append(TrailRow(*row, depth))
        stack += [(child, depth + 1) for child in reversed(children.get((row[0], row[3]), []))]
    return found


_Row = tuple[str, str | None, str | None, str, int | None, int, int, int]


@dataclass(slots=True)
class _Sum:
    id: str
    unit: str
    parent: int | None
    limit: int | None
    stored: tuple[int, int, int, int]
    spent: int = 0
    held: int = 0
    calls: int = 0
    open: int = 0


@dataclass(frozen=True, slots=True)
class Checked:
    """What `fsck` went through, and the first difference it met (None: everything adds up)."""

    accounts: int
    entries: int
    open_holds: int
    difference: str | None


def fsck(path: Path) -> Checked:
    """Recompute every balance from the journal, in order, and compare: entries, accounts, open holds, both laws.

    Raises `LedgerUnavailable` if the file cannot be opened; damage in it is a difference.
    """
    db = connect_read_only(path)
    try:
        db.execute("BEGIN")
        accounts = _read_accounts(db)
        fault = next(_faults(db, accounts), None)
        entries = db.execute("SELECT count(*) FROM entry").fetchone()[0]
        holds = db.execute("SELECT count(*) FROM hold").fetchone()[0]
    except ERRORS as error:
        return Checked(0, 0, 0, f"the ledger cannot be read: {error}")
    finally:
        db.close()
    return Checked(len(accounts), entries, holds, fault)


def _read_accounts(db: sqlite3.Connection) -> dict[int, _Sum]:
    rows = db.execute(
        'SELECT a.n, a.id, a.unit, p.n, a."limit", a.spent, a.held, a.calls, a.open FROM account a'
        " LEFT JOIN account p ON p.id = a.parent AND p.unit = a.unit"
    )
    return {n: _Sum(id_, unit, up, limit, (s, h, c, o)) for n, id_, unit, up, limit, s, h, c, o in rows}


def _faults(db: sqlite3.Connection, accounts: dict[int, _Sum]) -> Iterator[str]:
    """Yield each difference; the caller takes the first."""
    for row in db.execute("PRAGMA integrity_check(1)"):
        if row[0] != "ok":
            yield f"the file is damaged: {row[0]}"
    orphans = db.execute(
        "SELECT a.id FROM account a WHERE a.parent IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM account p WHERE p.id = a.parent AND p.unit = a.unit) LIMIT 1"
    ).fetchone()
    if orphans:
        yield f"account {orphans[0]} has a parent that is not in the ledger"
    chains: dict[int, list[_Sum]] = {}
    open_holds: dict[str, tuple[int, int]] = {}
    last = (0, 0)
    for n, at, kind, hold, leaf, amount in db.execute("SELECT n, at, kind, hold, leaf, amount FROM entry ORDER BY n"):
        if n != last[0] + 1 or at < last[1]:
            yield f"entry {n} does not follow entry {last[0]}"
        last = (n, at)
        if kind not in ("reserve", "settle", "void", "expire"):
            continue
        if leaf not in accounts:
            yield f"entry {n} names an account that is not in the ledger"
            continue
        if leaf not in chains:
            chains[leaf] = _chain(accounts, leaf)
        if kind == "reserve":
            if hold in open_holds:
                yield f"entry {n} reserves hold {hold} again"
            open_holds[hold] = (leaf, amount)
            yield from _move(chains[leaf], n, 0, amount, 0)
            accounts[leaf].open += 1
            continue
        reserved = open_holds.pop(hold, None)
        if reserved is None or reserved[0] != leaf:
            yield f"entry {n} resolves hold {hold}, which is not open there"
            continue
        if amount > reserved[1] or (kind == "void" and amount) or (kind == "expire" and amount != reserved[1]):
            yield f"entry {n} settles {amount} on hold {hold} of {reserved[1]}"
        yield from _move(chains[leaf], n, amount, -reserved[1], kind != "void")
        accounts[leaf].open -= 1
    yield from _compare(db, accounts, open_holds)


def _chain(accounts: dict[int, _Sum], leaf: int) -> list[_Sum]:
    chain: list[_Sum] = []
    at: int | None = leaf
    while at is not None and len(chain) <= len(accounts):
        chain.append(accounts[at])
        at = accounts[at].parent
    return chain


def _move(chain: list[_Sum], n: int, spent: int, held: int, calls: int) -> Iterator[str]:
    for account in chain:
        account.spent += spent
        account.held += held
        account.calls += calls
        if account.limit is not None and account.spent + account.held > account.limit:
            yield (
                f"after entry {n} account {account.id} has spent {account.spent} and holds {account.held}"
                f" of {account.limit}"
            )


def _compare(
    db: sqlite3.Connection, accounts: dict[int, _Sum], open_holds: dict[str, tuple[int, int]]
) -> Iterator[str]:
    for account in accounts.values():
        summed = (account.spent, account.held, account.calls, account.open)
        if summed != account.stored:
            yield (
                f"account {account.id} stands at (spent, held, calls, open) = {account.stored},"
                f" its entries add up to {summed}"
            )
    stored = {id_: (leaf, amount) for id_, leaf, amount in db.execute("SELECT id, leaf, amount FROM hold")}
    for hold in sorted(stored.items() ^ open_holds.items()):
        yield f"hold {hold[0]} is open in the journal or in the table of holds, not in both"
