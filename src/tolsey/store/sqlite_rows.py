"""Between the rules' books and the rows of a SQLite ledger: what a group of events touches is read, what the rules
changed is written.

Balances stay in memory between groups, until another process has written. Reading and writing happen inside the
caller's transaction.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from tolsey.ledger.books import MOST_CHAINS, Books, Hold, Window, WindowKey
from tolsey.ledger.events import (
    Annul,
    Claim,
    Claimed,
    Conflict,
    Entry,
    Event,
    Expire,
    Extend,
    Grant,
    Granted,
    Key,
    Kind,
    Observe,
    Open,
    Outcome,
    Pay,
    Refund,
    Reserve,
    Resolved,
    Settle,
    Shortfall,
    Void,
    are_of_calls,
    openers_of,
)
from tolsey.ledger.observing import RATE_PREFIX
from tolsey.ledger.rules import CLAIM_NS
from tolsey.ledger.windows import closed_before, window
from tolsey.store.contract import IN_PASSING
from tolsey.store.sealing import Sealer
from tolsey.store.sealing_sqlite import seal
from tolsey.store.sqlite_accounts import accounts_of, read_again
from tolsey.store.sqlite_entries import append
from tolsey.store.sqlite_file import insert_sql, parts

CACHED_BALANCES: Final = 16_384
"""How many balances, windows and rates stay in memory between groups, each."""

# Here, since a union that is written where it is used is made anew each time.
_CORRECTIONS: Final = (Refund, Annul)
_AS_ASKED: Final = (Granted, Resolved)
# Those that come with every call first, as they are looked for in this order.
_OF_A_HOLD: Final = (Settle, Void, Extend, Expire, *_CORRECTIONS)

_ANCESTRY: Final = """
    WITH RECURSIVE up (id, unit, parent, d) AS (
        SELECT id, unit, parent, 0 FROM account WHERE n = ?
        UNION ALL
        SELECT a.id, a.unit, a.parent, d + 1 FROM account a JOIN up ON a.id = up.parent AND a.unit = up.unit
    )
    SELECT id, unit FROM up ORDER BY d DESC
"""

_HOLDS: Final = """
    SELECT r.hold, r.leaf, r.counter, r.amount, r.owner, r.at, s.kind, s.amount, c.scope, c.key,
        (SELECT coalesce(sum(amount), 0) FROM entry WHERE hold = r.hold AND kind = 'extend'),
        (SELECT coalesce(sum(amount), 0) FROM entry WHERE hold = r.hold AND (kind = 'refund' OR kind = 'annul')),
        EXISTS (SELECT 1 FROM entry WHERE hold = r.hold AND kind = 'annul')
    FROM entry r
        LEFT JOIN entry s ON s.hold = r.hold AND (s.kind = 'settle' OR s.kind = 'void' OR s.kind = 'expire')
        LEFT JOIN claim c ON c.hold = r.hold
    WHERE r.kind = 'reserve' AND r.hold IN (SELECT value FROM json_each(?))
"""

PAYMENT: Final = """
    SELECT a.id, a.unit FROM entry e JOIN account a ON a.n = e.leaf WHERE e.kind = 'pay' AND e.hold = ?
"""

_INSERT_ACCOUNT: Final = (
    'INSERT INTO account (n, id, unit, parent, label, "limit", period, granted, spent, held, calls, open, observed,'
    " opened_at, opened_by, seen_at)"
)
_ACCOUNT: Final = "(?,?,?,nullif(?,''),nullif(?,''),nullif(?,-1),nullif(?,''),?,?,?,?,?,?,?,nullif(?,''),nullif(?,0))"
_CHANGE_ACCOUNT: Final = (
    "UPDATE account SET granted = ?, spent = ?, held = ?, calls = ?, open = ?, observed = ?,"
    " seen_at = coalesce(nullif(?, 0), seen_at) WHERE n = ?"
)
_INSERT_WINDOW: Final = 'INSERT INTO window (account, start, "limit", spent, held, granted, observed)'
_WINDOW: Final = "(?,?,?,?,?,?,?)"
_WINDOW_CHANGED: Final = (
    "ON CONFLICT (account, start) DO UPDATE SET spent = excluded.spent, held = excluded.held,"
    " granted = excluded.granted, observed = excluded.observed"
)
_CLOSE_WINDOWS: Final = "DELETE FROM window WHERE account = ? AND start < ? AND held = 0"
_INSERT_RATE: Final = "INSERT INTO rate (id, tat)"
_RATE: Final = "(?,?)"
_RATE_CHANGED: Final = "ON CONFLICT (id) DO UPDATE SET tat = excluded.tat"
_PURGE_RATES: Final = "DELETE FROM rate WHERE id IN (SELECT id FROM rate WHERE tat <= ? LIMIT ?)"
_INSERT_CLAIM: Final = "INSERT INTO claim (scope, key, request, hold, at, done, body, response)"
_CLAIM: Final = "(?,?,?,?,?,?,?,?)"
_CLAIM_CHANGED: Final = (
    "ON CONFLICT (scope, key) DO UPDATE SET request = excluded.request, hold = excluded.hold, at = excluded.at,"
    " done = excluded.done, body = excluded.body, response = excluded.response"
)
_PURGE_CLAIMS: Final = "DELETE FROM claim WHERE (scope, key) IN (SELECT scope, key FROM claim WHERE at <= ? LIMIT ?)"


class Rows:
    """The books of one connection. `books` are what the rules run on."""

    def __init__(self) -> None:
        self.books = Books()
        self.sealer = Sealer()
        self._numbers: dict[Key, int] = {}
        # What the books say of these accounts, be it that there is none, is as the file has it.
        self._current: set[Key] = set()
        # By identity; they are kept here, so that no other takes its place.
        self._loaded: dict[int, tuple[Key, ...]] = {}
        self._next = 0
        # Only an open hold that was made here is known for sure from one group to the next.
        self._let_go: list[str] = []
        self._windows: set[WindowKey] = set()
        self._periodic = False

    def others_wrote(self, next_account: int) -> None:
        """Another process has written: what was read is to be read again, though accounts stay what they are. The next
        new one gets this number.
        """
        books = self.books
        books.windows.clear()
        books.rates.clear()
        self._current.clear()
        self._loaded.clear()
        self._windows.clear()
        self._next = next_account
        self.sealer.others_wrote()

    def _forget(self) -> None:
        self.books.forget()
        self._numbers.clear()
        self._current.clear()
        self._loaded.clear()
        self._windows.clear()
        self._periodic = False

    def committed(self) -> None:
        """What was written is on disk: let go of what is over, and of more than may be kept."""
        books = self.books
        if max(len(books.balances), len(books.windows), len(books.rates), len(self._current)) > CACHED_BALANCES:
            self._forget()
        if len(self._loaded) > MOST_CHAINS:
            self._loaded.clear()
        books.claims.clear()
        books.payments.clear()
        for hold in self._let_go:
            books.holds.pop(hold, None)
        self._let_go.clear()

    def load(self, db: sqlite3.Connection, events: Sequence[Event], at: int, *, trusting: bool) -> None:
        """Bring everything that the events touch at ledger time `at` into the books. With `trusting`, a reserve's id is
        taken to be new.
        """
        holds = self.books.holds
        unknown: list[str] = []
        for event in events:
            if isinstance(event, Reserve):
                if not trusting and event.hold not in holds:
                    unknown.append(event.hold)
            # What an operator corrects may have been resolved by anybody.
            elif isinstance(event, _OF_A_HOLD) and (event.hold not in holds or isinstance(event, _CORRECTIONS)):
                unknown.append(event.hold)
        if unknown:
            self.load_holds(db, unknown)
        wanted: dict[Key, None] = {}
        keys = self.books.keys
        for event in events:
            if isinstance(event, Reserve):
                self._want(keys(event.accounts), wanted)
                if event.counters or event.rates or event.claim is not None:
                    self._want(keys(event.counters), wanted)
                    self._load_rates(db, [rate.id for rate in event.rates])
                    if event.claim is not None:
                        self._load_claims(db, "scope = ? AND key = ?", event.claim[:2])
            elif isinstance(event, _OF_A_HOLD):
                hold = holds.get(event.hold)
                if hold is not None:
                    self._want(hold.chain, wanted)
                    self._want(hold.counters, wanted)
                    if hold.claim is not None:
                        self._load_claims(db, "hold = ?", (hold.id,))
            elif isinstance(event, Open):
                wanted[event.account[:2]] = None
            elif isinstance(event, Pay):
                wanted[event.account[:2]] = None
                self.books.payments.update(
                    (event.hash, (id_, unit)) for id_, unit in db.execute(PAYMENT, (event.hash,))
                )
            elif isinstance(event, Grant):
                wanted[event.key] = None
            elif isinstance(event, Observe):
                for account in event.accounts + event.counters:
                    wanted[account[:2]] = None
                self._load_rates(db, [RATE_PREFIX + rate.id for rate in event.rates])
        current = self._current
        missing = [key for key in wanted if key not in current]
        if missing:
            self._load_accounts(db, missing)
            current.update(missing)
        if self._periodic:
            self._load_windows(db, events, at)

    def is_hasty(self, db: sqlite3.Connection, events: Sequence[Event], outcomes: Sequence[Outcome]) -> bool:
        """Whether an answer that was made trusting may be another once everything is read: a reserve was refused whose
        id was granted before, or something was refused on a hold that is remembered as open, and may not be so any
        more.
        """
        holds = self.books.holds
        refused = []
        for event, outcome in zip(events, outcomes, strict=True):
            if isinstance(outcome, _AS_ASKED):
                continue
            if isinstance(event, Reserve):
                if event.hold not in holds:
                    refused.append(event.hold)
            elif isinstance(outcome, Conflict | Shortfall) and isinstance(event, Extend | Settle):
                return True
        if refused:
            self.load_holds(db, refused)
        return any(hold in holds for hold in refused)

    def _load_accounts(self, db: sqlite3.Connection, missing: Sequence[Key]) -> None:
        """Read accounts; of those that were read before, only what changes."""
        books, numbers = self.books, self._numbers
        balances = books.balances
        known = {numbers[key]: balances[key] for key in missing if key in balances}
        if known:
            granted = [balance.granted for balance in known.values()]
            read_again(db, known)
            if granted != [balance.granted for balance in known.values()]:
                books.relimit()
        unknown = {key[0] for key in missing if key not in balances}
        for n, balance in accounts_of(db, unknown) if unknown else ():
            key = balance.account[:2]
            if key not in balances:
                balances[key] = balance
                numbers[key] = n
                self._current.add(key)
                self._periodic = self._periodic or balance.account.period is not None

    def _want(self, keys: tuple[Key, ...], wanted: dict[Key, None]) -> None:
        """Add to what is to be read, unless the very same was wanted before: it is in the books, or does not exist."""
        if id(keys) not in self._loaded:
            self._loaded[id(keys)] = keys
            wanted.update(dict.fromkeys(keys))

    def load_holds(self, db: sqlite3.Connection, ids: Sequence[str]) -> None:
        """Read holds that this process does not know: another owner's, or a repeated id."""
        rows = db.execute(_HOLDS, (json.dumps(ids),)).fetchall()
        for id_, leaf, counter, amount, owner, at, kind, settled, scope, key, extended, refunded, annulled in rows:
            self._let_go.append(id_)
            self.books.holds[id_] = Hold(
                id_,
                self._chain(db, leaf),
                amount + extended,
                owner,
                at,
                self._chain(db, counter),
                None if scope is None else (scope, key),
                extended,
                None if kind is None else Kind(kind),
                settled or 0,
                refunded,
                bool(annulled),
            )

    def _chain(self, db: sqlite3.Connection, leaf: int | None) -> tuple[Key, ...]:
        return () if leaf is None else tuple((id_, unit) for id_, unit in db.execute(_ANCESTRY, (leaf,)))

    def _load_windows(self, db: sqlite3.Connection, events: Sequence[Event], at: int) -> None:
        balances, holds = self.books.balances, self.books.holds
        for event in events:
            keys: Iterable[Key] = ()
            when = at
            if isinstance(event, Grant):
                keys = (event.key,)
            elif isinstance(event, Open | Pay):
                keys = (event.account[:2],)
            elif isinstance(event, Observe):
                keys = (account[:2] for account in event.accounts + event.counters)
            elif (hold := holds.get(event.hold)) is not None:
                keys, when = hold.chain + hold.counters, hold.at
            elif isinstance(event, Reserve):
                keys = (account[:2] for account in event.accounts + event.counters)
            for key in keys:
                period = balances[key].account.period if key in balances else None
                if period is not None and key in self._numbers:
                    self._load_window(db, key, window(period, when)[0])

    def _load_window(self, db: sqlite3.Connection, key: Key, start: int) -> None:
        if (key, start) in self._windows:
            return
        row = db.execute(
            "SELECT spent, held, granted, observed FROM window WHERE account = ? AND start = ?",
            (self._numbers[key], start),
        ).fetchone()
        if row is not None:
            self.books.windows[key, start] = Window(*row)
            self._windows.add((key, start))

    def _load_rates(self, db: sqlite3.Connection, ids: Sequence[str]) -> None:
        rates = self.books.rates
        if any(id_ not in rates for id_ in ids):
            rates.update(dict.fromkeys(ids, 0))
            rates.update(
                db.execute("SELECT id, tat FROM rate WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),))
            )

    def _load_claims(self, db: sqlite3.Connection, condition: str, values: tuple[str, ...]) -> None:
        rows = db.execute(
            f"SELECT scope, key, request, hold, at, done, body, response FROM claim WHERE {condition}",  # noqa: S608 - of two, both written above
            values,
        )
        for scope, key, request, hold, at, done, body, response in rows:
            claim = Claim(scope, key, request)
            found = Claimed(claim, hold, at, None if done is None else Kind(done), body, response)
            self.books.claims.setdefault((scope, key), found)

    def write(self, db: sqlite3.Connection, at: int, config: int | None) -> None:
        """Write what the rules changed: accounts, then entries, and the open holds that follow from those."""
        books, numbers = self.books, self._numbers
        seen = at if are_of_calls(books.entries) else 0
        openers: dict[Key, str] | None = None
        opened: list[tuple[object, ...]] = []
        changed: list[tuple[int, ...]] = []
        for key, b in books.changed().items():
            stands = (b.granted, b.spent, b.held, b.calls, b.open, b.observed)
            n = numbers.get(key)
            if n is not None:
                changed.append((*stands, seen, n))
                continue
            if openers is None:
                openers = openers_of(books.entries)
            n = numbers[key] = self._next
            self._next += 1
            self._periodic = self._periodic or b.account.period is not None
            id_, unit, parent, label, limit, period = b.account
            limit = -1 if limit is None else limit
            what = (n, id_, unit, parent or "", label or "", limit, period or "")
            opened.append((*what, *stands, at, openers.get(key, ""), seen))
        _put(db, _INSERT_ACCOUNT, _ACCOUNT, opened)
        if changed and db.executemany(_CHANGE_ACCOUNT, changed).rowcount != len(changed):
            raise AssertionError("an account that was read is not there any more")
        self.insert_entries(db, books.entries, config)
        books.dirty = {}
        books.entries = []
        if books.dirty_windows:
            self._write_windows(db)
        if books.dirty_rates:
            _put(db, _INSERT_RATE, _RATE, list(books.dirty_rates.items()), _RATE_CHANGED)
            db.execute(_PURGE_RATES, (at, IN_PASSING))
            books.dirty_rates = {}
        if books.dirty_claims:
            self._write_claims(db, at)

    def insert_entries(self, db: sqlite3.Connection, entries: Sequence[Entry], config: int | None) -> None:
        """Append to the journal, entries of one owner and one instant."""
        if entries:
            sealed = seal(db, self.sealer, entries, self.books.balances, config)
            self._let_go += append(db, entries, sealed, self._numbers, config)

    def _write_windows(self, db: sqlite3.Connection) -> None:
        books = self.books
        lines = []
        for (key, start), w in books.dirty_windows.items():
            account = books.balances[key].account
            lines.append((self._numbers[key], start, account.limit, w.spent, w.held, w.granted, w.observed))
            if (key, start) not in self._windows and account.period is not None:
                self._windows.add((key, start))
                db.execute(_CLOSE_WINDOWS, (self._numbers[key], closed_before(account.period, start)))
        _put(db, _INSERT_WINDOW, _WINDOW, lines, _WINDOW_CHANGED)
        books.dirty_windows = {}

    def _write_claims(self, db: sqlite3.Connection, at: int) -> None:
        lines = []
        for (scope, key), c in self.books.dirty_claims.items():
            if c is None:
                db.execute("DELETE FROM claim WHERE scope = ? AND key = ?", (scope, key))
            else:
                lines.append((scope, key, c.claim.request, c.hold, c.at, c.done, c.body, c.response))
        _put(db, _INSERT_CLAIM, _CLAIM, lines, _CLAIM_CHANGED)
        db.execute(_PURGE_CLAIMS, (at - CLAIM_NS, IN_PASSING))
        self.books.dirty_claims = {}


def _put(
    db: sqlite3.Connection, insert: str, marks: str, rows: Sequence[tuple[object, ...]], conflict: str = ""
) -> None:
    """Insert rows, many in one statement (see `sqlite_entries`).

    What is NULL comes as a number or a text that cannot be otherwise, and `marks` (those of one row) make it NULL: for
    None, as for every value that is not just an int or a str, sqlite3 goes to look for a converter.
    """
    for part in parts(rows):
        sql = insert_sql(insert, marks, len(part), conflict)
        db.execute(sql, [*chain.from_iterable(part)])
