"""Accounts as a SQLite ledger has them, inside the caller's transaction where there is one."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tolsey.ledger.books import Balance
from tolsey.ledger.windows import window
from tolsey.token.chain import Account

_ACCOUNTS: Final = """
    SELECT n, id, unit, parent, label, "limit", period, granted, spent, held, calls, open, observed FROM account
    WHERE id IN (SELECT value FROM json_each(?))
"""

_AMOUNTS: Final = """
    SELECT n, granted, spent, held, calls, open, observed FROM account WHERE n IN (SELECT value FROM json_each(?))
"""

_STANDING: Final = """
    SELECT a.n, a.parent, a.label, a."limit", a.period, coalesce(a.calls, 0), coalesce(a.open, 0),
        coalesce(iif(a.period IS NULL, a.spent, w.spent), 0), coalesce(iif(a.period IS NULL, a.held, w.held), 0),
        coalesce(iif(a.period IS NULL, a.granted, w.granted), 0),
        coalesce(iif(a.period IS NULL, a.observed, w.observed), 0)
    FROM json_each(?) k
        LEFT JOIN account a ON a.id = json_extract(k.value, '$[0]') AND a.unit = json_extract(k.value, '$[1]')
        LEFT JOIN window w ON w.account = a.n AND w.start = json_extract(k.value, '$[2]')
    ORDER BY k.key
"""


def accounts_of(db: sqlite3.Connection, ids: Iterable[str]) -> Iterable[tuple[int, Balance]]:
    """The accounts with these ids, in every unit, each with its number."""
    for n, id_, unit, parent, label, limit, period, granted, *stands in db.execute(_ACCOUNTS, (json.dumps(list(ids)),)):
        spent, held, calls, open_, observed = stands
        account = Account(id_, unit, parent, label, limit, period)
        yield n, Balance(account, spent, held, calls, open_, granted, observed)


def read_again(db: sqlite3.Connection, known: Mapping[int, Balance]) -> None:
    """Bring accounts, by their numbers, to where they stand: all else about them never changes."""
    rows = db.execute(_AMOUNTS, (json.dumps(list(known)),)).fetchall()
    if len(rows) != len(known):
        raise AssertionError("an account that was read is not there any more")
    for n, granted, spent, held, calls, open_, observed in rows:
        b = known[n]
        b.granted, b.spent, b.held, b.calls, b.open, b.observed = granted, spent, held, calls, open_, observed


def standing(db: sqlite3.Connection, accounts: Sequence[Account], at: int) -> list[Balance]:
    """Where the accounts stand as committed; one that does not exist yet stands at 0, one with a period as its window
    does that holds the ledger's time `at`. Read in one statement, so that all of it is of one instant.
    """
    asked = [(a.id, a.unit, None if a.period is None else window(a.period, at)[0]) for a in accounts]
    balances = []
    for account, row in zip(accounts, db.execute(_STANDING, (json.dumps(asked),)), strict=True):
        n, parent, label, limit, period, calls, open_, spent, held, granted, observed = row
        there = account if n is None else Account(account.id, account.unit, parent, label, limit, period)
        balances.append(Balance(there, spent, held, calls, open_, granted, observed))
    return balances
