"""The server that the MCP conformance suite asks for: tools, resources and prompts whose names and answers it knows."""

import base64
from typing import Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.types import (
    AudioContent,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel, Field

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
Talk = Context[Any, Any]


class Name(BaseModel):
    """What is asked of a person."""

    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    """What is asked of a person, with what it is if they do not say (SEP-1034)."""

    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Literal["active", "inactive", "pending"] = "active"
    verified: bool = True


def text(words: str) -> TextContent:
    return TextContent(type="text", text=words)


def image() -> ImageContent:
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def embedded(uri: str, kind: str, words: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=kind, text=words))


def everything() -> MCPServer[Any]:
    """The server."""
    server: MCPServer[Any] = MCPServer("conformance")
    _tools(server)
    _asking(server)

    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        return base64.b64decode(PNG)

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:  # noqa: A002 - its name in the suite
        return f'{{"id":"{id}","templateTest":true,"data":"Data for ID: {id}"}}'

    @server.prompt()
    def test_simple_prompt() -> str:
        return "This is a simple prompt for testing."

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803 - its name in the suite
        found = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
        return [UserMessage(content=found), UserMessage(content=text("Please process the embedded resource above."))]

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage]:
        return [UserMessage(content=image()), UserMessage(content=text("Please analyze the image above."))]

    return server


def _tools(server: MCPServer[Any]) -> None:
    @server.tool(structured_output=False)
    async def test_simple_text() -> str:
        """Answer with text."""
        return "This is a simple text response for testing."

    @server.tool(structured_output=False)
    async def test_image_content() -> CallToolResult:
        """Answer with an image."""
        return CallToolResult(content=[image()])

    @server.tool(structured_output=False)
    async def test_audio_content() -> CallToolResult:
        """Answer with a sound."""
        return CallToolResult(content=[AudioContent(type="audio", data=WAV, mime_type="audio/wav")])

    @server.tool(structured_output=False)
    async def test_embedded_resource() -> CallToolResult:
        """Answer with a resource."""
        found = embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
        return CallToolResult(content=[found])

    @server.tool(structured_output=False)
    async def test_multiple_content_types() -> CallToolResult:
        """Answer with several kinds."""
        found = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
        return CallToolResult(content=[text("Multiple content types test:"), image(), found])

    @server.tool(structured_output=False)
    async def test_error_handling() -> str:
        """Fail."""
        raise ValueError("This tool intentionally returns an error for testing")

    @server.tool(structured_output=False)
    async def test_tool_with_progress(ctx: Talk) -> str:
        """Tell how far it is."""
        for progress in (0, 50, 100):
            await ctx.report_progress(progress, 100)
        return "done"


def _asking(server: MCPServer[Any]) -> None:
    @server.tool(structured_output=False)
    async def test_sampling(prompt: str, ctx: Talk) -> str:
        """Ask the client's model."""
        said = await ctx.session.create_message(
            [SamplingMessage(role="user", content=text(prompt))], max_tokens=100, related_request_id=ctx.request_id
        )
        assert isinstance(said.content, TextContent)
        return f"LLM response: {said.content.text}"

    @server.tool(structured_output=False)
    async def test_elicitation(message: str, ctx: Talk) -> str:
        """Ask a person."""
        said = await ctx.elicit(message, Name)
        return f"User response: action={said.action}"

    @server.tool(structured_output=False)
    async def test_elicitation_sep1034_defaults(ctx: Talk) -> str:
        """Ask a person, with defaults."""
        said = await ctx.elicit("Please review", Defaults)
        return f"Elicitation completed: action={said.action}"
