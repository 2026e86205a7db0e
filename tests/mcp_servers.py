"""Real MCP servers for the tests, made with the official SDK: on a socket, in a thread of their own."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import uvicorn
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, TextContent

from tests.gateways import until


def library() -> MCPServer[Any]:
    """A server of books: tools that are cheap, dear, broken, slow or asking, resources, a prompt."""
    server: MCPServer[Any] = MCPServer("library", instructions="Ask for books.")

    @server.tool()
    async def find(title: str, copies: int = 1) -> str:
        """Find a book."""
        return f"{copies} of {title}"

    @server.tool()
    async def buy(title: str) -> CallToolResult:
        """Buy a book, and say what it cost."""
        return CallToolResult(
            content=[TextContent(type="text", text=title)], structured_content={"title": title, "cost": 0.25}
        )

    @server.tool()
    async def read(ctx: Context[Any, Any], pages: int) -> str:
        """Read, and tell how far it got."""
        for page in range(pages):
            await ctx.report_progress(page + 1, pages)
        return "read"

    @server.tool()
    async def burn() -> str:
        """Fail."""
        raise ValueError("no fire in here")

    @server.tool()
    async def sleep(seconds: float) -> str:
        """Sleep."""
        await asyncio.sleep(seconds)
        return "awake"

    @server.resource("book://macaroons")
    def macaroons() -> str:
        return "Cookies with contextual caveats"

    @server.resource("book://shelf/{number}")
    def shelf(number: str) -> str:
        return f"shelf {number}"

    @server.prompt()
    def review(title: str) -> str:
        """Review a book."""
        return f"Review {title}."

    return server


@contextlib.contextmanager
def on_a_socket(server: MCPServer[Any], *, events: bool = False, **settings: Any) -> Iterator[int]:  # noqa: ANN401 - of the SDK's many
    """Serve over Streamable HTTP, or as 2024-11-05 has it; the port."""
    app = server.sse_app() if events else server.streamable_http_app(**settings)
    uv = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=uv.run, daemon=True)
    thread.start()
    until(lambda: uv.started, "the server listens")
    try:
        yield uv.servers[0].sockets[0].getsockname()[1]
    finally:
        uv.should_exit = True
        thread.join(10)


@contextlib.asynccontextmanager
async def talking(url: str, token: str | None, mode: str = "auto") -> AsyncIterator[Client]:
    """The SDK's own client. `mode` is `legacy` for the versions before 2026-07-28."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=20) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


if __name__ == "__main__":
    library().run("stdio")
