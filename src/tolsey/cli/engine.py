"""One owner of a ledger and the gateway over it: what a worker serves, and what an application can have in it."""

import asyncio
import secrets
import time
from collections.abc import Callable

import structlog

from tolsey.cli.assemble import desk_of, reopen_ledger, revocations_of, routes_of, telemetry_of
from tolsey.config import Config
from tolsey.gateway.asgi import Gateway
from tolsey.gateway.counting import FAILED_GROUPS, FENCED, NODE_AWAY, OPEN_CALLS, OPEN_HOLDS, UNREAD, Counts, Row
from tolsey.gateway.desk import Desk
from tolsey.gateway.log import CallLog
from tolsey.gateway.mcp.line import all_ended
from tolsey.gateway.passage import Passage
from tolsey.gateway.routes import Routes
from tolsey.gateway.tallying import Tallying
from tolsey.store.book import Book, HoldIds
from tolsey.store.contract import Ledger
from tolsey.store.keyring import Keyring, LiveKeyring
from tolsey.store.revocations import Revocations
from tolsey.token.approvals import APPROVAL
from tolsey.token.chain import CAPABILITY
from tolsey.token.verifier import Verifier

DRAIN_SECONDS = 20.0
"""How long the calls under way may take to end once the gateway is told to stop."""

SETTLE_SECONDS = 5.0
"""How long settling may take once the last call is over."""


class Engine:
    """The parts of one process and their life. `number` is the config's in the ledger; `write` gets the lines about
    calls. `routes` takes the place of the config's.
    """

    def __init__(
        self,
        config: Config,
        number: int,
        log: structlog.stdlib.BoundLogger,
        write: Callable[[bytes], object],
        routes: Routes | None = None,
    ) -> None:
        self.config = config
        self._number = number
        self._log = log
        self._write = write
        self._routes = routes
        self._keys = LiveKeyring(Keyring.open(config.keys), self._forget)
        self._ledger: Ledger
        self._book: Book
        self._revocations: Revocations
        self._calls: CallLog
        self._counts = Counts()
        self._node_away = False
        self._closing: asyncio.Task[None] | None = None
        self.passage: Passage
        self.gateway: Gateway

    def _forget(self) -> None:
        self.passage.verifier.memory.forget()
        self.gateway.forget()
        if self.passage.desk is not None:
            self.passage.desk.verifier.memory.forget()

    async def start(self) -> None:
        """Open the ledger as a new owner and put the gateway together."""
        config = self.config
        owner = secrets.token_hex(8)
        self._ledger = await reopen_ledger(config, self._keys.keyring)
        await self._ledger.register(owner)
        self._ledger.config = self._number
        self._revocations = Revocations(revocations_of(config, self._ledger.id), self._cut_revoked)
        await self._revocations.start()
        self._book = Book(self._ledger, new_owner=lambda: secrets.token_hex(8), committed=self._counts.committed)
        self._calls = CallLog(self._write, time.time_ns)
        self._new_hold = HoldIds(owner).new
        self.passage = Passage(
            routes=routes_of(config, self._keys) if self._routes is None else self._routes,
            verifier=Verifier(
                CAPABILITY, lambda key_id: self._keys.derived(CAPABILITY, key_id, time.time_ns()), config.limits
            ),
            revocations=self._revocations,
            book=self._book,
            log=self._calls,
            now=self._ledger.time,
            new_hold=self._new_hold,
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
        self.gateway = Gateway(self.passage, over, None if self._telemetry is None else self._telemetry.begun)

    def _cut_revoked(self) -> None:
        if self.config.server.revoked_calls == "cut":
            self.gateway.cut_revoked()

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

        def tell_unsettled(payment: str, problem: str) -> None:
            self._log.warning("a payment over x402 is not settled", payment=payment, problem=problem)

        return desk_of(
            config,
            self._keys,
            self._book,
            now=self._ledger.time,
            new_hold=self._new_hold,
            tell=tell,
            tell_unsettled=tell_unsettled,
        )

    def _close_desk(self, desk: Desk) -> None:
        self._closing = asyncio.get_running_loop().create_task(desk.close())

    async def stop(self) -> None:
        """Write what is still to be settled, and end this owner."""
        self.gateway.ended.hand_on()
        self._tallying.sample()
        self._tallying.flush()
        await self._revocations.close()
        left = await self._book.close(SETTLE_SECONDS)
        if left:
            self._log.warning("settled late", holds=left)
        self.gateway.ended.hand_on()
        self._calls.flush()
        if self.passage.desk is not None:
            await self.passage.desk.close()
        if self._telemetry is not None:
            self._telemetry.close()
        for upstream in self.passage.routes.destinations:
            upstream.close()
        await all_ended()

    def look(self) -> str | None:
        """Look at the keyring; returns what keeps calls from being served at the moment."""
        self._keys.refresh(time.time_ns())
        return self._book.problem or self._keys.problem or self._revocations.problem

    def counts(self) -> list[Row]:
        """All that was counted."""
        others = {
            FAILED_GROUPS: self._book.failed,
            FENCED: self._book.fenced,
            UNREAD: int(self._revocations.problem is not None),
            OPEN_CALLS: self.gateway.open_calls,
            OPEN_HOLDS: len(self._book.holds),
            NODE_AWAY: int(self._node_away),
        }
        return self._counts.rows(others)

    def reload(self, config: Config, number: int) -> None:
        """Go on with another config. Raises `TolseyError`, and then nothing has changed."""
        new_desk = self._desk(config)
        routes = routes_of(config, self._keys)
        before = self.passage.routes.destinations
        self.passage.routes = routes
        self.passage.trusted_proxies = config.server.trusted_proxies
        self.passage.disclose_chain = config.server.disclose == "chain"
        self.passage.agents = config.agents
        self.config, self._ledger.config = config, number
        self._cut_revoked()
        desk, self.passage.desk = self.passage.desk, new_desk
        if desk is not None:
            # A challenge under way still has its answer.
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._close_desk, desk)
        for upstream in before:
            # Calls under way go on over it; a connection closes when its call is over.
            upstream.close()
