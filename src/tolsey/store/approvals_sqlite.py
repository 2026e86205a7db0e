"""Questions about calls, and what was said to them, in a SQLite ledger. All of it in an open transaction."""

import sqlite3
from typing import Final

from tolsey.ledger.approving import KEPT_NS, MAX_OPEN, MAX_OPEN_EACH, Asked, Question, entry_of
from tolsey.store.queries import QUESTION, asked_of
from tolsey.store.sealing import Sealer
from tolsey.store.sealing_sqlite import append

_OPEN: Final = "SELECT count(*), count(*) FILTER (WHERE root = ?) FROM question WHERE granted IS NULL AND until > ?"
_KEEP: Final = (
    "INSERT INTO question (id, at, until, root, prefix_id, labels, ticket, method, path, query, nano, unit, purpose)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def ask(db: sqlite3.Connection, question: Question) -> bool:
    """Keep a question; False if too many are open. Drops those that need not be kept any longer."""
    db.execute("DELETE FROM question WHERE until < ?", (question.at - KEPT_NS,))
    total, of_root = db.execute(_OPEN, (question.root, question.at)).fetchone()
    if total >= MAX_OPEN or of_root >= MAX_OPEN_EACH:
        return False
    db.execute(_KEEP, question)
    return True


def find(db: sqlite3.Connection, id_: str) -> Asked | None:
    """A question with what was said to it."""
    row = db.execute(f"{QUESTION} WHERE id = ?", (id_,)).fetchone()
    return None if row is None else asked_of(row)


def answer(
    db: sqlite3.Connection,
    sealer: Sealer,
    id_: str,
    *,
    granted: bool,
    note: str,
    at: int,
    owner: int,
    config: int | None,
) -> Asked | None:
    """Answer a question, under the ledger's `sealer`; return how it was before. One that is not open is left as is."""
    asked = find(db, id_)
    if asked is not None and asked.is_open(at):
        entry = entry_of(asked.question, granted=granted, at=at, owner=owner, note=note)
        append(db, sealer, entry, config)
        db.execute("UPDATE question SET granted = ?, answered = ?, note = ? WHERE id = ?", (granted, at, note, id_))
    return asked
