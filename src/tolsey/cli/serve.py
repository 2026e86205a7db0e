"""`tolsey serve`: the supervisor. It readies the ledger, starts the workers, keeps them, and keeps house.

Order at the start: config, keyring, ledger, dead owners' holds, port, workers, admin listener; the port opens last.
While it runs it restarts workers that died, settles what they held, takes checkpoints, raises the keyring's mark of the
ledger, and reloads the config when it changed. The workers end with it.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import uvloop

from tolsey.admin.health import Health
from tolsey.admin.listener import Listener
from tolsey.admin.metrics import EXPIRED, LEDGER_UP, READY, RESTARTS, REVOKED, SEAL_UP, Metrics, about
from tolsey.cli import logs
from tolsey.cli.alarm import Alarm
from tolsey.cli.assemble import open_ledger, outside_of, revocations_of
from tolsey.cli.house import SEND_SECONDS, TICK_SECONDS, House
from tolsey.cli.office import office_of
from tolsey.config import Config, load, problems
from tolsey.config_decide import same_listener
from tolsey.errors import ConfigError, LedgerUnavailable, TolseyError
from tolsey.gateway.counting import Row
from tolsey.gateway.server import HttpServer
from tolsey.store.contract import Ledger
from tolsey.store.keyring import Keyring
from tolsey.store.revocations import Revocations

FIXED_SECTIONS = ("server", "admin", "decide", "keys", "ledger", "limits", "telemetry", "seal")
"""What a reload cannot change; of `server` only where, with how many workers, and whether over TLS it listens."""

READY_SECONDS = 30.0
AGAIN_SECONDS = 1.0
"""How long to wait before starting a worker again that never became ready."""
DRAIN_SECONDS = 30.0
PORT_SECONDS = 5.0
"""How long a port may still be held by the workers of a gateway that was killed."""

MAX_LINE = 64 * 1024 * 1024
"""The longest message of a worker, in bytes: what it counts, with as many routes as a config may have."""

LAST_WORDS_SECONDS = 1.0
"""How long what a dead worker said last may take to be read."""


class Said(msgspec.Struct, omit_defaults=True):
    """What a worker sends. Each message has one of these."""

    ready: bool = False
    failed: str | None = None
    problem: str | msgspec.UnsetType | None = msgspec.UNSET
    counts: list[Row] | None = None
    reports: list[msgspec.Raw] | None = None


class Child:
    """One worker process, seen from here. What it counted goes to `metrics`, and reports that it has no use for are
    handed to `pass_on`.
    """

    def __init__(
        self, number: int, metrics: Metrics, pass_on: Callable[["Child", Sequence[msgspec.Raw]], None]
    ) -> None:
        self.number = number
        self._metrics = metrics
        self._pass_on = pass_on
        self.ready = asyncio.Event()
        self.failed: str | None = None
        self.problem: str | None = None
        self.process: asyncio.subprocess.Process
        self._writer: asyncio.StreamWriter | None = None

    async def start(self, config: Config, port: int, config_number: int) -> None:
        """Start the process and follow what it says."""
        ours, theirs = socket.socketpair()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE)
        with theirs:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tolsey.cli.worker",
                str(config.file),
                config.server.host,
                str(port),
                stdin=theirs.fileno(),
            )
        self.tell(config, config_number)
        self._follower = asyncio.create_task(self._follow(reader), name=f"worker {self.number}")

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            said = msgspec.json.decode(line, type=Said)
            if said.ready:
                self.ready.set()
            self.failed = said.failed or self.failed
            if said.problem is not msgspec.UNSET:
                self.problem = said.problem
            if said.counts is not None:
                self._metrics.take(self.number, said.counts)
            if said.reports is not None:
                self._pass_on(self, said.reports)
        self.ready.clear()

    def tell(self, config: Config, config_number: int) -> None:
        """Send the config to use, as it was accepted here. A worker that is not started yet will begin with it."""
        self._say({"config": config.source.decode("utf-8"), "number": config_number})

    def report(self, reports: Sequence[msgspec.Raw]) -> None:
        """Hand over what became of calls; what is not for this worker it drops."""
        self._say({"reports": reports})

    def _say(self, message: Mapping[str, object]) -> None:
        if self._writer is not None:
            self._writer.write(msgspec.json.encode(message) + b"\n")

    async def close(self) -> None:
        """Hear the worker out and let go of the control socket: one that still lives ends itself."""
        await asyncio.wait({self._follower}, timeout=LAST_WORDS_SECONDS)
        self._follower.cancel()
        self._metrics.bury(self.number)
        if self._writer is not None:
            self._writer.close()


class Supervisor:
    """One gateway on this machine."""

    def __init__(self, config: Config, keyring: Keyring, ledger: Ledger, *, port: int, workers: int) -> None:
        self.config = config
        self.port = port
        self._workers = workers
        self._log = logs.configure()
        self._keyring = keyring
        self._ledger = ledger
        self._outside = outside_of(config, lambda problem: self._log.error("not sent", error=problem))
        self._house = House(keyring, ledger, lambda: self.config.seal, self._log, self._outside.send)
        self._metrics = Metrics(self._count)
        self._children = [self._child(number) for number in range(workers)]
        self._restarts = 0
        self._kept = True
        self._stopping = asyncio.Event()
        self._asked = asyncio.Event()
        self._config_number = 0
        self._stamps = _stamps(config)
        self._housework = asyncio.Lock()
        self._revocations = Revocations(revocations_of(config, ledger.id), lambda: None)

    def _child(self, number: int) -> Child:
        return Child(number, self._metrics, self._pass_on)

    def _pass_on(self, sender: Child, reports: Sequence[msgspec.Raw]) -> None:
        for child in self._children:
            if child is not sender:
                child.report(reports)

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit status."""
        await self._house.settle_expired()
        self._config_number = await self._ledger.number_config(self.config.generation)
        await _wait_for_port(self.config.server.host, self.port)
        await self._revocations.start()
        office = office_of(
            lambda: self.config, self._keyring, self._changing, self._revocations, self._problems, self._workers
        )
        admin = HttpServer(Listener(Health(self._problems, self._metrics.write), office))
        for _, host, port in _others(self.config):
            _check_port(host, port)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._asked.set)
        await admin.listen(self.config.admin.host, self.config.admin.port)
        keepers = [asyncio.create_task(self._keep(number)) for number in range(self._workers)]
        alarm = Alarm(self._changing, lambda: self.config.alerts, lambda: self._house.seal_problem, self._log)
        chores = [asyncio.create_task(self._keep_house()), asyncio.create_task(alarm.run())]
        try:
            return await self._until_stopped([*keepers, *chores])
        finally:
            for chore in chores:
                chore.cancel()
            await self._stop(keepers)
            await admin.drain(0)
            await self._end_house()

    async def _until_stopped(self, tasks: list[asyncio.Task[None]]) -> int:
        stopping = asyncio.create_task(self._stopping.wait())
        announcing = asyncio.create_task(self._announce())
        done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        announcing.cancel()
        if stopping in done:
            return 0
        stopping.cancel()
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        raise LedgerUnavailable("a part of the gateway ended by itself")

    async def _announce(self) -> None:
        await asyncio.gather(*(child.ready.wait() for child in self._children))
        scheme = "http" if self.config.server.tls is None else "https"
        url = f"{scheme}://{self.config.server.host}:{self.port}"
        decide = self.config.decide
        others = {} if decide is None else {"decide": f"http://{decide.host}:{decide.port}"}
        if decide is not None and decide.grpc_port is not None:
            others["grpc"] = f"{decide.host}:{decide.grpc_port}"
        self._log.info("listening", url=url, admin=self._admin_url(), **others, workers=self._workers)

    def _admin_url(self) -> str:
        return f"http://{self.config.admin.host}:{self.config.admin.port}"

    def _problems(self) -> list[str]:
        found = [child.problem for child in self._children if child.problem]
        waiting = self._workers - sum(child.ready.is_set() for child in self._children)
        if waiting:
            found.append(f"{waiting} of {self._workers} workers are not ready")
        if self._stopping.is_set():
            found.append("the gateway is stopping")
        return found

    def _count(self) -> list[Row]:
        """What the supervisor knows for `/metrics`."""
        up = self._kept and not any(child.problem for child in self._children)
        return [
            Row(READY.name, (), [sum(child.ready.is_set() for child in self._children)]),
            Row(RESTARTS.name, (), [self._restarts]),
            Row(LEDGER_UP.name, (), [int(up)]),
            Row(SEAL_UP.name, (), [int(not self._house.seal_problem)]),
            Row(EXPIRED.name, (), [self._house.expired]),
            Row(REVOKED.name, (), [len(self._revocations.ids)]),
            *about(self.config.generation),
        ]

    async def _keep(self, number: int) -> None:
        """Start a worker, and another whenever it died. Raises if the first never became ready."""
        ever_ready = False
        while not self._stopping.is_set():
            child = self._children[number]
            await child.start(self.config, self.port, self._config_number)
            ending = asyncio.create_task(child.process.wait())
            readying = asyncio.create_task(child.ready.wait())
            await asyncio.wait({ending, readying}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            became_ready = readying.done()
            readying.cancel()
            if not became_ready and not ever_ready:
                raise LedgerUnavailable(f"a worker did not start: {child.failed or 'see its output'}")
            ever_ready = ever_ready or became_ready
            status = await ending
            await child.close()
            self._children[number] = self._child(number)
            if not self._stopping.is_set():
                self._restarts += 1
                reason = {} if child.failed is None else {"reason": child.failed}
                self._log.error("a worker died and is started again", worker=number, status=status, **reason)
                await self._expire()
                await asyncio.sleep(0 if became_ready else AGAIN_SECONDS)

    async def _keep_house(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), TICK_SECONDS)
            stamps = _stamps(self.config)
            if stamps != self._stamps or self._asked.is_set():
                self._stamps = stamps
                self._asked.clear()
                await self._reload()
            await self._expire()

    @contextlib.asynccontextmanager
    async def _changing(self) -> AsyncIterator[Ledger]:
        """The ledger for a change by an admin, in turn with the other chores."""
        async with self._housework:
            self._ledger.config = self._config_number
            yield self._ledger

    async def _expire(self) -> None:
        """Resolve what dead owners held, do the ledger's housework, raise the mark."""
        async with self._housework:
            try:
                await self._house.chores(last=self._stopping.is_set())
                self._kept = True
            except TolseyError as error:
                self._kept = False
                self._log.error("the ledger cannot be kept", error=error.detail)

    async def _reload(self) -> None:
        """Take up a changed config; one that is wrong leaves the old one running and says so."""
        try:
            config = load(self.config.file, os.environ)
        except ConfigError as first:
            for problem in problems(self.config.file, os.environ) or [first]:
                self._log.error("the new config is refused; the old one goes on", error=str(problem))
            return
        fixed = [name for name in FIXED_SECTIONS if _fixed(config, name) != _fixed(self.config, name)]
        if fixed:
            sections = ", ".join(f"[{name}]" for name in fixed)
            self._log.error(f"a change in {sections} takes a restart; the old config goes on")
            return
        try:
            # In turn with the other chores, which share the connection.
            async with self._housework:
                self._config_number = await self._ledger.number_config(config.generation)
        except LedgerUnavailable as error:
            self._log.error("the new config cannot be recorded; the old one goes on", error=error.detail)
            return
        for child in self._children:
            child.tell(config, self._config_number)
        self.config = config
        self._log.info("config reloaded", generation=config.generation, routes=len(config.routes))
        for warning in config.warnings:
            self._log.warning(warning)

    async def _stop(self, keepers: list[asyncio.Task[None]]) -> None:
        """Let the workers finish the calls under way, and settle; kill those that take too long."""
        self._stopping.set()
        for child in self._children:
            with contextlib.suppress(ProcessLookupError, AttributeError):
                child.process.terminate()
        _, late = await asyncio.wait(keepers, timeout=DRAIN_SECONDS)
        for child in self._children if late else ():
            with contextlib.suppress(ProcessLookupError, AttributeError):
                child.process.kill()
        await asyncio.gather(*keepers, return_exceptions=True)

    async def _end_house(self) -> None:
        with contextlib.suppress(TolseyError):
            await self._house.chores(last=self._stopping.is_set())
        await self._outside.close(SEND_SECONDS)
        await self._revocations.close()
        await self._ledger.close()
        self._log.info("stopped")


def _fixed(config: Config, section: str) -> object:
    if section == "server":
        return (config.server.host, config.server.port, config.server.workers, config.server.tls is None)
    if section == "seal":
        return (config.seal.file, config.seal.webhook, config.seal.stdout)
    return getattr(config, section)


def _stamps(config: Config) -> list[tuple[int, int, int]]:
    """What changes when the config or a certificate that it names does."""
    every = (config.server.tls, *(upstream.tls for upstream in config.upstreams))
    return [_stamp(file) for file in (config.file, *(file for tls in every if tls is not None for file in tls.files))]


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        stat = file.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)


def _check_port(host: str, port: int) -> None:
    """Raise `ConfigError` if somebody listens there: workers share a port, so they would share it with a stranger."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}") from None


async def _wait_for_port(host: str, port: int) -> None:
    """Wait a little for workers of a killed gateway to be gone. Raises `ConfigError` if the port stays taken."""
    until = time.monotonic() + PORT_SECONDS
    while True:
        try:
            return _check_port(host, port)
        except ConfigError:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(0.05)


def _others(config: Config) -> list[tuple[str, str, int]]:
    """The listeners besides the data port: name, host and port."""
    decide = config.decide
    asked = [] if decide is None else [("decide", decide.host, port) for port in decide.ports]
    return [("admin", config.admin.host, config.admin.port), *asked]


def serve(file: Path, *, port: int | None, workers: int | None, accept_lost_spend: str | None) -> int:
    """Run a gateway until it is told to stop. Returns the exit status; raises `TolseyError` if it cannot start."""
    config = load(file, os.environ)
    port = config.server.port if port is None else port
    for name, host, number in _others(config):
        if same_listener(config.server.host, port, host, number):
            raise ConfigError(f"the data port and the {name} port must differ", file=str(file), key=f"{name}.port")

    async def run() -> int:
        keyring = Keyring.open(config.keys)
        new_id = secrets.token_hex(16)
        ledger = await open_ledger(config, keyring, new_id=new_id, accept_lost_spend=accept_lost_spend)
        count = config.server.workers if workers is None else workers
        return await Supervisor(config, keyring, ledger, port=port, workers=count).run()

    return uvloop.run(run())
