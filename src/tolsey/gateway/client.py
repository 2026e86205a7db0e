"""The downstream side of one call over ASGI: its request body, its response, its going away, its being late.

A `Watch` looks at all clients of a process twenty times a second. Only for a call that is still going on then does
anybody listen for the client's disconnect; silence on either side is noticed too, and the call cancelled. `cut` then
says why.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from tolsey.errors import Refusal
from tolsey.gateway import problems
from tolsey.gateway.bodies import Bodies
from tolsey.gateway.record import CallRecord
from tolsey.gateway.recorder import Recorder
from tolsey.token.chain import Chain

if TYPE_CHECKING:
    from tolsey.gateway.legs import Leg

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Render = Callable[[Refusal, Mapping[str, object] | None], tuple[int, list[tuple[bytes, bytes]], bytes]]

WATCH_SECONDS: Final = 0.05
"""How often calls are looked at."""

MAX_DURATION_SECONDS: Final = 3600.0
"""After this a call is cut and settled, unless its route says otherwise (RULES.md M9)."""


class Cut(StrEnum):
    """Why a call was cancelled from this side."""

    DISCONNECTED = "the client went away"
    SILENT = "nothing moved for too long, upstream or downstream"
    TOO_LONG = "the call took longer than its route allows"
    UNFUNDED = "the call could not be held any further"
    REVOKED = "the token was revoked"


LATE: Final[Mapping[Cut | None, str]] = {Cut.SILENT: "silent", Cut.TOO_LONG: "too_long"}
"""Which kind of upstream error it is to be cut."""


class BodyTooLarge(Exception):
    """The request body grew beyond the route's limit."""


class BodyBroken(Exception):
    """The client went away in the middle of its request body: what was sent of it upstream must not look complete."""


class Watch:
    """Looks at the clients of one event loop, as long as there are any."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.clients: set[Client] = set()
        self.bodies = Bodies()
        self._armed = False

    def add(self, client: "Client") -> None:
        """Look at this client from now on."""
        self.clients.add(client)
        if not self._armed:
            self._armed = True
            self.loop.call_later(WATCH_SECONDS, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        for client in tuple(self.clients):
            client.look(now)
        self._armed = bool(self.clients)
        if self._armed:
            self.loop.call_later(WATCH_SECONDS, self._look)


class Client:
    """One client waiting for one response.

    `record` is that of its call: what passes here is counted in it. `chain` is there while the call is under way
    upstream, and to be cut should its token be revoked; `because` is what a call that was cut is refused with, if
    that is known. `timeout` is how many seconds of silence are borne on either side, once `wait_for` was called:
    before that it is the ledger that is waited for, which has a limit of its own. `marks` are headers of every
    response. `render` makes a response of a refusal; `last_words` end a stream that has begun and cannot go on,
    where its protocol has words for that. `leg` is the way to whoever serves the call,
    None for the usual one.
    """

    __slots__ = (
        "_body_done",
        "_loop",
        "_read",
        "_receive",
        "_room",
        "_send",
        "_since",
        "_started",
        "_task",
        "_watch",
        "_watcher",
        "because",
        "chain",
        "cut",
        "last_words",
        "leg",
        "marks",
        "max_duration",
        "record",
        "recorder",
        "render",
        "started",
        "timeout",
    )

    def __init__(
        self,
        watch: "Watch",
        receive: Receive,
        send: Send,
        record: CallRecord,
        *,
        has_body: bool,
        marks: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self._receive = receive
        self._send = send
        self._watch = watch
        self._loop = watch.loop
        self._task = asyncio.current_task(watch.loop)
        self._body_done = not has_body
        self._read: bytes | None = None
        self._room = 0
        self._started = self._since = watch.loop.time()
        self._watcher: asyncio.Task[None] | None = None
        self.cut: Cut | None = None
        self.because: Refusal | None = None
        self.chain: Chain | None = None
        self.record = record
        self.marks = marks
        self.timeout = self.max_duration = MAX_DURATION_SECONDS
        self.recorder: Recorder | None = None
        self.leg: Leg | None = None
        self.started = False
        self.render: Render = problems.response
        self.last_words: Callable[[Refusal], bytes] | None = None
        watch.add(self)

    def wait_for(self, seconds: float, max_duration: float) -> None:
        """From now on so many seconds of silence are borne, and the call may take `max_duration` seconds in all."""
        self.timeout = seconds
        self.max_duration = max_duration
        self.moved()

    def moved(self) -> None:
        """Something moved: the measure of silence begins anew."""
        self._since = self._loop.time()

    def done(self) -> None:
        """The call is over, or its client answered; nothing here cancels it any more."""
        self._watch.clients.discard(self)
        if self._room:
            self._watch.bodies.give(self._room)
            self._room = 0
        if self._watcher is not None:
            self._watcher.cancel()

    def look(self, now: float) -> None:
        """See whether the call goes on; `now` is the loop's time, in seconds."""
        if now - self._since > self.timeout:
            self.cut_off(Cut.SILENT)
        elif now - self._started > self.max_duration:
            self.cut_off(Cut.TOO_LONG)
        elif self._watcher is None and self._body_done and now - self._started > WATCH_SECONDS:
            self._watcher = self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.cut_off(Cut.DISCONNECTED)

    def cut_off(self, why: Cut, because: Refusal | None = None) -> None:
        """Cancel the call from this side; it is refused with `because`, if that is given."""
        if self.cut is None and self._task is not None:
            self.cut, self.because = why, because
            self._task.cancel()

    async def read(self, announced: int | None, limit: int, timeout: float) -> bytes:  # noqa: ASYNC109 - of silence
        """The request body in one piece, which `body` then gives again. `announced` is its size in bytes, if that is
        known. Raises as `body` does, and TimeoutError if there is no room for it; for that, and in silence, so many
        seconds are waited.
        """
        if announced is not None and announced > limit:
            raise BodyTooLarge
        self._room = await self._watch.bodies.take(limit if announced is None else announced, timeout)
        self.timeout = timeout
        self.moved()
        pieces = []
        size = 0
        while (piece := await self.piece()) is not None:
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise BodyTooLarge
        self.timeout = MAX_DURATION_SECONDS
        self._read = b"".join(pieces)
        if size < self._room:
            self._watch.bodies.give(self._room - size)
            self._room = size
        return self._read

    @property
    def has_whole_body(self) -> bool:
        """Whether the request body was read to its end, and is there to be given again."""
        return self._read is not None

    def take_read(self) -> bytes | None:
        """The request body if it was read to its end, and within its limit; once."""
        read, self._read = self._read, None
        return read

    def body(self, limit: int | None) -> AsyncIterator[bytes]:
        """The request body as it arrives. Raises `BodyTooLarge` beyond `limit` bytes, `BodyBroken` if it ends early."""
        return _Body(self, limit)

    async def piece(self) -> bytes | None:
        """The next piece of the request body, None at its end. Raises `BodyBroken`."""
        if self._read is not None:
            return self.take_read()
        if self._body_done:
            return None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.cut_off(Cut.DISCONNECTED)
            raise BodyBroken
        self.moved()
        self._body_done = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        self.record.received += len(piece)
        return piece

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the response's head."""
        self.started = True
        self.record.answered = status
        if self.recorder is not None:
            self.recorder.start(status, headers)
        headers.extend(self.marks)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, piece: bytes, *, more: bool) -> None:
        """Send a piece of the body; waits while the client is slow."""
        if self.recorder is not None:
            self.recorder.piece(piece, more=more)
        self.record.sent += len(piece)
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})
        self.moved()

    async def whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a response in one piece; one to HEAD goes without its body."""
        self.started = True
        self.record.answered = status
        if self.record.method == "HEAD":
            body = b""
        self.record.sent += len(body)
        if self.recorder is not None:
            self.recorder.start(status, headers)
            self.recorder.piece(body, more=False)
        headers.extend(self.marks)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def refuse(
        self,
        refusal: Refusal,
        extra: tuple[tuple[bytes, bytes], ...] = (),
        members: Mapping[str, object] | None = None,
    ) -> None:
        """Send a refusal as a whole response, with `extra` headers and further `members` of its document."""
        self.record.refusal = refusal
        status, headers, body = self.render(refusal, members)
        headers.extend(extra)
        await self.whole(status, headers, body)

    async def break_off(self, refusal: Refusal) -> None:
        """End a response that has begun. Raises ConnectionAbortedError where nothing honest is left but one that
        visibly breaks off.
        """
        if self.last_words is None:
            raise ConnectionAbortedError(refusal.detail)
        await self.send(self.last_words(refusal), more=False)

    def instead(self, body: bytes) -> None:
        """The request body, which was read, goes on as this one."""
        self._read = body


def uncancel() -> None:
    """Take back a cancellation by `Client.cut_off`, so that the answer to it can still be sent."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


class _Body:
    """The request body of a client. A class, as what compiles this has no asynchronous generators."""

    def __init__(self, client: Client, limit: int | None) -> None:
        self._client = client
        self._limit = limit
        self._size = 0

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        while (piece := await self._client.piece()) is not None:
            self._size += len(piece)
            if self._limit is not None and self._size > self._limit:
                raise BodyTooLarge
            if piece:
                return piece
        raise StopAsyncIteration
