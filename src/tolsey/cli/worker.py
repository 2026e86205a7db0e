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
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import uvloop

from tolsey.cli import logs
from tolsey.cli.engine import DRAIN_SECONDS, Engine
from tolsey.config import Config, parse
from tolsey.errors import TolseyError
from tolsey.gateway.asgi import Gateway
from tolsey.gateway.deciding import Decider, listen_for_logs
from tolsey.gateway.fast_path import FastPath
from tolsey.gateway.native import Wire
from tolsey.gateway.reports import Report
from tolsey.gateway.server import HttpServer

LOOK_SECONDS = 0.5
"""How often the keyring is looked at, and the supervisor told of the ledger's state and of what was counted."""

LAST_SECONDS = 2.0
"""How long the last message may take to be sent."""


class Message(msgspec.Struct):
    """What the supervisor sends: a config that it accepted, and its number in the ledger; or reports."""

    config: str | None = None
    number: int = 0
    reports: list[Report] = []


class Listening(Protocol):
    """What serves on a port."""

    async def drain(self, seconds: float) -> None:
        """Take no more, and let what is under way end, for at most so many seconds."""


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
    """The engine of one worker, under its supervisor's command."""

    def __init__(self, file: Path, control: "Control") -> None:
        self._file = file
        self._control = control
        self._log = logs.configure()
        config, number = self._read(control.first())
        self._engine = Engine(config, number, self._log, lambda piece: os.write(sys.stdout.fileno(), piece))
        self._decider: Decider | None = None
        self._told: str | None = None
        self.tls = None if config.server.tls is None else config.server.tls.server()
        """What the data port shows to clients, None for plain text."""

    def _read(self, message: Message) -> tuple[Config, int]:
        return parse((message.config or "").encode("utf-8"), self._file, os.environ), message.number

    async def start(self) -> Gateway:
        """Open the ledger as a new owner and put the gateway together."""
        await self._engine.start()
        decide = self._engine.config.decide
        if decide is not None:
            self._decider = Decider(
                self._engine.gateway, reported=decide.reported, timeout=decide.timeout, pass_on=self._pass_on
            )
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control.fileno(), self._command)
        loop.call_later(LOOK_SECONDS, self._look)
        # What lives as long as the process need not be looked at by every collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        return self._engine.gateway

    def fast_path(self, server: HttpServer) -> FastPath | None:
        """The way past the server for calls that are known, where its wire was built. Over TLS there is none, nor where
        every call is a span of its own.
        """
        engine = self._engine
        try:
            wire = None if self.tls is not None or engine.config.telemetry.endpoint is not None else Wire.load()
        except OSError as error:
            self._log.warning("the compiled wire cannot be used, so no call takes the fast path", error=str(error))
            return None
        if wire is not None:
            engine.gateway.fast = FastPath(wire, engine.gateway, engine.passage, server)
        return engine.gateway.fast

    async def listen_to_proxies(self) -> list[Listening]:
        """Open the decide ports, if there are any."""
        decide = self._engine.config.decide
        if decide is None or self._decider is None:
            return []
        server = HttpServer(self._decider)
        await server.listen(decide.host, decide.port)
        if decide.reported:
            await listen_for_logs(self._decider, decide.host, decide.port)
        if decide.grpc_port is None:
            return [server]
        from tolsey.gateway.deciding_grpc import GrpcServer

        over_grpc = GrpcServer(self._decider)
        await over_grpc.listen(decide.host, decide.grpc_port)
        return [server, over_grpc]

    def _pass_on(self, reports: Sequence[Report]) -> None:
        self._control.tell(reports=reports)

    async def stop(self) -> None:
        """Write what is still to be settled, and end this owner."""
        if self._decider is not None:
            await self._decider.close()
        await self._engine.stop()
        self._control.tell(counts=self._engine.counts())

    def _look(self) -> None:
        problem = self._engine.look()
        if problem != self._told:
            self._told = problem
            self._control.tell(problem=problem)
        # They are sums: the next ones make up for those that are left out.
        if self._control.catch_up():
            self._control.tell(counts=self._engine.counts())
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _command(self) -> None:
        for message in self._control.more():
            if message.config is not None:
                self._reload(message)
            elif self._decider is not None:
                self._decider.take(message.reports)

    def _reload(self, message: Message) -> None:
        try:
            config, number = self._read(message)
            if self.tls is not None and config.server.tls is not None:
                config.server.tls.load(self.tls)
            self._engine.reload(config, number)
        except (TolseyError, OSError) as error:
            self._log.error("the new config is refused; the old one goes on", error=str(error))


async def _serve(worker: Worker, control: Control, host: str, port: int) -> None:
    server = HttpServer(await worker.start())
    fast = worker.fast_path(server)
    if fast is None:
        await server.listen(host, port, worker.tls)
    else:
        await fast.listen(host, port)
    # When they are drained, the fast path hands on to the server.
    servers: list[Listening] = [*([] if fast is None else [fast]), server, *await worker.listen_to_proxies()]
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
