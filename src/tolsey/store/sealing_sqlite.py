"""The seal in a SQLite ledger, inside the caller's transaction."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from tolsey.audit.seal import Head, genesis
from tolsey.ledger.books import Balance
from tolsey.ledger.events import Entry, Key
from tolsey.store.contract import AccountRow, EntryRow, Make, Stated
from tolsey.store.queries import ACCOUNTS, ENTRY
from tolsey.store.sealing import Bodies, Sealer
from tolsey.token.chain import Account

_CHAIN: Final = """
    WITH RECURSIVE up (id, unit, parent, label, "limit", period, d) AS (
        SELECT id, unit, parent, label, "limit", period, 0 FROM account WHERE id = ? AND unit = ?
        UNION ALL
        SELECT a.id, a.unit, a.parent, a.label, a."limit", a.period, d + 1
        FROM account a JOIN up ON a.id = up.parent AND a.unit = up.unit
    )
    SELECT id, unit, parent, label, "limit", period FROM up ORDER BY d DESC
"""
_HEAD: Final = "SELECT o.entries, o.head, l.id FROM owner o, ledger l WHERE o.n = ?"
_PUT: Final = "UPDATE owner SET entries = ?, head = ? WHERE n = ?"
_APPEND: Final = """
    INSERT INTO entry (at, kind, hold, amount, until, owner, config, note, place, seal)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING n
"""
_HEADS: Final = """
    SELECT o.n, o.entries, o.head, coalesce(c.entries, 0) FROM owner o LEFT JOIN checkpointed c ON c.log = o.n
    WHERE o.entries > coalesce(c.entries, 0) ORDER BY o.n
"""
_STATE: Final = """
    INSERT INTO checkpointed (log, entries) VALUES (?, ?) ON CONFLICT (log) DO UPDATE SET entries = excluded.entries
"""


def seal(
    db: sqlite3.Connection,
    sealer: Sealer,
    entries: Sequence[Entry],
    balances: Mapping[Key, Balance],
    config: int | None,
) -> list[tuple[int, bytes]]:
    """The place and the seal of each of these entries, all of one owner and one instant, which are to be written; the
    head of the log is.
    """
    log = entries[0].owner
    for key in sealer.wants(entries, balances):
        sealer.learn([Account(*row) for row in db.execute(_CHAIN, key)])
    if config not in sealer.configs:
        ((sealer.configs[config],),) = db.execute("SELECT generation FROM config WHERE n = ?", (config,))
    sealed = sealer.seal(sealer.head_of(log) or _head(db, log), entries, log, config)
    db.execute(_PUT, (*sealed[-1], log))
    return sealed


def append(db: sqlite3.Connection, sealer: Sealer, entry: Entry, config: int | None) -> int:
    """Write an entry that moves no money; return its number. `sealer` is that of whoever else writes on `db`."""
    (sealed,) = seal(db, sealer, [entry], {}, config)
    values = (entry.at, str(entry.kind), entry.hold, entry.amount, entry.until, entry.owner, config, entry.note)
    ((n,),) = db.execute(_APPEND, (*values, *sealed))
    return int(n)


def _head(db: sqlite3.Connection, log: int) -> Head:
    ((entries, seal, ledger),) = db.execute(_HEAD, (log,))
    return Head(entries, genesis(ledger, log) if seal is None else seal)


def seal_all(db: sqlite3.Connection, ledger: str) -> None:
    """Seal what was written before there were seals."""
    configs = dict(db.execute("SELECT n, generation FROM config"))
    bodies = Bodies((AccountRow(*row) for row in db.execute(ACCOUNTS)), configs)
    heads: dict[int, Head] = {}
    for row in db.execute(f"{ENTRY} ORDER BY n").fetchall():
        entry = EntryRow(*row)
        before = heads.get(entry.owner) or Head(0, genesis(ledger, entry.owner))
        heads[entry.owner] = head = bodies.behind(before, entry)
        db.execute("UPDATE entry SET place = ?, seal = ? WHERE n = ?", (*head, entry.n))
    db.executemany(_PUT, [(*head, log) for log, head in heads.items()])


def checkpoint(db: sqlite3.Connection, make: Make) -> bytes | None:
    """Add the checkpoint that `make` makes of what changed, if it makes one; in a transaction of the caller's."""
    last = db.execute("SELECT document FROM checkpoint ORDER BY n DESC LIMIT 1").fetchone()
    heads = [Stated(log, Head(entries, head), entries - before) for log, entries, head, before in db.execute(_HEADS)]
    made = make(None if last is None else last[0], heads)
    if made is not None:
        db.execute("INSERT INTO checkpoint SELECT coalesce(max(n), 0) + 1, ? FROM checkpoint", (made,))
        db.executemany(_STATE, [(each.log, each.head.entries) for each in heads])
    return made
