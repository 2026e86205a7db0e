"""What is known of a request before it comes again: see `plans`, which makes one."""

from tolsey.gateway.messages import Cleared
from tolsey.gateway.routes import Route, Routes
from tolsey.gateway.trace import Trace
from tolsey.gateway.upstream import Upstream
from tolsey.token.chain import Chain
from tolsey.token.clearing import ends_of
from tolsey.token.tags import Tags


class Plan:
    """What is known of requests of the same bytes from the same address: `head` goes to `upstream`, and the call is
    charged as `cleared` says, all of which every call asks for is at hand: `accounts`, `counters`, `rates`, and the
    price, `nano` nano-units of `unit`. It stands under `routes`, until the instant `ends` (nanoseconds since the epoch;
    None: always), while `chain` is not revoked. `size` is that of the body, in bytes; with `keep_alive` the connection
    is good for a next request. It does not change.
    """

    def __init__(
        self,
        routes: Routes,
        route: Route,
        upstream: Upstream,
        head: bytes,
        cleared: Cleared,
        chain: Chain,
        trace: Trace | None,
        tags: Tags,
        note: str,
        size: int,
        *,
        keep_alive: bool,
    ) -> None:
        self.routes = routes
        self.route = route
        self.upstream = upstream
        self.head = head
        self.cleared = cleared
        self.chain = chain
        self.links = chain.links
        self.ends = ends_of(chain)
        self.trace = trace
        self.tags = tags
        self.note = note
        self.size = size
        self.keep_alive = keep_alive
        self.method = cleared.call.method
        self.path = cleared.call.path
        self.accounts, self.counters, self.rates = cleared.charge
        self.quote = cleared.quote
        self.nano = cleared.quote.amount.nano
        self.unit = cleared.quote.price.unit
        self.hold_ns = route.hold_ns
