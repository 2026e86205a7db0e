"""What is revoked, as one process knows it: never more than a second old (RULES.md L13).

The ledger counts the changes to its list of revocations. That count is asked for twice a second, over a connection of
its own, and the list read again when it is another. How old the knowledge is, is counted from when it was asked for.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from tolsey.errors import Refusal, TolseyError
from tolsey.ledger.revoking import Revocation, refusal_of
from tolsey.store.contract import Snapshot
from tolsey.token.chain import Chain

ASK_SECONDS: Final = 0.5
"""How often the ledger is asked."""

FRESH_SECONDS: Final = 1.0
"""How old the knowledge may be when a call is let through."""

AGAIN_SECONDS: Final = 0.1
"""How long to wait after an answer that did not come."""

WAIT_SECONDS: Final = 0.5
"""How long a call waits for the next answer where the last one is too old, as after a pause of the whole process."""

UNKNOWN: Final = "what is revoked could not be read within a second"


def standing(snapshot: Snapshot) -> list[Revocation]:
    """What is revoked, oldest first, without what matters to no token any more. Opens the snapshot."""
    with snapshot:
        now = snapshot.now()
        return [each for each in snapshot.revocations() if each.expires is None or each.expires > now]


class Source(Protocol):
    """Where revocations are read."""

    async def read(self, known: int | None) -> tuple[int, frozenset[str]] | None:
        """The count of changes and the prefix ids that are revoked; None if the count is still `known`.

        Raises `LedgerUnavailable` or `LedgerRefused`.
        """

    async def close(self) -> None:
        """Let go of the ledger."""


class Revocations:
    """The revocations of one ledger, for one event loop. `changed` is called when they are others than before."""

    def __init__(self, source: Source, changed: Callable[[], None]) -> None:
        self.ids: frozenset[str] = frozenset()
        self._source = source
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._known: int | None = None
        self._asked = float("-inf")
        self._answer: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._problem = UNKNOWN

    async def start(self) -> None:
        """Read what is revoked, and go on asking. Raises as `Source.read`: nothing may be served before (L5)."""
        await self._ask()
        self._task = self._loop.create_task(self._run(), name="revocations")

    @property
    def problem(self) -> str | None:
        """Why calls are refused at the moment, or None."""
        return None if self._is_fresh() else self._problem

    def refusal(self, chain: Chain) -> Refusal | None:
        """Why a verified chain is refused: it is revoked, or whether it is cannot be known at the moment."""
        refusal = self.revoked(chain) if self.ids else None
        if refusal is None and not self._is_fresh():
            return Refusal("ledger_unavailable", UNKNOWN)
        return refusal

    def revoked(self, chain: Chain) -> Refusal | None:
        """Why a verified chain is refused by what was known last."""
        return refusal_of(chain, self.ids)

    async def check(self, chain: Chain) -> Refusal | None:
        """As `refusal`, but what is too old is asked for before."""
        until = self._loop.time() + WAIT_SECONDS
        while not self._is_fresh() and (left := until - self._loop.time()) > 0:
            await asyncio.wait({self._answer}, timeout=left)
        return self.refusal(chain)

    def _is_fresh(self) -> bool:
        return self._loop.time() - self._asked <= FRESH_SECONDS

    async def _run(self) -> None:
        while True:
            pause = AGAIN_SECONDS
            try:
                before = self._known
                await self._ask()
                pause = self._asked + ASK_SECONDS - self._loop.time()
                if self._known != before:
                    self._changed()
            except TolseyError as error:
                self._problem = error.detail
            except Exception as fault:  # noqa: BLE001 - whatever it is, asking must go on, and until then calls are refused
                self._problem = f"{UNKNOWN} ({type(fault).__name__})"
                self._loop.call_exception_handler({"message": self._problem, "exception": fault})
            answer, self._answer = self._answer, self._loop.create_future()
            answer.set_result(None)
            await asyncio.sleep(max(0, pause))

    async def _ask(self) -> None:
        asked = self._loop.time()
        found = await self._source.read(self._known)
        if found is not None:
            self._known, self.ids = found
        self._asked = asked

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._source.close()
