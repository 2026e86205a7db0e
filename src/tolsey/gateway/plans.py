"""What is known of a request before it comes again: a Plan, made by the functions that the passage itself is made of.

It was cleared when it was made, and what a chain asks of a call is the same for the same call, but for its time. So a
plan has an end, and what is revoked is asked for every call. Only what is plain has one: a whole head without anything
that concerns the connection, on a route with a price which does not grow with the call, with a token that it is cleared
for. For all else there is none, and it takes the passage. Where a route observes, what is refused has one too, as long
as it is refused for the same reason.

Where the price stands in the request's body, as that of an LLM call does, model and price are asked of each call when
its body is there, and nothing else is.
"""

from typing import Final

import httptools

from tolsey.call import Call
from tolsey.errors import Refusal
from tolsey.gateway.approving import is_approval
from tolsey.gateway.clearing import allowed, charged, observed
from tolsey.gateway.messages import Cleared, add_length, headers_up, note_of, target_of
from tolsey.gateway.own import OWN_PREFIX
from tolsey.gateway.passage import Passage
from tolsey.gateway.plan import Asking, Plan
from tolsey.gateway.record import CallRecord, llm_call
from tolsey.gateway.repeats import key_of
from tolsey.gateway.request import Request, call_of, read_request
from tolsey.gateway.routes import Mode, Route
from tolsey.gateway.server import MAX_HEADERS, scope_of
from tolsey.gateway.upstream import WHOLE_BYTES, Upstream
from tolsey.pricing.tariff import Chosen, Tariff
from tolsey.token.caveats import Model
from tolsey.token.clearing import ends_of

_ODD: Final = frozenset({b"expect", b"transfer-encoding", b"upgrade"})
"""With one of these headers a request is more than a head and a body that is there."""


def plan_of(passage: Passage, data: bytes, peer: str) -> Plan | None:
    """The plan for a request whose head is `data` and that came from the address `peer`; None where there is none."""
    reader = _Reader()
    request = None if passage.desk is not None else reader.read(data, peer)
    if request is None or request.size is None or key_of(request.headers) is not None:
        return None
    path, routes = request.path, passage.routes
    if is_approval(path) or path.startswith(OWN_PREFIX) or path in routes.endpoints:
        return None
    route = routes.match(request.method, path)
    if isinstance(route, Refusal) or route.mode is Mode.PUBLIC or route.tariff is None:
        return None
    upstream = route.upstream
    if not isinstance(upstream, Upstream) or not upstream.is_plain:
        return None
    if request.size > (WHOLE_BYTES if route.max_body is None else min(route.max_body, WHOLE_BYTES)):
        return None
    # One that was not understood begins anew with each call.
    if request.trace is not None and not request.trace.remote:
        return None
    now = passage.now()
    call = call_of(request, passage.trusted_proxies, now)._replace(upstream=upstream.name)
    record = CallRecord(now, 0, request.method, path)
    chosen = route.tariff.choose(call, request.headers)
    if isinstance(chosen, Refusal) or chosen.price.per_second or chosen.price.per_response_mb:
        return None
    # What stands in the body of an observed call is read by the passage.
    if route.mode is Mode.OBSERVE and chosen.price.llm is not None:
        return None
    cleared = _clear(passage, request, record, call, route, route.tariff, chosen)
    if cleared is None:
        return None
    reads = isinstance(cleared, Asking) or cleared.quote.reads
    headers = headers_up(request, route, call, request.trace, reads=reads)
    add_length(headers, request.method, request.size)
    return Plan(
        routes,
        route,
        upstream,
        upstream.head(request.method, target_of(request), headers, b"\r\n"),
        request.method,
        path,
        request.size,
        record.chain,
        request.trace,
        record.tags,
        note_of(record),
        cleared,
        keep_alive=reader.keep_alive,
        observed=record.observed,
        agent=record.agent,
    )


def _clear(
    passage: Passage,
    request: Request,
    record: CallRecord,
    call: Call,
    route: Route,
    tariff: Tariff,
    chosen: Chosen,
) -> Cleared | Asking | None:
    """What a call is charged to, or counts for where its route observes. None where it is charged to nothing, or may be
    refused, or met by something else, the next time.
    """
    observes = route.mode is Mode.OBSERVE
    chain = passage.chain_of(request, record)
    if isinstance(chain, Refusal):
        if not observes or record.unknown_key:
            return None
        record.agent = passage.agent(request, call)
        return observed(record, chain, call, chain, tariff.quote(chosen, request.size, None))
    ends = ends_of(chain)
    if passage.revocations.refusal(chain) is not None or (ends is not None and call.now >= ends):
        return None
    if chosen.price.llm is not None:
        clearance = allowed(chain, route.offers, request, record, call, leaving=(Model,))
        if isinstance(clearance, Refusal):
            return None
        models = dict.fromkeys(term.meaning for term in chain.terms if isinstance(term.meaning, Model))
        return Asking(request, call, tariff, chosen, clearance, tuple(models))
    cleared = passage.price(chain, route.offers, request, record, call, tariff, chosen, None)
    if observes:
        return observed(record, cleared, call, chain, tariff.quote(chosen, request.size, None))
    return _held(cleared)


def cleared_by_body(asking: Asking, record: CallRecord, body: bytes) -> Cleared | None:
    """Clear a call whose price stands in its body; None where it takes the passage, as it is refused or goes upstream
    with another body.
    """
    request, tariff, chosen = asking.request, asking.tariff, asking.chosen
    call = asking.call._replace(now=record.at)
    asked = tariff.read(chosen.price, call, request.headers, body)
    if isinstance(asked, Refusal) or asked.withholds:
        return None
    record.llm = llm_call(asked)
    call = call._replace(model=asked.model)
    if any(model.refusal(call) is not None for model in asking.models):
        return None
    return _held(charged(asking.clearance, request, call, tariff, chosen, asked))


def _held(cleared: Cleared | Refusal) -> Cleared | None:
    """What a call is charged to; None where it is refused, or charged to nothing."""
    return None if isinstance(cleared, Refusal) or not any(cleared.charge) else cleared


class _Reader:
    """One head, by the parser that the server has."""

    def __init__(self) -> None:
        self.keep_alive = False
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._whole = False
        self._parser = httptools.HttpRequestParser(self)

    def read(self, data: bytes, peer: str) -> Request | None:
        """The request, None if it is anything but plain."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        if not self._whole or self._parser.get_http_version() != "1.1" or len(self._headers) > MAX_HEADERS:
            return None
        if any(name in _ODD for name, _ in self._headers):
            return None
        method = self._parser.get_method().decode("ascii")
        request = read_request(scope_of(method, self._target, "1.1", "http", self._headers, (peer, 0)))
        return None if isinstance(request, Refusal) else request

    def on_url(self, url: bytes) -> None:
        """httptools: a piece of the request target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """httptools: the head is there."""
        self._whole, self.keep_alive = True, self._parser.should_keep_alive()
