"""docs/mcp.md: its configs are ones that work, and its five minutes run as they are written."""

import textwrap
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer

from tests.gateways import serving
from tests.mcp_servers import on_a_socket
from tests.test_docs import blocks
from tolsey.config import problems
from tolsey.token.caveats import Tool, parse_caveat

PAGE = "docs/mcp.md"


def texts(language: str) -> list[str]:
    return [block.text for block in blocks(language) if block.page == PAGE]


def test_the_configs_are_ones_that_work(tmp_path: Path) -> None:
    file = tmp_path / "tolsey.toml"
    for text in texts("toml"):
        file.write_text(text)
        assert problems(file, {"MAPS_KEY": "k", "NOTES_KEY": "k"}) == []


async def test_the_five_minutes_run_as_they_are_written(tmp_path: Path) -> None:
    server: MCPServer[Any] = MCPServer("books")

    @server.tool()
    async def find_title(title: str) -> str:
        return title

    @server.tool()
    async def order(title: str) -> str:
        return title

    (mint,) = [text for text in texts("sh") if "mint" in text]
    caveat = mint.partition('--caveat "')[2].partition('"')[0]
    assert isinstance(parse_caveat(caveat.encode()), Tool)
    (snippet,) = texts("python")
    with (
        on_a_socket(server) as port,
        serving(tmp_path, "[server]\n" + texts("toml")[0].replace("9000", "<port>"), port=port) as gateway,
    ):
        code = textwrap.indent(snippet.replace("8402", str(gateway.port)), "    ")
        space: dict[str, Any] = {}
        exec(compile(f"async def run(token):\n{code}\n    return tools, found\n", PAGE, "exec"), space)
        tools, found = await space["run"](gateway.token(caveat))
    assert [tool.name for tool in tools.tools] == ["find_title"]
    assert found.content[0].text == "Macaroons"
