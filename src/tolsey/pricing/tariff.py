"""A Tariff turns a Call into a Quote, the worst case that is reserved, and what was served into a cost."""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tolsey.call import Call
from tolsey.units import NANO, Amount

STEP_SECONDS: Final = 10
"""So many seconds of a call that is charged by time are held at a time."""


class Quote(NamedTuple):
    """The most that a call can cost before its hold is extended."""

    amount: Amount


@dataclass(frozen=True, slots=True)
class Tariff:
    """A flat price for each call, and `per_second` (nano-units of the same unit) for the time that its response takes.

    With `free_on_failure` a 5xx from the upstream costs nothing. `text` is the flat price as text.
    """

    price: Amount
    free_on_failure: bool = False
    per_second: int = 0
    text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", str(self.price))

    @property
    def step(self) -> int:
        """What a hold is extended by, in nano-units: `STEP_SECONDS` of the call."""
        return self.per_second * STEP_SECONDS

    def quote(self, call: Call) -> Quote:
        """The worst case for `call`. Raises `AmountInvalid` if it fits no amount."""
        return Quote(self.price if not self.per_second else Amount(self.price.nano + self.step, self.price.unit))

    def cost(self, status: int, ns: int = 0) -> int:
        """What a call cost that the upstream answered with `status` and whose response took `ns` nanoseconds, in
        nano-units, rounded up once.
        """
        if self.free_on_failure and status >= 500:
            return 0
        return self.price.nano - (-self.per_second * ns // NANO)
