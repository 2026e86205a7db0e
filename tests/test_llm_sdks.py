"""The real SDKs of OpenAI and Anthropic: another base_url, a token as their API key, and nothing else changed."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.gateways import Gateway, child_of, serving, until
from tests.providers import CONFIG, KEY, READ, TEXT, Provider

TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT = READ * 150 + len(TEXT) * 600
"""gpt-4o-mini: 0.15 USD and 0.60 USD a million, in nano-units."""
CLAUDE = READ * 1000 + len(TEXT) * 5000
"""claude-haiku-4-5: 1 USD and 5 USD a million."""

GPT, HAIKU = "gpt-4o-mini", "claude-haiku-4-5"
SAY: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    running = Provider()
    yield running
    running.close()


@pytest.fixture(scope="module")
def gateway(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("llm"), CONFIG, port=provider.port, key=KEY) as running:
        yield running


@pytest.fixture
def token(gateway: Gateway, provider: Provider) -> Iterator[str]:
    yield gateway.token()
    provider.quiet, provider.pause, provider.stall = False, 0.0, None


@pytest.fixture
def gpt(gateway: Gateway, token: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=token, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(gateway: Gateway, token: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{gateway.port}", api_key=token, max_retries=0) as client:
        yield client


def spent(gateway: Gateway, token: str) -> int:
    """What the token's budget was charged, in nano-units, once nothing is held."""
    (account,) = gateway.accounts(token)
    assert account["held"] == "0"
    whole, _, fraction = account["spent"].partition(".")
    return int(whole) * 10**9 + int(fraction.ljust(9, "0"))


def notes(gateway: Gateway) -> list[str]:
    return [entry.note for entry in gateway.entries() if entry.kind == "settle"]


# --- OpenAI


def test_a_chat_completion(gateway: Gateway, gpt: openai.OpenAI, token: str, provider: Provider) -> None:
    answer = gpt.chat.completions.create(model=GPT, messages=SAY)
    assert answer.choices[0].message.content == "".join(TEXT)
    assert spent(gateway, token) == CHAT
    heard = provider.heard[-1]
    assert heard.headers["authorization"] == f"Bearer {KEY}"
    assert token not in str(heard)
    assert heard.headers["accept-encoding"] == "identity"
    assert heard.body == {"model": GPT, "messages": SAY}
    assert "gpt-4o-mini: 21 tokens in, 5 out, genai-prices" in notes(gateway)[-1]


def test_a_streamed_chat_completion(gateway: Gateway, gpt: openai.OpenAI, token: str, provider: Provider) -> None:
    chunks = list(gpt.chat.completions.create(model=GPT, messages=SAY, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(TEXT)
    assert all(chunk.choices for chunk in chunks), "the client did not ask for a chunk of usage"
    assert provider.heard[-1].body["stream_options"] == {"include_usage": True}
    assert spent(gateway, token) == CHAT


def test_a_stream_with_the_usage_that_the_client_asked_for(gateway: Gateway, gpt: openai.OpenAI, token: str) -> None:
    options: Any = {"include_usage": True}
    chunks = list(gpt.chat.completions.create(model=GPT, messages=SAY, stream=True, stream_options=options))
    assert chunks[-1].usage is not None
    assert (chunks[-1].choices, chunks[-1].usage.prompt_tokens) == ([], READ)
    assert spent(gateway, token) == CHAT


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(gateway: Gateway, gpt: openai.OpenAI, token: str, stream: bool) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": TOOL}}]
    if stream:
        with gpt.chat.completions.stream(model=GPT, messages=SAY, tools=tools) as events:
            message: Any = events.get_final_completion().choices[0].message
    else:
        message = gpt.chat.completions.create(model=GPT, messages=SAY, tools=tools).choices[0].message
    call = message.tool_calls[0].function
    assert (call.name, call.arguments) == ("weather", '{"city": "Paris"}')
    assert spent(gateway, token) == READ * 150 + 2 * 600


@pytest.mark.parametrize("stream", [False, True])
def test_a_response(gateway: Gateway, gpt: openai.OpenAI, token: str, stream: bool) -> None:
    if stream:
        with gpt.responses.stream(model=GPT, input="What is the capital of France?") as events:
            answer: Any = events.get_final_response()
    else:
        answer = gpt.responses.create(model=GPT, input="What is the capital of France?")
    assert answer.output_text == "".join(TEXT)
    assert spent(gateway, token) == CHAT


def test_embeddings(gateway: Gateway, gpt: openai.OpenAI, token: str) -> None:
    answer = gpt.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    assert [each.embedding for each in answer.data] == [[0.25, -0.5, 1.0]] * 2
    assert spent(gateway, token) == READ * 20


async def test_the_async_client(gateway: Gateway, token: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=token) as client:
        answer = await client.chat.completions.create(model=GPT, messages=SAY)
        assert answer.choices[0].message.content == "".join(TEXT)
        said = ""
        async for chunk in await client.chat.completions.create(model=GPT, messages=SAY, stream=True):
            said += chunk.choices[0].delta.content or ""
    assert said == "".join(TEXT)
    assert spent(gateway, token) == 2 * CHAT


# --- Anthropic


def test_a_message(gateway: Gateway, claude: anthropic.Anthropic, token: str, provider: Provider) -> None:
    answer: Any = claude.messages.create(model=HAIKU, max_tokens=100, messages=SAY)
    assert answer.content[0].text == "".join(TEXT)
    assert spent(gateway, token) == CLAUDE
    heard = provider.heard[-1]
    assert heard.headers["x-api-key"] == KEY
    assert token not in str(heard)


def test_a_streamed_message(gateway: Gateway, claude: anthropic.Anthropic, token: str) -> None:
    with claude.messages.stream(model=HAIKU, max_tokens=100, messages=SAY) as events:
        assert "".join(events.text_stream) == "".join(TEXT)
        assert events.get_final_message().usage.output_tokens == len(TEXT)
    assert spent(gateway, token) == CLAUDE


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_of_claude_s(gateway: Gateway, claude: anthropic.Anthropic, token: str, stream: bool) -> None:
    tools: Any = [{"name": "weather", "input_schema": TOOL}]
    if stream:
        with claude.messages.stream(model=HAIKU, max_tokens=100, messages=SAY, tools=tools) as events:
            answer: Any = events.get_final_message()
    else:
        answer = claude.messages.create(model=HAIKU, max_tokens=100, messages=SAY, tools=tools)
    assert (answer.content[0].name, answer.content[0].input) == ("weather", {"city": "Paris"})
    assert spent(gateway, token) == CLAUDE


async def test_the_async_client_of_claude(gateway: Gateway, token: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{gateway.port}", api_key=token) as client:
        answer: Any = await client.messages.create(model=HAIKU, max_tokens=100, messages=SAY)
        assert answer.content[0].text == "".join(TEXT)
        async with client.messages.stream(model=HAIKU, max_tokens=100, messages=SAY) as events:
            assert "".join([text async for text in events.text_stream]) == "".join(TEXT)
    assert spent(gateway, token) == 2 * CLAUDE


# --- what goes wrong


def test_a_client_that_cuts_a_stream_pays_for_what_was_produced(
    gateway: Gateway, gpt: openai.OpenAI, claude: anthropic.Anthropic, token: str, provider: Provider
) -> None:
    provider.stall = threading.Event()
    began: dict[str, Callable[[], Any]] = {
        GPT: lambda: gpt.chat.completions.create(model=GPT, messages=SAY, stream=True, max_tokens=1000),
        HAIKU: lambda: claude.messages.create(model=HAIKU, max_tokens=1000, messages=SAY, stream=True),
    }
    before = 0
    for model, begin in began.items():
        stream = begin()
        for _ in range(4):
            next(iter(stream))
        stream.close()
        until(lambda: gateway.balance(token)[0]["held"] == "0", "the cut call is settled")
        cost = spent(gateway, token) - before
        before += cost
        assert "by what was shown" in notes(gateway)[-1]
        assert cost > (0 if model == GPT else READ * 1000)
        assert cost < 500_000, "far from the thousand tokens that were held"
    provider.stall.set()


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_reports_nothing_is_never_free(
    gateway: Gateway, gpt: openai.OpenAI, token: str, provider: Provider, stream: bool
) -> None:
    provider.quiet = True
    answer: Any = gpt.chat.completions.create(model=GPT, messages=SAY, stream=stream, max_tokens=50)
    if stream:
        assert len(list(answer)) == len(TEXT) + 2
    until(lambda: gateway.balance(token)[0]["held"] == "0", "the call is settled")
    assert spent(gateway, token) > 0
    assert ("by what was shown" if stream else "unmetered: 200: no usage was reported") in notes(gateway)[-1]


def test_a_model_that_the_token_does_not_allow(gateway: Gateway, gpt: openai.OpenAI, token: str) -> None:
    narrow = gpt.with_options(api_key=child_of(token, "label = narrow n", "model = gpt-4o-mini*"))
    narrow.chat.completions.create(model=GPT, messages=SAY)
    with pytest.raises(openai.PermissionDeniedError) as refused:
        narrow.chat.completions.create(model="gpt-5-pro", messages=SAY)
    body: Any = refused.value.body
    assert (body["code"], body["caveat"]) == ("caveat_refused", "model = gpt-4o-mini*")


def test_a_model_without_a_price(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        gpt.chat.completions.create(model="unheard-of", messages=SAY)
    body: Any = refused.value.body
    assert body["code"] == "unpriceable"


def test_a_budget_that_does_not_cover_the_worst_case(gateway: Gateway, gpt: openai.OpenAI) -> None:
    poor = gpt.with_options(api_key=gateway.token(budget="0.0001 USD"))
    with pytest.raises(openai.APIStatusError) as refused:
        poor.chat.completions.create(model=GPT, messages=SAY)
    assert refused.value.status_code == 402
    assert poor.chat.completions.create(model=GPT, messages=SAY, max_tokens=20, service_tier="default").choices


def test_what_the_provider_refuses_costs_nothing(gateway: Gateway, provider: Provider, token: str) -> None:
    gateway.ask("POST", "/v1/messages", "Content-Type: application/json", token=token, body=b"{}")
    assert spent(gateway, token) == 0
