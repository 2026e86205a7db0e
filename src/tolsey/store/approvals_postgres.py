"""Questions about calls, and what was said to them, in a PostgreSQL ledger."""

from typing import Final

from tolsey.ledger.approving import KEPT_NS, MAX_OPEN, MAX_OPEN_EACH, Asked, Question, entry_of
from tolsey.store.postgres_connection import Db
from tolsey.store.queries import QUESTION, asked_of
from tolsey.store.sealing import Sealer
from tolsey.store.sealing_postgres import append, now

_LOCK: Final = "LOCK TABLE question IN SHARE ROW EXCLUSIVE MODE"
"""One change at a time, so that the bounds hold. Who reads does not wait."""

_OPEN: Final = "SELECT count(*), count(*) FILTER (WHERE root = $1) FROM question WHERE granted IS NULL AND until > $2"
_KEEP: Final = """
    INSERT INTO question (id, at, until, root, prefix_id, labels, ticket, method, path, query, nano, unit, purpose)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""


async def ask(db: Db, question: Question) -> bool:
    """Keep a question; False if too many are open. Drops those that need not be kept any longer."""
    async with db.transaction():
        await db.execute(_LOCK)
        await db.execute("DELETE FROM question WHERE until < $1", question.at - KEPT_NS)
        ((total, of_root),) = await db.fetch(_OPEN, question.root, question.at)
        if total >= MAX_OPEN or of_root >= MAX_OPEN_EACH:
            return False
        await db.execute(_KEEP, *question)
    return True


async def find(db: Db, id_: str) -> Asked | None:
    """A question with what was said to it."""
    row = await db.fetchrow(f"{QUESTION} WHERE id = $1", id_)
    return None if row is None else asked_of(tuple(row))


async def answer(
    db: Db, sealer: Sealer, id_: str, *, granted: bool, note: str, owner: int, config: int | None
) -> Asked | None:
    """Answer a question, under the ledger's `sealer`; return how it was before. One that is not open is left as is."""
    async with db.transaction():
        await db.execute(_LOCK)
        asked = await find(db, id_)
        at = await now(db)
        if asked is not None and asked.is_open(at):
            entry = entry_of(asked.question, granted=granted, at=at, owner=owner, note=note)
            await append(db, sealer, entry, config)
            await db.execute(
                "UPDATE question SET granted = $1, answered = $2, note = $3 WHERE id = $4", int(granted), at, note, id_
            )
    return asked
