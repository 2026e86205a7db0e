"""The leg to an application in this process: an ASGI application serves the call, and nothing goes over a network."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, MutableMapping
from types import TracebackType
from typing import Any, Final

from tolsey.call import Call
from tolsey.gateway.client import BodyBroken, BodyTooLarge, Client
from tolsey.gateway.cycle import Application
from tolsey.gateway.destination import Broken
from tolsey.gateway.headers import Headers
from tolsey.gateway.legs import Leg
from tolsey.gateway.messages import Cleared
from tolsey.gateway.meter import Meter
from tolsey.gateway.request import Request
from tolsey.gateway.routes import Route
from tolsey.ledger.events import Granted

MAX_WAITING: Final = 256 * 1024
"""How many bytes of an answer wait for a client that is slow, before the application is made to wait."""


class Left(OSError):
    """The client of an application is gone, or its call was cut."""


class AppLeg(Leg):
    """The way of one call to `application`, with the scope that the call came in."""

    __slots__ = ("_application", "_call", "_scope")

    def __init__(self, application: Application, scope: MutableMapping[str, Any]) -> None:
        super().__init__()
        self._application = application
        self._scope = scope
        self._call: AppCall | None = None

    @property
    def sent(self) -> bool:
        """Whether the application was called."""
        return self._call is not None

    def exchange(
        self,
        route: Route,
        method: str,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        body: AsyncIterator[bytes] | None,
    ) -> "AppCall":
        """The call of the application, to be entered with `async with`."""
        self._call = AppCall(self._application, inside(self._scope, headers), body)
        return self._call

    async def run(
        self,
        request: Request,
        client: Client,
        route: Route,
        call: Call,
        cleared: Cleared | None,
        granted: Granted | None,
        meter: Meter | None,
        *,
        disclose_chain: bool,
    ) -> None:
        """Have the application serve the call. What it raises before it has answered is charged as a 500 is."""
        try:
            await super().run(request, client, route, call, cleared, granted, meter, disclose_chain=disclose_chain)
        except Exception:
            if client.record.status is None and self._call is not None and self._call.failed:
                client.record.status, client.record.note = 500, "the application failed"
            raise

    def cancel(self) -> None:
        """Cancel the application: its server is ending."""
        if self._call is not None:
            self._call.cancel()

    async def over(self) -> None:
        """Wait for the application to return, as it may do more once it has answered. Raises what it raised."""
        if self._call is not None:
            await self._call.over()


def inside(scope: MutableMapping[str, Any], headers: Headers) -> dict[str, Any]:
    """The scope for the application: with the headers that an upstream would get, but that the host, and what proxies
    in front say of the client, are as they came.
    """
    own = [(name, value) for name, value in headers if not name.startswith(b"x-forwarded-")]
    came = [
        (name, value)
        for name, value in scope["headers"]
        if name in (b"host", b"forwarded") or name.startswith(b"x-forwarded-")
    ]
    return {**scope, "headers": [*came, *own], "extensions": {}}


class AppCall:
    """An application's answer, as an `Exchange` is an upstream's: the same attributes, and the same order of use."""

    def __init__(self, application: Application, scope: dict[str, Any], body: AsyncIterator[bytes] | None) -> None:
        self._application = application
        self._scope = scope
        self._body = body
        self._asked = False
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._gone = asyncio.Event()
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._ended = self._dropped = False
        self._error: Exception | None = None
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.length: int | None = None

    async def __aenter__(self) -> "AppCall":
        self._room.set()
        serving = self._application(self._scope, self._receive, self._send)
        self._task = asyncio.get_running_loop().create_task(_run(serving))
        _running.add(self._task)
        self._task.add_done_callback(self._over)
        try:
            while not self.status:
                await self._change("the application did not answer")
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            # Whatever it still sends, such as a body for HEAD, nobody waits for.
            self._dropped = True
            self._room.set()
        else:
            self._leave()

    def _over(self, task: asyncio.Task[None]) -> None:
        _running.discard(task)
        if not task.cancelled():
            # Of a call that was cut nobody asks any more what the application raised.
            task.exception()
        self._changed.set()

    def cancel(self) -> None:
        """Cancel the application."""
        if self._task is not None:
            self._task.cancel()

    def _leave(self) -> None:
        self._gone.set()
        self._room.set()

    @property
    def failed(self) -> bool:
        """Whether the application raised."""
        return (
            self._task is not None and self._task.done() and not self._task.cancelled() and bool(self._task.exception())
        )

    async def over(self) -> None:
        """Wait for the application to return. Raises what it raised, unless that is only that its client had left."""
        if self._task is None:
            return
        try:
            await self._task
        except Left:
            return

    async def _change(self, end: str) -> None:
        """Wait until something came. Raises what went wrong; `end` says it of an application that just returned."""
        if self._error is not None:
            raise self._error
        if self._task is not None and self._task.done():
            self._task.result()
            raise Broken(end)
        self._changed.clear()
        await self._changed.wait()

    async def chunk(self) -> bytes | None:
        """The next piece of the body as it comes, None at its end. Raises `Broken`, or what the application raised."""
        while not self._pieces:
            if self._ended:
                return None
            await self._change("the application ended in the middle of its answer")
        found = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        self._room.set()
        return found

    async def whole(self) -> bytes:
        """The rest of the body in one piece. Raises as `chunk` does."""
        pieces = []
        while (piece := await self.chunk()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            try:
                return {"type": "http.request", "body": await anext(self._body), "more_body": True}
            except StopAsyncIteration:
                self._body = None
            except (BodyTooLarge, BodyBroken) as error:
                self._error = error
                self._changed.set()
                await self._gone.wait()
        if not self._asked and not self._gone.is_set():
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if self._gone.is_set():
            raise Left("the client is gone")
        if message["type"] == "http.response.start":
            self.headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
            lengths = [value for name, value in self.headers if name == b"content-length"]
            self.length = int(lengths[0]) if lengths else None
            self.status = message["status"]
        elif message["type"] == "http.response.body" and not self._dropped:
            piece = bytes(message.get("body", b""))
            if piece:
                self._pieces.append(piece)
                self._waiting += len(piece)
            self._ended = not message.get("more_body", False)
        self._changed.set()
        if self._waiting > MAX_WAITING:
            self._room.clear()
            await self._room.wait()
            if self._gone.is_set():
                raise Left("the client is gone")


_running: set[asyncio.Task[None]] = set()
"""Applications that have not returned yet: a task lives only as long as somebody holds it."""


async def _run(serving: Awaitable[None]) -> None:
    await serving
