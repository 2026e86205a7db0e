"""Where calls go, as the passage sees it: an HTTP upstream, or one behind a protocol of its own."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""


class NotSent(Exception):
    """No byte of the request was written: the upstream refused the connection or could not be reached in time."""

    def __init__(self, detail: str, *, late: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.late = late


class Broken(Exception):
    """The upstream failed after the request was, or may have been, sent."""


class Whole:
    """A request body that is there as a whole, as its one piece."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._taken = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._taken:
            raise StopAsyncIteration
        self._taken = True
        return self.data


class Exchanged(Protocol):
    """The answer to a call under way, whoever gives it; entered when its head is there. `length` is what the head says,
    in bytes, None if it does not.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    length: int | None

    async def __aenter__(self) -> Self:
        """Send the call and wait for the head of its answer."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""

    async def whole(self) -> bytes:
        """The rest of the body in one piece."""

    async def chunk(self) -> bytes | None:
        """The next piece of the body as it comes, None at its end."""


class Exchanging(Exchanged, Protocol):
    """A request over the network. Entering it raises `NotSent` or `Broken`, or what the request's body raised. `sent`
    is whether any byte of it was, or may have been, written.
    """

    sent: bool


class Destination(Protocol):
    """What a route leads to. `origin` (`http://host:port`) and `prefix` are where it is, `headers` are set on every
    request, `timeout` is how many seconds of silence are borne.
    """

    name: str
    origin: bytes
    prefix: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    timeout: float

    def request(self, method: str, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None) -> Exchanging:
        """One request, to be entered with `async with`."""

    def close(self) -> None:
        """Close what is idle, and all else when its call is over."""
