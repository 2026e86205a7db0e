"""What an endpoint is made of: the servers behind it, how their names become one space of names, what calls cost."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tolsey.errors import Refusal
from tolsey.gateway.destination import Destination
from tolsey.gateway.mcp.sessions import Sessions
from tolsey.gateway.routes import Mode
from tolsey.pricing.document import DocumentInvalid, quantity, resolve
from tolsey.pricing.tariff import Price, Tariff
from tolsey.token.caveats import glob_matches
from tolsey.units import MAX_NANO

RESOURCE: Final = "resource:"
PROMPT: Final = "prompt:"
METHOD: Final = "method:"

NAMED: Final[Mapping[str, tuple[str, str]]] = {
    "tools/call": ("name", ""),
    "resources/read": ("uri", RESOURCE),
    "prompts/get": ("name", PROMPT),
}
"""The methods that are calls: which of their params names what is called, and what stands before it in a `tool` caveat.
A tool's own name has no colon, so that none can pass for something else.
"""

_TOOL = re.compile(r"[A-Za-z0-9_.\-/]{1,128}", re.ASCII)
_URI = re.compile(r"[\x21-\x7e]{1,2048}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Server:
    """One server. Its tools' and prompts' names are shown behind `prefix`; `scheme` stands before its URIs, with a `+`,
    where there are several servers ("" where there is one).
    """

    name: str
    prefix: str
    scheme: str
    upstream: Destination

    def outer(self, name: str) -> str:
        """A tool's or a prompt's name as clients see it."""
        return self.prefix + name

    def outer_uri(self, uri: str) -> str:
        """A resource's URI as clients see it."""
        return f"{self.scheme}+{uri}" if self.scheme else uri


@dataclass(frozen=True, slots=True)
class ToolPrice:
    """The price of the calls whose name `glob` means. `arguments` are pairs of a JSON pointer and the value that must
    be there; `per` is a pointer to a number in the arguments, and what each of it costs in nano-units.
    """

    glob: str
    price: Price
    arguments: tuple[tuple[tuple[str, ...], object], ...] = ()
    per: tuple[tuple[str, ...], int] | None = None
    tariff: Tariff = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tariff", Tariff(self.price))

    def fits(self, name: str, arguments: object) -> bool:
        """Whether this is the price of a call with these arguments."""
        if not glob_matches(self.glob, name):
            return False
        for pointer, wanted in self.arguments:
            try:
                found = resolve(arguments, pointer)
            except LookupError:
                return False
            if type(found) is not type(wanted) or found != wanted:
                return False
        return True

    def tariff_for(self, arguments: object) -> Tariff | Refusal:
        """The prices of one call."""
        if self.per is None:
            return self.tariff
        pointer, each = self.per
        try:
            exact = quantity(resolve(arguments, pointer)) * each
        except LookupError:
            return Refusal("unpriceable", f"the call is priced by its argument {_shown(pointer)}, which is missing")
        except (ValueError, DocumentInvalid) as error:
            return Refusal("unpriceable", f"the call is priced by its argument {_shown(pointer)}, which {error}")
        flat = self.price.flat - (-exact.numerator // exact.denominator)
        if flat > MAX_NANO:
            return Refusal("unpriceable", "what the call may cost fits no amount")
        price = self.price
        return Tariff(
            Price(
                price.unit,
                flat if price.at_most is None else min(flat, price.at_most),
                free_on_failure=price.free_on_failure,
            )
        )


def _shown(pointer: tuple[str, ...]) -> str:
    return "/" + "/".join(pointer)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One `[[mcp]]`. `hosts` are the hosts that clients may call it by (None: any), `origins` the web pages that may;
    `max_body` is in bytes, `max_duration` in seconds. With `agent_tools` the gateway's own tools are offered.
    """

    path: str
    mode: Mode
    servers: tuple[Server, ...]
    prices: tuple[ToolPrice, ...]
    hosts: frozenset[str] | None
    origins: frozenset[str]
    max_body: int
    max_duration: float
    sessions: Sessions
    agent_tools: bool = False

    @property
    def only(self) -> Server | None:
        """The server, where there is just one."""
        return self.servers[0] if len(self.servers) == 1 else None

    def price_of(self, name: str, arguments: object) -> ToolPrice | None:
        """The first price in the file that fits a call."""
        return next((price for price in self.prices if price.fits(name, arguments)), None)

    def is_priced(self, name: str) -> bool:
        """Whether some call of that name has a price."""
        return any(glob_matches(price.glob, name) for price in self.prices)

    def split(self, name: str) -> tuple[Server, str] | None:
        """Which server a name belongs to, and what it is called there. Names are those that `tool` caveats have."""
        kind = next((kind for kind in (RESOURCE, PROMPT) if name.startswith(kind)), "")
        rest = name.removeprefix(kind)
        if not is_name(rest, kind):
            return None
        for server in self.servers:
            front = server.prefix if kind != RESOURCE else f"{server.scheme}+" if server.scheme else ""
            inner = rest.removeprefix(front)
            if rest.startswith(front) and inner:
                return server, inner
        return None


def is_name(text: str, kind: str) -> bool:
    """Whether this can be the name of a tool or a prompt, or a URI where `kind` is that of resources."""
    return (_URI if kind == RESOURCE else _TOOL).fullmatch(text) is not None
