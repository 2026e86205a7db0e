"""What the tokens of a model cost.

The units are those of genai-prices: each has dimensions, and one whose dimensions are all among another's is the wider
of the two. What is counted under a unit that is priced is not counted again under the wider ones.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol

Exact = int | Fraction
"""An amount in nano-units, exactly. Fractions are slow, so it is an int where it is known to be whole."""

Dimensions = frozenset[tuple[str, str]]
"""Of a unit: `{("family", "tokens"), ("direction", "input"), ("token_type", "cache_read")}`."""

Counts = Mapping[str, int]
"""How much of each unit was used, by the unit's name; a wider unit includes the narrower ones."""

INPUT: Final = "input_tokens"
OUTPUT: Final = "output_tokens"

_IN_WIDER: Final = frozenset(
    {"cache_read_tokens", "cache_write_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"}
    | {"output_reasoning_tokens"}
)
"""What costs as the wider unit does where it has no price of its own."""

MOST_COUNTED: Final = 10**12
"""The largest count that is taken for a usage."""


def exact(amount: Fraction) -> Exact:
    """The same amount, as an int if it is whole."""
    return amount.numerator if amount.denominator == 1 else amount


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """What one of a unit costs, in nano-units. From more than `tiers[n][0]` tokens of input on, it is `tiers[n][1]` for
    all of them.
    """

    dimensions: Dimensions
    base: Exact
    tiers: tuple[tuple[int, Exact], ...] = ()

    def at(self, tokens: int) -> Exact:
        """The rate of a call with so many tokens of input."""
        return next((rate for start, rate in reversed(self.tiers) if tokens > start), self.base)

    def most(self, tokens: int) -> Exact:
        """The highest rate of a call with at most so many tokens of input."""
        return max([self.base] + [rate for start, rate in self.tiers if tokens > start])


class UnitPrices(dict[str, UnitPrice]):
    """By the unit's name. They do not change once a call was priced by them."""

    def __init__(self, prices: Iterable[tuple[str, UnitPrice]] = ()) -> None:
        super().__init__(prices)
        self._narrowest_first: tuple[tuple[str, UnitPrice, tuple[str, ...]], ...] | None = None
        self._directed: dict[tuple[str, bool], tuple[UnitPrice, ...]] = {}

    @property
    def narrowest_first(self) -> tuple[tuple[str, UnitPrice, tuple[str, ...]], ...]:
        """Each unit with its price and the units that are narrower, which come before it."""
        if self._narrowest_first is None:
            names = sorted(self, key=lambda unit: (-len(self[unit].dimensions), unit))
            self._narrowest_first = tuple(
                (unit, self[unit], tuple(other for other in names if self[unit].dimensions < self[other].dimensions))
                for unit in names
            )
        return self._narrowest_first

    def of_tokens(self, direction: str, *, cached: bool) -> tuple[UnitPrice, ...]:
        """Those of the tokens of a direction; without `cached` none of what is written to the provider's cache."""
        found = self._directed.get((direction, cached))
        if found is None:
            dimensions = {("family", "tokens"), ("direction", direction)}
            found = self._directed[direction, cached] = tuple(
                rate
                for rate in self.values()
                if dimensions <= rate.dimensions and (cached or ("token_type", "cache_write") not in rate.dimensions)
            )
        return found


@dataclass(frozen=True, slots=True)
class Variant:
    """Other rates for a call that is served in a special way: where `key` (`service_tier`, `speed`) is `value`."""

    key: str
    value: str
    since: int
    rates: UnitPrices


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The prices of one model. `periods` are rates with the instant (nanoseconds since the epoch) from which they hold,
    the earliest first. `context` is how many tokens the model takes in all, `max_output` how many it gives, None where
    that is not known. `source` is where the prices are from, and `listed` the name that they stand under there: whoever
    calls may choose among those, and make up no other.
    """

    id: str
    source: str
    periods: tuple[tuple[int, UnitPrices], ...]
    variants: tuple[Variant, ...] = ()
    context: int | None = None
    max_output: int | None = None
    listed: str = ""

    def rates(self, now: int, ways: Mapping[str, str]) -> UnitPrices:
        """The rates at an instant for a call that is served in these ways."""
        rates = next((rates for since, rates in reversed(self.periods) if since <= now), self.periods[0][1])
        taken: set[str] = set()
        for variant in self.variants:
            if variant.since <= now and ways.get(variant.key) == variant.value:
                others = {unit: rate for unit, rate in variant.rates.items() if unit not in taken}
                rates = UnitPrices((rates | others).items())
                taken |= variant.rates.keys()
        return rates

    def cost(self, counts: Counts, now: int, ways: Mapping[str, str]) -> Exact:
        """What these counts cost, in nano-units. Raises ValueError, which says why, where they make no sense."""
        rates = self.rates(now, ways)
        if any(count and unit not in rates and unit not in _IN_WIDER for unit, count in counts.items()):
            raise ValueError(f"{self.id} has no price for all that was used")
        own: dict[str, int] = {}
        total: Exact = 0
        for unit, price, narrower in rates.narrowest_first:
            own[unit] = counts.get(unit, 0) - sum([own[other] for other in narrower])
            if own[unit] < 0:
                raise ValueError(f"more was counted in parts of {unit} than in all")
            if own[unit]:
                total += own[unit] * price.at(counts.get(INPUT, 0))
        return total

    def most(self, direction: str, tokens: int, now: int, ways: Mapping[str, str], *, cached: bool) -> Exact | None:
        """The most that one token of a direction (`input`, `output`) can cost in a call with at most `tokens` of input,
        None where the model has no price for it. With `cached` false nothing is written to the provider's cache.
        """
        rates = self.rates(now, ways)
        if f"{direction}_tokens" not in rates:
            return None
        return max([rate.most(tokens) for rate in rates.of_tokens(direction, cached=cached)])


class ModelPrices(Protocol):
    """Where the prices of models are found."""

    def find(self, provider: str, model: str) -> ModelPrice | None:
        """The prices of a model by the name that a request has for it, None if it is not known."""


def read_count(value: object) -> int:
    """A count of a usage: a whole number from 0; none is 0. Raises ValueError."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_COUNTED:
        raise ValueError("the usage holds what is no count")
    return value
