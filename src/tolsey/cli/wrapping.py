"""`tolsey mcp`: any MCP server that is a program, behind a budget, for a client that starts programs."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import typer

from tolsey.cli.output import UsageError
from tolsey.cli.program import command, new_app
from tolsey.errors import TolseyError
from tolsey.units import Budget

if TYPE_CHECKING:
    from tolsey.gateway.mcp.servers import ToolPrice

app = new_app()

DEFAULT_LABEL: Final = "mcp"
CURRENCY: Final = "0.01"
"""What a call costs unless a price says otherwise, in a unit of three capitals, which is a currency. In any other unit
it costs one.
"""

_FREE: Final = ("resource:*", "prompt:*")


class ServerFailed(TolseyError):
    """The server that was wrapped could not be started, or ended."""

    code: ClassVar[str] = "server_failed"


@command(
    app,
    "mcp",
    examples=[
        'tolsey mcp --budget "5 USD" -- npx -y @modelcontextprotocol/server-everything',
        'tolsey mcp --label web --budget "2 USD/day" --price "find_*=0.05 USD" --tool "find_*" -- python server.py',
    ],
    options_first=True,
)
def mcp(
    words: Annotated[
        list[str], typer.Argument(metavar="CMD", show_default=False, help="The server's program and its arguments.")
    ],
    budget: Annotated[
        str, typer.Option("--budget", metavar="AMOUNT", help='The most that may be spent: "5 USD", "2 USD/day".')
    ],
    label: Annotated[
        str, typer.Option("--label", metavar="NAME", help="Whose budget it is; kept from one start to the next.")
    ] = DEFAULT_LABEL,
    price: Annotated[
        list[str] | None,
        typer.Option(
            "--price",
            metavar="TOOL=PRICE",
            help='What a call costs: "search_*=0.05 USD". The first that fits counts. May be repeated; other tools cost'
            " 0.01 of a currency, or 1 of any other unit.",
        ),
    ] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option(
            "--tool", metavar="GLOB", help="A tool that may be called; nothing else then may. May be repeated."
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="DIR", help="Where keys and ledger are.", show_default="~/.local/state/tolsey/mcp"
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="What is said on standard error is JSON, and each call too.")
    ] = False,
) -> None:
    """Put a budget on an MCP server that is a program.

    Starts the program, and is itself the server on standard input and output, for a client that starts its servers.
    Needs no gateway, no config and no key: a ledger of its own is made when it is first used. Each call of a tool is
    priced, held and charged; when the budget is spent, calls are refused. `tolsey trail` and `tolsey grant`, with
    -c DIR/tolsey.toml, show and raise it.
    """
    import asyncio

    from tolsey.cli.wrapped import run
    from tolsey.units import parse_budget

    if not words[0]:
        raise UsageError("the program's name is empty")
    found = parse_budget(budget)
    prices = _prices(price or [], found)
    # Nothing but the protocol may come out of standard output: whatever else is printed goes to standard error.
    sink = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    folder = Path(os.path.abspath(state or default_state()))
    why = asyncio.run(
        run(words, folder, label=label, budget=budget, prices=prices, tools=tool or [], sink=sink, json=json)
    )
    if why is not None:
        raise ServerFailed(f"the server {why}")


def default_state() -> Path:
    """The folder of this user's state (XDG Base Directory)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local/state") / "tolsey/mcp"


def _prices(given: list[str], budget: Budget) -> "tuple[ToolPrice, ...]":
    from tolsey.config_mcp import tool_glob
    from tolsey.gateway.mcp.servers import ToolPrice
    from tolsey.pricing.tariff import Price
    from tolsey.units import parse_amount

    unit = budget.amount.unit
    found = []
    for text in given:
        name, equals, amount = text.rpartition("=")
        if not equals:
            raise UsageError(f'{text!r} is no price: write --price "TOOL=0.05 {unit}"')
        try:
            glob = tool_glob(name.strip())
        except ValueError as error:
            raise UsageError(str(error)) from None
        price = parse_amount(amount.strip())
        if price.unit != unit:
            raise UsageError(f"the price of {name.strip()} is in {price.unit}, and the budget in {unit}")
        found.append(ToolPrice(glob, Price(unit, price.nano)))
    is_currency = len(unit) == 3 and unit.isalpha() and unit.isupper()
    usual = parse_amount(f"{CURRENCY if is_currency else 1} {unit}")
    found += [ToolPrice(glob, Price(unit, 0)) for glob in _FREE]
    # No tool's name has a colon; what has one and no price is refused.
    return (*found, ToolPrice("*", Price(unit, usual.nano)))
