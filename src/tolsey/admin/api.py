"""The admin API and the dashboard as one ASGI application; the OpenAPI document is at `/api/openapi.json`.

Imported when it is first asked for: FastAPI is half a second and thirty megabytes that a worker never needs, and a
supervisor only where somebody uses the API.
"""

import asyncio
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from starlette.applications import Starlette

from tolsey.admin import changing, models, problems, reading
from tolsey.admin.dashboard import Dashboard
from tolsey.admin.office import Office
from tolsey.gateway.cycle import Application

MAX_BODY: Final = 128 * 1024
"""The largest body of a request, in bytes: a token and every caveat that one can have."""

BODY_SECONDS: Final = 10.0
"""How long a body may take to arrive."""

MAX_REQUESTS: Final = 64
"""How many requests are answered at a time; the others are told to come again."""

_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {"model": models.Problem, "description": "A refusal, as an RFC 9457 problem document."}
}


class _Api(FastAPI):
    """FastAPI, with refusals under their own content type in the document."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            for methods in document["paths"].values():
                for operation in methods.values():
                    refusal = operation["responses"]["default"]
                    refusal["content"] = {"application/problem+json": refusal["content"]["application/json"]}
        return super().openapi()


def build(office: Office) -> Application:
    """The application."""
    app = _Api(
        title="Tolsey admin API",
        version=version("tolsey"),
        description="Mint and narrow tokens, see and change what they spend. Every change is an entry of the ledger.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_PROBLEMS,
    )
    app.state.office = office
    problems.install(app)
    app.include_router(reading.router)
    app.include_router(changing.router)
    return _Bounded(app, Dashboard(office).application())


class _Bounded:
    """Takes a request's body, within its bounds, before the API or the dashboard sees the request."""

    def __init__(self, api: FastAPI, dashboard: Starlette) -> None:
        self._api = api
        self._dashboard = dashboard
        self._running = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's callables
        if scope["type"] != "http":
            return
        if self._running >= MAX_REQUESTS:
            await problems.answer("rate_limited", "too many requests at a time")(scope, receive, send)
            return
        self._running += 1
        try:
            body = await self._body(receive)
            if isinstance(body, str):
                detail = f"a body has at most {MAX_BODY} bytes, and comes within {BODY_SECONDS:g} s"
                await problems.answer(body, detail)(scope, receive, send)
            elif body is not None:
                app = self._api if scope["path"].startswith("/api/") else self._dashboard
                await app(scope, _whole(body, receive), _quiet(send))
        finally:
            self._running -= 1

    async def _body(self, receive: Any) -> bytes | str | None:  # noqa: ANN401 - an ASGI callable
        """The body, the code of a refusal, or None where the client has left."""
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > MAX_BODY:
                        return "body_too_large"
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError:
            return "request_invalid"


def _whole(body: bytes, receive: Any) -> Any:  # noqa: ANN401 - ASGI's callables
    given = False

    async def whole() -> dict[str, Any]:
        nonlocal given
        if given:
            found: dict[str, Any] = await receive()
            return found
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return whole


def _quiet(send: Any) -> Any:  # noqa: ANN401 - ASGI's callables
    """Answers hold tokens and figures: no cache may keep them, no page may frame them or guess what they are."""

    async def quiet(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            names = {name for name, _ in message["headers"]}
            more = (
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
                (b"x-frame-options", b"DENY"),
                (b"referrer-policy", b"same-origin"),
            )
            message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in names)]
        await send(message)

    return quiet
