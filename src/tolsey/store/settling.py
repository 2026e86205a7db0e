"""What a facilitator of x402 is asked: whether a payer's signature is good, and to move the asset on its network.

What it says is one of three: settled, surely not settled, or not known. Silence, an error and an answer that cannot be
read are of the third kind, and so is every refusal that does not say that nothing was sent to the network.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from tolsey.errors import TolseyError
from tolsey.token.x402 import Authorization


class FacilitatorAway(TolseyError):
    """No answer that says anything. `str(error)` is for the log alone."""

    code = "facilitator_away"


class Settled(NamedTuple):
    """It is settled, by this transaction."""

    transaction: str


class Refused(NamedTuple):
    """It was refused. `sure` says that nothing was sent to the network."""

    reason: str
    sure: bool


class Facilitator(Protocol):
    """Asked about an authorization, and what it is to fulfil. Both questions raise `FacilitatorAway`."""

    async def verify(self, authorization: Authorization, requirements: Mapping[str, object]) -> Refused | None:
        """Whether it could be settled now; None if so. Moves nothing."""

    async def settle(self, authorization: Authorization, requirements: Mapping[str, object]) -> Settled | Refused:
        """Settle it."""

    async def close(self) -> None:
        """Let go of the facilitator."""
