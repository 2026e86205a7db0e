"""Step 7 of a call: the way to whoever serves it, and back. By default that is a request to the route's upstream."""

from collections.abc import AsyncIterator

from tolsey.call import Call
from tolsey.gateway.client import Client
from tolsey.gateway.destination import Exchanged, Exchanging
from tolsey.gateway.messages import Cleared, headers_down, request_up, send_down
from tolsey.gateway.meter import Meter
from tolsey.gateway.request import Request
from tolsey.gateway.routes import Route
from tolsey.ledger.events import Granted


class Leg:
    """The way of one call over the network. Where others serve calls there are other legs.

    `sent` is whether the call, or any byte of it, may have reached whoever serves it: if not, its hold is voided. A leg
    that learns the status of an answer writes it into the call's record; without one the call is charged in full.
    """

    __slots__ = ("_exchange",)

    def __init__(self) -> None:
        self._exchange: Exchanging | None = None

    @property
    def sent(self) -> bool:
        """Whether the call may have reached whoever serves it."""
        return self._exchange is not None and self._exchange.sent

    def exchange(
        self,
        route: Route,
        method: str,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        body: AsyncIterator[bytes] | None,
    ) -> Exchanged:
        """One request to whoever serves the call, and its answer."""
        exchange = self._exchange = route.upstream.request(method, target, headers, body)
        return exchange

    async def run(
        self,
        request: Request,
        client: Client,
        route: Route,
        call: Call,
        cleared: Cleared | None,
        granted: Granted | None,
        meter: Meter | None,
        *,
        disclose_chain: bool,
    ) -> None:
        """Have the call served, and answer the client. Raises `NotSent`, `Broken`, `BodyTooLarge`, `BodyBroken`."""
        record = client.record
        async with request_up(request, client, route, call, cleared, meter, self.exchange) as exchange:
            record.status = exchange.status
            client.moved()
            if meter is not None:
                meter.usage.head(exchange.status, exchange.headers)
            elif cleared is not None:
                record.charge(cleared.quote.cost(exchange.status).nano, cleared.quote.price.unit)
            headers = headers_down(route, exchange, record, cleared, granted, disclose_chain=disclose_chain)
            await send_down(client, exchange, headers, meter)
            record.note = str(exchange.status)
