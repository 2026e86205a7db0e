"""What the body of an LLM call asks for, and the most that it can cost.

The protocols are OpenAI's chat completions, responses and embeddings, and Anthropic's messages. A token is at least one
byte of what is sent, so the bytes of a body bound its tokens; what a body only refers to is bounded by the model's
context, and what a provider's own tools may read by nothing.
"""

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from tolsey.errors import Refusal
from tolsey.pricing.document import DocumentInvalid, read_document, write_document
from tolsey.pricing.models import MOST_COUNTED, Exact, ModelPrice, ModelPrices

MAX_BODY: Final = 10_000_000
"""The largest body of an LLM call, in bytes, where its route names none: it is read before anything is held."""

MAX_MODEL: Final = 256
"""The longest name of a model, in characters."""

MAX_CHOICES: Final = 128

IMAGE_TOKENS: Final = {"openai": 50_000, "anthropic": 5_000}
"""The most that one image counts: 48,169 tokens with gpt-4o-mini in high detail, 4,784 with Claude."""

EVERY_CALL_TOKENS: Final = 64
TOOLS_TOKENS: Final = 2048
"""What a provider puts before the tools, Claude's 804 at most, with room for more."""

TOOL_TOKENS: Final = 1024
"""What it puts in the place of one of its own client tools, Claude's 735 at most."""


class Api(StrEnum):
    """A protocol, named by the end of its path."""

    CHAT = "/chat/completions"
    RESPONSES = "/responses"
    EMBEDDINGS = "/embeddings"
    MESSAGES = "/messages"


APIS: Final = {"openai": (Api.CHAT, Api.RESPONSES, Api.EMBEDDINGS), "anthropic": (Api.MESSAGES,)}
"""The protocols of each provider."""

PROVIDERS: Final = tuple(APIS)

_OUTPUT_KEYS: Final = {
    Api.CHAT: ("max_completion_tokens", "max_tokens"),
    Api.RESPONSES: ("max_output_tokens",),
    Api.EMBEDDINGS: (),
    Api.MESSAGES: ("max_tokens",),
}
_READ: Final = frozenset(
    {"model", "n", "stream", "stream_options", "tools", "service_tier", "speed", "thinking", "reasoning"}
).union(*_OUTPUT_KEYS.values())
"""Keys that decide about the price. Some servers take them in any case, the last one winning."""

_OTHER_MODELS: Final = ("models", "fallbacks", "fallback_models")
_ELSEWHERE: Final = frozenset({"previous_response_id", "conversation", "prompt", "prompt_id", "item_reference"})
_HOSTED: Final = frozenset({"web_search_options", "mcp_servers", "container", "context_management", "plugins"})
_ADDED_TO: Final = ("tools", "functions", "response_format", "output_format", "output_config", "text")
"""Where a provider adds instructions of its own."""

_CLIENT_TOOLS: Final = re.compile(
    r"function|custom|local_shell|apply_patch|(?:bash|text_editor|computer|memory)_20[0-9]{6}", re.ASCII
)
_SEARCHING: Final = re.compile("(?:^|-)search|deep-research")
_REASONING: Final = re.compile(r"(?:o[1-9]|gpt-[5-9])(?!.*chat)", re.ASCII)
_IMAGES: Final = ("image_url", "input_image", "image")
_REFERENCES: Final = frozenset({"file_id", "file_url", "file_data"})


class Asked(NamedTuple):
    """What a call asks for. `body` is what goes upstream. `bound` is the most that it can cost, in nano-units, None
    where nothing bounds it, and `why` says how it came about. `input_bound` and `output_bound` are in tokens.

    With `withholds` the provider was asked for a usage that the client did not ask for. With `hidden` the model may
    think without showing it. `way` are the special ways of serving that were asked for.
    """

    api: Api | None
    model: str | None
    price: ModelPrice | None
    body: bytes
    now: int
    bound: Exact | None
    why: str
    input_bound: int | None = None
    output_bound: int | None = None
    withholds: bool = False
    hidden: bool = False
    way: Mapping[str, str] = {}


def read_request(
    provider: str, models: ModelPrices, *, method: str, path: str, coding: bytes, body: bytes, now: int
) -> Asked | Refusal:
    """Read the body of a call; `coding` is its Content-Encoding. A Refusal is for what is no request of the protocol;
    one that is and has no price comes back without a `bound`.
    """
    api = next((api for api in APIS[provider] if path.endswith(api)), None)
    if api is None or method != "POST":
        return Asked(None, None, None, body, now, None, "its path is none of the LLM calls that are known")
    if coding.strip().lower() not in (b"", b"identity"):
        return Refusal("unpriceable", "the request body is compressed, and its price stands in it")
    try:
        document = read_document(body)
    except DocumentInvalid as error:
        return Refusal("request_invalid", f"the request body is not taken: {error}")
    fault = _fault(document, api)
    if fault is not None:
        return Refusal("request_invalid", f"the request body is not taken: {fault}")
    model: str = document["model"]
    price = models.find(provider, model)
    way: Mapping[str, str] = {}
    if price is None:
        bound = _Bound(None, f"the model {model!r} has no price")
    else:
        speed = document.get("speed")
        way = {"speed": speed} if isinstance(speed, str) else way
        bound = _bound(price, api, document, len(body), provider, model, way, now)
    hidden = price is not None and _hides(document, provider, model)
    up, withholds = body, False
    if api is Api.CHAT and document.get("stream") is True:
        options = document.get("stream_options")
        if options is None or (isinstance(options, dict) and options.get("include_usage") is not True):
            try:
                up = write_document(document | {"stream_options": {**(options or {}), "include_usage": True}})
            except DocumentInvalid as error:
                return Refusal("request_invalid", f"the request body is not taken: {error}")
            withholds = True
    return Asked(api, model, price, up, now, bound.nano, bound.why, bound.input, bound.output, withholds, hidden, way)


def _fault(document: object, api: Api) -> str | None:
    """What is wrong with a request, as far as its price goes."""
    if not isinstance(document, dict):
        return "it is no JSON object"
    for key in document:
        if key not in _READ and key.strip().casefold() in _READ:
            return f"a key in it could be read as {key.strip().casefold()!r}"
    model = document.get("model")
    if type(model) is not str or not 0 < len(model) <= MAX_MODEL or not model.isprintable():
        return f"it names no model, or one of more than {MAX_MODEL} characters"
    if any(document.get(key) is not None for key in _OTHER_MODELS):
        return "it names other models to fall back on"
    for key in ("n", *_OUTPUT_KEYS[api]):
        value = document.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            return f"{key} is not a whole number"
        if value is not None and not 1 <= value <= MOST_COUNTED:
            return f"{key} is not from 1 to {MOST_COUNTED}"
    if (document.get("n") or 1) > MAX_CHOICES:
        return f"n is more than {MAX_CHOICES}"
    return None


class _Bound(NamedTuple):
    """The most that a call can cost, as `Asked` has it."""

    nano: Exact | None
    why: str
    input: int | None = None
    output: int | None = None


def _bound(
    price: ModelPrice,
    api: Api,
    document: dict[str, Any],
    size: int,
    provider: str,
    model: str,
    wanted: Mapping[str, str],
    now: int,
) -> _Bound:
    """The most that the call can cost whose body has `size` bytes, and that is to be served in the ways `wanted`."""
    weight = _Weight(size, document, provider, model)
    given = [document[key] for key in _OUTPUT_KEYS[api] if document.get(key) is not None]
    limit = price.max_output or price.context
    output = max(given) if given else limit
    if output is not None and limit is not None:
        output = min(output, limit)
    if api is Api.EMBEDDINGS:
        output = 0
    if weight.unbounded is not None:
        return _Bound(None, weight.unbounded)
    if weight.speaks and not {"input_audio_tokens", "output_audio_tokens"} <= price.rates(now, {}).keys():
        return _Bound(None, f"the model {price.id} has no price for audio")
    tokens = price.context if weight.refers else weight.tokens
    if tokens is None:
        return _Bound(None, "it refers to what is not in it, and the model's context is not known")
    if output is None:
        return _Bound(None, "it does not say how many tokens it wants, and the model's limit is not known")
    tokens = tokens if price.context is None else min(tokens, price.context)
    output = output * (document.get("n") or 1) + (size if document.get("prediction") is not None else 0)
    bound: Exact = 0
    for way in _ways(price, document, wanted):
        read = price.most("input", tokens, now, way, cached=provider == "openai" or weight.caches)
        written = price.most("output", tokens, now, way, cached=True) if output else 0
        if read is None or written is None:
            return _Bound(None, f"the model {price.id} has no price for this kind of call")
        bound = max(bound, tokens * read + output * written)
    return _Bound(bound, f"{price.id}: at most {tokens} tokens in and {output} out, {price.source}", tokens, output)


def _ways(price: ModelPrice, document: Mapping[str, object], way: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """The ways in which a call may be served. Which tier `auto` is, is the provider's to know."""
    yield way
    tier = document.get("service_tier")
    for variant in price.variants:
        if variant.key == "service_tier" and (tier in (None, "auto") or tier == variant.value):
            yield {**way, "service_tier": variant.value}


def _hides(document: Mapping[str, object], provider: str, model: str) -> bool:
    """Whether the model may think without that showing in a stream."""
    if provider == "openai":
        return document.get("reasoning") is not None or _REASONING.match(model.rpartition("/")[2]) is not None
    thinking = document.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") != "disabled"


class _Weight:
    """How much there is to read in a body. `tokens` is a bound for what stands in it, `refers` whether it means what
    does not, `unbounded` why nothing bounds it. `caches` is whether the client asks for a cache, `speaks` for audio.
    """

    def __init__(self, size: int, document: dict[str, Any], provider: str, model: str) -> None:
        self.tokens = size + EVERY_CALL_TOKENS
        self.refers = any(document.get(key) is not None for key in _ELSEWHERE)
        self.caches = False
        self.speaks = isinstance(document.get("modalities"), list) and "audio" in document["modalities"]
        self.unbounded: str | None = None
        hosted = next((key for key in _HOSTED if document.get(key) is not None), None)
        if hosted is not None:
            self.unbounded = f"what its {hosted} makes the provider read is not known"
        elif provider == "openai" and _SEARCHING.search(model):
            self.unbounded = f"what the model {model} searches is not known"
        elif document.get("inference_geo") not in (None, "global"):
            self.unbounded = "its inference_geo has a price of its own"
        if any(document.get(key) for key in _ADDED_TO):
            self.tokens += TOOLS_TOKENS
        tools = document.get("tools")
        for tool in tools if isinstance(tools, list) else []:
            self._tool(tool)
        shown = [part for part in _contents(document) if part.get("type") in _IMAGES]
        for image in shown:
            # The bytes of an image are not what its tokens are counted by.
            self.tokens += IMAGE_TOKENS[provider] - len(_image_data(image))
        stack: list[Any] = [document]
        images = 0
        while stack:
            node = stack.pop()
            if isinstance(node, dict):
                images += "image_url" in node or (node.get("type") in _IMAGES and "source" in node)
                self._object(node)
                stack.extend(node.values())
            elif isinstance(node, list):
                stack.extend(node)
        # An image in any other place is not one that the bound for images is known to hold for.
        self.refers = self.refers or images > len(shown)

    def _tool(self, tool: object) -> None:
        kind = tool.get("type") or "custom" if isinstance(tool, dict) else ""
        if not isinstance(kind, str) or _CLIENT_TOOLS.fullmatch(kind) is None:
            self.unbounded = f"what its tool {str(kind)[:64]!r} makes the provider read is not known"
        self.tokens += TOOL_TOKENS if "_20" in str(kind) else 0

    def _object(self, node: dict[str, Any]) -> None:
        self.caches = self.caches or node.get("cache_control") is not None
        self.speaks = self.speaks or node.get("type") == "input_audio"
        source = node.get("source")
        if node.get("type") == "item_reference" or not _REFERENCES.isdisjoint(node):
            self.refers = True
        elif node.get("type") == "document":
            self.refers = self.refers or not isinstance(source, dict) or source.get("type") not in ("text", "content")


def _contents(document: Mapping[str, object]) -> Iterator[dict[str, Any]]:
    """The parts of what is said in a conversation, where a provider looks for images."""
    for said in (document.get("messages"), document.get("input")):
        for item in said if isinstance(said, list) else []:
            for parts in (item.get("content"), item.get("output")) if isinstance(item, dict) else ():
                for part in parts if isinstance(parts, list) else []:
                    if isinstance(part, dict):
                        yield part
                        inner = part.get("content") if part.get("type") == "tool_result" else None
                        yield from (each for each in inner if isinstance(each, dict)) if isinstance(inner, list) else ()


def _image_data(node: Mapping[str, Any]) -> str:
    """What an image part holds or names."""
    source = node.get("source")
    data = source.get("data") if isinstance(source, dict) else node.get("image_url")
    text = data.get("url") if isinstance(data, dict) else data
    return text if isinstance(text, str) else ""
