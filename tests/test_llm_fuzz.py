"""Whatever a client or a provider sends: a body is refused or bounded, an answer priced or charged the worst case."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.tokens import call
from tolsey.errors import Refusal
from tolsey.model_prices import KnownModels
from tolsey.pricing.tariff import Chosen, Price, Quote, Tariff
from tolsey.token.caveats import parse_expiry

NOW = parse_expiry("2026-12-01")
MODELS = KnownModels()
PATHS = {"openai": ("/chat/completions", "/responses", "/embeddings"), "anthropic": ("/messages",)}

NAMES = st.sampled_from(
    [
        "model", "messages", "input", "content", "type", "role", "tools", "n", "stream", "stream_options", "usage",
        "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "prompt_tokens_details", "cached_tokens",
        "max_tokens", "max_output_tokens", "choices", "delta", "response", "output", "message", "source", "image_url",
        "service_tier", "speed", "thinking", "cache_control", "cache_creation", "server_tool_use", "system", "function",
    ]
)  # fmt: skip
TEXTS = st.sampled_from(
    ["gpt-4o-mini", "gpt-5", "claude-haiku-4-5", "image", "image_url", "document", "function", "response.completed",
     "message_start", "message_delta", "priority", "flex", "fast", "auto", "x.delta", "", "語\ud800"]
)  # fmt: skip
NUMBERS = st.one_of(st.integers(-5, 300), st.integers(10**11, 10**40), st.floats(allow_nan=False, allow_infinity=False))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=6)),
    max_leaves=25,
)
BODIES = st.dictionaries(NAMES, JSON, max_size=6)
PROVIDERS = st.sampled_from([(provider, path) for provider, paths in PATHS.items() for path in paths])


def quoted(provider: str, path: str, body: bytes, at_most: int | None) -> Quote | Refusal:
    tariff = Tariff(Price("USD", llm=provider, at_most=at_most), (), MODELS)
    attempt = call(method="POST", path=path, query="", now=NOW)
    assert tariff.price is not None
    asked = tariff.read(tariff.price, attempt, (), body)
    return asked if isinstance(asked, Refusal) else tariff.quote(Chosen(tariff.price), len(body), asked)


@given(
    PROVIDERS,
    BODIES,
    st.sampled_from(["gpt-4o-mini", "gpt-5", "claude-haiku-4-5", "unheard-of"]),
    st.sampled_from([None, 10**9]),
    st.lists(BODIES, max_size=5),
    st.booleans(),
    st.sampled_from([200, 200, 200, 404, 500]),
    st.integers(0, 2000),
)
def test_a_call_is_bounded_and_its_answer_costs_something(
    where: tuple[str, str],
    body: dict[str, Any],
    model: str,
    at_most: int | None,
    answers: list[dict[str, Any]],
    stream: bool,
    status: int,
    cut: int,
) -> None:
    quote = quoted(*where, json.dumps({"model": model} | body).encode("utf-8", "surrogatepass"), at_most)
    if isinstance(quote, Refusal):
        assert quote.code in ("request_invalid", "unpriceable")
        return
    assert quote.amount.nano > 0
    usage = quote.usage()
    usage.head(status, [(b"content-type", b"text/event-stream" if stream else b"application/json")])
    data = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in answers)
    data = data if stream else json.dumps(answers[0] if answers else None).encode()
    usage.body(data[:cut])
    if cut >= len(data):
        usage.end()
    cost = quote.cost(status, usage)
    assert cost.nano >= (1 if status < 400 else 0)
    assert cost.metered or cost.nano == quote.amount.nano
    assert len(cost.note) < 600


@given(PROVIDERS, st.binary(max_size=200), st.sampled_from([None, 10**9]))
def test_any_bytes_are_refused_or_bounded(where: tuple[str, str], body: bytes, at_most: int | None) -> None:
    found = quoted(*where, body, at_most)
    assert isinstance(found, Refusal | Quote)
    for depth in (400, 600, 900, 2000):
        nested = b'{"model": "gpt-4o-mini", "stream": true, "x": ' + b'{"a":[' * depth + b"1" + b"]}" * depth + b"}"
        assert isinstance(quoted("openai", "/chat/completions", nested, at_most), Refusal | Quote)
