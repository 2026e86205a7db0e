"""The chores of whoever keeps a ledger: the supervisor of a gateway, or an application that has one in it."""

import asyncio
import time
from collections.abc import Callable

import structlog

from tolsey.config_ledger import Seal
from tolsey.store.checkpoints import AT_ONCE, Notary
from tolsey.store.contract import Ledger
from tolsey.store.keyring import Keyring

TICK_SECONDS = 0.5
"""How often they are done: far less than the two seconds in which a dead process's holds must be resolved."""

SEND_SECONDS = 2.0
"""How long the last checkpoints may take to be sent outside."""

SETTLED = "settled holds of dead workers, or beyond their time, as unmetered"


class House:
    """One ledger that is kept. `seal` says when checkpoints are due, `send` gets those that are taken; `expired` counts
    holds that were settled here.
    """

    def __init__(
        self,
        keyring: Keyring,
        ledger: Ledger,
        seal: Callable[[], Seal],
        log: structlog.stdlib.BoundLogger,
        send: Callable[[bytes], None],
    ) -> None:
        self._keyring = keyring
        self._ledger = ledger
        self._seal = seal
        self._log = log
        self._send = send
        self._notary = Notary(keyring, self._tell_seal)
        self._marked = -1
        self.expired = 0

    @property
    def seal_problem(self) -> str:
        """Why no checkpoint can be signed, `""` while they can."""
        return self._notary.problem

    def _tell_seal(self, problem: str) -> None:
        if problem:
            self._log.error("no checkpoint is taken", error=problem)
        else:
            self._log.info("checkpoints are taken again")

    async def settle_expired(self) -> None:
        """Resolve what dead owners held. Raises `TolseyError`."""
        expired = await self._ledger.expire()
        self.expired += expired
        if expired:
            self._log.warning(SETTLED, holds=expired)

    async def chores(self, *, last: bool = False) -> None:
        """Resolve what dead owners held, do the ledger's housework, raise the mark; `last` takes a checkpoint whatever
        is due. Raises `TolseyError`.
        """
        await self.settle_expired()
        await self._ledger.tidy()
        seal = self._seal()
        every = AT_ONCE if last else (seal.entries, seal.seconds)
        made = await self._notary.keep(self._ledger, every, time.time_ns())
        if made is not None:
            self._send(made)
        entries = await self._ledger.entry_count()
        if entries != self._marked:
            await asyncio.to_thread(self._keyring.write_mark, self._ledger.id, entries, time.time_ns())
            self._marked = entries
