"""What the dialogues with the MCP gateway are made of: its config, messages, and a server's answers byte by byte."""

import json
from typing import Any

from tests.ends import Message
from tests.gateways import Gateway
from tests.upstreams import Upstream

CONFIG = """
[server]
[[upstream]]
name = "tools"
url = "http://127.0.0.1:<port>/talk"
timeout = 1
headers = { Authorization = "Bearer its-own" }
[[upstream]]
name = "more"
url = "http://127.0.0.1:<more>/talk"
timeout = 1
[[mcp]]
path = "/mcp"
hosts = ["gateway.test", "localhost", "127.0.0.1", "[::1]"]
origins = ["https://app.example"]
max_body = 2000000
[[mcp.server]]
upstream = "tools"
[[mcp.tool]]
name = "search_*"
price = "0.01 USD"
[[mcp.tool]]
name = "method:tasks/*"
price = "0.5 USD"
[[mcp]]
path = "/both"
hosts = ["gateway.test", "localhost", "127.0.0.1", "[::1]"]
[[mcp.server]]
upstream = "tools"
prefix = "a_"
[[mcp.server]]
upstream = "more"
prefix = "b_"
[[mcp.tool]]
name = "*"
price = "0 USD"
[[mcp]]
path = "/watched"
hosts = ["gateway.test", "localhost", "127.0.0.1", "[::1]"]
mode = "observe"
[[mcp.server]]
upstream = "tools"
[[mcp.tool]]
name = "search_*"
price = "0.01 USD"
"""
Json = dict[str, Any]
KIND = "Content-Type: application/json"
CALL: Json = {
    "jsonrpc": "2.0",
    "id": 7,
    "method": "tools/call",
    "params": {"name": "search_web", "arguments": {"q": 1}},
}


def sent(gateway: Gateway, token: str | None, body: bytes | Json, *headers: str, path: str = "/mcp") -> Message:
    """Post a message that gets no further than the gateway."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with gateway.client() as client:
        client.ask("POST", path, KIND, *headers, token=token, body=data)
        return client.answer()


def error(answer: Message) -> Json:
    """The error of an answer."""
    document: Json = json.loads(answer.body)
    assert document["jsonrpc"] == "2.0"
    found: Json = document["error"]
    return found


def whole(document: Json | bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A server's answer in one piece."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def stream(*documents: Json | bytes) -> bytes:
    """A server's answer as events, the connection open behind them."""
    events = [d if isinstance(d, bytes) else b"data: " + json.dumps(d).encode() + b"\n\n" for d in documents]
    body = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + body


def result(identifier: object = 7, **members: object) -> Json:
    return {"jsonrpc": "2.0", "id": identifier, "result": members}


def called(gateway: Gateway, tools: Upstream, token: str, answer: bytes, *, closes: bool = False) -> Message:
    """Call a tool whose server says this."""
    with gateway.client() as client:
        client.ask("POST", "/mcp", KIND, token=token, body=json.dumps(CALL).encode())
        talk = tools.hear()
        talk.body()
        if closes:
            talk.say(answer)
            talk.close()
            return client.answer()
        talk.say(answer)
        found = client.answer()
        talk.close()
        return found
