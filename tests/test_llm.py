"""LLM calls: what a body asks for, the most that it can cost, and what the answer says that it did."""

import json
from fractions import Fraction
from typing import Any

import pytest

from tests.tokens import call, mint, verdict
from tolsey.errors import Refusal
from tolsey.model_prices import KnownModels
from tolsey.pricing.llm import Asked
from tolsey.pricing.models import INPUT, OUTPUT
from tolsey.pricing.tariff import Chosen, Cost, Price, Quote, Tariff
from tolsey.token.caveats import parse_expiry
from tolsey.units import NANO

MODELS = KnownModels()
NOW = parse_expiry("2026-12-01")
CHAT, RESPONSES, EMBEDDINGS, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/messages"
SAY = [{"role": "user", "content": "hello"}]
JSON = (b"content-type", b"application/json")
SSE = (b"content-type", b"text/event-stream")

Body = dict[str, Any]


def tariff(path: str, at_most: int | None = None) -> Tariff:
    return Tariff(Price("USD", llm="anthropic" if path == MESSAGES else "openai", at_most=at_most), (), MODELS)


def read(path: str, body: Body | bytes, *, coding: bytes = b"", method: str = "POST") -> Asked | Refusal:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = tariff(path)
    assert found.price is not None
    headers = [(b"content-encoding", coding)] if coding else []
    return found.read(found.price, call(method=method, path=path, query="", now=NOW), headers, data)


def asked(path: str, **body: object) -> Asked:
    found = read(path, body)
    assert isinstance(found, Asked), found
    return found


def quoted(path: str, *, at_most: Any = None, **body: Any) -> Quote | Refusal:  # noqa: ANN401 - it is JSON
    found = tariff(path, at_most)
    assert found.price is not None
    return found.quote(Chosen(found.price), 0, asked(path, **body))


# --- the caveat


def test_model_is_the_body_s() -> None:
    token = mint("budget = 10 USD", "model = gpt-5*")
    for name, wanted in {"gpt-5": "cleared", "gpt-5.2-mini": "cleared", "gpt-4o": "caveat_refused"}.items():
        assert verdict(token, call(model=name)) == wanted
    for name in ("GPT-5", "gpt-4o gpt-5", "xgpt-5", ""):
        assert verdict(token, call(model=name)) == "caveat_refused"
    assert verdict(token, call()) == "caveat_refused", "a call without a model is not one with this model"


# --- bodies that are not taken

BAD: list[tuple[Body | bytes, str]] = [
    (b"", "not JSON"),
    (b"hello", "not JSON"),
    (b"\x1f\x8b\x08\x00", "not JSON"),
    (b'{"model": "gpt-4o"', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"[]", "no JSON object"),
    (b'{"model": "gpt-4o-mini", "model": "gpt-5-pro"}', "a key twice"),
    (b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "role": "system"}]}', "a key twice"),
    (b'{"model": "gpt-4o-mini", "temperature": NaN}', "NaN"),
    ({"messages": SAY}, "names no model"),
    ({"model": None}, "names no model"),
    ({"model": ["gpt-4o"]}, "names no model"),
    ({"model": ""}, "names no model"),
    ({"model": 4.5}, "names no model"),
    ({"model": "x" * 10_240}, "names no model"),
    ({"model": "gpt-4o\n"}, "names no model"),
    ({"model": "gpt-4o-mini", "Model": "gpt-5-pro"}, "could be read as 'model'"),
    ({"model": "gpt-4o-mini", "MAX_TOKENS": 5}, "could be read as 'max_tokens'"),
    ({"model": "gpt-4o-mini", "models": ["gpt-5-pro"]}, "other models"),
    *(
        ({"model": "gpt-4o-mini", "max_tokens": n}, "max_tokens is not")
        for n in (0, -1, "5", 1.5, True, [1], 10**13, 10**4200)
    ),
    *(({"model": "gpt-4o-mini", "n": n}, "n is") for n in (0, -1, "5", 129, 10**30)),
]


@pytest.mark.parametrize(("body", "why"), BAD, ids=range(len(BAD)))
def test_a_body_that_could_be_read_in_two_ways_is_not_taken(body: Body | bytes, why: str) -> None:
    found = read(CHAT, body)
    assert isinstance(found, Refusal)
    assert found.code == "request_invalid"
    assert why in found.detail


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"identity, gzip", b"GZIP"])
def test_a_compressed_body_has_no_price(coding: bytes) -> None:
    found = read(CHAT, {"model": "gpt-4o-mini"}, coding=coding)
    assert isinstance(found, Refusal)
    assert found.code == "unpriceable"


# --- what bounds a call

HAS_NO_BOUND: list[tuple[str, Body, str]] = [
    (CHAT, {"model": "nope"}, "has no price"),
    (CHAT, {"model": "gpt-4o", "web_search_options": {}}, "web_search_options"),
    (CHAT, {"model": "gpt-4o", "modalities": ["text", "audio"]}, "no price for audio"),
    (CHAT, {"model": "gpt-4o", "messages": [{"content": [{"type": "input_audio"}]}]}, "no price for audio"),
    (CHAT, {"model": "gpt-4o-search-preview"}, "searches is not known"),
    (CHAT, {"model": "gpt-4o", "tools": [{"type": "web_search"}]}, "web_search"),
    (CHAT, {"model": "gpt-4o", "tools": ["x"]}, "reads is not known"),
    (CHAT, {"model": "text-embedding-3-small", "max_tokens": 5}, "no price for this kind of call"),
    (RESPONSES, {"model": "gpt-5", "tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}, "file_search"),
    (RESPONSES, {"model": "gpt-5", "tools": [{"type": "mcp"}]}, "mcp"),
    (MESSAGES, {"model": "claude-sonnet-4-5", "tools": [{"type": "web_search_20250305"}]}, "web_search_20250305"),
    (MESSAGES, {"model": "claude-sonnet-4-5", "max_tokens": 5, "mcp_servers": [{}]}, "mcp_servers"),
    (MESSAGES, {"model": "claude-sonnet-4-5", "max_tokens": 5, "inference_geo": "us"}, "inference_geo"),
    (MESSAGES, {"model": "claude-sonnet-4-5", "max_tokens": 5, "context_management": {"edits": []}}, "context_man"),
    ("/v1/files", {"model": "gpt-4o"}, "its path is none"),
    ("/v1/chat/completions/x", {"model": "gpt-4o"}, "its path is none"),
]


@pytest.mark.parametrize(("path", "body", "why"), HAS_NO_BOUND)
def test_a_call_without_a_bound_is_refused_or_takes_at_most(path: str, body: Body, why: str) -> None:
    found = quoted(path, **body)
    assert isinstance(found, Refusal)
    assert found.code == "unpriceable"
    if "reads" not in why:
        assert why in found.detail
    dear = quoted(path, at_most=7 * NANO, **body)
    assert isinstance(dear, Quote)
    assert dear.amount.nano == 7 * NANO
    usage = dear.usage()
    usage.head(200, [JSON])
    usage.body(b"{}")
    usage.end()
    cost = dear.cost(200, usage)
    assert (cost.nano, cost.metered) == (7 * NANO, False)


def test_a_call_that_has_a_price_is_not_bounded_by_at_most() -> None:
    low, high = quoted(CHAT, at_most=1, model="gpt-4o", messages=SAY), quoted(CHAT, model="gpt-4o", messages=SAY)
    assert isinstance(low, Quote)
    assert isinstance(high, Quote)
    assert low.amount == high.amount


@pytest.mark.parametrize(
    ("body", "output"),
    [
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 10, "max_tokens": 20}, 20),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": 10**9}, 128_000),
        ({}, 128_000),
        ({"max_tokens": None, "n": None}, 128_000),
    ],
)
def test_the_output_is_bounded_by_what_is_asked_for_or_the_model(body: Body, output: int) -> None:
    assert asked(CHAT, model="gpt-4o-mini", messages=SAY, **body).output_bound == output


def test_the_input_is_bounded_by_the_bytes_of_the_body() -> None:
    for text in ("a" * 1000, "語" * 1000, "😀" * 1000, "\n" * 1000, "\x00" * 1000):
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "max_tokens": 1}
        for data in (json.dumps(body).encode(), json.dumps(body, ensure_ascii=False).encode()):
            found = read(CHAT, data)
            assert isinstance(found, Asked)
            assert found.input_bound is not None
            assert len(text.encode()) <= len(data) <= found.input_bound


def image(url: str) -> Body:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}


def test_an_image_counts_as_one_and_not_by_its_bytes() -> None:
    short = asked(CHAT, model="gpt-4o", messages=[image("https://x.example/a.png")]).input_bound
    long = asked(CHAT, model="gpt-4o", messages=[image("data:image/png;base64," + "A" * 900_000)]).input_bound
    assert short is not None
    assert long is not None
    assert 50_000 < short < 51_000
    assert 50_000 < long < 51_000
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 900_000}
    message = {"role": "user", "content": [{"type": "image", "source": source}]}
    found = asked(MESSAGES, model="claude-sonnet-4-5", max_tokens=1, messages=[message, message])
    assert found.input_bound is not None
    assert 10_000 < found.input_bound < 11_000


REFERS: list[tuple[str, Body]] = [
    (RESPONSES, {"previous_response_id": "resp_1"}),
    (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "JVBERi0="}}]}]}),
    (CHAT, {"messages": SAY, "tools": [{"type": "function", "function": {"image_url": "A" * 50_000}}]}),
]


@pytest.mark.parametrize(("path", "body"), REFERS)
def test_what_a_body_only_refers_to_is_bounded_by_the_context(path: str, body: Body) -> None:
    assert asked(path, model="gpt-4o", **body).input_bound == 128_000


def test_the_price_of_a_token_is_the_highest_that_it_can_have() -> None:
    """gpt-4o-mini costs 0.15 and 0.60 USD a million, and as `priority`, which `auto` may mean, 0.25 and 1 USD."""
    body: Body = {"model": "gpt-4o-mini", "messages": SAY, "max_tokens": 100}
    for tier, rates in {None: (250, 1000), "auto": (250, 1000), "priority": (250, 1000), "default": (150, 600)}.items():
        found = asked(CHAT, **body, **({} if tier is None else {"service_tier": tier}))
        assert found.input_bound is not None
        assert found.bound == found.input_bound * rates[0] + 100 * rates[1]
    plain = asked(MESSAGES, model="claude-sonnet-4-5", max_tokens=10, messages=SAY)
    assert plain.input_bound is not None
    assert plain.bound == plain.input_bound * 3000 + 10 * 15_000
    block = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    cached = asked(MESSAGES, model="claude-sonnet-4-5", max_tokens=10, messages=SAY, system=block)
    assert cached.input_bound is not None
    assert cached.bound == cached.input_bound * 6000 + 10 * 15_000


def test_a_stream_is_asked_for_its_usage() -> None:
    plain: Body = {"model": "gpt-4o-mini", "messages": SAY}
    assert read(CHAT, plain | {"stream": False}) == read(CHAT, plain | {"stream": False})
    assert not asked(CHAT, **plain).withholds
    for options in ({}, {"stream_options": None}, {"stream_options": {"include_usage": False, "x": 1}}):
        found = asked(CHAT, **plain, stream=True, **options)
        assert found.withholds
        document = json.loads(found.body)
        extra = {"x": 1} if options.get("stream_options") else {}
        assert document == plain | {"stream": True, "stream_options": {"include_usage": True, **extra}}
    chosen = asked(CHAT, **plain, stream=True, stream_options={"include_usage": True})
    assert not chosen.withholds
    assert json.loads(chosen.body) == plain | {"stream": True, "stream_options": {"include_usage": True}}


# --- what the answer says


def settled(path: str, answer: bytes | Body, headers: list[tuple[bytes, bytes]], **body: object) -> Cost:
    quote = quoted(path, **body)
    assert isinstance(quote, Quote)
    usage = quote.usage()
    usage.head(200, headers)
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    for at in range(0, len(data), 7):
        usage.body(data[at : at + 7])
    usage.end()
    cost = quote.cost(200, usage)
    assert cost.nano > 0
    assert cost.nano <= quote.amount.nano or path == MESSAGES
    return cost


def events(*documents: Body) -> bytes:
    return "".join(f"data: {json.dumps(each)}\n\n" for each in documents).encode()


ASK: Body = {"model": "gpt-4o-mini", "messages": SAY, "max_tokens": 1000}
TIER = {"service_tier": "default"}

USAGES: list[tuple[str, Body, Body, int]] = [
    (CHAT, ASK, {"usage": {"prompt_tokens": 10, "completion_tokens": 5}}, 10 * 150 + 5 * 600),
    (CHAT, ASK, {"usage": {"prompt_tokens": 10, "completion_tokens": 5}, "service_tier": "priority"}, 10 * 250 + 5000),
    (
        CHAT,
        ASK,
        {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}},
        6 * 150 + 4 * 75 + 5 * 600,
    ),
    (
        CHAT,
        ASK,
        {"usage": {"prompt_tokens": 10, "completion_tokens": 5,
                   "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": None}}},
        10 * 150 + 5 * 600,
    ),
    (CHAT, ASK, {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, 1),
    (EMBEDDINGS, {"model": "text-embedding-3-small", "input": "x" * 50}, {"usage": {"prompt_tokens": 8}}, 160),
    (
        RESPONSES,
        {"model": "gpt-4o-mini", "input": "hello"},
        {"usage": {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 10}}},
        10 * 75 + 5 * 600,
    ),
    (
        MESSAGES,
        {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": SAY},
        {"type": "message", "usage": {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 20,
                                      "cache_creation_input_tokens": 30,
                                      "cache_creation": {"ephemeral_5m_input_tokens": 10,
                                                         "ephemeral_1h_input_tokens": 20}}},
        10 * 3000 + 20 * 300 + 10 * 3750 + 20 * 6000 + 5 * 15_000,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "answer", "nano"), USAGES)
def test_a_usage_is_priced_as_the_provider_does(path: str, body: Body, answer: Body, nano: int) -> None:
    cost = settled(path, answer, [JSON], **body)
    assert (cost.nano, cost.metered) == (nano, True)
    assert "genai-prices" in cost.note


def chat_usage(**changed: object) -> Body:
    return {"usage": {"prompt_tokens": 10, "completion_tokens": 5} | changed}


WRONG: list[bytes | Body] = [
    *(chat_usage(prompt_tokens=n) for n in (-1, "10", 10.0, 1.5, True, None, [10], 10**13)),
    *(chat_usage(completion_tokens=n) for n in (-5, "5", None)),
    chat_usage(prompt_tokens_details={"cached_tokens": -1}),
    chat_usage(prompt_tokens_details={"cached_tokens": 11}),
    chat_usage(prompt_tokens_details=[1]),
    chat_usage(prompt_tokens_details={"audio_tokens": 3}),
    {"usage": None},
    {"usage": []},
    {"usage": 5},
    {},
    b"",
    b"null",
    b'{"usage": {"prompt_tokens": NaN, "completion_tokens": 5}}',
    b'{"usage": {"prompt_tokens": 1, "prompt_tokens": 1, "completion_tokens": 5}}',
    b'{"usage": {"prompt_tokens": 1, "completion_tokens": 5}, "usage": {}}',
    b'{"usage": {"prompt_tokens": 1, "completion_tok',
]


@pytest.mark.parametrize("answer", WRONG, ids=range(len(WRONG)))
def test_a_usage_that_is_none_is_charged_the_worst_case(answer: bytes | Body) -> None:
    quote = quoted(CHAT, **ASK)
    assert isinstance(quote, Quote)
    cost = settled(CHAT, answer, [JSON], **ASK)
    assert (cost.nano, cost.metered) == (quote.amount.nano, False)
    assert cost.note


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 529])
def test_what_the_provider_refuses_costs_nothing(status: int) -> None:
    quote = quoted(CHAT, **ASK)
    assert isinstance(quote, Quote)
    usage = quote.usage()
    usage.head(status, [JSON])
    usage.body(b'{"error": {"message": "no"}}')
    usage.end()
    assert quote.cost(status, usage).nano == 0


# --- streams

CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": None},
    {"choices": [{"index": 0, "delta": {"content": "hello"}}], "usage": None},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None},
]
LAST = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}


def test_a_stream_is_priced_by_the_usage_at_its_end() -> None:
    assert settled(CHAT, events(*CHUNKS, LAST) + b"data: [DONE]\n\n", [SSE], **ASK, stream=True).nano == 10 * 150 + 3000


def test_the_usage_that_nobody_asked_for_is_kept_from_the_client_wherever_the_stream_is_split() -> None:
    stream, wanted = events(*CHUNKS, LAST) + b"data: [DONE]\n\n", events(*CHUNKS) + b"data: [DONE]\n\n"
    for options, seen in ({}, wanted), ({"stream_options": {"include_usage": True}}, stream):
        quote = quoted(CHAT, **ASK, stream=True, **options)
        assert isinstance(quote, Quote)
        for at in range(len(stream) + 1):
            usage = quote.usage()
            usage.head(200, [SSE])
            assert usage.body(stream[:at]) + usage.body(stream[at:]) + usage.end() == seen
            assert quote.cost(200, usage).nano == 10 * 150 + 5 * 600


def test_a_stream_without_usage_is_metered_by_what_it_shows() -> None:
    found = asked(CHAT, **ASK, stream=True)
    cost = settled(CHAT, events(*CHUNKS), [SSE], **ASK, stream=True)
    assert found.input_bound is not None
    assert cost.nano == found.input_bound * 150 + (len("hello") + len(CHUNKS)) * 600
    assert cost.metered
    assert "by what was shown" in cost.note


def test_a_stream_that_is_cut_in_its_usage_is_metered_by_what_it_shows() -> None:
    whole = events(*CHUNKS, LAST)
    quote = quoted(CHAT, **ASK, stream=True)
    assert isinstance(quote, Quote)
    usage = quote.usage()
    usage.head(200, [SSE])
    usage.body(whole[:-10])
    assert quote.cost(200, usage).nano == settled(CHAT, events(*CHUNKS), [SSE], **ASK, stream=True).nano


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": "gpt-5", "messages": SAY, "max_tokens": 1000, "stream": True}),
        (RESPONSES, {"model": "o3", "input": "x", "max_output_tokens": 1000, "stream": True}),
        (
            MESSAGES,
            {"model": "claude-sonnet-4-5", "messages": SAY, "max_tokens": 1000, "thinking": {"type": "enabled"}},
        ),
    ],
)
def test_a_cut_stream_of_a_model_that_may_think_unseen_is_charged_the_worst_case(path: str, body: Body) -> None:
    quote = quoted(path, **body)
    assert isinstance(quote, Quote)
    cost = settled(path, events(*CHUNKS), [SSE], **body)
    assert (cost.nano, cost.metered) == (quote.amount.nano, False)


START = {"type": "message_start", "message": {"usage": {"input_tokens": 100, "output_tokens": 1}}}
SHOWN = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 50}}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 20}}
CLAUDE: Body = {"model": "claude-sonnet-4-5", "messages": SAY, "max_tokens": 1000, "stream": True}


def test_a_stream_of_messages_is_priced_by_the_last_counts() -> None:
    assert settled(MESSAGES, events(START, SHOWN, END), [SSE], **CLAUDE).nano == 100 * 3000 + 20 * 15_000
    assert settled(MESSAGES, events(START, SHOWN), [SSE], **CLAUDE).nano == 100 * 3000 + 51 * 15_000


def test_a_stream_of_a_response_is_priced_by_its_last_event() -> None:
    body: Body = {"model": "gpt-4o-mini", "input": "x", "stream": True, "max_output_tokens": 50}
    created = {"type": "response.created", "response": {"usage": None}}
    delta = {"type": "response.output_text.delta", "delta": "hello"}
    usage = {"input_tokens": 10, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 0}}
    for last in ("completed", "incomplete", "failed"):
        done = {"type": f"response.{last}", "response": {"usage": usage, "output": []}}
        assert settled(RESPONSES, events(created, delta, done), [SSE], **body).nano == 10 * 150 + 5 * 600
    assert "by what was shown" in settled(RESPONSES, events(created, delta), [SSE], **body).note


def test_searches_are_priced_as_the_table_says() -> None:
    found = MODELS.find("openai", "gpt-4o-mini")
    assert found is not None
    assert found.cost({INPUT: 0, OUTPUT: 0, "web_searches": 1}, NOW, {}) == Fraction(10 * NANO, 1000)
