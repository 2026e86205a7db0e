"""The ledger in one SQLite file: WAL, several processes, one writer at a time.

A group of events is staged in one transaction (`stage`) and made durable by `commit`. Between groups the balances stay
in memory, and are read again only when another process has written meanwhile (`PRAGMA data_version`). Whoever writes
holds the `Turn`; a checkpoint is taken under it too, so that none ever runs beside a commit (which keeps SQLite's
WAL-reset bug, 3.7.0 to 3.51.2, out of reach).

`durability="full"` syncs the WAL at each commit. `"normal"` survives the crash of a process, not a power cut.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Final

from tolsey.errors import LedgerRefused, LedgerUnavailable
from tolsey.ledger.rules import (
    RESOLUTIONS,
    Balance,
    Books,
    Entry,
    Event,
    Expire,
    Granted,
    Hold,
    Key,
    Kind,
    Open,
    Outcome,
    Reserve,
    apply,
)
from tolsey.store.owners import OwnerLock, Turn, forget, is_dead
from tolsey.store.sqlite_file import (
    ACCOUNT_CHANGED,
    ANCESTRY,
    ERRORS,
    INSERT_ACCOUNT,
    INSERT_ENTRY,
    Durability,
    check_file_system,
    check_library,
    connect,
    errors_of,
    identity,
    insert_sql,
    parts,
    statements,
    unavailable,
)
from tolsey.token.chain import Account

SCHEMA_VERSION: Final = 1
CACHED_BALANCES: Final = 16_384
"""How many balances stay in memory between groups."""


BALLAST_BYTES: Final = 8 * 1024 * 1024


class SqliteLedger:
    """One process's connection to a ledger file.

    `owner` is this process's number in the ledger, or 0 until `register`; `config` the number of the config that
    entries are made under. All times are nanoseconds since the epoch.
    """

    def __init__(
        self, path: Path, *, durability: Durability = "full", now: int, new_id: str, create: bool = True
    ) -> None:
        """Open the file, or make it with id `new_id`. Raises `LedgerRefused` or `LedgerUnavailable`."""
        self.path = path
        self.durability = durability
        self.owner = 0
        self.owner_id = ""
        self._lock: OwnerLock | None = None
        self.config: int | None = None
        self._books = Books()
        self._rows: dict[Key, int] = {}
        self._closed: list[str] = []
        self._next_row = 0
        self._last_at = 0
        self._version = -1
        check_library(sqlite3.sqlite_version_info)
        check_file_system(path)
        if not create and (not path.exists() or path.stat().st_size == 0):
            raise LedgerRefused(f"there is no ledger at {path}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.turn = Turn(path)
            self._db = connect(path, durability)
            self._file = identity(path)
            self._create(new_id, now)
            row = self._db.execute("SELECT id, version FROM ledger").fetchone()
        except ERRORS as error:
            raise LedgerUnavailable(f"the ledger {path} cannot be opened: {error}") from None
        if row is None or row[1] != SCHEMA_VERSION:
            self._db.close()
            self.turn.close()
            raise LedgerRefused(f"the ledger {path} is of another version of Tolsey")
        self.id: str = row[0]

    def _create(self, new_id: str, now: int) -> None:
        self.turn.take()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
                script = resources.files("tolsey.store").joinpath("schema.sql").read_text("utf-8")
                for statement in statements(script):
                    self._db.execute(statement)
                self._db.execute("INSERT INTO ledger VALUES (?, ?, ?)", (new_id, SCHEMA_VERSION, now))
                self._db.execute("INSERT INTO owner VALUES (0, 'cli', ?, ?)", (now, now))
            self._db.execute("COMMIT")
        finally:
            self.turn.give()

    def register(self, owner_id: str, now: int) -> None:
        """Begin as a new owner: from here on this process may hold money. Takes the turn; blocks."""
        with errors_of("the ledger refused a new owner"):
            lock = OwnerLock(self.path, owner_id)
        self.turn.take()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            row = self._db.execute(
                "INSERT INTO owner (id, started_at) VALUES (?, ?) RETURNING n", (owner_id, now)
            ).fetchone()
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self.roll_back()
            lock.close()
            raise LedgerUnavailable(f"the ledger refused a new owner: {error}") from None
        finally:
            self.turn.give()
        if self._lock is not None:
            self._lock.close()
        self._lock, self.owner, self.owner_id = lock, row[0], owner_id

    def number_config(self, generation: str, now: int) -> int:
        """Record a config's generation and return its number, for `config` of every process that uses it. Blocks."""
        self.turn.take()
        try:
            self._db.execute("INSERT OR IGNORE INTO config (generation, at) VALUES (?, ?)", (generation, now))
            row = self._db.execute("SELECT n FROM config WHERE generation = ?", (generation,)).fetchone()
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"the ledger refused the config's generation: {error}") from None
        finally:
            self.turn.give()
        return int(row[0])

    def time(self, now: int) -> int:
        """The ledger's time: the later of the clock and the last entry known here (RULES.md M11)."""
        return max(now, self._last_at)

    def stage(self, events: Sequence[Event], now: int) -> list[Outcome]:
        """Run a group of events in an open transaction; `commit` makes it durable. The caller holds the turn.

        Raises `LedgerUnavailable` with nothing changed. The first run takes a reserve's id to be new and a hold of our
        own to be as we know it. Where that is wrong (an id used again, a resolution by another process) the unique
        indexes say so; then everything is read and the group run once more.
        """
        for attempt in (1, 2):
            try:
                self._begin()
                self._load(events, trusting=attempt == 1)
                at = self._last_at = max(now, self._last_at)
                outcomes = [apply(self._books, event, at=at, owner=self.owner) for event in events]
                if attempt == 1 and self._is_known_refusal(events, outcomes):
                    self.roll_back()
                    continue
                self._write()
                return outcomes
            except (sqlite3.IntegrityError, AssertionError) as error:
                self.roll_back()
                if attempt == 2:
                    raise LedgerUnavailable(f"the ledger refused a group: {error}") from None
            except ERRORS as error:
                self.roll_back()
                raise unavailable("the ledger cannot be written", error) from error
            except BaseException:
                self.roll_back()
                raise
        raise AssertionError("unreachable")

    def _is_known_refusal(self, events: Sequence[Event], outcomes: Sequence[Outcome]) -> bool:
        """Whether a reserve was refused whose id was granted before: then the answer must be the old one."""
        refused = [
            event.hold
            for event, outcome in zip(events, outcomes, strict=True)
            if isinstance(event, Reserve) and not isinstance(outcome, Granted) and event.hold not in self._books.holds
        ]
        if refused:
            self._load_holds(refused)
        return any(hold in self._books.holds for hold in refused)

    def commit(self) -> None:
        """Make the staged group durable. Raises `LedgerUnavailable`; then whether it was kept is unknown, and the same
        events may be staged again: a hold's id makes them idempotent.
        """
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._reopen()
            raise unavailable("the ledger cannot be committed", error) from None
        if len(self._books.balances) > CACHED_BALANCES:
            self._books.balances.clear()
            self._rows.clear()
        for hold in self._closed:
            self._books.holds.pop(hold, None)
        self._closed = []

    def roll_back(self) -> None:
        """Undo what is staged and forget what was read."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._forget()

    def _forget(self) -> None:
        self._books = Books()
        self._rows.clear()
        self._closed = []
        self._version = -1

    def _reopen(self) -> None:
        try:
            fresh = connect(self.path, self.durability)
        except ERRORS:
            self.roll_back()
            return
        self._db.close()
        self._db = fresh
        self._forget()

    def _begin(self) -> None:
        if identity(self.path) != self._file:
            raise LedgerUnavailable("the ledger's file was moved or replaced while it was in use; restart the gateway")
        self._db.execute("BEGIN IMMEDIATE")
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._books.balances.clear()
            self._rows.clear()
            self._version = version
            self._next_row = self._db.execute("SELECT coalesce(max(n), 0) FROM account").fetchone()[0] + 1
            last = self._db.execute("SELECT at FROM entry ORDER BY n DESC LIMIT 1").fetchone()
            self._last_at = max(self._last_at, last[0] if last else 0)

    def _load(self, events: Sequence[Event], *, trusting: bool) -> None:
        """Bring every hold and account that the events touch into the books."""
        holds = self._books.holds
        unknown = [
            event.hold
            for event in events
            if not isinstance(event, Open) and not (trusting and isinstance(event, Reserve)) and event.hold not in holds
        ]
        if unknown:
            self._load_holds(unknown)
        wanted: dict[Key, None] = {}
        for event in events:
            if isinstance(event, Reserve):
                for account in event.accounts:
                    wanted[account.id, account.unit] = None
            elif isinstance(event, Open):
                wanted[event.account.id, event.account.unit] = None
            elif event.hold in holds:
                for key in holds[event.hold].chain:
                    wanted[key] = None
        missing = [key for key in wanted if key not in self._books.balances]
        if missing:
            for n, balance in self._accounts({key[0] for key in missing}):
                key = (balance.account.id, balance.account.unit)
                if key not in self._books.balances:
                    self._books.balances[key] = balance
                    self._rows[key] = n

    def _accounts(self, ids: Iterable[str]) -> Iterable[tuple[int, Balance]]:
        rows = self._db.execute(
            'SELECT n, id, unit, parent, label, "limit", spent, held, calls, open FROM account'
            " WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        for n, id_, unit, parent, label, limit, spent, held, calls, open_ in rows:
            yield n, Balance(Account(id_, unit, parent, label, limit), spent, held, calls, open_)

    def _load_holds(self, ids: list[str]) -> None:
        """Read holds that this process does not know: another owner's, or a repeated id."""
        rows = self._db.execute(
            "SELECT r.hold, r.leaf, r.amount, r.owner, s.kind, s.amount FROM entry r LEFT JOIN entry s"
            " ON s.hold = r.hold AND s.kind IN ('settle', 'void', 'expire')"
            " WHERE r.kind = 'reserve' AND r.hold IN (SELECT value FROM json_each(?))",
            (json.dumps(ids),),
        ).fetchall()
        for id_, leaf, amount, owner, kind, settled in rows:
            resolution = None if kind is None else Kind(kind)
            self._books.holds[id_] = Hold(id_, self._chain(leaf), amount, owner, resolution, settled or 0)

    def _chain(self, leaf: int) -> tuple[Key, ...]:
        rows = self._db.execute(ANCESTRY, (leaf,))
        return tuple((id_, unit) for id_, unit in rows)

    def _write(self) -> None:
        """Write what the rules changed: accounts, then entries; the open holds follow from those by triggers."""
        books, rows = self._books, self._rows
        accounts = []
        for key, b in books.dirty.items():
            n = rows.get(key)
            if n is None:
                n = rows[key] = self._next_row
                self._next_row += 1
            a = b.account
            accounts.append(
                (n, a.id, a.unit, a.parent, a.label, a.limit, b.spent, b.held, b.calls, b.open, self._last_at)
            )
        self._put(INSERT_ACCOUNT, accounts, ACCOUNT_CHANGED)
        self._insert_entries(books.entries)
        books.dirty = {}
        books.entries = []

    def _insert_entries(self, entries: list[Entry]) -> None:
        rows, config = self._rows, self.config
        lines = []
        for e in entries:
            leaf = None if e.leaf is None else rows[e.leaf]
            lines.append((e.at, e.kind, e.hold, leaf, e.amount, e.owner, config, e.note))
            if e.hold is not None and e.kind in RESOLUTIONS:
                self._closed.append(e.hold)
        self._put(INSERT_ENTRY, lines)

    def _put(self, insert: str, rows: Sequence[tuple[object, ...]], conflict: str = "") -> None:
        """Insert rows, many in one statement: Python lets other threads run at every step of every statement, and that
        costs more than the step (measured: 5 statements a call took 50 µs of a call, 8 a group take 10).
        """
        for part in parts(rows):
            sql = insert_sql(insert, len(part[0]), len(part), conflict)
            self._db.execute(sql, [*chain.from_iterable(part)])

    def run(self, events: Sequence[Event], now: int) -> list[Outcome]:
        """Stage and commit a group at once, waiting for the turn. For tools and recovery; blocks."""
        self.turn.take()
        try:
            outcomes = self.stage(events, now)
            self.commit()
        finally:
            self.turn.give()
        return outcomes

    @errors_of("the ledger cannot be read")
    def balances(self, accounts: Sequence[Account]) -> list[Balance]:
        """The accounts as committed, by this process and others; one that does not exist yet stands at 0."""
        found = {(b.account.id, b.account.unit): b for _, b in self._accounts({a.id for a in accounts})}
        return [found.get((a.id, a.unit)) or Balance(a) for a in accounts]

    @errors_of("the ledger cannot be written")
    def accept(self, note: str, now: int) -> None:
        """Write down that an operator accepts this ledger as it is, with spend that may be lost (RULES.md L1)."""
        self.turn.take()
        try:
            self._begin()
            self._last_at = max(now, self._last_at)
            self._insert_entries([Entry(Kind.ACCEPT, self._last_at, None, None, 0, self.owner, note)])
            self.commit()
        finally:
            self.turn.give()

    @errors_of("the ledger cannot be written")
    def expire_dead_owners(self, now: int) -> int:
        """Close every owner whose process is gone, and settle its open holds as held; return how many holds. Blocks."""
        expired = 0
        # One that was taken for dead while it lived may hold money although it has ended.
        owners = self._db.execute(
            "SELECT n, id FROM owner WHERE ended_at IS NULL OR n IN (SELECT owner FROM hold)"
        ).fetchall()
        for n, owner_id in owners:
            if n == self.owner or not is_dead(self.path, owner_id):
                continue
            holds = [row[0] for row in self._db.execute("SELECT id FROM hold WHERE owner = ?", (n,))]
            if holds:
                self.run([Expire(hold) for hold in holds], now)
            self.turn.take()
            try:
                self._db.execute("UPDATE owner SET ended_at = ? WHERE n = ?", (now, n))
            finally:
                self.turn.give()
            forget(self.path, owner_id)
            expired += len(holds)
        return expired

    def keep_ballast(self) -> bool:
        """Make sure that 8 MiB of disk are kept back for settling on a full disk; False if they are not to be had."""
        try:
            fd = os.open(f"{self.path}.ballast", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            os.posix_fallocate(fd, 0, BALLAST_BYTES)
        except OSError:
            os.ftruncate(fd, 0)
            return False
        finally:
            os.close(fd)
        return True

    def drop_ballast(self) -> None:
        """Give the kept disk back, so that open holds can be settled (RULES.md L8)."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.path}.ballast")

    @errors_of("the ledger cannot be read")
    def entry_count(self) -> int:
        """How many entries the journal has; it never falls."""
        return int(self._db.execute("SELECT coalesce(max(n), 0) FROM entry").fetchone()[0])

    @errors_of("the ledger cannot be written")
    def checkpoint(self) -> None:
        """Copy the WAL into the file and start it anew, under the turn. Blocks."""
        self.turn.take()
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            self.turn.give()

    def wal_bytes(self) -> int:
        """The size of the WAL, in bytes."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """End this owner and close the file."""
        if self._lock is not None:
            if self.owner:
                self.turn.take()
                try:
                    open_holds = self._db.execute(
                        "SELECT count(*) FROM hold WHERE owner = ?", (self.owner,)
                    ).fetchone()[0]
                    if not open_holds:
                        self._db.execute("UPDATE owner SET ended_at = ? WHERE n = ?", (self._last_at, self.owner))
                except sqlite3.Error:
                    self.roll_back()
                finally:
                    self.turn.give()
            self._lock.close()
        self._db.close()
        self.turn.close()
