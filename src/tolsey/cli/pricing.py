"""`tolsey price`: what a call would reserve, and why."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import CallRefused, UsageError, emit, printable, table
from tolsey.cli.program import command, new_app
from tolsey.errors import Refusal
from tolsey.units import format_nano

if TYPE_CHECKING:
    from tolsey.config import Config
    from tolsey.pricing.tariff import Quote

app = new_app()


@command(
    app,
    "price",
    examples=[
        "tolsey price --path /api/v1/search",
        "tolsey price --method POST --path /v1/chat/completions --body request.json",
    ],
)
def price(
    path: Annotated[str, typer.Option("--path", metavar="PATH", help="The path of the call.")],
    method: Annotated[str, typer.Option("--method", help="Its method.")] = "GET",
    query: Annotated[str, typer.Option("--query", metavar="QUERY", help='Its query: "depth=full&page=2".')] = "",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="HEADER", help='One of its headers: "X-Tier: gold". May be repeated.'),
    ] = None,
    body: Annotated[
        str | None, typer.Option("--body", metavar="FILE|-", help="Its body; '-' reads standard input.")
    ] = None,
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Say what a call would reserve, and why.

    Names the price of the route that decides it, and its parts. No token is needed, nothing is charged and no upstream
    is asked. Exit status 1 if the call would be refused for want
    of a price.
    """
    from tolsey.cli.place import read_config

    headers = [_header(text) for text in header or []]
    sent = None if body is None else sys.stdin.buffer.read() if body == "-" else Path(body).read_bytes()
    path, mark, more = path.partition("?")
    if mark and query:
        raise UsageError("the query stands in --path or in --query, not in both")
    found = _quote(read_config(file), method, path, query or more, headers, sent)
    if isinstance(found, Refusal):
        raise CallRefused(found)
    emit(json, found, lambda: _show(found))


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not text.isascii() or not name.strip():
        raise UsageError(f"{text!r} is not a header; write 'Name: value'")
    return name.strip().lower().encode("ascii"), value.strip().encode("ascii")


def _quote(
    config: "Config", method: str, path: str, query: str, headers: list[tuple[bytes, bytes]], body: bytes | None
) -> dict[str, object] | Refusal:
    from tolsey.call import Call, path_fault, query_fault
    from tolsey.cli.assemble import routes_of

    bad = path_fault(path.encode("utf-8")) or query_fault(query.encode("utf-8"))
    if bad:
        return Refusal("path_invalid", f"the path is refused: {bad}")
    routes = routes_of(config)
    route = routes.match(method, path)
    if isinstance(route, Refusal):
        return route
    call = Call(method, path, query, "", time.time_ns(), route.upstream.name)
    known: dict[str, object] = {"method": method, "path": path, "query": query, "upstream": route.upstream.name}
    known |= {"route": route.pattern.text, "mode": route.mode.value, "config": config.generation}
    limit = route.max_body
    if route.tariff is None:
        return known | {"amount": None, "unit": None, "rule": None, "parts": [], "metered": False, "model": None}
    chosen = route.tariff.choose(call, headers)
    if isinstance(chosen, Refusal):
        return chosen
    asked = None
    if chosen.price.llm is not None:
        limit = route.tariff.max_body
        read = route.tariff.read(chosen.price, call, headers, body or b"")
        if isinstance(read, Refusal):
            return read
        asked = read
    if limit is not None and body is not None and len(body) > limit:
        return Refusal("body_too_large", f"this route takes a body of at most {limit} bytes")
    quote = route.tariff.quote(chosen, len(body or b""), asked)
    return quote if isinstance(quote, Refusal) else known | _members(quote)


def _members(quote: "Quote") -> dict[str, object]:
    return {
        "amount": format_nano(quote.amount.nano),
        "unit": quote.amount.unit,
        "rule": quote.rule,
        "parts": [{"part": part, "amount": format_nano(nano)} for part, nano in quote.parts()],
        "metered": quote.varies,
        "model": None if quote.asked is None else quote.asked.model,
    }


def _show(found: dict[str, object]) -> None:
    what = f"{found['method']} {found['path']}"
    if found["amount"] is None:
        print(printable(f"{what} is public, goes to {found['upstream']}, costs nothing."))
        return
    by = "its price" if found["rule"] is None else f"its rule number {found['rule']}, counted from 0"
    print(printable(f"{what} reserves {found['amount']} {found['unit']}: route {found['route']}, {by}."))
    parts = found["parts"]
    if isinstance(parts, list) and parts:
        print()
        table(("part", str(found["unit"])), [(p["part"], p["amount"]) for p in parts], right=(str(found["unit"]),))
    print()
    if found["metered"]:
        print("What it costs is known when it is over, and what is left of the reserve returns.")
    print(f"Prices of config {found['config']}.")
