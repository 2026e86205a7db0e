"""The gateway inside an application: `app.add_middleware(Tolsey, config="tolsey.toml")`, for FastAPI, Starlette and any
other ASGI application.

Every call goes through the same passage as on a gateway's data port; what is different is that the application serves
it, and no upstream. The ledger is opened when the application starts up, by each of its processes, and what is not a
route is refused.
"""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote

import structlog
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount

from tolsey.call import METHODS, Pattern
from tolsey.cli.assemble import routes_of
from tolsey.cli.within import Within
from tolsey.config import Config, load
from tolsey.config_lines import Problems, Table
from tolsey.config_prices import read_price
from tolsey.errors import ConfigError, Refusal, TolseyError
from tolsey.gateway import problems
from tolsey.gateway.app_leg import AppLeg
from tolsey.gateway.asgi import Gateway
from tolsey.gateway.request import read_request
from tolsey.gateway.routes import Mode, Route, Routes
from tolsey.gateway.upstream import Upstream
from tolsey.model_prices import KnownModels
from tolsey.pricing.llm import MAX_BODY
from tolsey.pricing.tariff import Price, Tariff

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
F = TypeVar("F", bound=Callable[..., Any])

APP: Final = "app"
"""The name of the upstream of endpoints that have a price of their own."""

_PRICE: Final = "__tolsey_price__"
_PARAMETER = re.compile(r"\{[^{}:]+(?::([^{}]+))?\}")
_CLOSED: Final = Refusal(
    "ledger_unavailable", "the ledger is not open: it is opened in the application's lifespan, which has not begun"
)

calls = logging.getLogger("tolsey.calls")
"""Gets a line of JSON for each call, at the level INFO."""


def price(amount: str | None = None, **parts: object) -> Callable[[F], F]:
    """Price an endpoint: `@price("0.01 USD")`, below the decorator that makes it a route. `parts` are the other keys of
    a price in the config, such as `price_per_second`. Raises `ConfigError`.
    """
    found = Problems("@price", {})
    given = {**({} if amount is None else {"price": amount}), **parts}
    table = Table(found, (), given)
    read = read_price(table, free_on_failure=False)
    table.done()
    if read is None and not found.in_order():
        found.add((), 'says no price; a free endpoint has "0 USD"')
    for error in found.in_order():
        raise error

    def mark(endpoint: F) -> F:
        setattr(endpoint, _PRICE, read)
        return endpoint

    return mark


class Tolsey:
    """The middleware. `config` is a file as a gateway has it; of `[server]` nothing counts that is about listening,
    and all upstreams are the application. Routes by `price` come before those of the file.
    """

    def __init__(self, app: Application, config: str | os.PathLike[str] = "tolsey.toml") -> None:
        self._app = app
        self._file = Path(config)
        self._log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
            logging.getLogger("tolsey"),
            processors=[structlog.processors.JSONRenderer()],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        self._within: Within
        self._gateway: Gateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI scope."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await self._live(scope, receive, send)
            case "websocket":
                # Nothing on it could be priced, so none is let through.
                await send({"type": "websocket.close", "code": 1008, "reason": "WebSockets are not metered"})
            case kind:
                raise NotImplementedError(f"{kind} is not served")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._gateway is None:
            status, headers, body = problems.response(_CLOSED)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        raw = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
        whole = {**scope, "raw_path": raw}
        request = read_request(whole)
        if not isinstance(request, Refusal) and unquote(request.path) != scope["path"]:
            # Then another path would be priced than the one that the application goes by.
            request = Refusal("path_invalid", "the path was rewritten before it came here")
        leg = AppLeg(self._app, whole)
        # In a task of its own: a call that is cut is cancelled, and the server's task is not ours to cancel.
        has_body = isinstance(request, Refusal) or request.size != 0
        try:
            await asyncio.create_task(self._gateway.take(request, whole, receive, send, has_body=has_body, leg=leg))
            await leg.over()
        except asyncio.CancelledError:
            leg.cancel()
            raise

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application's own lifespan, with the ledger opened before it begins and closed after its end."""

        async def receiving() -> MutableMapping[str, Any]:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._open(scope.get("app") or self._app)
                except TolseyError as error:
                    await send({"type": "lifespan.startup.failed", "message": f"tolsey: {error}"})
                    raise
            return message

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] in ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._close()
            await send(message)

        await self._app(scope, receiving, sending)

    async def _open(self, app: object) -> None:
        """Open the ledger, as a gateway does before it opens its port. Raises `TolseyError`."""
        config = load(self._file, os.environ)
        self._within = Within(config, self._log, lambda lines: calls.info(lines.decode("utf-8").rstrip()))
        routes = Routes([*priced_routes(app, config), *routes_of(config).all])
        self._gateway = await self._within.open(routes)

    async def _close(self) -> None:
        """Settle what is left, and end this owner."""
        if self._gateway is None:
            return
        self._gateway = None
        await self._within.close()


def priced_routes(app: object, config: Config) -> list[Route]:
    """A route for each endpoint of an application that has a price. Raises `ConfigError`."""
    upstream = Upstream(APP, "http://127.0.0.1")
    models = KnownModels(config.models)
    found = []
    for path, methods, priced in _endpoints(getattr(app, "routes", ()), ""):
        if priced.llm:
            models.load()
        most = config.server.max_body
        tariff = Tariff(priced, (), models, MAX_BODY if most is None else most)
        mode = Mode(config.server.mode)
        named = tuple(method for method in METHODS if method in methods)
        found.append(
            Route(
                _pattern(path), named, upstream, mode, None if mode is Mode.PUBLIC else tariff, config.server.max_body
            )
        )
    return found


def _endpoints(routes: Sequence[BaseRoute], prefix: str) -> Iterator[tuple[str, set[str], Price]]:
    for context in iter_route_contexts(routes):
        route = context.original_route
        if isinstance(route, Mount):
            yield from _endpoints(route.routes, prefix + route.path)
            continue
        priced = getattr(context.endpoint, _PRICE, None)
        if priced is not None:
            yield prefix + (context.path or ""), set(context.methods or ("GET",)), priced


def _pattern(path: str) -> Pattern:
    """What a path of Starlette's means: a parameter is one segment, one of the kind `path` the rest."""
    segments: list[str | None] = []
    for number, segment in enumerate(parts := path.split("/")[1:]):
        kinds = _PARAMETER.findall(segment)
        if "path" in kinds:
            if number != len(parts) - 1 or _PARAMETER.fullmatch(segment) is None:
                raise ConfigError(f"{path!r} has more behind a path parameter: give it a route in the config instead")
            return Pattern(path, tuple(segments), True, ())
        segments.append(None if kinds else segment)
    return Pattern(path, tuple(segments), False, ())
