"""The statements with which a group reads and writes its rows. Each finds its rows by an index, whatever their number.

What comes in is an array for each column: a statement is prepared once, for any number of rows. Those of every call
come as text, as `numbers` and `texts` write it.
"""

from collections.abc import Sequence
from typing import Final


def numbers(column: Sequence[int | None]) -> str:
    """An array of numbers as PostgreSQL reads it. asyncpg asks of each value of a list whether it is an array too,
    which costs a call more than its rules do.
    """
    return "{" + ",".join(["NULL" if value is None else str(value) for value in column]) + "}"


def texts(column: Sequence[str]) -> str:
    """The same of texts."""
    if not column:
        return "{}"
    together = "".join(column)
    if '"' in together or "\\" in together:
        column = [text.replace("\\", "\\\\").replace('"', '\\"') for text in column]
    return '{"' + '","'.join(column) + '"}'


KEYED: Final = """
    SELECT a.n, a.id, a.unit, a.parent, a.label, a."limit", a.period
    FROM unnest($1::text[], $2::text[]) AS k (id, unit) JOIN account a ON a.id = k.id AND a.unit = k.unit
"""
ANCESTRY: Final = """
    WITH RECURSIVE up AS (
        SELECT n, id, unit, parent, label, "limit", period, 0 AS d FROM account WHERE n = $1
        UNION ALL
        SELECT a.n, a.id, a.unit, a.parent, a.label, a."limit", a.period, d + 1
        FROM up JOIN account a ON a.id = up.parent AND a.unit = up.unit
    )
    SELECT * FROM up ORDER BY d DESC
"""
CHAIN: Final = """
    WITH RECURSIVE up AS (
        SELECT id, unit, parent, label, "limit", period, 0 AS d FROM account WHERE id = $1 AND unit = $2
        UNION ALL
        SELECT a.id, a.unit, a.parent, a.label, a."limit", a.period, d + 1
        FROM up JOIN account a ON a.id = up.parent AND a.unit = up.unit
    )
    SELECT id, unit, parent, label, "limit", period FROM up ORDER BY d DESC
"""

# One row at least, for the time. Each row's time is that after its account was locked.
LOCK: Final = """
    SELECT a.*, now_ns(), e.at, e.n FROM (SELECT 1) one
    LEFT JOIN (SELECT n, at FROM entry ORDER BY n DESC LIMIT 1) e ON true
    LEFT JOIN (
        SELECT n, granted, spent, held, calls, open, observed FROM account WHERE n = ANY ($1::text::bigint[])
        ORDER BY n FOR NO KEY UPDATE
    ) a ON true
"""
WHERE_HELD: Final = "SELECT hold, leaf, counter FROM entry WHERE kind = 'reserve' AND hold = ANY ($1::text[])"
HOLDS: Final = """
    SELECT r.hold, r.leaf, r.counter, r.amount, r.owner, r.at, s.kind AS done, s.amount AS settled, c.scope, c.key,
        (SELECT coalesce(sum(amount), 0)::bigint FROM entry WHERE hold = r.hold AND kind = 'extend') AS extended,
        (SELECT coalesce(sum(amount), 0)::bigint FROM entry WHERE hold = r.hold AND kind IN ('refund', 'annul'))
            AS refunded,
        (SELECT count(*) FROM entry WHERE hold = r.hold AND kind = 'annul') > 0 AS annulled
    FROM unnest($1::text[]) AS h (id) JOIN entry r ON r.hold = h.id AND r.kind = 'reserve'
        LEFT JOIN entry s ON s.hold = h.id AND s.kind IN ('settle', 'void', 'expire')
        LEFT JOIN claim c ON c.hold = h.id
"""
LIVING: Final = "SELECT n FROM owner WHERE n = $1 AND ended_at IS NULL"
PAYMENTS: Final = """
    SELECT e.hold, a.id, a.unit FROM entry e JOIN account a ON a.n = e.leaf
    WHERE e.kind = 'pay' AND e.hold = ANY ($1::text[])
"""
RATES: Final = "SELECT id, tat FROM rate WHERE id = ANY ($1::text[]) ORDER BY id FOR UPDATE"
CLAIMS: Final = """
    SELECT c.* FROM unnest($1::text[], $2::text[]) AS k (scope, key)
        JOIN claim c ON c.scope = k.scope AND c.key = k.key
    ORDER BY c.scope, c.key FOR UPDATE OF c
"""
CLAIMS_OF: Final = "SELECT * FROM claim WHERE hold = ANY ($1::text[]) ORDER BY scope, key FOR UPDATE"
WINDOWS: Final = """
    SELECT w.account, w.start, w.spent, w.held, w.granted, w.observed
    FROM unnest($1::bigint[], $2::bigint[]) AS k (account, start)
        JOIN "window" w ON w.account = k.account AND w.start = k.start
"""

NEW_ACCOUNTS: Final = """
    INSERT INTO account
        (id, unit, parent, label, "limit", period, granted, spent, held, calls, open, observed, opened_by, opened_at,
        seen_at)
    SELECT *, $14::bigint, $15::bigint FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[],
        $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[])
    RETURNING n, id, unit
"""

# A resolution deletes its hold; `held` is what a reserve holds that is still open at the end of the group. How many of
# both were hit is for the caller to compare with what it knows. The operators' owner, 0, is never alive, and has a log.
WRITE: Final = """
    WITH mine AS (
        UPDATE owner SET latest = $1, entries = coalesce($22, entries), head = coalesce($23, head)
        WHERE n = $2 AND (ended_at IS NULL OR n = 0) RETURNING n
    ), line AS MATERIALIZED (
        SELECT kind, nullif(hold, '') AS hold, leaf, counter, amount, until, note, held, place,
            substring($20::bytea FROM 32 * (place::int - 1) + 1 FOR 32) AS seal
        FROM unnest($5::text::text[], $6::text::text[], $7::text::bigint[], $8::text::bigint[], $9::text::bigint[],
            $10::text::bigint[], $11::text::text[], $12::text::bigint[]) WITH ORDINALITY
            AS l (kind, hold, leaf, counter, amount, until, note, held, place)
    ), moved AS (
        UPDATE account a
        SET granted = m.granted, spent = m.spent, held = m.held, calls = m.calls, open = m.open, observed = m.observed,
            seen_at = coalesce($25::bigint, a.seen_at)
        FROM unnest($13::text::bigint[], $14::text::bigint[], $15::text::bigint[], $16::text::bigint[],
            $17::text::bigint[], $18::text::bigint[], $19::text::bigint[])
            AS m (n, granted, spent, held, calls, open, observed)
        WHERE a.n = m.n
    ), written AS (
        INSERT INTO entry (at, kind, hold, leaf, counter, amount, until, owner, config, note, place, seal)
        SELECT $3, kind, hold, leaf, counter, amount, until, $2, $4, note, $21 + place, seal FROM line ORDER BY place
    ), opened AS (
        INSERT INTO hold (id, leaf, counter, amount, owner, at, until)
        SELECT hold, leaf, counter, held, $2, $3, until FROM line WHERE held IS NOT NULL
    ), closed AS (
        DELETE FROM hold WHERE id = ANY ($24::text::text[]) RETURNING 1
    )
    SELECT (SELECT count(*) FROM mine), (SELECT count(*) FROM closed), (SELECT moved_to FROM ledger)
"""
GROWN: Final = """
    WITH grown AS (
        UPDATE hold h SET amount = g.amount FROM unnest($1::text[], $2::bigint[]) AS g (id, amount)
        WHERE h.id = g.id RETURNING 1
    ) SELECT count(*) FROM grown
"""
WRITE_WINDOWS: Final = """
    INSERT INTO "window" (account, start, "limit", spent, held, granted, observed)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::bigint[])
    ON CONFLICT (account, start) DO UPDATE SET spent = excluded.spent, held = excluded.held,
        granted = excluded.granted, observed = excluded.observed
"""
CLOSE_WINDOWS: Final = 'DELETE FROM "window" WHERE account = $1 AND start < $2 AND held = 0'
NEW_RATES: Final = "INSERT INTO rate (id, tat) SELECT * FROM unnest($1::text[], $2::bigint[])"
RATES_CHANGED: Final = """
    UPDATE rate r SET tat = c.tat FROM unnest($1::text[], $2::bigint[]) AS c (id, tat) WHERE r.id = c.id
"""
PURGE_RATES: Final = """
    DELETE FROM rate WHERE id = ANY (ARRAY (
        SELECT id FROM rate WHERE tat <= $1 ORDER BY tat LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
"""
NEW_CLAIM: Final = """
    INSERT INTO claim (scope, key, request, hold, at, done, body, response) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
CLAIM_CHANGED: Final = """
    UPDATE claim SET request = $3, hold = $4, at = $5, done = $6, body = $7, response = $8
    WHERE scope = $1 AND key = $2
"""
PURGE_CLAIMS: Final = """
    DELETE FROM claim WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM claim WHERE at <= $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
"""
TALLY: Final = """
    INSERT INTO tally (hour, source, key, counts)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[])
    ON CONFLICT (hour, source, key) DO UPDATE SET counts = excluded.counts
"""
STANDING: Final = """
    SELECT a.n, a.parent, a.label, a."limit", a.period, coalesce(a.calls, 0), coalesce(a.open, 0),
        coalesce(CASE WHEN a.period IS NULL THEN a.spent ELSE w.spent END, 0),
        coalesce(CASE WHEN a.period IS NULL THEN a.held ELSE w.held END, 0),
        coalesce(CASE WHEN a.period IS NULL THEN a.granted ELSE w.granted END, 0),
        coalesce(CASE WHEN a.period IS NULL THEN a.observed ELSE w.observed END, 0)
    FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS k (id, unit, start, place)
        LEFT JOIN account a ON a.id = k.id AND a.unit = k.unit
        LEFT JOIN "window" w ON w.account = a.n AND w.start = k.start
    ORDER BY k.place
"""
