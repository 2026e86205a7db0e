"""What is known of a request before it comes again: see `plans`, which makes one."""

from dataclasses import dataclass, field

from tolsey.call import Call
from tolsey.gateway.messages import Cleared
from tolsey.gateway.request import Request
from tolsey.gateway.routes import Route, Routes
from tolsey.gateway.trace import Trace
from tolsey.gateway.upstream import Upstream
from tolsey.pricing.tariff import Chosen, Quote, Tariff
from tolsey.token.caveats import Model
from tolsey.token.chain import Account, Chain, Link, Rate
from tolsey.token.clearing import Clearance, ends_of
from tolsey.token.tags import Tags


@dataclass(slots=True, eq=False)
class Terms:
    """On what terms a call is made: it is charged as `cleared` says. They do not change.

    What every call asks for stands beside what it is a part of: what it is charged to, and its price, `nano` nano-units
    of `unit`.
    """

    cleared: Cleared
    accounts: tuple[Account, ...] = field(init=False)
    counters: tuple[Account, ...] = field(init=False)
    rates: tuple[Rate, ...] = field(init=False)
    quote: Quote = field(init=False)
    nano: int = field(init=False)
    unit: str = field(init=False)

    def __post_init__(self) -> None:
        self.accounts, self.counters, self.rates = self.cleared.charge
        self.quote = self.cleared.quote
        self.nano = self.quote.amount.nano if self.accounts else 0
        self.unit = self.quote.price.unit


@dataclass(slots=True, eq=False)
class Asking:
    """What it takes to read the terms of a call in its body: the `request`, the `call` that it attempts but for the
    instant and the model, the price that was `chosen` from the `tariff`, and that the token allows the call for the
    `models` that are meant (all of them must mean it).
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
    `size` bytes, on these `terms`; None where they stand in the body, and `asking` is there instead. It stands under
    `routes`, until the instant `ends` (nanoseconds since the epoch; None: always), while `chain` is not revoked. What
    an entry says of the call is `note`, with its `tags`. With `keep_alive` the connection is good for a next request;
    with `metered` the answer says what the call costs. It does not change.
    """

    routes: Routes
    route: Route
    upstream: Upstream
    head: bytes
    method: str
    path: str
    size: int
    chain: Chain
    trace: Trace | None
    tags: Tags
    note: str
    terms: Terms | None
    asking: Asking | None
    keep_alive: bool
    metered: bool
    ends: int | None = field(init=False)
    links: tuple[Link, ...] = field(init=False)
    hold_ns: int = field(init=False)

    def __post_init__(self) -> None:
        self.ends = ends_of(self.chain)
        self.links = self.chain.links
        self.hold_ns = self.route.hold_ns
