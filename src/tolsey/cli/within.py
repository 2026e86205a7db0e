"""A gateway within one process: its ledger, its engine and its chores, for an application, or for one MCP client."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable

import structlog

from tolsey.cli.assemble import open_ledger, outside_of
from tolsey.cli.engine import Engine
from tolsey.cli.house import SEND_SECONDS, TICK_SECONDS, House
from tolsey.config import Config
from tolsey.errors import TolseyError
from tolsey.gateway.asgi import Gateway
from tolsey.gateway.routes import Routes
from tolsey.store.contract import Ledger
from tolsey.store.keyring import Keyring


class Within:
    """The parts of such a gateway and their life. `write` gets the lines about calls."""

    def __init__(self, config: Config, log: structlog.stdlib.BoundLogger, write: Callable[[bytes], object]) -> None:
        self._config = config
        self._log = log
        self._write = write
        self._ledger: Ledger
        self._house: House
        self._engine: Engine
        self._keeper: asyncio.Task[None]

    async def open(self, routes: Routes) -> Gateway:
        """Open the ledger, resolve what dead owners held, and be ready for calls. Raises `TolseyError`."""
        config = self._config
        keyring = Keyring.open(config.keys)
        self._ledger = await open_ledger(config, keyring, new_id=secrets.token_hex(16))
        self._outside = outside_of(config, lambda problem: self._log.error("not sent", error=problem))
        self._house = House(keyring, self._ledger, lambda: config.seal, self._log, self._outside.send)
        await self._house.settle_expired()
        number = await self._ledger.number_config(config.generation)
        self._engine = Engine(config, number, self._log, self._write, routes)
        await self._engine.start()
        self._keeper = asyncio.create_task(self._keep())
        return self._engine.gateway

    async def _keep(self) -> None:
        told = None
        while True:
            await asyncio.sleep(TICK_SECONDS)
            problem = self._engine.look()
            try:
                await self._house.chores()
            except TolseyError as error:
                problem = problem or error.detail
            if problem != told:
                told = problem
                if problem is None:
                    self._log.info("the ledger is kept again")
                else:
                    self._log.error("the ledger cannot be kept", error=problem)

    async def close(self) -> None:
        """Settle what is left, and end this owner."""
        self._keeper.cancel()
        await asyncio.wait({self._keeper})
        await self._engine.stop()
        with contextlib.suppress(TolseyError):
            await self._house.chores(last=True)
        await self._outside.close(SEND_SECONDS)
        await self._ledger.close()
