"""One upstream: where it is, what is added for it, and one request to it.

pyreqwest under a small interface. One hold is at most one request on the wire: no redirect is followed, nothing is
retried once it was sent, no cookie is kept, no body is decompressed (RULES.md M6).
"""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Final

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import ConnectError, ConnectTimeoutError, PyreqwestError
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

IDLE_SECONDS: Final = 4
"""How long an idle connection is kept: less than the five seconds after which many servers close theirs, since a
request that meets the closing is charged and not served.
"""

WHOLE_BYTES: Final = 64 * 1024
"""A body that is announced to be no longer than this is read in one piece."""


class NotSent(Exception):
    """No byte of the request was written: the upstream refused the connection or could not be reached in time."""

    def __init__(self, detail: str, *, late: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.late = late


class Broken(Exception):
    """The upstream failed after the request was, or may have been, sent."""


class Upstream:
    """A configured upstream.

    `url` is its origin and an optional path prefix, `headers` are set on every request, `timeout` is how many seconds
    of silence are borne.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        connect_timeout: float = 5.0,
        timeout: float = 60.0,
    ) -> None:
        self.name = name
        scheme, _, rest = url.partition("://")
        authority, slash, path = rest.partition("/")
        self.origin = f"{scheme}://{authority}"
        self.prefix = (slash + path).rstrip("/")
        self.headers = headers
        self.timeout = timeout
        self._client: Client = (
            ClientBuilder()
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .follow_redirects(False)
            .referer(False)
            .default_cookie_store(False)
            .no_proxy()
            .http1_lower_case_headers()
            .user_agent("tolsey")
            .connect_timeout(timedelta(seconds=connect_timeout))
            .pool_idle_timeout(timedelta(seconds=IDLE_SECONDS))
            .build()
        )

    def request(
        self, method: str, target: str, headers: list[tuple[str, str]], body: AsyncIterator[bytes] | None
    ) -> "Exchange":
        """One request, to be entered with `async with`. `target` is the raw path and query."""
        builder = self._client.request(method, f"{self.origin}{self.prefix}{target}").headers(headers)
        if body is not None:
            builder = builder.body_stream(body)
        return Exchange(builder.streamed_read_buffer_limit(0).build_streamed())

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


class Exchange:
    """A request under way. Entering it sends the request and returns when the response's head is there.

    Raises `NotSent` or `Broken`. Leaving it, or cancelling it, ends the request.
    """

    __slots__ = ("_request", "_response", "status")

    def __init__(self, request: StreamRequest) -> None:
        self._request = request
        self._response: Response
        self.status = 0

    async def __aenter__(self) -> "Exchange":
        try:
            self._response = await self._request.__aenter__()
        except ConnectTimeoutError as error:
            raise NotSent("the upstream did not accept the connection in time", late=True) from error
        except ConnectError as error:
            raise NotSent("the upstream cannot be reached") from error
        except PyreqwestError as error:
            raise Broken("the upstream broke off before it answered") from error
        self.status = self._response.status
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._request.__aexit__(kind, error, trace)

    def headers(self) -> Iterator[tuple[str, str]]:
        """The response's headers. One whose value is not text is left out."""
        found = self._response.headers
        try:
            yield from list(found.items())
        except ValueError:
            for name in dict.fromkeys(found.keys()):
                try:
                    values = found.getall(name)
                except ValueError:
                    continue
                for value in values:
                    yield name, value

    async def whole(self) -> bytes:
        """The rest of the body in one piece. Raises `Broken`."""
        try:
            return bytes(await self._response.body_reader.bytes())
        except PyreqwestError as error:
            raise Broken("the upstream broke off in the middle of its answer") from error

    async def chunk(self) -> bytes | None:
        """The next piece of the body as it arrives, None at its end. Raises `Broken`."""
        try:
            piece = await self._response.body_reader.read_chunk()
        except PyreqwestError as error:
            raise Broken("the upstream broke off in the middle of its answer") from error
        return None if piece is None else bytes(piece)
