"""A real gateway, an upstream that writes down what it sees, and many clients: for the tests that race, kill and spy.

Everything runs on loopback and in a temporary folder. A gateway is a process group of its own, and nothing of it is
left behind, however a test ends. `python -m tests.swarm FILE` is the upstream.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from tests.ports import free_port
from tests.reading import fsck, trail
from tolsey.store.keyring import Keyring
from tolsey.store.reports import Checked
from tolsey.store.sqlite_file import connect_read_only
from tolsey.store.trails import TrailRow
from tolsey.token.chain import CAPABILITY, write_identifier
from tolsey.token.macaroon import Macaroon

ROOT: Final = Path(__file__).resolve().parent.parent
PRICE_NANO: Final = 10_000_000
"""The price of a call below /api/v1/ in nano-units: 0.01 USD."""

ITEM: Final = "/api/v1/item/"
"""What the load asks for; the journal's note names the rest of the path."""


async def until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> float:
    """Wait for a condition and return how long that took; fail after `seconds`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.01)
    return time.monotonic() - began


def answers(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- the gateway


class Gateway:
    """One `tolsey serve` in a process group of its own. What it prints is appended to `out` and `err`."""

    def __init__(self, file: Path, port: int, admin_port: int, ledger: Path, keys: Path) -> None:
        self.file, self.port, self.admin_port, self.ledger, self.keys = file, port, admin_port, ledger, keys
        self.out = file.with_suffix(".out")
        self.err = file.with_suffix(".err")
        self.env: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, *, accept_lost_spend: str | None = None) -> None:
        """Start the process and wait for nothing. Its umask is 0: no file may rely on the shell's."""
        assert self.process is None
        reason = [] if accept_lost_spend is None else ["--accept-lost-spend", accept_lost_spend]
        with open(self.out, "ab") as out, open(self.err, "ab") as err:
            self._from = err.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tolsey.cli.main", "serve", "-c", self.file, *reason],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **self.env},
                start_new_session=True,
                umask=0,
            )

    async def start(self, *, accept_lost_spend: str | None = None) -> None:
        """Start, and wait until every worker takes calls."""
        self.launch(accept_lost_spend=accept_lost_spend)
        await self.ready()

    async def ready(self) -> None:
        """Wait until every worker takes calls."""
        await until(lambda: '"event": "listening"' in self.said() or not self.runs(), "the gateway listens", 20)
        assert self.runs(), self.said()

    def said(self) -> str:
        """What this process and its workers wrote to standard error since it was started."""
        with open(self.err, "rb") as file:
            file.seek(self._from)
            return file.read().decode()

    def runs(self) -> bool:
        """Whether the supervisor lives."""
        return self.process is not None and self.process.poll() is None

    def workers(self) -> list[psutil.Process]:
        """The worker processes that live."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children()

    def kill_supervisor(self) -> None:
        """`kill -9` of the supervisor alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def kill_group(self) -> None:
        """`kill -9` of every process of the gateway."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    async def ended(self, seconds: float = 20.0) -> int:
        """Wait for its end, and return its exit status."""
        process = self.process
        assert process is not None
        await until(lambda: process.poll() is not None, "the gateway ends", seconds)
        self.process = None
        return int(process.returncode)

    async def stop(self) -> None:
        """SIGTERM: it drains and ends."""
        assert self.process is not None
        self.process.terminate()
        status = await self.ended()
        assert status == 0, self.said()

    def mint(self, *caveats: str) -> str:
        """Mint a token with the gateway's current key."""
        key_id, secret = Keyring.open(self.keys).current(CAPABILITY)
        identifier = write_identifier(CAPABILITY, key_id, secrets.token_urlsafe(16), len(caveats))
        return Macaroon.mint(root_key=secret, identifier=identifier, location="tolsey").attenuate(*caveats).to_text()

    def fsck(self) -> Checked:
        """Check the ledger; fail on a difference."""
        checked = fsck(self.ledger)
        assert checked.difference is None, checked
        return checked

    def trail(self) -> list[TrailRow]:
        """The delegation tree."""
        return trail(self.ledger)

    def entries(self) -> list["Entry"]:
        """The whole journal."""
        return [
            Entry(*row) for row in self._read("SELECT n, at, kind, hold, amount, owner, note FROM entry ORDER BY n")
        ]

    def open_holds(self, before: int | None = None) -> int:
        """How many holds are open, of those that were made at `before` (nanoseconds) or earlier."""
        rows = self._read("SELECT count(*) FROM hold WHERE at <= coalesce(?, at)", before)
        return int(rows[0][0])

    def _read(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(connect_read_only(self.ledger)) as db:
            return db.execute(sql, values).fetchall()


class Entry(NamedTuple):
    """One entry of the journal."""

    n: int
    at: int
    kind: str
    hold: str | None
    amount: int
    owner: int
    note: str


_CONFIG: Final = """\
[server]
port = {port}
workers = {workers}
[admin]
port = {admin_port}
[ledger]
url = "sqlite:///{ledger}"
durability = "{durability}"
timeout = {timeout}
[[upstream]]
name = "api"
url = "http://127.0.0.1:{upstream}"
{upstream_more}
{more}
[[route]]
path = "/api/v1/*"
methods = ["GET", "POST"]
upstream = "api"
price = "0.01 USD"
charge = "{charge}"
"""


def lay_out(
    folder: Path,
    upstream: int,
    *,
    name: str = "tolsey",
    ledger: str = "data/ledger.db",
    workers: int = 2,
    durability: str = "full",
    timeout: float = 5.0,
    charge: str = "always",
    upstream_more: str = "",
    more: str = "",
) -> Gateway:
    """Write a config (and a keyring, if there is none) and return its gateway, not yet started.

    `upstream` is a port; `upstream_more` are lines for it, `more` are sections that come before the route of
    /api/v1/*.
    """
    keys = folder / "data" / "keys"
    if not keys.exists():
        keys.parent.mkdir(mode=0o700, exist_ok=True)
        Keyring.create(keys)
    port, admin_port = free_port(), free_port()
    file = folder / f"{name}.toml"
    file.write_text(
        _CONFIG.format(
            port=port,
            admin_port=admin_port,
            workers=workers,
            ledger=ledger,
            durability=durability,
            timeout=timeout,
            upstream=upstream,
            upstream_more=upstream_more,
            more=more,
            charge=charge,
        )
    )
    return Gateway(file, port, admin_port, folder / ledger, keys)


@contextlib.contextmanager
def ending(*gateways: Gateway) -> Iterator[None]:
    """Whatever happens, no process of these gateways is left."""
    try:
        yield
    finally:
        for gateway in gateways:
            if gateway.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    gateway.kill_group()


@contextlib.asynccontextmanager
async def serving(gateway: Gateway) -> AsyncIterator[Gateway]:
    """A gateway that takes calls, until the block ends."""
    with ending(gateway):
        await gateway.start()
        yield gateway


# --- the clients


class Answer(NamedTuple):
    """A response. `status` is 0 where the connection broke before one was there."""

    status: int
    headers: dict[str, str]
    body: bytes


BROKEN: Final = Answer(0, {}, b"")


class Client:
    """One keep-alive connection, opened when it is needed and again when it broke."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader

    async def call(self, token: str, target: str, method: str = "GET", headers: str = "") -> Answer:
        """One request with a bearer token; `headers` are whole lines, each with its end."""
        return await self.send(
            f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{headers}\r\n"
        )

    async def send(self, request: str) -> Answer:
        """One request as it is written. Never sent twice."""
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
            self._writer.write(request.encode("latin-1"))
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = (line.partition(":") for line in head[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in fields}
            whole = "" if request.startswith("HEAD") else headers.get("content-length", "")
            body = await self._reader.readexactly(int(whole or 0))
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            return BROKEN
        if headers.get("connection") == "close":
            await self.close()
        return Answer(int(head[0].split()[1]), headers, body)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def one(port: int, token: str, target: str, method: str = "GET", headers: str = "") -> Answer:
    """One request on a connection of its own."""
    async with Client(port) as client:
        return await client.call(token, target, method, headers)


async def load(
    port: int, clients: int, following: Callable[[], tuple[str, str] | None], answered: Callable[[str, Answer], None]
) -> None:
    """Many clients at once: each makes the call (token, target) that `following` names, until that says None."""

    async def run() -> None:
        async with Client(port) as client:
            while (call := following()) is not None:
                token, target = call
                answer = await client.call(token, target)
                answered(target, answer)
                if not answer.status:
                    await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(run())


# --- the upstream


class Upstream:
    """The upstream from outside: where it listens, and what it has seen so far."""

    def __init__(self, port: int, journal: Path) -> None:
        self.port = port
        self.journal = journal

    def heads(self) -> list[str]:
        """The head of every request, as it came."""
        return self.journal.read_bytes().decode("latin-1").split("\r\n\r\n")[:-1]

    def seen(self) -> list[str]:
        """The path of every request, without its query."""
        return [head.split(" ", 2)[1].partition("?")[0] for head in self.heads()]


@contextlib.contextmanager
def upstream(folder: Path) -> Iterator[Upstream]:
    """An upstream in a process of its own."""
    journal = folder / "upstream.journal"
    process = subprocess.Popen([sys.executable, "-m", "tests.swarm", journal], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield Upstream(int(process.stdout.readline()), journal)
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


class _Recorder(asyncio.Protocol):
    """Writes each request's head to the journal, then answers it: `?ms=20` after 20 ms, `?status=500` with that, 0
    being no answer at all.
    """

    def __init__(self, journal: int) -> None:
        self._journal = journal
        self._got = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, rest = self._got.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        size = int(length or 0)
        if len(rest) < size:
            return
        self._got = rest[size:]
        os.write(self._journal, head + end)
        query = head.split(b" ", 2)[1].partition(b"?")[2].decode("ascii")
        asked = dict(pair.split("=") for pair in query.split("&") if pair)
        if asked.get("status") == "0":
            self._transport.abort()
            return
        answer = f"HTTP/1.1 {asked.get('status', '200')} .\r\nContent-Length: 2\r\n\r\nok".encode()
        asyncio.get_running_loop().call_later(int(asked.get("ms", 0)) / 1000, self._transport.write, answer)


async def _record(journal: str) -> None:
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    server = await asyncio.get_running_loop().create_server(lambda: _Recorder(file), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_record(sys.argv[1]))
