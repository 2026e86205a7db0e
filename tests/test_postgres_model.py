"""The PostgreSQL ledger against the plain model of `test_ledger_model.py`: several gateways on one database that spend,
lose their connection before and behind a COMMIT, die, are taken for dead and recover.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar, TypeVar

import asyncpg
import pytest

from tests.model import Engine, Fate, Seat
from tests.postgres import Gateways, Server
from tests.test_ledger_model import LedgerMachine, hold_against_the_model
from tolsey.errors import CommitUnknown, LedgerUnavailable
from tolsey.ledger.books import Balance
from tolsey.ledger.events import Event, Outcome
from tolsey.store import postgres_owners
from tolsey.store.postgres import PostgresLedger
from tolsey.store.reports import Checked
from tolsey.testing import FakeClock
from tolsey.token.chain import Account

_R = TypeVar("_R")

NEVER = 1 << 62


class PostgresSeat:
    """A gateway on the database."""

    def __init__(self, engine: "OnPostgres", ledger: PostgresLedger, owner: str) -> None:
        self.owner = owner
        self.fenced = False
        self._engine, self._ledger = engine, ledger

    def time(self) -> int:
        return self._engine.clock()

    def run(self, events: Sequence[Event], fate: Fate) -> list[Outcome] | None:
        if fate == "done":
            return self._engine.ask(lambda: self._ledger.write(events))
        self._lose_commit(before=fate == "commit fails")
        try:
            # A group that changes nothing has no COMMIT that could fail.
            self._engine.ask(lambda: self._ledger.write(events))
        except CommitUnknown:
            assert self._ledger._doubt is not None
        except LedgerUnavailable:
            pass
        self._ledger.__dict__.pop("_commit", None)
        return None

    def _lose_commit(self, *, before: bool) -> None:
        """Let the connection be lost at the next COMMIT, before it is sent or behind it."""
        ledger = self._ledger

        async def commit(session: Any, name: str) -> None:  # noqa: ANN401 - a session of the ledger's own
            del ledger._commit
            if not before:
                await ledger._commit(session, name)
            ledger._committing = name
            raise asyncpg.ConnectionDoesNotExistError("as told")

        ledger._commit = commit  # type: ignore[method-assign]  # a fault, injected into this one ledger

    def balances(self, accounts: Sequence[Account]) -> list[Balance]:
        return self._engine.ask(lambda: self._ledger.balances(accounts))

    def register(self, owner: str) -> None:
        self.owner, self.fenced = owner, False
        self._engine.ask(lambda: self._ledger.register(owner))

    def expire(self) -> int:
        return self._engine.ask(self._ledger.expire)

    def lose_life(self) -> None:
        """Its lease lapses."""
        self.fenced = True
        self._engine.lapse(self._ledger.owner)

    def tidy(self) -> None:
        self._engine.ask(self._ledger.tidy)

    def end(self) -> None:
        self._engine.lapse(self._ledger.owner)
        self._engine.ask(self._ledger.close)


class OnPostgres:
    """Gateways on one database whose clock is the test's. No lease lapses by the jumps of that clock."""

    goes_back = False
    fates: tuple[Fate, ...] = ("done", "commit fails", "answer lost")

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = FakeClock()
        self._runner = asyncio.Runner()
        self._gateways = Gateways(url)
        self._lapsed: set[int] = set()
        self._runner.run(self._begin())

    async def _begin(self) -> None:
        await (await self._gateways.open()).expire()
        self._db = await asyncpg.connect(self.url, server_settings={"search_path": "tolsey"})
        await self._db.execute(
            "CREATE TABLE clock AS SELECT 0::bigint AS at; CREATE OR REPLACE FUNCTION now_ns() RETURNS bigint"
            " LANGUAGE sql AS 'SELECT at FROM tolsey.clock'"
        )

    def ask(self, asked: Callable[[], Coroutine[Any, Any, _R]]) -> _R:
        """Run it with the clock as it is."""
        return self._runner.run(self._ask(asked))

    async def _ask(self, asked: Callable[[], Coroutine[Any, Any, _R]]) -> _R:
        await self._db.execute("UPDATE clock SET at = $1", self.clock())
        await self._db.execute("UPDATE server SET since = 0")
        await self._db.execute(
            "UPDATE lease SET until = CASE WHEN owner = ANY ($1) THEN 0 ELSE $2::bigint END", list(self._lapsed), NEVER
        )
        return await asked()

    def lapse(self, owner: int) -> None:
        """Let an owner's lease be over."""
        self._lapsed.add(owner)

    def open(self, owner: str) -> Seat:
        ledger = self.ask(lambda: self._gateways.open(now=self.clock))
        seat = PostgresSeat(self, ledger, owner)
        seat.register(owner)
        return seat

    def checked(self) -> Checked:
        """Only counted: every sum is held against the model beside this."""
        return Checked(0, 0, len(self.open_holds()), None)

    def open_holds(self) -> set[str]:
        async def look() -> set[str]:
            return {row["id"] for row in await self._db.fetch("SELECT id FROM hold")}

        return self.ask(look)

    def close(self) -> None:
        self._runner.run(self._gateways.close())
        self._runner.run(self._db.close())
        self._runner.close()


class PostgresMachine(LedgerMachine):
    server: ClassVar[Server]

    @staticmethod
    def engine() -> Engine:
        return OnPostgres(PostgresMachine.server.database())


def test_the_ledger_on_postgresql_is_as_the_model_says(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # Leases are the machine's to give and to take, not the time's.
    monkeypatch.setattr(postgres_owners, "RENEW_SECONDS", 3600.0)
    monkeypatch.setattr(postgres_owners, "SILENCE_SECONDS", 3600.0)
    PostgresMachine.server = postgres
    hold_against_the_model(PostgresMachine, 12)
