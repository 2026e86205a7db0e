"""The MCP gateway, with the official SDK on both sides: what it is capable of, what it costs, what it refuses."""

from collections.abc import Iterator

import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import TextContent, TextResourceContents

from tests.gateways import Gateway, child_of, serving
from tests.mcp_servers import library, on_a_socket, talking

CONFIG = """
[server]
[[upstream]]
name = "library"
url = "http://127.0.0.1:<one>/mcp"
[[upstream]]
name = "annex"
url = "http://127.0.0.1:<two>/mcp"
[[mcp]]
path = "/mcp"
[[mcp.server]]
upstream = "library"
[[mcp.tool]]
name = "find"
arguments = { title = "rare" }
price = "2 USD"
[[mcp.tool]]
name = "find"
price = "0.01 USD"
per_argument = { json = "/copies", each = "0.1 USD" }
[[mcp.tool]]
name = "buy"
reported = { json = "/result/structuredContent/cost", each = "1 USD" }
at_most = "1 USD"
[[mcp.tool]]
name = "sleep"
price = "0.03 USD"
[[mcp.tool]]
name = "re*"
price = "0.02 USD"
[[mcp]]
path = "/both"
[[mcp.server]]
upstream = "library"
prefix = "lib_"
[[mcp.server]]
upstream = "annex"
prefix = "annex_"
[[mcp.tool]]
name = "*"
price = "0.01 USD"
"""
MODES = ["auto", "legacy"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("mcp")
    with (
        on_a_socket(library()) as one,
        on_a_socket(library(), json_response=True) as two,
        serving(folder, CONFIG, one=one, two=two) as running,
    ):
        yield running


def at(gateway: Gateway, path: str = "/mcp") -> str:
    return f"http://127.0.0.1:{gateway.port}{path}"


def words(block: object) -> str:
    """The text of what is one."""
    assert isinstance(block, TextContent | TextResourceContents)
    return block.text


def leaf(error: BaseException) -> BaseException:
    """What is in the innermost of these groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@pytest.mark.parametrize("mode", MODES)
async def test_a_tool_is_called_and_charged_to_every_budget_above(gateway: Gateway, mode: str) -> None:
    team = gateway.token(budget="10 USD")
    worker = child_of(team, "label = worker n2", "budget = 1 USD", "tool = find")
    async with talking(at(gateway), worker, mode) as client:
        result = await client.call_tool("find", {"title": "Macaroons", "copies": 3})
    assert words(result.content[0]) == "3 of Macaroons"
    gateway.stands(worker, spent="0.31", calls=1)


@pytest.mark.parametrize("mode", MODES)
async def test_the_lists_show_what_a_token_is_for_and_what_has_a_price(gateway: Gateway, mode: str) -> None:
    async with talking(at(gateway), gateway.token(), mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["find", "buy", "read", "sleep"]
        assert [r.uri for r in (await client.list_resources()).resources] == ["book://macaroons"]
        assert (await client.list_prompts()).prompts == []
    async with talking(at(gateway), gateway.token("tool = f*, sleep"), mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["find", "sleep"]
        assert (await client.list_resources()).resources == []


@pytest.mark.parametrize("mode", MODES)
async def test_several_servers_are_one_whose_names_do_not_meet(gateway: Gateway, mode: str) -> None:
    token = gateway.token("tool = *_find, annex_read, resource:annex+*, prompt:lib_*")
    async with talking(at(gateway, "/both"), token, mode) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == ["lib_find", "annex_find", "annex_read"]
        assert words((await client.call_tool("annex_find", {"title": "Seals"})).content[0]) == "1 of Seals"
        assert [r.uri for r in (await client.list_resources()).resources] == ["annex+book://macaroons"]
        templates = (await client.list_resource_templates()).resource_templates
        assert [t.uri_template for t in templates] == ["annex+book://shelf/{number}"]
        found = await client.read_resource("annex+book://shelf/7")
        assert (found.contents[0].uri, words(found.contents[0])) == ("annex+book://shelf/7", "shelf 7")
        assert [p.name for p in (await client.list_prompts()).prompts] == ["lib_review"]
        prompt = await client.get_prompt("lib_review", {"title": "Seals"})
        assert words(prompt.messages[0].content) == "Review Seals."
        with pytest.raises(MCPError) as refused:
            await client.read_resource("library+book://macaroons")
        assert refused.value.error.data["code"] == "caveat_refused"
    gateway.stands(token, spent="0.03", calls=3)


@pytest.mark.parametrize("mode", MODES)
async def test_a_price_is_by_argument_and_from_the_result(gateway: Gateway, mode: str) -> None:
    token = gateway.token()
    async with talking(at(gateway), token, mode) as client:
        await client.call_tool("find", {"title": "rare"})
        gateway.stands(token, spent="2", calls=1)
        await client.call_tool("buy", {"title": "Seals"})
        gateway.stands(token, spent="2.25", calls=2)
        with pytest.raises(MCPError) as refused:
            await client.call_tool("find", {"title": "no copies"})
        assert refused.value.error.data["code"] == "unpriceable"
        with pytest.raises(MCPError) as refused:
            await client.call_tool("burn", {})
        assert refused.value.error.data["code"] == "unpriceable"
    gateway.stands(token, spent="2.25", calls=2)


@pytest.mark.parametrize("mode", MODES)
async def test_a_refusal_is_an_error_with_the_members_of_the_problem_document(gateway: Gateway, mode: str) -> None:
    poor = child_of(gateway.token(), "label = poor n2", "budget = 0.005 USD", "tool = read, find")
    async with talking(at(gateway), poor, mode) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("read", {"pages": 1})
        error = refused.value.error
        assert error.code == -32010
        assert error.data["link"]["label"] == "poor"
        assert (error.data["code"], error.data["status"]) == ("budget_exhausted", 402)
        money = {name: error.data[name] for name in ("unit", "limit", "spent", "held", "remaining")}
        assert money == {"unit": "USD", "limit": "0.005", "spent": "0", "held": "0", "remaining": "0.005"}
        with pytest.raises(MCPError) as refused:
            await client.call_tool("sleep", {"seconds": 0})
        assert refused.value.error.data["code"] == "caveat_refused"
        assert refused.value.error.data["caveat"] == "tool = read, find"


@pytest.mark.parametrize("mode", MODES)
async def test_progress_passes_while_a_tool_works(gateway: Gateway, mode: str) -> None:
    heard = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total))

    async with talking(at(gateway), gateway.token(), mode) as client:
        await client.call_tool("read", {"pages": 3}, progress_callback=hear)
    assert heard == [(1, 3), (2, 3), (3, 3)]


async def test_without_a_token_nothing_is_told(gateway: Gateway) -> None:
    for mode in MODES:
        with pytest.raises(ExceptionGroup) as refused:
            async with talking(at(gateway), None, mode):
                pass
        error = leaf(refused.value)
        assert isinstance(error, MCPError)
        assert error.error.data["code"] == "token_missing"


async def test_a_call_that_is_broken_off_is_charged_and_leaves_no_hold(gateway: Gateway) -> None:
    token = gateway.token()
    async with talking(at(gateway), token, "auto") as client:
        with pytest.raises(MCPError):
            await client.call_tool("sleep", {"seconds": 30}, read_timeout_seconds=0.5)
    gateway.stands(token, spent="0.03", calls=1)
