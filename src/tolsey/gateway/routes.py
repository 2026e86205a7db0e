"""Which route a call takes: the first in the file whose path and method fit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tolsey.call import METHODS, Pattern
from tolsey.errors import Refusal
from tolsey.gateway.client import MAX_DURATION_SECONDS
from tolsey.gateway.destination import Destination
from tolsey.pricing.tariff import Tariff
from tolsey.token.caveats import SECOND

if TYPE_CHECKING:
    from tolsey.gateway.mcp.servers import Endpoint

GRACE_SECONDS: Final = 60
"""How much longer than its longest duration a call may hold money."""


class Mode(StrEnum):
    """What a route asks of a call. `public`: nothing. `enforce`: a token, and a budget where it has a price. `observe`:
    nothing, and it is written down what `enforce` would have said.
    """

    PUBLIC = "public"
    OBSERVE = "observe"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `tariff` is None on a public route; `max_body` is in bytes, None for no limit.

    `timeout` is how many seconds of silence a call bears, `max_duration` how many it may take in all. `offers` are the
    names of what a stranger may pay for here.
    """

    pattern: Pattern
    methods: tuple[str, ...]
    upstream: Destination
    mode: Mode
    tariff: Tariff | None
    max_body: int | None = None
    timeout: float = 60.0
    max_duration: float = MAX_DURATION_SECONDS
    offers: tuple[str, ...] = ()
    labels: tuple[str, str] = field(init=False, repr=False, compare=False)
    """Pattern and mode, under which its calls are counted."""
    hold_ns: int = field(init=False, repr=False, compare=False)
    """After so many nanoseconds a call's hold may be expired whoever owns it: never while it is served."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", (self.pattern.text, self.mode.value))
        object.__setattr__(self, "hold_ns", round((self.max_duration + GRACE_SECONDS) * SECOND))

    def takes(self, method: str) -> bool:
        """Whether the route has this method. HEAD is taken by a GET route (RULES.md H1)."""
        return method in self.methods or (method == "HEAD" and "GET" in self.methods)


class Routes:
    """The routes in file order, and the MCP endpoints by their paths, which come before them."""

    def __init__(self, routes: Sequence[Route], endpoints: "Sequence[Endpoint]" = ()) -> None:
        self.all = tuple(routes)
        self.endpoints = {endpoint.path: endpoint for endpoint in endpoints}

    @property
    def destinations(self) -> set[Destination]:
        """Everything that they lead to."""
        servers = [server for endpoint in self.endpoints.values() for server in endpoint.servers]
        return {route.upstream for route in self.all} | {server.upstream for server in servers}

    def match(self, method: str, path: str) -> Route | Refusal:
        """The first route that fits, or a 404, or a 405 if only the method did not (TRACE and the like never do)."""
        allowed: list[str] = []
        for route in self.all:
            if route.pattern.matches_path(path):
                if method in METHODS and route.takes(method):
                    return route
                allowed += route.methods
        if not allowed:
            return Refusal("route_missing", "no route has this path")
        if "GET" in allowed:
            allowed.append("HEAD")
        return Refusal(
            "method_not_allowed",
            "the path has a route, but not for this method",
            allow=tuple(method for method in METHODS if method in allowed),
        )
