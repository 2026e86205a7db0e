"""One call on the fast path."""

from collections.abc import Callable

from tolsey.errors import LedgerUnavailable
from tolsey.gateway.messages import Cleared
from tolsey.gateway.plan import Plan
from tolsey.gateway.record import CallRecord
from tolsey.ledger.events import Outcome
from tolsey.pricing.usage import Usage


class FastCall:
    """A call on the fast path, waiting for its `hold` of `held` nano-units, and then under way. `plan` is what it
    follows, charged as `cleared` says; `usage` is there where it is metered. An observed call waits for nothing, and is
    written down with `hold` as its id.
    """

    __slots__ = ("_told", "call", "cleared", "held", "hold", "outcome", "plan", "record", "usage")

    def __init__(
        self,
        call: int,
        plan: Plan,
        cleared: Cleared,
        record: CallRecord,
        hold: str,
        held: int,
        told: "Callable[[FastCall], None]",
    ) -> None:
        self.call = call
        self.plan = plan
        self.cleared = cleared
        self.usage: Usage | None = cleared.quote.usage() if plan.metered else None
        self.record = record
        self.hold = hold
        self.held = held
        self.outcome: Outcome | LedgerUnavailable | None = None
        self._told = told

    def done(self) -> bool:
        """Book: whether the outcome was told."""
        return self.outcome is not None

    def cancelled(self) -> bool:
        """Book: whether it waits no more; it always does."""
        return False

    def set_result(self, outcome: Outcome) -> None:
        """Book: the outcome."""
        self.outcome = outcome
        self._told(self)

    def set_exception(self, error: LedgerUnavailable) -> None:
        """Book: there is none."""
        self.outcome = error
        self._told(self)
