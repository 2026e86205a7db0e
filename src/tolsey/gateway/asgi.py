"""The ASGI application: bytes in, a Call through the passage, bytes out. Any ASGI server can run it."""

import asyncio
from typing import Any, Final

import msgspec

from tolsey.call import Call, path_fault, query_fault
from tolsey.errors import LedgerUnavailable, Refusal, TokenError
from tolsey.gateway import headers as header_rules
from tolsey.gateway.client import Client, Receive, Send, Watch
from tolsey.gateway.passage import Passage, Request
from tolsey.ledger.rules import Balance
from tolsey.token.caveats import Expires, format_time
from tolsey.token.chain import Chain, clear_showing
from tolsey.units import format_nano

OWN_PREFIX: Final = "/.tolsey/"
"""Paths under this are the gateway's own and never routed."""


class Gateway:
    """The application on the data port, for one event loop."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage
        self._watch = Watch()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One ASGI scope."""
        if scope["type"] != "http":
            raise NotImplementedError(f"{scope['type']} is not served")
        passage = self._passage
        request = read_request(scope)
        has_body = isinstance(request, Refusal) or request.size != 0
        client = Client(self._watch, receive, send, scope["method"], has_body=has_body)
        try:
            if isinstance(request, Refusal):
                await client.refuse(request)
            elif request.path.startswith(OWN_PREFIX):
                await _own(passage, request, client)
            else:
                await passage.serve(request, client)
        except asyncio.CancelledError:
            if client.cut is None:
                raise
        finally:
            client.done()


def read_request(scope: dict[str, Any]) -> Request | Refusal:
    """Read a request's head, or say what is wrong with it."""
    raw: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    fault = path_fault(raw)
    if fault is not None:
        return Refusal("path_invalid", f"the path is refused: {fault}")
    fault = query_fault(query)
    if fault is not None:
        return Refusal("path_invalid", f"the request target is refused: {fault}")
    size: int | None = 0
    hosts = []
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18:
                return Refusal("request_invalid", "the Content-Length is not a number")
            size = int(value)
        elif name == b"transfer-encoding":
            if scope["http_version"] == "1.0":
                return Refusal("request_invalid", "HTTP/1.0 has no Transfer-Encoding")
            size = None
        elif name == b"host":
            hosts.append(value)
        elif name == b"upgrade" and value.strip().lower() != b"h2c":
            return Refusal("request_invalid", "upgrading the connection is not supported")
    if len(hosts) > 1 or (not hosts and scope["http_version"] == "1.1"):
        return Refusal("request_invalid", "a request has one Host header")
    client = scope.get("client")
    return Request(
        scope["method"],
        raw.decode("ascii"),
        query.decode("ascii"),
        scope["headers"],
        client[0] if client else "",
        scope["scheme"],
        hosts[0] if hosts else b"",
        size,
    )


async def _own(passage: Passage, request: Request, client: Client) -> None:
    """The gateway's own paths: what a holder may ask about its token."""
    if request.path != OWN_PREFIX + "balance":
        await client.refuse(Refusal("route_missing", "no such path of the gateway's own"))
        return
    if request.method not in ("GET", "HEAD"):
        await client.refuse(Refusal("method_not_allowed", "a balance can only be read", allow=("GET", "HEAD")))
        return
    token = header_rules.credential(request.headers)
    if isinstance(token, Refusal):
        await client.refuse(token)
        return
    try:
        chain = passage.verifier.verify(token)
        peer = header_rules.client_address(request.headers, request.socket_peer, passage.trusted_proxies)
        refusal = clear_showing(chain, Call(request.method, request.path, request.query, peer, passage.now()))
        if refusal is not None:
            await client.refuse(refusal)
            return
        balances = [
            balance
            for unit in dict.fromkeys(budget.unit for budget in chain.budgets)
            for balance in await passage.book.balances(chain.purse(unit))
        ]
    except TokenError as error:
        await client.refuse(Refusal(error.code, error.detail))
        return
    except LedgerUnavailable as error:
        await client.refuse(Refusal("ledger_unavailable", error.detail))
        return
    body = msgspec.json.encode(_balance(chain, balances, passage.disclose_chain))
    await client.start(
        200,
        [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"cache-control", b"no-store"),
        ],
    )
    await client.send(b"" if client.method == "HEAD" else body, more=False)


def _balance(chain: Chain, balances: list[Balance], disclose_chain: bool) -> dict[str, object]:
    own = chain.own_accounts()
    ends = [term.meaning.at for term in chain.terms if isinstance(term.meaning, Expires)]
    return {
        "prefix_id": chain.prefix_ids[-1],
        "label": chain.links[-1].label,
        "expires": format_time(min(ends)) if ends else None,
        "accounts": [
            {
                "id": b.account.id,
                "label": b.account.label,
                "unit": b.account.unit,
                "limit": None if b.account.limit is None else format_nano(b.account.limit),
                "spent": format_nano(b.spent),
                "held": format_nano(b.held),
                "remaining": None if b.account.limit is None else format_nano(b.account.limit - b.spent - b.held),
                "calls": b.calls,
            }
            for b in balances
            if disclose_chain or b.account.id in own
        ],
    }
