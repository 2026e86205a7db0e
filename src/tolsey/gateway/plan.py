"""What is known of a request before it comes again: see `plans`, which makes one."""

from dataclasses import dataclass, field

from tolsey.gateway.messages import Cleared
from tolsey.gateway.routes import Route, Routes
from tolsey.gateway.trace import Trace
from tolsey.gateway.upstream import Upstream
from tolsey.pricing.tariff import Quote
from tolsey.token.chain import Account, Chain, Link, Rate
from tolsey.token.clearing import ends_of
from tolsey.token.tags import Tags


@dataclass(slots=True, eq=False)
class Plan:
    """What is known of requests of the same bytes from the same address: `head` goes to `upstream`, and the call is
    charged as `cleared` says. It stands under `routes`, until the instant `ends` (nanoseconds since the epoch; None:
    always), while `chain` is not revoked. `size` is that of the body, in bytes; with `keep_alive` the connection is
    good for a next request. It does not change.

    What every call asks for stands beside what it is a part of: what it is charged to, its price, `nano` nano-units of
    `unit`, and for how many nanoseconds it may be held.
    """

    routes: Routes
    route: Route
    upstream: Upstream
    head: bytes
    cleared: Cleared
    chain: Chain
    trace: Trace | None
    tags: Tags
    note: str
    size: int
    keep_alive: bool
    ends: int | None = field(init=False)
    links: tuple[Link, ...] = field(init=False)
    method: str = field(init=False)
    path: str = field(init=False)
    accounts: tuple[Account, ...] = field(init=False)
    counters: tuple[Account, ...] = field(init=False)
    rates: tuple[Rate, ...] = field(init=False)
    quote: Quote = field(init=False)
    nano: int = field(init=False)
    unit: str = field(init=False)
    hold_ns: int = field(init=False)

    def __post_init__(self) -> None:
        self.ends = ends_of(self.chain)
        self.links = self.chain.links
        self.method = self.cleared.call.method
        self.path = self.cleared.call.path
        self.accounts, self.counters, self.rates = self.cleared.charge
        self.quote = self.cleared.quote
        self.nano = self.quote.amount.nano
        self.unit = self.quote.price.unit
        self.hold_ns = self.route.hold_ns
