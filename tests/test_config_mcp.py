"""`[[mcp]]` in tolsey.toml: what it is read as, and that every mistake has its line, key and plain text."""

from pathlib import Path

import pytest

from tolsey.config import Config, load, problems
from tolsey.config_mcp import McpServer, Program
from tolsey.config_secrets import Secret
from tolsey.gateway.mcp.servers import ToolPrice
from tolsey.pricing.tariff import Price
from tolsey.units import NANO

UPSTREAMS = (
    '[[upstream]]\nname = "a_1"\nurl = "http://a.example/mcp"\n[[upstream]]\nname = "b"\nurl = "http://b.example"\n'
)
MCP = UPSTREAMS + '[[mcp]]\npath = "/mcp"\n'
"""Eight lines: what is appended begins in line 9."""
ONE = 'server = [{ upstream = "b" }]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tolsey.toml"


def read(file: Path, text: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return load(file, {})


def test_an_endpoint_is_read(file: Path) -> None:
    text = (
        MCP
        + """
server = [{ upstream = "a_1", prefix = "x_" }, { upstream = "b", prefix = "y_" }]
[[mcp.tool]]
name = "x_*"
arguments = { deep = true, "/a/b" = 7 }
per_argument = { json = "/n", each = "1 sat" }
price = "2 sat"
"""
    )
    (mcp,) = read(file, text).mcp
    assert mcp.servers == (McpServer("a_1", "x_", "a-1"), McpServer("b", "y_", "b"))
    assert mcp.tools == (
        ToolPrice("x_*", Price("sat", 2 * NANO), ((("deep",), True), (("a", "b"), 7)), (("n",), NANO)),
    )
    assert mcp.hosts == frozenset({"localhost", "127.0.0.1", "[::1]"})
    assert mcp.origins == frozenset()


def test_a_server_may_be_a_program_or_of_2024(file: Path) -> None:
    text = MCP + (
        'server = [{ name = "p", command = ["run", "-x"], env = { A_KEY = "k ${B}" }, timeout = 5, prefix = "p_" },'
        ' { upstream = "b", transport = "sse", prefix = "b_" }]'
    )
    file.write_text(text, encoding="utf-8")
    (mcp,) = load(file, {"B": "secret"}).mcp
    program = Program(("run", "-x"), (("A_KEY", Secret("k secret")),), 5.0)
    assert mcp.servers == (McpServer("p", "p_", "p", program), McpServer("b", "b_", "b", None, events=True))
    assert "secret" not in repr(mcp)
    assert load(file, {}, sends=False).mcp[0].servers[0].program == Program(
        ("run", "-x"), (("A_KEY", Secret("")),), 5.0
    )


def test_one_server_needs_no_prefix_and_renames_nothing(file: Path) -> None:
    (mcp,) = read(file, MCP + ONE).mcp
    assert mcp.servers == (McpServer("b", "", ""),)


MISTAKES: dict[str, tuple[str, str]] = {
    "": ("mcp[0].server", "is missing"),
    'server = [{ upstream = "c" }]': ("mcp[0].server[0].upstream", "no upstream is called"),
    'server = [{ upstream = "b", prefix = "a b" }]': ("mcp[0].server[0].prefix", "is not a prefix"),
    'server = [{ upstream = "b" }, { upstream = "a_1", prefix = "x" }]': ("mcp[0].server[0].prefix", "is missing"),
    'server = [{ upstream = "b", prefix = "x" }, { upstream = "a_1", prefix = "x_" }]': (
        "mcp[0].server[1].prefix", "fit one name"
    ),
    'server = [{ upstream = "b", prefix = "x" }, { upstream = "b", prefix = "y" }]': (
        "mcp[0].server[1].upstream", "stands for another"
    ),
    'server = [{ name = "p", command = [] }]': ("mcp[0].server[0].command", "begins with a program"),
    'server = [{ name = "p", command = ["x", "${KEY}"] }]': ("mcp[0].server[0].command[1]", "under env alone"),
    'server = [{ name = "b", command = ["x"] }]': ("mcp[0].server[0].name", "an upstream or another program"),
    'server = [{ command = ["x"] }]': ("mcp[0].server[0].name", "is missing"),
    'server = [{ name = "p", upstream = "b", command = ["x"] }]': ("mcp[0].server[0].upstream", "unknown key"),
    'server = [{ name = "p", command = ["x"], env = { TOLSEY_TOKEN = "x" } }]': (
        "mcp[0].server[0].env.TOLSEY_TOKEN", "not a name for a variable"
    ),
    'server = [{ name = "p", command = ["x"], env = { A = "${NO}" } }]': (
        "mcp[0].server[0].env.A", "the environment variable NO is not set"
    ),
    'server = [{ upstream = "b", transport = "websocket" }]': ("mcp[0].server[0].transport", "must be"),
    ONE + 'mode = "public"': ("mcp[0].mode", "must be"),
    ONE + 'hosts = ["a:80"]': ("mcp[0].hosts[0]", "without a port"),
    ONE + 'origins = ["app.example"]': ("mcp[0].origins[0]", "is not an origin"),
    ONE + 'tool = [{ name = "x" }]': ("mcp[0].tool[0].price", "is missing"),
    ONE + 'tool = [{ name = "a b", price = "1 USD" }]': ("mcp[0].tool[0].name", "is not a tool's name"),
    ONE + 'tool = [{ name = "x", llm = "openai" }]': ("mcp[0].tool[0].llm", "is not for a tool"),
    ONE + 'tool = [{ name = "x", per_argument = { json = "", each = "1 USD" } }]': (
        "mcp[0].tool[0].per_argument.json", "must name an argument"
    ),
    ONE + 'tool = [{ name = "x", price = "1 sat", per_argument = { json = "/n", each = "1 USD" } }]': (
        "mcp[0].tool[0].per_argument", "is in USD"
    ),
    ONE + 'tool = [{ name = "x", price = "1 USD", arguments = { a = 1.5 } }]': (
        "mcp[0].tool[0].arguments.a", "must be a string"
    ),
    ONE + '[[mcp]]\npath = "/mcp"\nserver = [{ upstream = "b" }]': ("mcp[1].path", "another [[mcp]]"),
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_told_with_its_key(file: Path, text: str) -> None:
    file.write_text(MCP + text, encoding="utf-8")
    (error,) = problems(file, {})
    key, words = MISTAKES[text]
    assert (error.key, error.line is not None) == (key, True)
    assert words in error.detail


@pytest.mark.parametrize("path", ["mcp", "/mcp/*", "/a//b", "/.tolsey/mcp"])
def test_a_path_that_cannot_be_an_endpoints_is_refused(file: Path, path: str) -> None:
    file.write_text(f'{UPSTREAMS}[[mcp]]\npath = "{path}"\n{ONE}', encoding="utf-8")
    (error,) = problems(file, {})
    assert error.key == "mcp[0].path"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_server_on_every_address_names_its_hosts(file: Path, host: str) -> None:
    file.write_text(f'[server]\nhost = "{host}"\n[admin]\nport = 1\n' + MCP + ONE, encoding="utf-8")
    (error,) = problems(file, {})
    assert (error.key, "hosts that clients call" in error.detail) == ("mcp[0].hosts", True)
    (mcp,) = read(file, f'[server]\nhost = "{host}"\n[admin]\nport = 1\n' + MCP + ONE + 'hosts = ["*"]').mcp
    assert mcp.hosts is None
