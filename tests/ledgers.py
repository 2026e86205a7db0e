"""Ledgers for tests: accounts in a line of text, ledgers on one file, and a second opinion on what the file says."""

import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tolsey.ledger.events import (
    Conflict,
    Granted,
    Late,
    Observed,
    Outcome,
    RateLimited,
    Repeated,
    Resolved,
    Shortfall,
    TooManyHolds,
)
from tolsey.ledger.revoking import Revised, Revoke, Unrevoke
from tolsey.store import revocations_sqlite
from tolsey.store.sqlite_file import Durability
from tolsey.testing import NOON, SECOND, FakeClock, FaultyLedger
from tolsey.token.caveats import format_time
from tolsey.token.chain import Account
from tolsey.units import MAX_NANO, NANO

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 20.0


def purse(text: str, unit: str = "USD") -> tuple[Account, ...]:
    """`"root 100 / team 50/day / worker -"`: accounts from the root down; `-` is one without a limit. In the unit
    `call` a limit is in whole calls.
    """
    accounts: list[Account] = []
    for part in text.split(" / "):
        name, amount = part.split()
        parent = accounts[-1].id if accounts else None
        amount, _, period = amount.partition("/")
        limit = None if amount == "-" else number(amount) * (NANO if unit == "call" else 1)
        accounts.append(Account(name, unit, parent, name, limit, period or None))
    return tuple(accounts)


def two_indexes(db: sqlite3.Connection) -> None:
    """Undo the schema's step to one index of what opens and closes holds."""
    db.execute("DROP INDEX entry_hold")
    db.execute("CREATE UNIQUE INDEX entry_reserve ON entry (hold) WHERE kind = 'reserve'")
    db.execute(
        "CREATE UNIQUE INDEX entry_resolution ON entry (hold) WHERE kind = 'settle' OR kind = 'void' OR kind = 'expire'"
    )


def unseal(db: sqlite3.Connection) -> None:
    """Undo the schema's step to the seal and those after it, as a ledger of before has it."""
    two_indexes(db)
    for table in ("alert", "checkpoint", "checkpointed", "gap"):
        db.execute(f"DROP TABLE {table}")
    columns = (("account", "opened_by"), ("account", "seen_at"), ("owner", "entries"), ("owner", "head"))
    for table, column in (*columns, ("entry", "place"), ("entry", "seal")):
        db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


def number(text: str) -> int:
    """A whole number of nano-units, or `MAX`, `MAX-1`, `MAX+1`."""
    if not text.startswith("MAX"):
        return int(text)
    return MAX_NANO + int(text[3:] or "0")


def clock_text(at: int) -> str:
    """An instant as RFC 3339, with nanoseconds where it has any."""
    nanos = f".{at % SECOND:09}" if at % SECOND else ""
    return format_time(at).replace("Z", f"{nanos}Z")


def figure(account: Account, amount: int) -> int:
    """An amount as the tables write it: nano-units, or calls."""
    return amount // NANO if account.unit == "call" else amount


def say(outcome: Outcome) -> str:
    """An outcome in the words of the tables."""
    match outcome:
        case Granted(remaining=None):
            return "granted"
        case Granted(remaining=left):
            return f"granted, {left} left"
        case Shortfall(account, spent, held, limit, resets_at):
            most = None if limit is None else figure(account, limit)
            short = f"{account.id} is short: {figure(account, spent)} spent, {figure(account, held)} held of {most}"
            return short if resets_at is None else f"{short} until {clock_text(resets_at)}"
        case RateLimited(rate, until):
            return f"{rate.id} is too fast until {clock_text(until)}"
        case Repeated(_, claimed):
            return f"repeats {claimed.hold}, {claimed.done or 'running'}{', kept' if claimed.response else ''}"
        case TooManyHolds(account):
            return f"{account.id} has too many holds"
        case Conflict():
            return "conflict"
        case Resolved(_, kind, amount):
            return f"{kind} {amount}"
        case Late(_, kind):
            return f"late, after {kind}"
        case Observed(_, verdict):
            return "observed" if verdict is None else f"observed: {say(verdict)}"
        case _:
            return "unknown"


class Ledgers:
    """Ledgers on one file, each its own owner, as several workers have them. All are closed at the end of the block."""

    def __init__(self, path: Path, *, durability: Durability = "normal", new_id: str = "the-ledger") -> None:
        self.path = path
        self.clock = FakeClock()
        self._new_id = new_id
        self._durability = durability
        self._open: list[FaultyLedger] = []

    def __enter__(self) -> "Ledgers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for ledger in self._open:
            with suppress(sqlite3.ProgrammingError, OSError):
                ledger.close()

    def open(self, owner: str | None = None, *, durability: Durability | None = None) -> FaultyLedger:
        """Open the file once more; as an owner if one is named."""
        ledger = FaultyLedger(
            self.path, durability=durability or self._durability, now=self.clock(), new_id=self._new_id
        )
        self._open.append(ledger)
        if owner is not None:
            ledger.register(owner, self.clock())
        return ledger


def owner_file(path: Path, owner: str) -> Path:
    """The file whose lock is the owner's sign of life."""
    return path.with_name(f"{path.name}.owners") / owner


def revise(ledger: FaultyLedger, change: Revoke | Unrevoke, now: int) -> Revised:
    """Revoke a prefix in a ledger, or take that back."""

    def work(db: sqlite3.Connection, at: int) -> Revised:
        return revocations_sqlite.revise(db, ledger.sealer, change, at=at, owner=ledger.owner, config=ledger.config)

    return ledger.change(work, now)


def stands(ledger: FaultyLedger, accounts: Sequence[Account]) -> list[tuple[int, int]]:
    """(spent, held) of each account."""
    return [(balance.spent, balance.held) for balance in ledger.balances(accounts, NOON)]


@contextmanager
def database(path: Path, *, lawless: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection that knows nothing of our code. `lawless` lets it break constraints, as a tamperer would."""
    db = sqlite3.connect(path, isolation_level=None, timeout=5)
    try:
        if lawless:
            db.execute("PRAGMA ignore_check_constraints = ON")
        yield db
    finally:
        db.close()


class Line(NamedTuple):
    """One line of the journal."""

    kind: str
    hold: str | None
    amount: int


def journal(path: Path) -> list[Line]:
    """Every entry of a ledger, in order."""
    with database(path) as db:
        return [Line(*row) for row in db.execute("SELECT kind, hold, amount FROM entry ORDER BY n")]


def open_holds(path: Path) -> set[str]:
    """The holds that the table of holds calls open."""
    with database(path) as db:
        return {row[0] for row in db.execute("SELECT id FROM hold")}


def replay(path: Path) -> dict[str, tuple[int, int]]:
    """(spent, held) of each account by the journal alone, with law 2 asserted after every entry.

    It is written apart from `fsck`, to have a second opinion.
    """
    with database(path) as db:
        rows = db.execute('SELECT n, id, unit, parent, "limit" FROM account').fetchall()
        entries = db.execute("SELECT kind, hold, leaf, amount FROM entry ORDER BY n").fetchall()
    ids = {(name, unit): n for n, name, unit, _, _ in rows}
    above = {n: ids[parent, unit] if parent else None for n, _, unit, parent, _ in rows}
    limits = {n: MAX_NANO if limit is None else limit for n, _, _, _, limit in rows}
    spent, held = dict.fromkeys(above, 0), dict.fromkeys(above, 0)
    reserved: dict[str, int] = {}
    resolved: set[str] = set()
    for kind, hold, leaf, amount in entries:
        if kind not in ("reserve", "settle", "void", "expire"):
            continue
        if kind == "reserve":
            assert hold not in reserved, f"{hold} was reserved twice"
            reserved[hold] = amount
        else:
            assert hold in reserved, f"{hold} was resolved and never reserved"
            assert hold not in resolved, f"{hold} was resolved twice"
            assert amount <= reserved[hold]
            resolved.add(hold)
        at: int | None = leaf
        while at is not None:
            held[at] += amount if kind == "reserve" else -reserved[hold]
            spent[at] += 0 if kind == "reserve" else amount
            assert held[at] >= 0
            assert spent[at] + held[at] <= limits[at], f"account {at} passed its limit at {hold}"
            at = above[at]
    return {name: (spent[n], held[n]) for n, name, _, _, _ in rows}


class Child:
    """Another process: `python -m tests.worker PATH OWNER TASK …`. It is gone when the block ends."""

    def __init__(self, path: Path, owner: str, *task: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.worker", str(path), owner, *task],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        self._buffer = b""

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()

    def line(self) -> str:
        """The next line that it prints, waited for."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._out], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the child said nothing for too long"
            more = os.read(self._out.fileno(), 65536)
            assert more, "the child ended before it said anything"
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def tell(self) -> None:
        """Let it go on, where it waits for that."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def wait(self) -> list[str]:
        """Wait for its end, which must be a good one; return the lines that it still printed."""
        out, _ = self._process.communicate(timeout=DEADLINE_SECONDS)
        assert self._process.returncode == 0
        return (self._buffer + out).decode().splitlines()

    def kill(self) -> list[str]:
        """Kill it with SIGKILL; return the whole lines that it printed and that were not read yet."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        if not self._out.closed:
            out, _ = self._process.communicate(timeout=DEADLINE_SECONDS)
            self._buffer += out
        whole, _, _ = self._buffer.rpartition(b"\n")
        return whole.decode().splitlines()
