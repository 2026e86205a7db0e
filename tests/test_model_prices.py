"""The prices of models: those of the config come first, and the others are what genai-prices says they are."""

import os
import random
import socket
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from genai_prices.data import providers
from genai_prices.types import ModelInfo, Usage

from tolsey.config_prices import Model
from tolsey.model_prices import KnownModels
from tolsey.pricing.models import INPUT, OUTPUT, ModelPrice, UnitPrice, UnitPrices, Variant, exact
from tolsey.units import NANO, parse_amount

SEED = int(os.environ.get("TOLSEY_SEED", "8402"))
LISTED = [
    (provider, model) for provider in providers for model in provider.models if provider.id in ("openai", "anthropic")
]
MOMENTS = [datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)]


def nano(moment: datetime) -> int:
    return int(moment.timestamp()) * NANO


def a_name(model: ModelInfo) -> str:
    """A name that means this model."""
    return model.id if model.is_match(model.id) else getattr(model.match, "starts_with", "") or model.id


@pytest.mark.parametrize("seed", [SEED], ids=lambda seed: f"TOLSEY_SEED={seed}")
def test_what_tokens_cost_is_what_genai_prices_says(seed: int) -> None:
    chance = random.Random(seed)
    known = KnownModels()
    compared = 0
    for provider, model in LISTED:
        found = known.find(provider.id, a_name(model))
        theirs = provider.find_model(a_name(model))
        assert (found is None) == (theirs is None)
        if found is None or theirs is None:
            continue
        for moment in MOMENTS:
            for ways in ({}, {"service_tier": "priority"}, {"service_tier": "flex"}, {"speed": "fast"}):
                read, written = chance.randrange(400_000), chance.randrange(10_000)
                cached, kept = chance.randrange(read + 1), 0
                kept = chance.randrange(read - cached + 1)
                counts = {INPUT: read, OUTPUT: written, "cache_read_tokens": cached, "cache_write_tokens": kept}
                try:
                    wanted = theirs.calc_price(
                        Usage(**counts), provider, genai_request_timestamp=moment, price_context=ways
                    ).total_price
                    ours = found.cost(counts, nano(moment), ways)
                except ValueError:
                    continue
                assert ours == Fraction(wanted) * NANO, (model.id, moment, ways, counts)
                compared += 1
    assert compared > 800


def test_every_unit_is_converted() -> None:
    found = KnownModels().find("openai", "gpt-realtime")
    assert found is not None
    units = set(found.rates(nano(MOMENTS[2]), {}))
    assert {INPUT, OUTPUT, "input_audio_tokens", "output_audio_tokens", "cache_read_tokens"} <= units


ONE, TWO, HALF = (parse_amount(f"{n} USD") for n in ("1", "2", "0.5"))
OWN = Model("gpt-own-*", ONE, TWO, HALF, None, 1000, 100)


def test_the_models_of_the_config_come_first() -> None:
    known = KnownModels([OWN, Model("gpt-4o", parse_amount("9 USD"), parse_amount("9 USD"), None, None, None, None)])
    found = known.find("openai", "gpt-own-7")
    assert found is not None
    assert (found.id, found.source, found.context, found.max_output) == ("gpt-own-7", "the config", 1000, 100)
    counts = {INPUT: 1_000_000, OUTPUT: 1_000_000, "cache_read_tokens": 500_000}
    assert found.cost(counts, 0, {}) == Fraction(2_750_000_000)
    other = known.find("openai", "gpt-4o")
    assert other is not None
    assert other.cost({INPUT: 1}, 0, {}) == 9000


def test_a_special_way_of_serving_leaves_the_usual_prices_as_they_are() -> None:
    read, written = (frozenset({("family", "tokens"), ("direction", way)}) for way in ("input", "output"))
    usual = UnitPrices([(INPUT, UnitPrice(read, 3)), (OUTPUT, UnitPrice(written, 5))])
    flex = Variant("service_tier", "flex", 0, UnitPrices([(INPUT, UnitPrice(read, Fraction(3, 2)))]))
    price = ModelPrice("own", "a test", ((0, usual),), (flex,))
    for ways, nano in (({}, 8), ({"service_tier": "flex"}, Fraction(13, 2)), ({}, 8)):
        assert price.cost({INPUT: 1, OUTPUT: 1}, 0, ways) == nano
        assert price.most("input", 1, 0, ways, cached=True) == nano - 5


def test_amounts_that_are_whole_are_ints() -> None:
    found = [exact(Fraction(4, 2)), exact(Fraction(1, 2))]
    assert found == [2, Fraction(1, 2)]
    assert [type(amount) for amount in found] == [int, Fraction]


@pytest.mark.parametrize("name", ["nope", "gpt-own", "GPT-OWN-7", "x" * 10_000, "claude-opus-4-5"])
def test_a_model_that_is_not_known_has_no_prices(name: str) -> None:
    assert KnownModels([OWN]).find("openai", name) is None


@pytest.mark.parametrize(
    "counts",
    [
        {INPUT: 5, OUTPUT: 0, "cache_read_tokens": 6},
        {INPUT: 5, OUTPUT: 0, "cache_read_tokens": 3, "cache_write_tokens": 3},
    ],
)
def test_counts_that_make_no_sense(counts: dict[str, int]) -> None:
    found = KnownModels().find("anthropic", "claude-sonnet-4-5")
    assert found is not None
    with pytest.raises(ValueError, match="in parts of input_tokens"):
        found.cost(counts, 0, {})


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    assert KnownModels().find("openai", "gpt-4o-mini") is not None


def test_what_is_remembered_has_an_end() -> None:
    known = KnownModels()
    for n in range(5000):
        known.find("openai", f"nope-{n}")
    assert len(known._known) <= 4096
