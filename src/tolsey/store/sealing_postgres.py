"""The seal in a PostgreSQL ledger, inside the caller's transaction.

A log is written by its owner alone, whose head is remembered from group to group; but that of the operators is written
by several, in turn: whoever does holds the lock of its owner's row until the end of the transaction.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tolsey.audit.seal import Head, genesis
from tolsey.ledger.books import Balance
from tolsey.ledger.events import Entry, Key
from tolsey.store.contract import AccountRow, EntryRow, Make, Stated
from tolsey.store.postgres_sql import CHAIN
from tolsey.store.queries import ACCOUNTS, ENTRY, check_moved
from tolsey.store.sealing import Bodies, Sealer
from tolsey.token.chain import Account

if TYPE_CHECKING:
    # At run time it is the other that needs this one, to seal what is older.
    from tolsey.store.postgres_connection import Db

PIECE: Final = 2_000
"""How many entries are sealed at once that were written before there were seals."""

CHECKPOINTING: Final = 0x746F_6C73_6579_02
"""The advisory lock of whoever adds a checkpoint: `tolsey`, and 2."""

_HEAD: Final = "SELECT o.entries, o.head, l.id FROM owner o, ledger l WHERE o.n = $1 FOR UPDATE OF o"
_PUT: Final = "UPDATE owner SET entries = $2, head = $3 WHERE n = $1"
# The journal first, as every group does: whoever rolls up locks it before the row.
_NOW: Final = "SELECT greatest(now_ns(), (SELECT at FROM entry ORDER BY n DESC LIMIT 1))"
_APPEND: Final = """
    INSERT INTO entry (at, kind, hold, amount, until, owner, config, note, place, seal)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING n
"""
_HEADS: Final = """
    SELECT o.n, o.entries, o.head, coalesce(c.entries, 0) FROM owner o LEFT JOIN checkpointed c ON c.log = o.n
    WHERE o.entries > coalesce(c.entries, 0) ORDER BY o.n
"""
_STATE: Final = """
    INSERT INTO checkpointed (log, entries) SELECT * FROM unnest($1::bigint[], $2::bigint[])
    ON CONFLICT (log) DO UPDATE SET entries = excluded.entries
"""
_SEAL: Final = """
    UPDATE entry e SET place = s.place, seal = s.seal
    FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS s (n, place, seal) WHERE e.n = s.n
"""


async def seal(
    db: "Db", sealer: Sealer, entries: Sequence[Entry], balances: Mapping[Key, Balance], config: int | None
) -> list[tuple[int, bytes]]:
    """The place and the seal of each of these entries, all of one owner and one instant, which are to be written with
    the new head.
    """
    log = entries[0].owner
    for key in sealer.wants(entries, balances):
        sealer.learn([Account(*row) for row in await db.fetch(CHAIN, *key)])
    if config not in sealer.configs:
        sealer.configs[config] = await db.fetchval("SELECT generation FROM config WHERE n = $1", config)
    head = sealer.head_of(log)
    if head is None:
        ((count, before, ledger),) = await db.fetch(_HEAD, log)
        head = Head(count, genesis(ledger, log) if before is None else before)
    sealed = sealer.seal(head, entries, log, config)
    # Of the operators' log, somebody else may write the next.
    sealer.others_wrote()
    return sealed


async def now(db: "Db") -> int:
    """The ledger's time, for an entry of this transaction."""
    at: int = await db.fetchval(_NOW)
    return at


async def append(db: "Db", sealer: Sealer, entry: Entry, config: int | None) -> int:
    """Write an entry that moves no money, made at `now`; return its number. Raises `LedgerRefused` for a ledger
    that was moved elsewhere.
    """
    ((place, sealed),) = await seal(db, sealer, [entry], {}, config)
    check_moved(await db.fetchval("SELECT moved_to FROM ledger"))
    values = (entry.at, entry.kind, entry.hold, entry.amount, entry.until, entry.owner, config, entry.note)
    n: int = await db.fetchval(_APPEND, *values, place, sealed)
    await db.execute(_PUT, entry.owner, place, sealed)
    return n


async def checkpoint(db: "Db", make: Make) -> bytes | None:
    """Add the checkpoint that `make` makes, if it does, in a transaction of its own."""
    async with db.transaction():
        await db.execute("SELECT pg_advisory_xact_lock($1)", CHECKPOINTING)
        last = await db.fetchval("SELECT document FROM checkpoint ORDER BY n DESC LIMIT 1")
        rows = await db.fetch(_HEADS)
        heads = [Stated(log, Head(entries, head), entries - before) for log, entries, head, before in rows]
        made = make(last, heads)
        if made is not None:
            await db.execute("INSERT INTO checkpoint SELECT coalesce(max(n), 0) + 1, $1 FROM checkpoint", made)
            await db.execute(_STATE, [each.log for each in heads], [each.head.entries for each in heads])
    return made


async def seal_all(db: "Db", ledger: str) -> None:
    """Seal what was written before there were seals."""
    configs = {row["n"]: row["generation"] for row in await db.fetch("SELECT n, generation FROM config")}
    bodies = Bodies([AccountRow(*row) for row in await db.fetch(ACCOUNTS)], configs)
    heads: dict[int, Head] = {}
    after = 0
    while rows := await db.fetch(f"{ENTRY} WHERE n > $1 ORDER BY n LIMIT {PIECE}", after):
        sealed = []
        for row in rows:
            entry = EntryRow(*row)
            before = heads.get(entry.owner) or Head(0, genesis(ledger, entry.owner))
            heads[entry.owner] = head = bodies.behind(before, entry)
            sealed.append((entry.n, *head))
        await db.execute(_SEAL, *map(list, zip(*sealed, strict=True)))
        after = rows[-1][0]
    await db.executemany(_PUT, [(log, *head) for log, head in heads.items()])
