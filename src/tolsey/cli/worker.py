"""One worker: a process that serves the data port. Started by `tolsey serve`, never by hand.

    python -m tolsey.cli.worker CONFIG HOST PORT CONFIG_NUMBER

Standard input is a socket to the supervisor: it sends `reload N`, and its end of file means that it is gone, and then
this process must be gone too. What this process sends are JSON lines: `{"ready": true}` and `{"problem": …}`.
"""

import asyncio
import gc
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from tolsey.cli import logs
from tolsey.cli.assemble import hold_ids, reopen_ledger, routes_of
from tolsey.config import Config, load
from tolsey.errors import TolseyError
from tolsey.gateway.asgi import Gateway
from tolsey.gateway.log import CallLog
from tolsey.gateway.passage import Passage
from tolsey.gateway.server import HttpServer
from tolsey.store.book import Book
from tolsey.store.keyring import Keyring, LiveKeyring
from tolsey.store.sqlite import SqliteLedger
from tolsey.token.chain import CAPABILITY
from tolsey.token.verifier import Verifier

LOOK_SECONDS = 0.5
"""How often the keyring is looked at and the ledger's state is reported."""

DRAIN_SECONDS = 20.0
"""How long the calls under way may take to end once the gateway is told to stop."""

SETTLE_SECONDS = 5.0
"""How long settling may take once the last call is over."""


class Worker:
    """The parts of one worker and their life."""

    def __init__(self, file: Path, config_number: int, control: socket.socket) -> None:
        self._file = file
        self._config_number = config_number
        self._control = control
        self._log = logs.configure()
        self._config: Config = load(file, os.environ)
        self._keys = LiveKeyring(Keyring.open(self._config.keys), self._forget)
        self._ledger: SqliteLedger
        self._book: Book
        self._passage: Passage
        self._calls: CallLog
        self._told: str | None = None

    def _forget(self) -> None:
        self._passage.verifier.memory.forget()

    async def start(self) -> Passage:
        """Open the ledger as a new owner and put the passage together."""
        config = self._config
        owner = secrets.token_hex(8)
        self._ledger = reopen_ledger(config, self._keys.keyring)
        self._ledger.register(owner, time.time_ns())
        self._ledger.config = self._config_number
        self._book = Book(
            self._ledger,
            timeout=config.ledger.timeout,
            now=time.time_ns,
            new_owner=lambda: secrets.token_hex(8),
        )
        self._calls = CallLog(lambda piece: os.write(sys.stdout.fileno(), piece), time.time_ns)
        self._passage = Passage(
            routes=routes_of(config),
            verifier=Verifier(
                CAPABILITY, lambda key_id: self._keys.derived(CAPABILITY, key_id, time.time_ns()), config.limits
            ),
            book=self._book,
            log=self._calls,
            now=lambda: self._ledger.time(time.time_ns()),
            new_hold=hold_ids(owner),
            trusted_proxies=config.server.trusted_proxies,
            disclose_chain=config.server.disclose == "chain",
        )
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control.fileno(), self._command)
        loop.call_later(LOOK_SECONDS, self._look)
        # What lives as long as the process need not be looked at by every collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        return self._passage

    async def stop(self) -> None:
        """Write what is still to be settled, and end this owner."""
        left = await self._book.close(SETTLE_SECONDS)
        if left:
            self._log.warning("settled late", holds=left)
        self._calls.flush()
        for upstream in {route.upstream for route in self._passage.routes.all}:
            upstream.close()

    def tell(self, **message: object) -> None:
        """Send one line to the supervisor."""
        self._control.sendall(msgspec.json.encode(message) + b"\n")

    def _look(self) -> None:
        self._keys.refresh(time.time_ns())
        problem = self._book.problem or self._keys.problem
        if problem != self._told:
            self._told = problem
            self.tell(problem=problem)
        asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _command(self) -> None:
        line = self._control.recv(4096)
        if not line:
            # The supervisor is gone. Its end is this process's: what was in flight is found by the next one.
            os._exit(1)
        words = line.split()
        if words[:1] == [b"reload"]:
            self._reload(int(words[-1]))

    def _reload(self, config_number: int) -> None:
        try:
            config = load(self._file, os.environ)
        except TolseyError as error:
            self._log.error("the new config is refused; the old one goes on", error=str(error))
            return
        self._passage.routes = routes_of(config)
        self._passage.trusted_proxies = config.server.trusted_proxies
        self._passage.disclose_chain = config.server.disclose == "chain"
        self._ledger.config = config_number
        # Calls under way keep their old upstream, whose connections close when the last of them is over.


async def _serve(worker: Worker, host: str, port: int) -> None:
    server = HttpServer(Gateway(await worker.start()))
    await server.listen(host, port)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    worker.tell(ready=True)
    await stopping.wait()
    await server.drain(DRAIN_SECONDS)
    await worker.stop()


def main(arguments: list[str]) -> int:
    """Run one worker until it is told to stop. Returns its exit status."""
    file, host, port, number = arguments
    control = socket.socket(fileno=os.dup(0))
    control.setblocking(True)
    try:
        worker = Worker(Path(file), int(number), control)
        uvloop.run(_serve(worker, host, int(port)))
    except TolseyError as error:
        control.sendall(msgspec.json.encode({"failed": str(error)}) + b"\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
