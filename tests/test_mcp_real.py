"""The MCP gateway, and `tolsey mcp`, with other people's servers, clients and checks: `@modelcontextprotocol/…` from
npm and FastMCP from PyPI, pinned in tests/mcp. `make test-mcp` installs them and runs this.
"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from mcp.types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent
from pydantic import FileUrl

from tests.cli import SCRIPT, environment, invoke
from tests.foreign import node
from tests.gateways import Gateway, serving, until
from tests.mcp_conformance import everything
from tests.mcp_servers import on_a_socket
from tests.ports import free_port
from tests.test_mcp import at, words

# The versions before 2026-07-28 have what is deprecated since.
pytestmark = [pytest.mark.mcp, pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")]

FOLDER = Path(__file__).resolve().parent / "mcp"
PACKAGES = FOLDER / "node_modules/@modelcontextprotocol"
EVERYTHING = PACKAGES / "server-everything/dist/index.js"
PYTHON = FOLDER / ".venv/bin/python"
SECONDS = 120
CONFIG = """
[server]
[[upstream]]
name = "http"
url = "http://127.0.0.1:<http>/mcp"
[[upstream]]
name = "suite"
url = "http://127.0.0.1:<suite>/mcp"
[[upstream]]
name = "old"
url = "http://127.0.0.1:<old>/sse"
[[mcp]]
path = "/both"
agent_tools = true
tool = [{ name = "*", price = "0.01 USD" }]
[[mcp.server]]
upstream = "http"
prefix = "http_"
[[mcp.server]]
name = "program"
command = ["<node>", "<everything>", "stdio"]
prefix = "program_"
[[mcp.server]]
upstream = "old"
transport = "sse"
prefix = "old_"
[[mcp]]
path = "/http"
server = [{ upstream = "http" }]
tool = [{ name = "*", price = "0.01 USD" }]
[[mcp]]
path = "/suite"
mode = "observe"
server = [{ upstream = "suite" }]
tool = [{ name = "*", price = "0.01 USD" }]
"""


@contextlib.contextmanager
def listening(kind: str) -> Iterator[int]:
    """server-everything on a port."""
    port = free_port()
    with subprocess.Popen(
        [node(FOLDER), EVERYTHING, kind], env=environment({"PORT": str(port)}), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            line = ""
            while "listening" not in line and "running" not in line:
                line = process.stderr.readline()
                assert line, "server-everything ended"
            yield port
        finally:
            process.kill()


@pytest.fixture(scope="module")
def suite() -> Iterator[int]:
    with on_a_socket(everything()) as port:
        yield port


@pytest.fixture(scope="module")
def gateway(suite: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("mcp")
    with (
        listening("streamableHttp") as http,
        listening("sse") as old,
        serving(folder, CONFIG, http=http, old=old, suite=suite, node=node(FOLDER), everything=EVERYTHING) as running,
    ):
        yield running


def inspected(*arguments: str) -> Any:  # noqa: ANN401 - JSON
    """What the inspector's command line prints."""
    done = subprocess.run(
        [node(FOLDER), PACKAGES.parent / ".bin/mcp-inspector", "--cli", *arguments],
        capture_output=True, text=True, env=environment(), timeout=SECONDS, check=False, cwd=FOLDER,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_the_inspector_lists_and_calls_what_is_behind_the_gateway(gateway: Gateway) -> None:
    token = gateway.token("tool = *_echo, tolsey_balance")
    to = [at(gateway, "/both"), "--transport", "http", "--header", f"Authorization: Bearer {token}"]
    names = [tool["name"] for tool in inspected(*to, "--method", "tools/list")["tools"]]
    assert names == ["http_echo", "program_echo", "old_echo", "tolsey_balance"]
    for name in names[:3]:
        said = inspected(*to, "--method", "tools/call", "--tool-name", name, "--tool-arg", "message=hi")
        assert said["content"] == [{"type": "text", "text": "Echo: hi"}]
    said = inspected(*to, "--method", "tools/call", "--tool-name", "tolsey_balance")
    assert said["structuredContent"]["accounts"][0]["spent"] == "0.03"
    gateway.stands(token, spent="0.03", calls=3)


def wrap(state: Path, *program: str) -> list[str]:
    return ["mcp", "--state", str(state), "--budget", "5 USD", "--", *program]


def test_the_inspector_speaks_to_a_wrapped_server(tmp_path: Path) -> None:
    line = [str(SCRIPT), *wrap(tmp_path, node(FOLDER), str(EVERYTHING), "stdio")]
    said = inspected(*line, "--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=hi")
    assert said["content"] == [{"type": "text", "text": "Echo: hi"}]


class Person:
    """A client's side of what servers ask, and what it heard."""

    def __init__(self) -> None:
        self.progress: list[float] = []
        self.logged: list[object] = []

    async def sample(self, context: object, params: object) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="from-a-model"), model="m-1")

    async def elicit(self, context: object, params: object) -> ElicitResult:
        return ElicitResult(action="decline")

    async def roots(self, context: object) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=FileUrl("file:///srv/roots-of-the-client"), name="r")])

    async def hear(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append(progress)

    async def log(self, params: Any) -> None:  # noqa: ANN401 - of the SDK's
        self.logged.append(params.data)

    def client(self, transport: Any) -> Client:  # noqa: ANN401 - of the SDK's
        return Client(
            transport, mode="legacy", sampling_callback=self.sample, elicitation_callback=self.elicit,
            list_roots_callback=self.roots, logging_callback=self.log,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def wrapped(state: Path, person: Person) -> AsyncIterator[Client]:
    parameters = StdioServerParameters(
        command=str(SCRIPT),
        args=wrap(state, node(FOLDER), str(EVERYTHING), "stdio"),
        env={name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ},
    )
    async with person.client(stdio_client(parameters)) as client:
        yield client


async def test_what_server_everything_asks_and_tells_passes_tolsey_mcp(tmp_path: Path) -> None:
    person = Person()
    async with wrapped(tmp_path, person) as client:
        # It adds tools when it has heard what the client can do, and asked for its roots.
        for _ in range(100):
            names = {tool.name for tool in (await client.list_tools()).tools}
            if {"get-roots-list", "trigger-sampling-request", "trigger-elicitation-request"} <= names:
                break
            await asyncio.sleep(0.05)
        said = await client.call_tool(
            "trigger-long-running-operation", {"duration": 0.3, "steps": 3}, progress_callback=person.hear
        )
        assert "completed" in words(said.content[0])
        assert person.progress == [1, 2, 3]
        said = await client.call_tool("trigger-sampling-request", {"prompt": "p", "maxTokens": 9})
        assert "from-a-model" in "".join(map(words, said.content))
        said = await client.call_tool("trigger-elicitation-request", {})
        assert "declined" in "".join(map(words, said.content))
        said = await client.call_tool("get-roots-list", {})
        assert "roots-of-the-client" in "".join(map(words, said.content))
        await client.call_tool("toggle-simulated-logging", {})
        for _ in range(200):
            if person.logged:
                break
            await asyncio.sleep(0.05)
        assert person.logged
        with pytest.raises(MCPError):
            await client.call_tool(
                "trigger-long-running-operation", {"duration": 60, "steps": 2}, read_timeout_seconds=0.5
            )
        assert words((await client.call_tool("echo", {"message": "after"})).content[0]) == "Echo: after"
    (account,) = json.loads(invoke("trail", "-c", str(tmp_path / "tolsey.toml"), "--json")[1])["accounts"]
    assert (account["spent"], account["held"], account["calls"]) == ("0.07", "0", 7)


async def test_what_a_server_asks_within_a_call_passes_the_gateway(gateway: Gateway) -> None:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    token, person = gateway.token(), Person()
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=20) as http,
        person.client(streamable_http_client(at(gateway, "/suite"), http_client=http)) as client,
    ):
        said = await client.call_tool("test_sampling", {"prompt": "p"})
        assert words(said.content[0]) == "LLM response: from-a-model"
        said = await client.call_tool("test_elicitation", {"message": "m"})
        assert words(said.content[0]) == "User response: action=decline"
        await client.call_tool("test_tool_with_progress", {}, progress_callback=person.hear)
        assert person.progress == [0, 50, 100]


def conforming(url: str) -> set[str]:
    """The scenarios of the conformance suite in which nothing fails."""
    done = subprocess.run(
        [node(FOLDER), PACKAGES / "conformance/dist/index.js", "server", "--url", url],
        capture_output=True, text=True, timeout=SECONDS, check=False, env=environment(), cwd=FOLDER,
    )  # fmt: skip
    found = re.findall(r"^. ([a-z0-9-]+): [1-9]\d* passed, 0 failed", done.stdout, re.MULTILINE)
    assert found, done.stderr + done.stdout
    return set(found)


STRICTER = {"dns-rebinding-protection"}
"""Here a page of the gateway's own origin is another page, as long as `origins` does not name it."""


def test_what_conforms_conforms_behind_the_gateway(gateway: Gateway, suite: int) -> None:
    direct, behind = conforming(f"http://127.0.0.1:{suite}/mcp"), conforming(at(gateway, "/suite"))
    assert len(direct) >= 22
    assert direct - behind == STRICTER


FAST_SERVER = """
from fastmcp import FastMCP
server = FastMCP("fast")
@server.tool
def add(a: int, b: int) -> int:
    return a + b
server.run(show_banner=False)
"""
FAST_CLIENT = """
import asyncio, json, sys
from fastmcp import Client
async def main():
    async with Client(json.loads(sys.argv[1])) as client:
        names = [tool.name for tool in await client.list_tools()]
        answer = await client.call_tool(sys.argv[2], json.loads(sys.argv[3]))
        print(json.dumps([names, answer.content[0].text]))
asyncio.run(main())
"""


def fast(server: dict[str, object], tool: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    """What FastMCP's client is told by a server of its config file's form."""
    config = json.dumps({"mcpServers": {"one": server}})
    done = subprocess.run(
        [PYTHON, "-c", FAST_CLIENT, config, tool, json.dumps(arguments)],
        capture_output=True, text=True, timeout=SECONDS, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_fastmcp_calls_over_the_gateway(gateway: Gateway) -> None:
    token = gateway.token("tool = *_echo")
    server: dict[str, object] = {"url": at(gateway, "/both"), "headers": {"Authorization": f"Bearer {token}"}}
    names, said = fast(server, "program_echo", message="hi")
    assert (names, said) == (["http_echo", "program_echo", "old_echo"], "Echo: hi")
    gateway.stands(token, spent="0.01", calls=1)


def test_fastmcp_on_both_sides_of_tolsey_mcp(tmp_path: Path) -> None:
    file = tmp_path / "server.py"
    file.write_text(FAST_SERVER)
    names, said = fast({"command": str(SCRIPT), "args": wrap(tmp_path / "s", str(PYTHON), str(file))}, "add", a=2, b=3)
    assert (names, said) == (["add"], "5")
    until((tmp_path / "s/data/ledger.db").exists, "it has a ledger")


def test_the_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (FOLDER / "package-lock.json").read_text("utf-8")
