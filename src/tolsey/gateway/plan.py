"""What is known of a request before it comes again: see `plans`, which makes one."""

from dataclasses import dataclass, field

from tolsey.call import Call
from tolsey.gateway.messages import Cleared
from tolsey.gateway.request import Request
from tolsey.gateway.routes import Route, Routes
from tolsey.gateway.trace import Trace
from tolsey.gateway.upstream import Upstream
from tolsey.pricing.tariff import Chosen, Tariff
from tolsey.token.caveats import Model
from tolsey.token.chain import Chain, Link
from tolsey.token.clearing import Clearance, ends_of
from tolsey.token.tags import Tags


@dataclass(slots=True, eq=False)
class Asking:
    """What it takes to clear a call whose price stands in its body: the `request`, the `call` that it attempts but for
    the instant and the model, the price that was `chosen` from the `tariff`, that the token allows the call but for its
    model (`clearance`), and the `models` that it is for, all of which must mean the call's.
    """

    request: Request
    call: Call
    tariff: Tariff
    chosen: Chosen
    clearance: Clearance
    models: tuple[Model, ...]


@dataclass(slots=True, eq=False)
class Plan:
    """What is known of requests of the same bytes from the same address: `head` goes to `upstream`, with a body of
    `size` bytes, and the call is charged as `cleared` says, or as it comes to be cleared by its body. It stands under
    `routes`, until the instant `ends` (nanoseconds since the epoch; None: always), while `chain` is not revoked. What
    an entry says of the call is `note`, with its `tags`. With `keep_alive` the connection is good for a next request;
    with `metered` the answer says what the call costs. It does not change.

    On a route that observes, `observed` is the code of the Refusal that the call would meet, or "", and there may be no
    `chain`, but an `agent`.
    """

    routes: Routes
    route: Route
    upstream: Upstream
    head: bytes
    method: str
    path: str
    size: int
    chain: Chain | None
    trace: Trace | None
    tags: Tags
    note: str
    cleared: Cleared | Asking
    keep_alive: bool
    observed: str | None = None
    agent: str = ""
    metered: bool = field(init=False)
    ends: int | None = field(init=False)
    links: tuple[Link, ...] = field(init=False)
    hold_ns: int = field(init=False)

    def __post_init__(self) -> None:
        self.metered = isinstance(self.cleared, Asking) or self.cleared.quote.varies
        self.ends = None if self.chain is None else ends_of(self.chain)
        self.links = () if self.chain is None else self.chain.links
        self.hold_ns = self.route.hold_ns
