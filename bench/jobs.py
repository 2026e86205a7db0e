"""What a contestant is asked to do: each job is one request, and the answer that the upstream has for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal

PRICE = Decimal("0.01")
"""What a call of any job costs, in USD: of the LLM job, by the tokens that its answer says were used."""

EVENTS = 200

_SMALL = '{"query":"macaroons","results":[{"id":"ndss14","title":"Cookies with Contextual Caveats","score":0.97}]}'
_USED = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
_COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_790_000_000,
    "model": "bench-1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Because."}, "finish_reason": "stop"}],
    "usage": _USED,
}
_CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "find", "arguments": {"title": "Macaroons"}},
}
_FOUND = {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "1 of Macaroons"}]}}
_ASK = {"model": "bench-1", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 100}


@dataclass(frozen=True)
class Job:
    """A request and its answer. `body` is that of the request, None for none; `headers` are more of its headers."""

    name: str
    title: str
    method: str
    path: str
    answer: str
    kind: str = "application/json"
    body: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


SEARCH = Job("get", "GET, small JSON", "GET", "/api/v1/search", _SMALL)
CHAT = Job(
    "llm",
    "LLM chat, with usage",
    "POST",
    "/v1/chat/completions",
    json.dumps(_COMPLETION, separators=(",", ":")),
    body=json.dumps(_ASK),
)
CALL_TOOL = Job(
    "mcp",
    "MCP tools/call",
    "POST",
    "/mcp",
    json.dumps(_FOUND, separators=(",", ":")),
    body=json.dumps(_CALL),
    headers=(
        ("Accept", "application/json, text/event-stream"),
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "find"),
    ),
)
"""What the upstream answers is what an MCP server of one tool would: it has no state, and so needs no session."""

JOBS = (
    SEARCH,
    Job("post", "POST of 10 KB", "POST", "/api/v1/notes", _SMALL, body=json.dumps({"text": "x" * 10_224})),
    Job(
        "sse",
        f"SSE of {EVENTS} events",
        "GET",
        "/api/v1/events",
        "".join(f'data: {{"n": {number}, "text": "one of many"}}\n\n' for number in range(EVENTS)),
        "text/event-stream",
    ),
    CHAT,
    CALL_TOOL,
)
