"""One worker: a process that serves the data port. Started by `tolsey serve`, never by hand.

    python -m tolsey.cli.worker CONFIG HOST PORT

Standard input is a socket to the supervisor, with JSON lines both ways. The supervisor sends the config to use, first
and at every reload, as it accepted it: `{"config": …, "number": …}`. This process sends `{"ready": true}`,
`{"problem": …}`, and twice a second `{"counts": …}`, all that it has counted. `{"reports": …}` go both ways: those of
holds that another worker made. The end of file means that the supervisor is gone, and then this process must be gone
too.
"""

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from tolsey.cli import logs
from tolsey.cli.assemble import desk_of, hold_ids, reopen_ledger, revocations_of, routes_of, telemetry_of
from tolsey.config import Config, parse
from tolsey.errors import TolseyError
from tolsey.gateway.asgi import Gateway
from tolsey.gateway.counting import FAILED_GROUPS, FENCED, NODE_AWAY, OPEN_CALLS, OPEN_HOLDS, UNREAD, Counts
from tolsey.gateway.deciding import Decider, listen_for_logs
from tolsey.gateway.desk import Desk
from tolsey.gateway.log import CallLog
from tolsey.gateway.passage import Passage
from tolsey.gateway.reports import Report
from tolsey.gateway.server import HttpServer
from tolsey.gateway.tallying import Tallying
from tolsey.store.book import Book
from tolsey.store.contract import Ledger
from tolsey.store.keyring import Keyring, LiveKeyring
from tolsey.store.revocations import Revocations
from tolsey.token.approvals import APPROVAL
from tolsey.token.chain import CAPABILITY
from tolsey.token.verifier import Verifier

LOOK_SECONDS = 0.5
"""How often the keyring is looked at, and the supervisor told of the ledger's state and of what was counted."""

LAST_SECONDS = 2.0
"""How long the last message may take to be sent."""

DRAIN_SECONDS = 20.0
"""How long the calls under way may take to end once the gateway is told to stop."""

SETTLE_SECONDS = 5.0
"""How long settling may take once the last call is over."""


class Message(msgspec.Struct):
    """What the supervisor sends: a config that it accepted, and its number in the ledger; or reports."""

    config: str | None = None
    number: int = 0
    reports: list[Report] = []


class Control:
    """The socket to the supervisor, with a JSON line for each message."""

    def __init__(self, control: socket.socket) -> None:
        self._socket = control
        self._buffer = b""
        self._unsent = b""

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._socket.fileno()

    def first(self) -> Message:
        """The first message. Blocks."""
        while not (found := [message for message in self.more() if message.config is not None]):
            pass
        return found[-1]

    def more(self) -> list[Message]:
        """The messages that are whole, after reading once."""
        piece = self._socket.recv(65536)
        if not piece:
            # The supervisor is gone. Its end is this process's: what was in flight is found by the next one.
            os._exit(1)
        *lines, self._buffer = (self._buffer + piece).split(b"\n")
        return [msgspec.json.decode(line, type=Message) for line in lines]

    def tell(self, **message: object) -> None:
        """Send one line to the supervisor. What it does not take now is kept: calls do not wait for a supervisor that
        is busy.
        """
        self._unsent += msgspec.json.encode(message) + b"\n"
        self.catch_up()

    def catch_up(self) -> bool:
        """Send what was kept, as far as it is taken; whether nothing is left."""
        # That the supervisor is gone is seen where it is listened to.
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent, socket.MSG_DONTWAIT) :]
        return not self._unsent

    def finish(self) -> None:
        """Send what is left, and wait for it a little."""
        self._socket.settimeout(LAST_SECONDS)
        with contextlib.suppress(OSError):
            self._socket.sendall(self._unsent)
        self._unsent = b""


class Worker:
    """The parts of one worker and their life."""

    def __init__(self, file: Path, control: "Control") -> None:
        self._file = file
        self._control = control
        self._log = logs.configure()
        self._config, self._config_number = self._read(control.first())
        self._keys = LiveKeyring(Keyring.open(self._config.keys), self._forget)
        self._ledger: Ledger
        self._book: Book
        self._revocations: Revocations
        self._passage: Passage
        self._calls: CallLog
        self._counts = Counts()
        self._gateway: Gateway
        self._decider: Decider | None = None
        self._told: str | None = None
        self._node_away = False
        self.tls = None if self._config.server.tls is None else self._config.server.tls.server()
        """What the data port shows to clients, None for plain text."""
        self._closing: asyncio.Task[None] | None = None

    def _read(self, message: Message) -> tuple[Config, int]:
        return parse((message.config or "").encode("utf-8"), self._file, os.environ), message.number

    def _forget(self) -> None:
        self._passage.verifier.memory.forget()
        if self._passage.desk is not None:
            self._passage.desk.verifier.memory.forget()

    async def start(self) -> Gateway:
        """Open the ledger as a new owner and put the gateway together."""
        config = self._config
        owner = secrets.token_hex(8)
        self._ledger = await reopen_ledger(config, self._keys.keyring)
        await self._ledger.register(owner)
        self._ledger.config = self._config_number
        self._revocations = Revocations(revocations_of(config, self._ledger.id), self._cut_revoked)
        await self._revocations.start()
        self._book = Book(self._ledger, new_owner=lambda: secrets.token_hex(8), committed=self._counts.committed)
        self._calls = CallLog(lambda piece: os.write(sys.stdout.fileno(), piece), time.time_ns)
        self._passage = Passage(
            routes=routes_of(config),
            verifier=Verifier(
                CAPABILITY, lambda key_id: self._keys.derived(CAPABILITY, key_id, time.time_ns()), config.limits
            ),
            revocations=self._revocations,
            book=self._book,
            log=self._calls,
            now=self._ledger.time,
            new_hold=hold_ids(owner),
            trusted_proxies=config.server.trusted_proxies,
            disclose_chain=config.server.disclose == "chain",
            desk=self._desk(config),
            agents=config.agents,
            approver=lambda key_id: self._keys.derived(APPROVAL, key_id, time.time_ns()),
        )
        self._telemetry = telemetry_of(config, owner, self._complain)
        self._tallying = Tallying(self._book, owner, time.time_ns)
        over = [self._calls.over, self._counts.over, self._tallying.over]
        if self._telemetry is not None:
            over.append(self._telemetry.over)
        self._gateway = Gateway(self._passage, over, None if self._telemetry is None else self._telemetry.begun)
        if config.decide is not None:
            self._decider = Decider(
                self._gateway, reported=config.decide.reported, timeout=config.decide.timeout, pass_on=self._pass_on
            )
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control.fileno(), self._command)
        loop.call_later(LOOK_SECONDS, self._look)
        # What lives as long as the process need not be looked at by every collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        return self._gateway

    def _cut_revoked(self) -> None:
        if self._config.server.revoked_calls == "cut":
            self._gateway.cut_revoked()

    async def listen_to_proxies(self) -> list[HttpServer]:
        """Open the decide port, if there is one."""
        decide = self._config.decide
        if decide is None or self._decider is None:
            return []
        server = HttpServer(self._decider)
        await server.listen(decide.host, decide.port)
        if decide.reported:
            await listen_for_logs(self._decider, decide.host, decide.port)
        return [server]

    def _complain(self, about: str) -> None:
        self._log.warning("telemetry is not sent", error=about)

    def _desk(self, config: Config) -> Desk | None:
        self._node_away = False

        def tell(problem: str | None) -> None:
            self._node_away = problem is not None
            if problem is None:
                self._log.info("the payment node is back")
            else:
                self._log.warning("the payment node is away; paid tokens go on, challenges do not", problem=problem)

        return desk_of(config, self._keys, self._book, now=self._ledger.time, tell=tell)

    def _close_desk(self, desk: Desk) -> None:
        self._closing = asyncio.get_running_loop().create_task(desk.invoicer.close())

    def _pass_on(self, reports: Sequence[Report]) -> None:
        self._control.tell(reports=reports)

    async def stop(self) -> None:
        """Write what is still to be settled, and end this owner."""
        if self._decider is not None:
            await self._decider.close()
        self._gateway.hand_on()
        self._tallying.sample()
        self._tallying.flush()
        await self._revocations.close()
        left = await self._book.close(SETTLE_SECONDS)
        if left:
            self._log.warning("settled late", holds=left)
        self._gateway.hand_on()
        self._calls.flush()
        if self._passage.desk is not None:
            await self._passage.desk.invoicer.close()
        self._tell_counts()
        if self._telemetry is not None:
            self._telemetry.close()
        for upstream in {route.upstream for route in self._passage.routes.all}:
            upstream.close()

    def _look(self) -> None:
        self._keys.refresh(time.time_ns())
        problem = self._book.problem or self._keys.problem or self._revocations.problem
        if problem != self._told:
            self._told = problem
            self._control.tell(problem=problem)
        # They are sums: the next ones make up for those that are left out.
        if self._control.catch_up():
            self._tell_counts()
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _tell_counts(self) -> None:
        others = {
            FAILED_GROUPS: self._book.failed,
            FENCED: self._book.fenced,
            UNREAD: int(self._revocations.problem is not None),
            OPEN_CALLS: self._gateway.open_calls,
            OPEN_HOLDS: len(self._book.holds),
            NODE_AWAY: int(self._node_away),
        }
        self._control.tell(counts=self._counts.rows(others))

    def _command(self) -> None:
        for message in self._control.more():
            if message.config is not None:
                self._reload(message)
            elif self._decider is not None:
                self._decider.take(message.reports)

    def _reload(self, message: Message) -> None:
        try:
            config, number = self._read(message)
            new_desk = self._desk(config)
            routes = routes_of(config)
            if self.tls is not None and config.server.tls is not None:
                config.server.tls.load(self.tls)
        except (TolseyError, OSError) as error:
            self._log.error("the new config is refused; the old one goes on", error=str(error))
            return
        before = {route.upstream for route in self._passage.routes.all}
        self._passage.routes = routes
        self._passage.trusted_proxies = config.server.trusted_proxies
        self._passage.disclose_chain = config.server.disclose == "chain"
        self._passage.agents = config.agents
        self._config, self._ledger.config = config, number
        self._cut_revoked()
        desk, self._passage.desk = self._passage.desk, new_desk
        if desk is not None:
            # A challenge under way still has its answer.
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._close_desk, desk)
        for upstream in before:
            # Calls under way go on over it; a connection closes when its call is over.
            upstream.close()


async def _serve(worker: Worker, control: Control, host: str, port: int) -> None:
    server = HttpServer(await worker.start())
    await server.listen(host, port, worker.tls)
    servers = [server, *await worker.listen_to_proxies()]
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    control.tell(ready=True)
    await stopping.wait()
    await asyncio.gather(*(each.drain(DRAIN_SECONDS) for each in servers))
    await worker.stop()
    control.finish()


def main(arguments: list[str]) -> int:
    """Run one worker until it is told to stop. Returns its exit status."""
    file, host, port = arguments
    control = Control(socket.socket(fileno=os.dup(0)))
    try:
        uvloop.run(_serve(Worker(Path(file), control), control, host, int(port)))
    except TolseyError as error:
        control.tell(failed=str(error))
        control.finish()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
