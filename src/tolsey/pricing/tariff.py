"""A Tariff turns a Call into a Quote, the worst case that is reserved, and what was served into a cost."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tolsey.call import Call
from tolsey.units import Amount


class Quote(NamedTuple):
    """The most that a call can cost."""

    amount: Amount


@dataclass(frozen=True, slots=True)
class Tariff:
    """A flat price for each call. With `free_on_failure` a 5xx from the upstream costs nothing. `text` is the price
    as text.
    """

    price: Amount
    free_on_failure: bool = False
    text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", str(self.price))

    def quote(self, call: Call) -> Quote:
        """The worst case for `call`."""
        return Quote(self.price)

    def cost(self, status: int) -> int:
        """What a call cost that the upstream answered with `status`, in nano-units, at most what was quoted."""
        return 0 if self.free_on_failure and status >= 500 else self.price.nano
