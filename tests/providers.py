"""A local OpenAI and Anthropic, written from their public API references: what their own SDKs take for the real ones.

It says `TEXT` in pieces, or calls the first tool that it is offered. It counts `READ` tokens of input and one token of
output for each piece. `quiet` makes it leave out the usage, `pause` wait between pieces, `stall` stop before the last.
"""

import base64
import json
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, cast

TEXT = ("The ", "capital ", "of France ", "is ", "Paris.")
READ = 21
KEY = "sk-the-operator-s"

CONFIG = """
[server]
[[upstream]]
name = "openai"
url = "http://127.0.0.1:<port>"
headers = { Authorization = "Bearer <key>" }
[[upstream]]
name = "anthropic"
url = "http://127.0.0.1:<port>"
headers = { X-Api-Key = "<key>" }
[[route]]
path = "/v1/messages"
methods = ["POST"]
upstream = "anthropic"
llm = "anthropic"
[[route]]
path = "/v1/*"
methods = ["POST"]
upstream = "openai"
llm = "openai"
[[route]]
path = "/v1/chat/completions/*"
methods = ["GET"]
upstream = "openai"
price = "0 USD"
"""
"""A gateway before it: `port` is the server's, `key` is `KEY`."""

Json = dict[str, Any]


class Heard(NamedTuple):
    """A request as the provider got it."""

    path: str
    headers: dict[str, str]
    body: Json


class Provider(ThreadingHTTPServer):
    """The server. `heard` are its requests in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[Heard] = []
        self.quiet = False
        self.pause = 0.0
        self.stall: threading.Event | None = None
        self.port: int = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""

    def do_POST(self) -> None:
        provider = cast("Provider", self.server)
        data = self.rfile.read(int(self.headers["Content-Length"]))
        body: Json = json.loads(data)
        heard = Heard(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        provider.heard.append(heard)
        if KEY not in (heard.headers.get("authorization", "").removeprefix("Bearer "), heard.headers.get("x-api-key")):
            self._whole({"error": {"message": "Incorrect API key provided", "type": "invalid_request_error"}}, 401)
            return
        answer, stream = {
            "/v1/chat/completions": (_chat, _chat_stream),
            "/v1/responses": (_response, _response_stream),
            "/v1/embeddings": (_embeddings, None),
            "/v1/messages": (_message, _message_stream),
        }[self.path]
        if body.get("stream") and stream is not None:
            self._stream(stream(body, provider.quiet), provider)
        else:
            self._whole(answer(body, provider.quiet), 200)

    def _whole(self, document: Json, status: int) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("x-request-id", "req_1")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: Iterator[str], provider: Provider) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(events):
            if number == len(TEXT) and provider.stall is not None:
                provider.stall.wait(20)
            time.sleep(provider.pause)
            data = event.encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")


def _named(event: str, **document: object) -> str:
    return f"event: {event}\ndata: {json.dumps({'type': event, **document})}\n\n"


def _arguments(tool: Json) -> list[str]:
    """The arguments of a call of a tool, in pieces."""
    schema = tool.get("function", tool)
    names = (schema.get("parameters") or schema.get("input_schema"))["properties"]
    text = json.dumps(dict.fromkeys(names, "Paris"))
    return [text[:5], text[5:]]


# --- OpenAI chat completions


def _chat_usage(written: int) -> Json:
    return {
        "prompt_tokens": READ,
        "completion_tokens": written,
        "total_tokens": READ + written,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _chat(body: Json, quiet: bool) -> Json:
    message: Json = {"role": "assistant", "content": "".join(TEXT), "refusal": None, "annotations": []}
    written = len(TEXT)
    if body.get("tools"):
        tool, written = body["tools"][0], 2
        function = {"name": tool["function"]["name"], "arguments": "".join(_arguments(tool))}
        message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
    reason = "tool_calls" if body.get("tools") else "stop"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    found = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": body["model"],
        "choices": [choice],
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }
    return found if quiet else found | {"usage": _chat_usage(written)}


def _chat_stream(body: Json, quiet: bool) -> Iterator[str]:
    asked = (body.get("stream_options") or {}).get("include_usage") is True and not quiet
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": body["model"],
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    } | ({"usage": None} if asked else {})

    def chunk(delta: Json, reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return f"data: {json.dumps(head | {'choices': [choice]})}\n\n"

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    if body.get("tools"):
        tool = body["tools"][0]
        call = {"index": 0, "id": "call_1", "type": "function"}
        yield chunk({"tool_calls": [call | {"function": {"name": tool["function"]["name"], "arguments": ""}}]})
        for piece in _arguments(tool):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        yield chunk({}, "tool_calls")
    else:
        for piece in TEXT:
            yield chunk({"content": piece})
        yield chunk({}, "stop")
    if asked:
        written = 2 if body.get("tools") else len(TEXT)
        yield f"data: {json.dumps(head | {'choices': [], 'usage': _chat_usage(written)})}\n\n"
    yield "data: [DONE]\n\n"


# --- OpenAI responses


def _response(body: Json, quiet: bool, *, status: str = "completed") -> Json:
    part = {"type": "output_text", "text": "".join(TEXT), "annotations": [], "logprobs": []}
    message = {"type": "message", "id": "msg_1", "status": status, "role": "assistant", "content": [part]}
    usage = {
        "input_tokens": READ,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": len(TEXT),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": READ + len(TEXT),
    }
    done = status == "completed"
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": body.get("max_output_tokens"),
        "model": body["model"],
        "output": [message] if done else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage if done and not quiet else None,
        "user": None,
        "metadata": {},
        "service_tier": "default",
    }


def _response_stream(body: Json, quiet: bool) -> Iterator[str]:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item: Json = {"type": "message", "id": "msg_1", "status": "in_progress", "role": "assistant", "content": []}
    whole = _response(body, quiet)
    began = _response(body, quiet, status="in_progress")
    events: list[tuple[str, Json]] = [("response.created", {"response": began})]
    events.append(("response.output_item.added", {"output_index": 0, "item": item}))
    events.append(("response.content_part.added", place | {"part": part}))
    events += [("response.output_text.delta", place | {"delta": piece, "logprobs": []}) for piece in TEXT]
    events.append(("response.output_text.done", place | {"text": "".join(TEXT), "logprobs": []}))
    events.append(("response.content_part.done", place | {"part": whole["output"][0]["content"][0]}))
    events.append(("response.output_item.done", {"output_index": 0, "item": whole["output"][0]}))
    events.append(("response.completed", {"response": whole}))
    for number, (name, document) in enumerate(events):
        yield _named(name, sequence_number=number, **document)


# --- OpenAI embeddings


def _embeddings(body: Json, quiet: bool) -> Json:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector: Any = [0.25, -0.5, 1.0]
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<3f", *vector)).decode()
    data = [{"object": "embedding", "index": number, "embedding": vector} for number in range(len(texts))]
    found = {"object": "list", "data": data, "model": body["model"]}
    return found if quiet else found | {"usage": {"prompt_tokens": READ, "total_tokens": READ}}


# --- Anthropic messages


def _message(body: Json, quiet: bool) -> Json:
    content: Json = {"type": "text", "text": "".join(TEXT), "citations": None}
    if body.get("tools"):
        tool = body["tools"][0]
        content = {"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": {"city": "Paris"}}
    usage = {
        "input_tokens": READ,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": len(TEXT),
        "service_tier": "standard",
    }
    found = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [content],
        "stop_reason": "tool_use" if body.get("tools") else "end_turn",
        "stop_sequence": None,
    }
    return found if quiet else found | {"usage": usage}


def _message_stream(body: Json, quiet: bool) -> Iterator[str]:
    whole = _message(body, quiet)
    began = whole | {"content": [], "stop_reason": None}
    if not quiet:
        began["usage"] = began["usage"] | {"output_tokens": 1}
    yield _named("message_start", message=began)
    yield _named("ping")
    if body.get("tools"):
        yield _named("content_block_start", index=0, content_block=whole["content"][0] | {"input": {}})
        for piece in _arguments(body["tools"][0]):
            yield _named("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": piece})
    else:
        yield _named("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for piece in TEXT:
            yield _named("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    yield _named("content_block_stop", index=0)
    usage = {} if quiet else {"usage": {"output_tokens": len(TEXT)}}
    yield _named("message_delta", delta={"stop_reason": whole["stop_reason"], "stop_sequence": None}, **usage)
    yield _named("message_stop")
