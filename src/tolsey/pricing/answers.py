"""What the answer to an LLM call says that was used, and what it shows of it where it says nothing.

Both are the upstream's word. Each count is a whole number from 0 or the answer counts as unread; where a count comes
more than once, the largest is taken.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tolsey.pricing.document import read_document
from tolsey.pricing.llm import MAX_MODEL, Api, Asked
from tolsey.pricing.models import INPUT, OUTPUT, Exact, read_count
from tolsey.pricing.usage import Usage

_OPENAI_INPUT: Final = {
    "cached_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "audio_tokens": "input_audio_tokens",
}
_OPENAI_OUTPUT: Final = {"audio_tokens": "output_audio_tokens", "reasoning_tokens": "output_reasoning_tokens"}
_SEARCHES: Final = {"web_search_call": "web_searches", "file_search_call": "storage_searches"}
_NOT_PRODUCED: Final = frozenset({"type", "role", "id", "call_id", "signature", "encrypted_content", "obfuscation"})


class Priced(NamedTuple):
    """What a call came to, in nano-units; None where only its worst case is known. `note` says how."""

    nano: Exact | None
    note: str


class Answer:
    """Reads the answer to one call: a `Reader`. `counts` are by the unit's name, `complete` whether they are all;
    `model` is what the answer says that made it.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self.counts: dict[str, int] = {}
        self.complete = False
        self.fault: str | None = None
        self.produced = 0
        self.model: str | None = None
        self.ways = dict(asked.way)

    def take(self, data: bytes) -> bool:
        """Read the answer, or one event of it."""
        if not data.strip() or data.strip() == b"[DONE]":
            return False
        try:
            document = read_document(data)
            if isinstance(document, dict):
                return self._take(document)
            self.fault = "it is no JSON object"
        except ValueError as error:
            self.fault = str(error)
        return False

    def _take(self, document: dict[str, Any]) -> bool:
        match self._asked.api:
            case Api.CHAT:
                self._head(document)
                self._openai(document.get("usage"), "prompt", "completion")
                choices = document.get("choices")
                for choice in choices if isinstance(choices, list) else []:
                    self._produce(choice.get("delta") if isinstance(choice, dict) else None)
                return self._asked.withholds and choices == [] and document.get("usage") is not None
            case Api.EMBEDDINGS:
                self._head(document)
                self._openai(document.get("usage"), "prompt", "completion")
            case Api.RESPONSES:
                if str(document.get("type")).endswith(".delta"):
                    self._produce(document.get("delta"))
                whole = document.get("response", document)
                if isinstance(whole, dict):
                    self._head(whole)
                    self._openai(whole.get("usage"), "input", "output")
                    self._searches(whole.get("output"))
            case Api.MESSAGES:
                self._produce(document.get("delta"))
                self._produce(document.get("content_block"))
                message = document.get("message", document)
                if isinstance(message, dict):
                    self._name(message)
                    self._anthropic(message.get("usage"), done=document.get("type") in ("message", "message_delta"))
        return False

    def _name(self, document: Mapping[str, object]) -> None:
        if isinstance(model := document.get("model"), str):
            self.model = model[:MAX_MODEL]

    def _head(self, document: Mapping[str, object]) -> None:
        self._name(document)
        if isinstance(tier := document.get("service_tier"), str):
            self.ways["service_tier"] = tier

    def _openai(self, usage: object, read: str, written: str) -> None:
        if usage is None:
            return
        found = _object(usage)
        if found.get(f"{read}_tokens") is None:
            raise ValueError(f"the usage has no {read}_tokens")
        self._count(INPUT, found[f"{read}_tokens"])
        if self._asked.api is not Api.EMBEDDINGS:
            if found.get(f"{written}_tokens") is None:
                raise ValueError(f"the usage has no {written}_tokens")
            self._count(OUTPUT, found[f"{written}_tokens"])
        for details, units in (
            (f"{read}_tokens_details", _OPENAI_INPUT),
            (f"{written}_tokens_details", _OPENAI_OUTPUT),
        ):
            parts = _object(found.get(details) or {})
            for name, unit in units.items():
                self._count(unit, parts.get(name))
        self.complete = True

    def _anthropic(self, usage: object, *, done: bool) -> None:
        if usage is None:
            return
        found = _object(usage)
        if found.get("output_tokens") is None or (INPUT not in self.counts and found.get("input_tokens") is None):
            raise ValueError("the usage has no input_tokens or output_tokens")
        written = read_count(found.get("cache_creation_input_tokens"))
        read = read_count(found.get("cache_read_input_tokens"))
        self._count(INPUT, read_count(found.get("input_tokens")) + written + read)
        self._count(OUTPUT, found["output_tokens"])
        self._count("cache_write_tokens", written)
        self._count("cache_read_tokens", read)
        kinds = _object(found.get("cache_creation") or {})
        self._count("cache_write_5m_tokens", kinds.get("ephemeral_5m_input_tokens"))
        self._count("cache_write_1h_tokens", kinds.get("ephemeral_1h_input_tokens"))
        self._count("web_searches", _object(found.get("server_tool_use") or {}).get("web_search_requests"))
        if isinstance(speed := found.get("speed"), str):
            self.ways["speed"] = speed
        self.complete = self.complete or done

    def _searches(self, output: object) -> None:
        kinds = [item.get("type") for item in output if isinstance(item, dict)] if isinstance(output, list) else []
        for kind, unit in _SEARCHES.items():
            self._count(unit, kinds.count(kind))

    def _count(self, unit: str, value: object) -> None:
        self.counts[unit] = max(self.counts.get(unit, 0), read_count(value))

    def _produce(self, delta: object) -> None:
        """Count what an event shows, a token being at least a byte; an event that shows nothing is one all the same."""
        if delta is None:
            return
        self.produced += 1
        stack: list[Any] = [delta]
        while stack:
            node = stack.pop()
            if isinstance(node, str):
                self.produced += len(node.encode("utf-8", "surrogatepass"))
            elif isinstance(node, dict):
                stack.extend(value for key, value in node.items() if key not in _NOT_PRODUCED)
            elif isinstance(node, list):
                stack.extend(node)

    def priced(self, usage: Usage) -> Priced:
        """What the call came to."""
        price = self._asked.price
        fault = usage.fault or self.fault
        if usage.status is not None and usage.status >= 400 and not self.counts and not self.produced:
            return Priced(0, "the provider refused it")
        if price is None:
            return Priced(None, f"no price for {self._asked.model}")
        if fault is not None:
            return Priced(None, f"the usage cannot be read: {fault}"[:160])
        if self.complete:
            return self._sum(self.counts, "")
        if not usage.streamed or self._asked.input_bound is None:
            return Priced(None, "no usage was reported")
        if self._asked.hidden:
            return Priced(None, "no usage was reported, and the model may have thought unseen")
        shown = max(self.produced, self.counts.get(OUTPUT, 0))
        shown = shown if self._asked.output_bound is None else min(shown, self._asked.output_bound)
        how = ", by what was shown"
        if INPUT in self.counts:
            return self._sum(self.counts | {OUTPUT: shown}, how)
        tokens, now = self._asked.input_bound, self._asked.now
        read = price.most("input", tokens, now, self.ways, cached=True) or 0
        written = price.most("output", tokens, now, self.ways, cached=True) or 0
        note = f"{price.id}: at most {tokens} tokens in, {shown} out{how}, {price.source}"
        return Priced(tokens * read + shown * written, note)

    def _sum(self, counts: Mapping[str, int], how: str) -> Priced:
        price = self._asked.price
        if price is None:
            return Priced(None, "")
        try:
            nano = price.cost(counts, self._asked.now, self.ways)
        except ValueError as error:
            return Priced(None, f"the usage makes no sense: {error}")
        used = f"{counts.get(INPUT, 0)} tokens in, {counts.get(OUTPUT, 0)} out"
        return Priced(nano, f"{price.id}: {used}{how}, {price.source}")


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("the usage is no JSON object")
    return value
