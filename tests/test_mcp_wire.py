"""The MCP gateway byte by byte: what goes up, bad input from clients, sessions."""

import json

import pytest

from tests import mcp_talk
from tests.gateways import Gateway, child_of
from tests.mcp_talk import CALL, KIND, called, error, result, sent, whole
from tests.upstreams import Upstream

CONFIG = mcp_talk.CONFIG


def test_what_goes_up_is_the_call_without_the_token(gateway: Gateway, tools: Upstream, token: str) -> None:
    body = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"search_web","new":1.50,"arguments":{}}}'
    with gateway.client() as client:
        client.ask(
            "POST", "/mcp", KIND, "Cookie: a=b", "X-Tenant: 1", "Mcp-Param-Region: eu", "Mcp-Name: search_web",
            "Forwarded: for=1", token=token, body=body,
        )  # fmt: skip
        talk = tools.hear()
        assert talk.request.line == "POST /talk HTTP/1.1"
        assert talk.body() == body
        assert talk.request.all("authorization") == ["Bearer its-own"]
        assert talk.request["mcp-param-region"] == "eu"
        assert not {"cookie", "x-tenant", "mcp-session-id", "forwarded"} & {name for name, _ in talk.request.headers}
        assert token not in talk.request.head.decode()
        talk.answers(whole(result(ok=1)))
        answer = client.answer()
    assert json.loads(answer.body) == result(ok=1)
    assert (answer["tolsey-cost"], answer["tolsey-remaining"]) == ("0.01 USD", "9.99 USD")
    gateway.stands(token, spent="0.01", calls=1)


BAD: dict[str, tuple[bytes, int, int]] = {
    "not JSON": (b"{", 400, -32700),
    "not UTF-8": (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', 400, -32700),
    "nothing": (b"", 400, -32700),
    "a batch": (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', 400, -32600),
    "an empty batch": (b"[]", 400, -32600),
    "another version": (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', 400, -32600),
    "an id twice": (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', 400, -32700),
    "a name twice": (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search_a","name":"fire"}}', 400, -32700
    ),
    "an id that is null": (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', 400, -32600),
    "an id that is a float": (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', 400, -32600),
    "an id that is long": (b'{"jsonrpc":"2.0","id":"%b","method":"ping"}' % (b"x" * 300), 400, -32600),
    "a method that is none": (b'{"jsonrpc":"2.0","id":1,"method":7}', 400, -32600),
    "a method with a blank": (b'{"jsonrpc":"2.0","id":1,"method":"tools/ call"}', 400, -32600),
    "params in a list": (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', 400, -32600),
    "a request with a result": (b'{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}', 400, -32600),
    "neither": (b'{"jsonrpc":"2.0","id":1}', 400, -32600),
    "nested without end": (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 200_000, 400, -32700),
    "no name": (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}', 400, -32602),
    "a name of a wrong form": (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search_\\u0000"}}', 400, -32602
    ),
    "a name that could be a resource's": (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"method:tasks/get"}}', 400, -32602
    ),
    "an unknown method": (b'{"jsonrpc":"2.0","id":1,"method":"tools/run"}', 200, -32601),
    "a cursor": (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}', 400, -32602),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_message_reaches_nobody(gateway: Gateway, tools: Upstream, token: str, what: str) -> None:
    body, status, code = BAD[what]
    with tools.hears_nothing():
        answer = sent(gateway, token, body)
    assert (answer.status, error(answer)["code"]) == (status, code)
    assert error(answer)["data"]["code"] == "request_invalid"
    gateway.stands(token, spent="0", calls=0)


@pytest.mark.parametrize(
    ("header", "code"),
    [("Mcp-Method: tools/list", -32020), ("Mcp-Name: search_other", -32020), ("Mcp-Name: =?base64?!?=", -32020)],
)
def test_headers_that_say_otherwise_are_refused(gateway: Gateway, token: str, header: str, code: int) -> None:
    answer = sent(gateway, token, CALL, header)
    assert (answer.status, error(answer)["code"]) == (400, code)


def test_arguments_of_10_mb_are_too_large_before_they_are_read(gateway: Gateway, tools: Upstream, token: str) -> None:
    with tools.hears_nothing(), gateway.client() as client:
        client.say("POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n", f"Authorization: Bearer {token}\r\n{KIND}\r\n")
        client.say("Content-Length: 10000000\r\n\r\n")
        answer = client.answer()
    assert (answer.status, error(answer)["data"]["code"]) == (413, "body_too_large")


def test_the_largest_arguments_pass(gateway: Gateway, tools: Upstream, token: str) -> None:
    frame = json.dumps(CALL).encode()
    body = frame.replace(b'"q": 1', b'"q": "%b"' % (b"x" * (2_000_000 - len(frame) - 1)))
    assert len(body) == 2_000_000
    with gateway.client() as client:
        client.ask("POST", "/mcp", KIND, token=token, body=body)
        talk = tools.hear()
        assert json.loads(talk.body()) == json.loads(body)
        talk.answers(whole(result()))
        assert client.answer().status == 200
    assert sent(gateway, token, body + b" ").status == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Origin: https://evil.example"], 403),
        (["Origin: null"], 403),
        (["Origin: https://app.example", "Origin: https://app.example"], 403),
        (["Origin: https://app.example"], 200),
    ],
)
def test_only_known_web_pages_may_call(gateway: Gateway, token: str, headers: list[str], status: int) -> None:
    answer = sent(gateway, token, {"jsonrpc": "2.0", "id": 1, "method": "ping"}, *headers)
    assert answer.status == status
    if status == 403:
        assert error(answer)["data"]["code"] == "origin_refused"


def test_a_name_that_was_bound_to_this_address_is_refused(gateway: Gateway, token: str) -> None:
    for host, status in (("evil.example:8402", 403), ("localhost:1", 200), ("[::1]:1", 200), ("127.0.0.1", 200)):
        with gateway.client() as client:
            body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
            client.say(f"POST /mcp HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n{KIND}\r\n")
            client.say(f"Content-Length: {len(body)}\r\n\r\n", body)
            assert client.answer().status == status


METHODS = ["initialize", "ping", "tools/list", "resources/list", "prompts/list", "resources/read", "prompts/get",
           "tools/call", "completion/complete", "logging/setLevel", "server/discover", "tasks/get"]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_needs_a_token(gateway: Gateway, tools: Upstream, method: str) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "search_a", "uri": "a:b"}}
    expired = gateway.token("expires = 2020-01-01")
    elsewhere = gateway.token("scope = /api/*")
    with tools.hears_nothing():
        for bad, status, code in (
            (None, 401, "token_missing"),
            ("tolsey_x", 401, "token_malformed"),
            (expired, 401, "token_expired"),
            (elsewhere, 200, "caveat_refused"),
        ):
            answer = sent(gateway, bad, message)
            assert (answer.status, error(answer)["data"]["code"]) == (status, code)
            assert ("www-authenticate" in answer) is (status == 401)


def opened(gateway: Gateway, tools: Upstream, token: str) -> str:
    """The id of a session that the token's holder opened."""
    with gateway.client() as client:
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
        client.ask("POST", "/mcp", KIND, token=token, body=json.dumps(message).encode())
        talk = tools.hear()
        assert json.loads(talk.body())["params"] == {"protocolVersion": "2025-11-25"}
        answer = result(1, protocolVersion="2025-06-18", capabilities={}, serverInfo={"name": "x", "version": "1"})
        talk.answers(whole(answer, "200 OK", "Mcp-Session-Id: inner-1"))
        found = client.answer()
        assert json.loads(found.body) == answer
        return found["mcp-session-id"]


def test_a_session_is_its_holders_and_authenticates_nothing(gateway: Gateway, tools: Upstream, token: str) -> None:
    session = opened(gateway, tools, token)
    assert "inner-1" not in session
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    other, child = gateway.token(), child_of(token, "label = child n2")
    broken = session[:-1] + ("0" if session[-1] != "0" else "1")
    with tools.hears_nothing():
        assert sent(gateway, token, ping, f"Mcp-Session-Id: {session}").status == 200
        assert sent(gateway, child_of(token, "method = POST"), ping, f"Mcp-Session-Id: {session}").status == 200
        assert sent(gateway, None, ping, f"Mcp-Session-Id: {session}").status == 401
        for thief, shown in ((other, session), (child, session), (token, broken), (token, "inner-1"), (token, "a.b.c")):
            answer = sent(gateway, thief, ping, f"Mcp-Session-Id: {shown}")
            assert (answer.status, error(answer)["data"]["code"]) == (404, "route_missing")
    with gateway.client() as client:
        client.ask("POST", "/mcp", KIND, f"Mcp-Session-Id: {session}", "MCP-Protocol-Version: 2025-06-18", token=token,
                   body=json.dumps(CALL).encode())  # fmt: skip
        talk = tools.hear()
        assert (talk.request["mcp-session-id"], talk.request["mcp-protocol-version"]) == ("inner-1", "2025-06-18")
        talk.body()
        talk.answers(whole(b"gone", "404 Not Found"))
        assert client.answer().status == 404
    with gateway.client() as client:
        client.ask("DELETE", "/mcp", f"Mcp-Session-Id: {session}", token=token)
        talk = tools.hear()
        assert (talk.request.line, talk.request["mcp-session-id"]) == ("DELETE /talk HTTP/1.1", "inner-1")
        talk.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert client.answer().status == 200


def test_the_log_and_the_report_name_the_tool(gateway: Gateway, tools: Upstream, token: str) -> None:
    answer = called(gateway, tools, token, whole(result()))
    assert gateway.line_of(answer["tolsey-hold"])["tool"] == "search_web"
