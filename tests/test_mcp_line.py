"""Servers on a line behind an endpoint: programs that the gateway starts, and those of 2024-11-05."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.ends import Message
from tests.gateways import Gateway, serving, until
from tests.mcp_servers import library, on_a_socket, talking
from tests.mcp_talk import KIND, Json, error, whole
from tests.test_mcp import MODES, at, words
from tests.upstreams import Upstream

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """
[server]
[[upstream]]
name = "old"
url = "http://127.0.0.1:<old>/sse"
[[upstream]]
name = "liar"
url = "http://127.0.0.1:<liar>/talk"
timeout = 5
headers = { Authorization = "Bearer its-own" }
[[mcp]]
path = "/mcp"
hosts = ["gateway.test", "127.0.0.1"]
tool = [{ name = "*", price = "0.01 USD" }]
[[mcp.server]]
name = "lib"
command = ["<python>", "-m", "tests.mcp_servers", "<mark>"]
env = { PYTHONPATH = "<root>" }
prefix = "lib_"
[[mcp.server]]
upstream = "old"
transport = "sse"
prefix = "old_"
[[mcp]]
path = "/program"
hosts = ["gateway.test", "127.0.0.1"]
tool = [{ name = "*", price = "0.01 USD" }]
[[mcp.server]]
name = "program"
command = ["<python>", "-m", "tests.mcp_program", "<mark>"]
timeout = 5
env = { PYTHONPATH = "<root>", API_KEY = "sesame-key" }
[[mcp]]
path = "/liar"
hosts = ["gateway.test", "127.0.0.1"]
server = [{ upstream = "liar", transport = "sse" }]
tool = [{ name = "*", price = "0.01 USD" }]
[[mcp]]
path = "/missing"
hosts = ["gateway.test", "127.0.0.1"]
server = [{ name = "missing", command = ["/no/such/program"] }]
tool = [{ name = "*", price = "0.01 USD" }]
"""


@pytest.fixture(scope="module")
def liar() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(liar: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("mcp")
    with on_a_socket(library(), events=True) as old, serving(folder, CONFIG, **values(folder, old, liar)) as running:
        yield running
    assert not programs(folder)


def values(folder: Path, old: int, liar: Upstream) -> dict[str, object]:
    return {"old": old, "liar": liar.port, "python": sys.executable, "root": ROOT, "mark": mark(folder)}


def mark(folder: Path) -> str:
    """A word in the command line of the programs that a gateway starts, by which they are found."""
    return f"of-{sha256(os.fsencode(folder)).hexdigest()[:16]}"


def programs(folder: Path) -> list[int]:
    return children("tests.mcp_", mark(folder))


def children(*what: str) -> list[int]:
    """The processes with all of this in their command line, but for zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if entry.name.isdigit() and all(part in line for part in what):
            found.append(int(entry.name))
    return found


def called(gateway: Gateway, token: str, tool: str, path: str = "/program", **arguments: object) -> Message:
    """Call a tool of the program."""
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    return gateway.ask("POST", path, KIND, token=token, body=json.dumps(call).encode())


def said(answer: Message) -> str:
    document = json.loads(answer.body)
    assert document["id"] == 7
    text = document["result"]["content"][0]["text"]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("mode", MODES)
async def test_a_program_and_a_server_of_2024_are_one_with_their_prefixes(gateway: Gateway, mode: str) -> None:
    heard = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total))

    token = gateway.token()
    async with talking(at(gateway), token, mode) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"lib_find", "old_find", "lib_read", "old_read"} <= names
        for prefix in ("lib_", "old_"):
            found = await client.call_tool(f"{prefix}find", {"title": "Seals", "copies": 2})
            assert words(found.content[0]) == "2 of Seals"
            await client.call_tool(f"{prefix}read", {"pages": 2}, progress_callback=hear)
            assert heard == [(1, 2), (2, 2)]
            heard.clear()
        read = await client.read_resource("lib+book://macaroons")
        assert read.contents[0].uri == "lib+book://macaroons"
    gateway.stands(token, spent="0.05", calls=5)


async def test_a_program_alone_has_a_session_of_the_gateways(gateway: Gateway) -> None:
    async with talking(at(gateway, "/program"), gateway.token(), "legacy") as client:
        assert client.server_capabilities.model_dump(exclude_none=True) == {"tools": {}}
        assert words((await client.call_tool("echo", {"text": "a"})).content[0]) == "a"


def test_it_lies_and_answers_twice_and_prints_what_is_no_message(gateway: Gateway) -> None:
    token = gateway.token()
    assert said(called(gateway, token, "lie")) == "the truth"
    assert said(called(gateway, token, "twice")) == "first"
    assert said(called(gateway, token, "junk")) == "ok"
    assert said(called(gateway, token, "note")) == "ok"
    assert said(called(gateway, token, "echo", text="next")) == "next"
    gateway.stands(token, spent="0.05", calls=5)


def test_two_clients_may_use_one_id_at_once(gateway: Gateway) -> None:
    token = gateway.token()
    with gateway.client() as one, gateway.client() as two:
        for client, text in ((one, "one"), (two, "two")):
            call = {
                "jsonrpc": "2.0",
                "id": 7,
                "method": "tools/call",
                "params": {"name": "echo", "arguments": {"text": text}},
            }
            client.ask("POST", "/program", KIND, token=token, body=json.dumps(call).encode())
        assert (said(one.answer()), said(two.answer())) == ("one", "two")


def test_what_it_asks_for_is_declined(gateway: Gateway) -> None:
    answer = called(gateway, gateway.token(), "ask")
    assert error(answer)["data"]["code"] == "upstream_failed"


def test_its_environment_is_its_own_and_its_secrets_are_not_logged(gateway: Gateway) -> None:
    names = set(said(called(gateway, gateway.token(), "names")).split())
    assert {"API_KEY", "PYTHONPATH", "PATH"} <= names
    allowed = {"API_KEY", "PYTHONPATH", "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ"}
    assert names <= allowed | {"LANG", "LC_ALL", "LC_CTYPE"}
    assert said(called(gateway, gateway.token(), "tell")) == "told"
    until(lambda: "the key is ***, the other ***" in gateway.said(), "it is in the log")
    assert "sesame" not in gateway.said()


def test_a_call_that_is_broken_off_is_charged_and_cancelled(gateway: Gateway) -> None:
    token = gateway.token()
    with gateway.client() as client:
        call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "hang"}}
        client.ask("POST", "/program", KIND, token=token, body=json.dumps(call).encode())
        until(lambda: gateway.balance(token)[0]["held"] == "0.01", "it is under way")
    until(lambda: "heard notifications/cancelled True" in gateway.said(), "the program hears of it")
    gateway.stands(token, spent="0.01", calls=1)


def test_one_that_is_not_there_costs_nothing(gateway: Gateway) -> None:
    token = gateway.token()
    answer = called(gateway, token, "echo", path="/missing")
    assert error(answer)["data"]["code"] == "upstream_failed"
    assert "/no/such" not in answer.body.decode()
    assert "/no/such/program cannot be run: No such file or directory" in gateway.said()
    gateway.stands(token, spent="0", calls=0)


def test_one_that_dies_is_started_again_but_not_without_end(gateway: Gateway) -> None:
    token = gateway.token()
    served = 0
    for _ in range(6):
        assert error(called(gateway, token, "die"))["data"]["code"] == "upstream_failed"
        if not served and said_or_none(called(gateway, token, "echo", text="again")):
            served += 1
    assert served == 1
    answer = called(gateway, token, "echo", text="again")
    assert "ended 5 times within a minute" in error(answer)["data"]["detail"]
    until(lambda: "ended with status 3" in gateway.said(), "it is in the log")


def said_or_none(answer: Message) -> str | None:
    return said(answer) if "result" in json.loads(answer.body) else None


def events(*pieces: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + body


LIES: dict[str, bytes] = {
    "another origin": events(b"event: endpoint\ndata: http://evil.example/talk\n\n"),
    "another scheme": events(b"event: endpoint\ndata: file:///etc/passwd\n\n"),
    "a line break": events(b"event: endpoint\ndata: /talk\ndata:  HTTP/1.1\n\n"),
    "no stream": whole({}),
    "its end": events() + b"0\r\n\r\n",
}


def test_a_stream_that_says_where_to_post_is_not_believed_everything(gateway: Gateway, liar: Upstream) -> None:
    token = gateway.token()
    for lie in LIES.values():
        with gateway.client() as client:
            call: Json = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "echo"}}
            client.ask("POST", "/liar", KIND, token=token, body=json.dumps(call).encode())
            talk = liar.hear()
            assert talk.request.line == "GET /talk HTTP/1.1"
            assert talk.request.all("authorization") == ["Bearer its-own"]
            talk.say(lie)
            assert error(client.answer())["data"]["code"] == "upstream_failed"
            talk.close()
    gateway.stands(token, spent="0", calls=0)


def test_programs_end_with_the_worker_that_started_them(tmp_path: Path, liar: Upstream) -> None:
    with serving(tmp_path, CONFIG, **values(tmp_path, 1, liar)) as gateway:
        assert said(called(gateway, gateway.token(), "echo", text="a")) == "a"
        (program,) = programs(tmp_path)
        (worker,) = children("-m tolsey.cli.worker", str(tmp_path))
        os.kill(worker, signal.SIGKILL)
        until(lambda: program not in programs(tmp_path), "the program ends")
