"""The gateway's own paths: what a holder may ask about its token, and about a call that was charged to it."""

from collections.abc import Callable
from typing import Final

import msgspec

from tolsey.errors import LedgerUnavailable, Refusal, TokenError
from tolsey.gateway import headers as header_rules
from tolsey.gateway.client import Client
from tolsey.gateway.passage import Passage
from tolsey.gateway.request import Request, call_of
from tolsey.ledger.books import Balance, Hold
from tolsey.ledger.windows import window
from tolsey.token.caveats import Expires, format_time
from tolsey.token.chain import Chain
from tolsey.token.clearing import clear_showing
from tolsey.token.l402 import Presented
from tolsey.units import format_nano

OWN_PREFIX: Final = "/.tolsey/"
"""Paths under this are the gateway's own and never routed."""

_HOLDS: Final = OWN_PREFIX + "holds/"


async def answer_own(passage: Passage, request: Request, client: Client) -> None:
    """Answer a call to a path below `OWN_PREFIX`."""
    found = await _find(passage, request)
    if isinstance(found, Refusal):
        await client.refuse(found)
        return
    await send_json(client, found)


async def send_json(client: Client, document: object, status: int = 200) -> None:
    """Answer with a JSON document that is never cached."""
    body = msgspec.json.encode(document)
    await client.whole(
        status,
        [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"cache-control", b"no-store"),
        ],
        body,
    )


async def read_balance(passage: Passage, request: Request) -> dict[str, object] | Refusal:
    """What the holder of a token may know of its accounts."""
    chain = await shown(passage, request, passage.verify)
    return chain if isinstance(chain, Refusal) else await balance_of(passage, chain)


async def balance_of(passage: Passage, chain: Chain) -> dict[str, object] | Refusal:
    """The accounts of a chain."""
    try:
        balances = await passage.book.balances(chain.accounts())
    except LedgerUnavailable as error:
        return Refusal("ledger_unavailable", error.detail)
    return _balance(chain, balances, passage.disclose_chain, passage.now())


async def shown(passage: Passage, request: Request, verify: Callable[[str | Presented], Chain]) -> Chain | Refusal:
    """The token of a request that asks about it, if it may be shown. `verify` raises `TokenError`."""
    token = header_rules.credential(request.headers)
    if isinstance(token, Refusal):
        return token
    try:
        chain = verify(token)
    except TokenError as error:
        return Refusal(error.code, error.detail)
    revoked = await passage.revocations.check(chain)
    if revoked is not None:
        return revoked
    return clear_showing(chain, call_of(request, passage.trusted_proxies, passage.now())) or chain


async def _find(passage: Passage, request: Request) -> dict[str, object] | Refusal:
    path = request.path
    if path != OWN_PREFIX + "balance" and not path.startswith(_HOLDS):
        return Refusal("route_missing", "no such path of the gateway's own")
    if request.method not in ("GET", "HEAD"):
        return Refusal("method_not_allowed", "this can only be read", allow=("GET", "HEAD"))
    if not path.startswith(_HOLDS):
        return await read_balance(passage, request)
    chain = await shown(passage, request, passage.verify)
    if isinstance(chain, Refusal):
        return chain
    try:
        hold = await passage.book.hold(path.removeprefix(_HOLDS))
    except LedgerUnavailable as error:
        return Refusal("ledger_unavailable", error.detail)
    return _hold(chain, hold)


def _hold(chain: Chain, hold: Hold | None) -> dict[str, object] | Refusal:
    """A hold, to a holder of the Link that it was charged to, or of one above."""
    own = chain.own_accounts()
    if hold is None or not any(key[0] in own for key in hold.chain + hold.counters):
        return Refusal("route_missing", "this token has no such hold")
    return {
        "hold": hold.id,
        "state": "open" if hold.resolution is None else str(hold.resolution),
        "unit": hold.chain[0][1] if hold.chain else None,
        "quote": format_nano(hold.amount),
        "cost": None if hold.resolution is None else format_nano(hold.settled),
        "refunded": format_nano(hold.refunded),
        "since": format_time(hold.at),
    }


def _balance(chain: Chain, balances: list[Balance], disclose_chain: bool, now: int) -> dict[str, object]:
    own = chain.own_accounts()
    ends = [term.meaning.at for term in chain.terms if isinstance(term.meaning, Expires)]
    return {
        "prefix_id": chain.prefix_ids[-1],
        "label": chain.links[-1].label,
        "expires": format_time(min(ends)) if ends else None,
        "accounts": [_account(b, now) for b in balances if disclose_chain or b.account.id in own],
        "rates": [
            {"id": rate.id, "label": rate.label, "calls": rate.calls, "period": rate.period} for rate in chain.rates
        ],
    }


def _account(balance: Balance, now: int) -> dict[str, object]:
    account = balance.account
    limit = None if account.limit is None else account.limit + balance.granted
    return {
        "id": account.id,
        "label": account.label,
        "unit": account.unit,
        "limit": None if limit is None else format_nano(limit),
        "period": account.period,
        "spent": format_nano(balance.spent),
        "held": format_nano(balance.held),
        "remaining": None if limit is None else format_nano(limit - balance.spent - balance.held),
        "resets_at": None if account.period is None else format_time(window(account.period, now)[1]),
        "calls": balance.calls,
    }
