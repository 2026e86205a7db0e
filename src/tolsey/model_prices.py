"""The prices of models: those of the config, and behind them those of the package genai-prices, as it was installed.

Nothing here reads the network: what the package knows changes with its version, and that is pinned.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from fractions import Fraction
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from tolsey.config_prices import Model
from tolsey.pricing.models import INPUT, OUTPUT, Dimensions, ModelPrice, UnitPrice, UnitPrices, Variant, exact
from tolsey.token.caveats import glob_matches
from tolsey.units import NANO

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider
    from genai_prices.types import ModelPrice as Listed

MAX_KNOWN: Final = 4096
"""How many names are remembered with what they mean; the names come from requests."""

_MILLION: Final = 1_000_000
_TOKENS: Final = ("family", "tokens")
_KINDS: Final[Mapping[str, Dimensions]] = {
    INPUT: frozenset({_TOKENS, ("direction", "input")}),
    OUTPUT: frozenset({_TOKENS, ("direction", "output")}),
    "cache_read_tokens": frozenset({_TOKENS, ("direction", "input"), ("token_type", "cache_read")}),
    "cache_write_tokens": frozenset({_TOKENS, ("direction", "input"), ("token_type", "cache_write")}),
}


class KnownModels:
    """The prices of a config's models and of those that genai-prices knows: a `ModelPrices`."""

    def __init__(self, models: Sequence[Model] = ()) -> None:
        self._models = models
        self._known: dict[tuple[str, str], ModelPrice | None] = {}

    def load(self) -> "list[Provider]":
        """Read what genai-prices knows, which takes a quarter of a second the first time."""
        from genai_prices.data import providers

        return providers

    def find(self, provider: str, model: str) -> ModelPrice | None:
        """The prices of a model by the name that a request has for it, None if it is not known."""
        key = (provider, model)
        if key not in self._known:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = self._find(provider, model)
        return self._known[key]

    def _find(self, provider: str, model: str) -> ModelPrice | None:
        for own in self._models:
            if glob_matches(own.name, model):
                return _own(own, model)
        maker = next(each for each in self.load() if each.id == provider)
        found = maker.find_model(model)
        return None if found is None else _convert(found)


def _own(model: Model, name: str) -> ModelPrice:
    amounts = {
        INPUT: model.input,
        OUTPUT: model.output,
        "cache_read_tokens": model.cache_read,
        "cache_write_tokens": model.cache_write,
    }
    rates = UnitPrices(
        (unit, UnitPrice(_KINDS[unit], exact(Fraction(amount.nano, _MILLION))))
        for unit, amount in amounts.items()
        if amount is not None
    )
    return ModelPrice(name, "the config", ((0, rates),), (), model.context, model.max_output, model.name)


def _convert(model: "ModelInfo") -> ModelPrice | None:
    """A model of genai-prices in our terms."""
    from genai_prices.types import ModelPrice as Listed
    from genai_prices.types import StartDateConstraint

    if isinstance(model.prices, Listed):
        periods = [(0, _rates(model.prices))]
    else:
        # What holds only at some hours of the day is left out, and the price that always holds is taken.
        dated = [(c.constraint, c.prices) for c in model.prices]
        periods = [(0, _rates(prices)) for constraint, prices in dated if constraint is None]
        periods += [
            (_nanoseconds(constraint.start_date), _rates(prices))
            for constraint, prices in dated
            if isinstance(constraint, StartDateConstraint)
        ]
        periods = sorted(periods, key=lambda period: period[0])
    if not periods:
        return None
    variants = []
    for variant in model.price_variants or []:
        since = (
            _nanoseconds(variant.constraint.start_date) if isinstance(variant.constraint, StartDateConstraint) else 0
        )
        if len(variant.when) == 1:
            ((key, value),) = variant.when.items()
            variants.append(Variant(key, value, since, _rates(variant.prices)))
    starts = [start for _, rates in periods for rate in rates.values() for start, _ in rate.tiers]
    # A tier that begins where the context is said to end shows that it does not end there.
    context = model.context_window if model.context_window and max(starts, default=0) < model.context_window else None
    source = f"genai-prices {version('genai-prices')}"
    return ModelPrice(model.id, source, tuple(periods), tuple(variants), context, listed=model.id)


def _rates(prices: "Listed") -> UnitPrices:
    from genai_prices.data_units import unit_data
    from genai_prices.types import TieredPrices

    found = UnitPrices()
    for unit, about in unit_data.items():
        price = getattr(prices, about["price_key"], None)
        if price is None:
            continue
        each = Fraction(NANO, about["per"])
        dimensions = frozenset(about["dimensions"].items())
        if isinstance(price, TieredPrices):
            tiers = tuple((tier.start, exact(Fraction(tier.price) * each)) for tier in price.tiers)
            found[unit] = UnitPrice(dimensions, exact(Fraction(price.base) * each), tiers)
        else:
            found[unit] = UnitPrice(dimensions, exact(Fraction(price) * each))
    return found


def _nanoseconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * NANO
