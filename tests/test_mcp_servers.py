"""MCP servers that lie, hang, ask, or say things twice; and several of them behind one endpoint."""

import json

import pytest

from tests import mcp_talk
from tests.gateways import Gateway
from tests.mcp_talk import CALL, KIND, Json, called, error, result, sent, stream, whole
from tests.upstreams import Upstream

CONFIG = mcp_talk.CONFIG

LIES: dict[str, bytes] = {
    "another id": whole(result(8)),
    "an id that reads alike": whole(result("7")),
    "no answer": whole({"jsonrpc": "2.0", "method": "notifications/progress"}),
    "a batch": whole(b"[" + json.dumps(result()).encode() + b"]"),
    "an id twice": whole(b'{"jsonrpc":"2.0","id":8,"id":7,"result":{}}'),
    "not JSON": whole(b"<html>"),
    "202": b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
    "500": whole(b"oops", "500 Internal Server Error"),
    "401": whole(b"{}", "401 Unauthorized", 'WWW-Authenticate: Bearer resource_metadata="http://evil.example"'),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_answer_to_the_call_is_said_to_be_none(
    gateway: Gateway, tools: Upstream, token: str, lie: str
) -> None:
    answer = called(gateway, tools, token, LIES[lie])
    document = json.loads(answer.body)
    assert (document["id"], document["error"]["data"]["code"]) == (7, "upstream_failed")
    assert "www-authenticate" not in answer
    gateway.stands(token, spent="0.01", calls=1)


def test_a_stream_ends_with_its_first_answer(gateway: Gateway, tools: Upstream, token: str) -> None:
    progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1, "progressToken": 1}}
    asks = {"jsonrpc": "2.0", "id": 3, "method": "sampling/createMessage", "params": {}}
    answer = called(
        gateway, tools, token, stream(b": ping\n\n", progress, result(8, lie=1), asks, result(first=1), result(twice=1))
    )
    events = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: ")]
    assert events == [progress, asks, result(first=1)]
    gateway.stands(token, spent="0.01", calls=1)


def test_a_stream_that_hangs_or_lies_is_ended_with_an_error(gateway: Gateway, tools: Upstream, token: str) -> None:
    for said, code in ((stream(b": ping\n\n"), "upstream_timeout"), (stream(b"data: nonsense\n\n"), "upstream_failed")):
        answer = called(gateway, tools, token, said)
        (event,) = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: ")]
        assert (event["id"], event["error"]["data"]["code"]) == (7, code)


def test_a_server_that_never_answers_is_late(gateway: Gateway, tools: Upstream, token: str) -> None:
    answer = called(gateway, tools, token, b"")
    assert (answer.status, error(answer)["data"]["code"]) == (200, "upstream_timeout")
    gateway.stands(token, spent="0.01", calls=1)


def test_the_same_call_twice_at_once_is_two_calls(gateway: Gateway, tools: Upstream, token: str) -> None:
    with gateway.client() as one, gateway.client() as two:
        for client in (one, two):
            client.ask("POST", "/mcp", KIND, token=token, body=json.dumps(CALL).encode())
        for _ in range(2):
            talk = tools.hear()
            talk.body()
            talk.answers(whole(result()))
        assert {one.answer().status, two.answer().status} == {200}
    gateway.stands(token, spent="0.02", calls=2)


def test_a_repeat_under_an_idempotency_key_is_answered_and_not_charged(
    gateway: Gateway, tools: Upstream, token: str
) -> None:
    for first in (True, False):
        with gateway.client() as client:
            client.ask("POST", "/mcp", KIND, "Idempotency-Key: k1", token=token, body=json.dumps(CALL).encode())
            if first:
                talk = tools.hear()
                talk.body()
                talk.answers(whole(result(ok=1)))
            answer = client.answer()
            assert json.loads(answer.body) == result(ok=1)
            assert ("tolsey-replayed" in answer) is not first
    gateway.stands(token, spent="0.01", calls=1)


def listed(gateway: Gateway, tools: Upstream, token: str, *pages: Json) -> Json:
    with gateway.client() as client:
        body = b'{"jsonrpc":"2.0","id":"l","method":"tools/list"}'
        client.ask("POST", "/mcp", KIND, token=token, body=body)
        for page in pages:
            talk = tools.hear()
            asked = json.loads(talk.body())
            talk.answers(whole(result(asked["id"], **page)))
        found: Json = json.loads(client.answer().body)
        return found


def test_a_list_that_lies_shows_nothing_that_could_not_be_called(gateway: Gateway, tools: Upstream, token: str) -> None:
    names = ["search_a", "search_a", "search_\x00", "fire", "search:b", "x" * 200, 7, None, "search_b"]
    items = [{"name": name, "inputSchema": {"type": "object", "x": 1.50}} for name in names]
    found = listed(gateway, tools, token, {"tools": items[:4], "nextCursor": "n"}, {"tools": items[4:]})
    assert [tool["name"] for tool in found["result"]["tools"]] == ["search_a", "search_b"]
    assert "nextCursor" not in found["result"]
    lies: list[Json] = [{"tools": {}}, {"tools": [], "nextCursor": 7}]
    for nonsense in lies:
        assert listed(gateway, tools, token, nonsense)["error"]["data"]["code"] == "upstream_failed"


def test_a_list_without_end_ends(gateway: Gateway, tools: Upstream, token: str) -> None:
    page = {"tools": [{"name": "search_a"}], "nextCursor": "again"}
    found = listed(gateway, tools, token, *[page] * 100)
    assert [tool["name"] for tool in found["result"]["tools"]] == ["search_a"]


def test_an_unknown_method_passes_where_it_has_a_price(gateway: Gateway, tools: Upstream) -> None:
    token = gateway.token("tool = method:tasks/*")
    with gateway.client() as client:
        body = b'{"jsonrpc":"2.0","id":7,"method":"tasks/get","params":{"taskId":"t"}}'
        client.ask("POST", "/mcp", KIND, token=token, body=body)
        talk = tools.hear()
        assert talk.body() == body
        talk.answers(whole(result(status="working")))
        assert json.loads(client.answer().body) == result(status="working")
    gateway.stands(token, spent="0.5", calls=1)


def test_what_a_server_asks_finds_its_way_back_from_among_several(
    gateway: Gateway, tools: Upstream, more: Upstream, token: str
) -> None:
    asks = {"jsonrpc": "2.0", "id": 3, "method": "elicitation/create", "params": {"message": "?"}}
    call = CALL | {"params": {"name": "b_search", "arguments": {}}}
    with gateway.client() as client:
        client.ask("POST", "/both", KIND, token=token, body=json.dumps(call).encode())
        talk = more.hear()
        assert json.loads(talk.body())["params"]["name"] == "search"
        talk.say(stream(asks))
        client.until(b"data: ")
        asked = json.loads(client.until(b"\n"))
        assert asked == asks | {"id": "more:3"}
        with gateway.client() as second:
            second.ask("POST", "/both", KIND, token=token, body=json.dumps(result("more:3", action="accept")).encode())
            heard = more.hear()
            assert json.loads(heard.body()) == result(3, action="accept")
            heard.answers(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
            assert second.answer().status == 202
        answer = sent(gateway, token, result("nobody:3"), path="/both")
        assert error(answer)["code"] == -32602
        talk.close()


def test_notifications_reach_every_server(gateway: Gateway, tools: Upstream, more: Upstream, token: str) -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    with gateway.client() as client:
        client.ask("POST", "/both", KIND, token=token, body=json.dumps(note).encode())
        for upstream in (tools, more):
            talk = upstream.hear()
            assert json.loads(talk.body()) == note
            talk.answers(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        assert client.answer().status == 202


def test_observed_calls_go_on_without_a_token(gateway: Gateway, tools: Upstream) -> None:
    with gateway.client() as client:
        client.ask("POST", "/watched", KIND, body=json.dumps(CALL).encode())
        talk = tools.hear()
        talk.body()
        talk.answers(whole(result(ok=1)))
        assert json.loads(client.answer().body) == result(ok=1)
