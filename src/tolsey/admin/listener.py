"""The admin listener's application: what watches over the gateway needs no token, API and dashboard do."""

import asyncio
from typing import Any, Final

from tolsey.admin.health import Health, Receive, Send
from tolsey.admin.office import Office
from tolsey.gateway.cycle import Application

OPEN: Final = ("/healthz", "/readyz", "/metrics")
"""What anybody who reaches the listener may see."""


class Listener:
    """An ASGI application. The API is put together when it is first asked for."""

    def __init__(self, health: Health, office: Office) -> None:
        self._health = health
        self._office = office
        self._api: asyncio.Future[Application] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One ASGI scope."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            api = await self._get()
            await api(scope, receive, send)
        else:
            await self._health(scope, receive, send)

    async def _get(self) -> Application:
        if self._api is None or (self._api.done() and (self._api.cancelled() or self._api.exception())):
            self._api = asyncio.ensure_future(asyncio.to_thread(_build, self._office))
        # A client that leaves must not end what others wait for.
        return await asyncio.shield(self._api)


def _build(office: Office) -> Application:
    from tolsey.admin.api import build

    return build(office)
