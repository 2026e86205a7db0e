"""Alerts in the ledger: found in what happened since, kept until they are delivered. The same SQL for both engines."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from tolsey.ledger.alerting import (
    ANSWERED,
    ASKED,
    KEPT_NS,
    REVOKED,
    UNREVOKED,
    Alert,
    Standing,
    crossed,
    next_try,
)
from tolsey.store.contract import Ledger
from tolsey.token.caveats import format_time
from tolsey.units import Amount

CLAIM_NS: Final = 60 * 10**9
"""How long whoever took an alert has for delivering it, before somebody else may."""

AT_ONCE: Final = 20
"""How many are taken at once."""

OVERLAP: Final = 20_000
"""How many entries are looked at again: on PostgreSQL one with a lower number may come a little later."""

_LAST: Final = "SELECT coalesce(max(n), 0) FROM entry"
_EVENTS: Final = """
    SELECT n, at, kind, hold, amount, note FROM entry
    WHERE n > $1 AND kind IN ('approve', 'deny', 'revoke', 'unrevoke') ORDER BY n
"""
_EVERY: Final = "WITH up (n) AS (SELECT n FROM account)"
_TOUCHED: Final = """
    WITH RECURSIVE up (n) AS (
        SELECT n FROM (
            SELECT leaf AS n FROM entry WHERE n > $2 UNION SELECT counter FROM entry WHERE n > $2
        ) AS touched WHERE n IS NOT NULL
        UNION SELECT p.n FROM up JOIN account a ON a.n = up.n JOIN account p ON p.id = a.parent AND p.unit = a.unit
    )
"""
_STANDINGS: Final = """
    SELECT a.id, a.unit, a.label, a.period, NULL, a."limit" + a.granted, a.spent, a.held
    FROM account a JOIN up ON a.n = up.n
    WHERE a."limit" IS NOT NULL AND a.period IS NULL
        AND a.spent + a.held >= (a."limit" + a.granted) / 100 * $1 AND a.spent + a.held > 0
    UNION ALL
    SELECT a.id, a.unit, a.label, a.period, w.start, w."limit" + w.granted, w.spent, w.held
    FROM account a JOIN up ON a.n = up.n JOIN "window" w ON w.account = a.n
    WHERE w.spent + w.held >= (w."limit" + w.granted) / 100 * $1 AND w.spent + w.held > 0
        AND w.start = (SELECT max(start) FROM "window" WHERE account = a.n)
"""
_OPEN: Final = """
    SELECT id, at, until, labels, prefix_id, method, path, query, nano, unit, purpose FROM question
    WHERE granted IS NULL AND until > $1
"""
_PUT: Final = """
    INSERT INTO alert (id, at, kind, body, until, tries, next, state, fault)
    VALUES ($1, $2, $3, $4, $5, 0, $2, 'waiting', '') ON CONFLICT (id) DO NOTHING
"""
_FORGET: Final = "DELETE FROM alert WHERE until < $1"
_TAKE: Final = """
    UPDATE alert SET next = $2, tries = tries + 1
    WHERE state = 'waiting' AND next <= $1 AND id IN (
        SELECT id FROM alert WHERE state = 'waiting' AND next <= $1 ORDER BY next, id LIMIT $3
    ) RETURNING id, at, kind, body, tries
"""
_SENT: Final = "UPDATE alert SET state = 'sent', fault = '' WHERE id = $1"
_FAILED: Final = "UPDATE alert SET state = $2, next = $3, fault = $4 WHERE id = $1"
_AGAIN: Final = """
    UPDATE alert SET state = 'waiting', tries = 0, next = 0 WHERE state = 'dead' AND id = $1 RETURNING id
"""


class Taken(NamedTuple):
    """An alert that is to be delivered now, for the `tries`-th time. `body` is JSON."""

    id: str
    at: int
    kind: str
    body: str
    tries: int


class Alerts:
    """Finds alerts of these `kinds` in a ledger, and keeps them. `thresholds` are percents, ascending."""

    def __init__(self, ledger: Ledger, thresholds: Sequence[int], kinds: Sequence[str]) -> None:
        self._ledger = ledger
        self._thresholds = thresholds
        self._kinds = kinds
        self._seen: int | None = None

    async def collect(self, now: int) -> None:
        """Look at what happened since this was last called; the first time at all accounts, and at no more: what was
        said before is no news.
        """
        least = min(self._thresholds, default=101)
        if self._seen is None:
            (last,), standings, questions = await self._ledger.transact(
                [(_LAST, ()), (_EVERY + _STANDINGS, (least,)), (_OPEN, (now,))]
            )
            found = []
        else:
            after = max(0, self._seen - OVERLAP)
            (last,), standings, questions, events = await self._ledger.transact(
                [(_LAST, ()), (_TOUCHED + _STANDINGS, (least, after)), (_OPEN, (now,)), (_EVENTS, (after,))]
            )
            found = [_event(*row) for row in events]
        found += [_question(*row) for row in questions]
        for row in standings:
            found += crossed(Standing(*row), self._thresholds, now)
        self._seen = int(last[0])
        await self.put(found, now)

    async def put(self, alerts: Sequence[Alert], now: int) -> None:
        """Keep alerts; those that were kept before are left as they are."""
        rows = [
            (a.id, a.at, a.kind, msgspec.json.encode(a.data).decode("utf-8"), a.until)
            for a in alerts
            if a.kind in self._kinds
        ]
        if rows:
            await self._ledger.transact([*((_PUT, row) for row in rows), (_FORGET, (now,))])

    async def take(self, now: int) -> list[Taken]:
        """Take those that are due, for a minute."""
        (rows,) = await self._ledger.transact([(_TAKE, (now, now + CLAIM_NS, AT_ONCE))])
        return [Taken(*row) for row in rows]

    async def done(self, taken: Taken, now: int, fault: str | None) -> bool:
        """Write down what came of an attempt: `fault` says what went wrong. Returns whether it is given up."""
        if fault is None:
            await self._ledger.transact([(_SENT, (taken.id,))])
            return False
        again = next_try(taken.tries, now)
        state = "dead" if again is None else "waiting"
        await self._ledger.transact([(_FAILED, (taken.id, state, again or 0, fault[:200]))])
        return again is None


async def try_again(ledger: Ledger, id_: str) -> bool:
    """Put one that was given up back among those that wait; whether there was one."""
    (rows,) = await ledger.transact([(_AGAIN, (id_,))])
    return bool(rows)


def _event(n: int, at: int, kind: str, hold: str, amount: int, note: str) -> Alert:
    if kind in ("approve", "deny"):
        data = {"approval": hold, "granted": kind == "approve", "note": note}
        return Alert(f"{ANSWERED}:{hold}", at, ANSWERED, data, at + KEPT_NS)
    name = REVOKED if kind == "revoke" else UNREVOKED
    return Alert(f"{name}:{n}", at, name, {"prefix_id": hold, "note": note}, at + KEPT_NS)


def _question(
    id_: str,
    at: int,
    until: int,
    labels: str,
    prefix_id: str,
    method: str,
    path: str,
    query: str,
    nano: int,
    unit: str,
    purpose: str,
) -> Alert:
    data = {
        "approval": id_,
        "labels": labels,
        "prefix_id": prefix_id,
        "call": f"{method} {path}" + (f"?{query}" if query else ""),
        "price": str(Amount(nano, unit)),
        "purpose": purpose,
        "until": format_time(until),
    }
    return Alert(f"{ASKED}:{id_}", at, ASKED, data, at + KEPT_NS)
