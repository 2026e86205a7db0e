"""A token for httpx clients: `httpx.Client(auth=tolsey.httpx.Auth(child, "https://gateway.example"))`.

Needs httpx, which comes with `tolsey[httpx]`.
"""

from collections.abc import Generator
from typing import Final, Protocol, TypeVar

import httpx

from tolsey import Delegation

_PORTS: Final = {"http": 80, "https": 443}


class _Url(Protocol):
    @property
    def scheme(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int | None: ...


class _Headers(Protocol):
    def __setitem__(self, key: str, value: str, /) -> None: ...


class _Request(Protocol):
    @property
    def url(self) -> _Url: ...
    @property
    def headers(self) -> _Headers: ...


_R = TypeVar("_R", bound=_Request)


class Auth(httpx.Auth):
    """Sends a token as `Authorization: Bearer` to the gateways named, and to no other place.

    `holder` is a token, or a `Delegation`, which is asked at every request: when its block has ended, so have the
    calls. `gateways` are the URLs of one or more gateways, of which scheme, host and port count. Raises `ValueError` if
    one of them is not an http URL. For sync and async clients; those of httpx2 take it too.

    When a gateway redirects to another origin, httpx takes the header off, but for a redirect from http to https of the
    same host.
    """

    def __init__(self, holder: Delegation | str, gateway: str, *gateways: str) -> None:
        self._holder = Delegation(holder) if isinstance(holder, str) else holder
        self._origins = frozenset(map(_gateway, (gateway, *gateways)))

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """What httpx calls."""
        yield self(request)

    def __call__(self, request: _R) -> _R:
        """Put the token on a request that goes to a gateway. What httpx2 calls."""
        if _origin(request.url) in self._origins:
            request.headers["Authorization"] = f"Bearer {self._holder.token}"
        return request


_Origin = tuple[str, str, int | None]


def _gateway(text: str) -> _Origin:
    try:
        scheme, host, port = _origin(httpx.URL(text))
    except httpx.InvalidURL:
        scheme, host, port = "", "", None
    if scheme not in _PORTS or not host:
        raise ValueError("a gateway is given as its URL, as in https://gateway.example")
    return scheme, host, port


def _origin(url: _Url) -> _Origin:
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme)
