"""Asking the gateway's people about a call: a holder brings the ticket of its token, and gets the discharge.

For a price up to which nobody is asked the discharge is given at once. Else the question is written down for somebody
to answer, and the holder asks again until that was done. The shape is that of superfly's third-party protocol
(`tp/README.md`): 200 with a discharge, or 202 and where to ask again.
"""

import base64
import secrets
from hashlib import sha256
from typing import Annotated, Final

import msgspec

from tolsey.call import METHODS, path_fault, query_fault
from tolsey.errors import AmountInvalid, LedgerUnavailable, Refusal, TokenError, TokenMalformed
from tolsey.gateway.client import Client
from tolsey.gateway.messages import whole_body
from tolsey.gateway.own import OWN_PREFIX, send_json, shown
from tolsey.gateway.passage import Passage
from tolsey.gateway.request import Request
from tolsey.ledger.approving import OPEN_NS, VALID_NS, Asked, Question
from tolsey.token.approvals import Ticket, discharge_call, discharge_small, key_id_of, unseal
from tolsey.token.caveats import format_time
from tolsey.token.chain import Chain
from tolsey.token.l402 import Presented
from tolsey.token.macaroon import Macaroon
from tolsey.token.once import call_digest
from tolsey.units import Amount, parse_amount

APPROVALS: Final = OWN_PREFIX + "approvals"
"""Where questions are asked, and below which they are asked after."""

MAX_QUESTION: Final = 16_384
"""The longest question, in bytes."""

SMALL_NS: Final = 600 * 10**9
"""How long the discharge for small calls is good for."""

_BODY_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 2
_Text = Annotated[str, msgspec.Meta(max_length=4096)]


def is_approval(path: str) -> bool:
    """Whether a path is about approvals."""
    return path == APPROVALS or path.startswith(APPROVALS + "/")


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked: the call, and the most that it may cost. `ticket` is needed where the token has several."""

    method: Annotated[str, msgspec.Meta(max_length=16)]
    path: _Text
    price: Annotated[str, msgspec.Meta(max_length=64)]
    query: _Text = ""
    purpose: Annotated[str, msgspec.Meta(max_length=512)] = ""
    ticket: Annotated[str, msgspec.Meta(max_length=1024)] | None = None


async def answer_approvals(passage: Passage, request: Request, client: Client) -> None:
    """Answer a call to `APPROVALS` or below."""
    found = await _answer(passage, request, client)
    if isinstance(found, Refusal):
        await client.refuse(found)
    else:
        await send_json(client, found, 202 if "poll" in found else 200)


async def _answer(passage: Passage, request: Request, client: Client) -> dict[str, object] | Refusal:
    id_ = request.path.removeprefix(APPROVALS).removeprefix("/")
    allowed = ("GET", "HEAD") if id_ else ("POST",)
    if request.method not in allowed:
        return Refusal("method_not_allowed", f"write {allowed[0]}", allow=allowed)

    def verify(credential: str | Presented) -> Chain:
        if not isinstance(credential, str):
            raise TokenMalformed("approvals are for tokens that were minted here, not for paid ones")
        return passage.verifier.verify_undischarged(credential)

    chain = await shown(passage, request, verify)
    if isinstance(chain, Refusal):
        return chain
    try:
        if id_:
            return await _look(passage, chain, id_)
        return await _ask(passage, chain, request, client)
    except LedgerUnavailable as error:
        return Refusal("ledger_unavailable", error.detail)
    except TokenError as error:
        return Refusal(error.code, error.detail)


async def _ask(passage: Passage, chain: Chain, request: Request, client: Client) -> dict[str, object] | Refusal:
    body = await _read(request, client)
    if isinstance(body, Refusal):
        return body
    try:
        price = parse_amount(body.price)
    except AmountInvalid as error:
        return Refusal("request_invalid", f"price: {error.detail}")
    fault = path_fault(body.path.encode("utf-8")) or query_fault(body.query.encode("utf-8"))
    if fault is not None or body.method not in METHODS:
        return Refusal("request_invalid", fault or f"{body.method!r} is no method that is served here")
    sealed, number = _sealed(chain, body.ticket)
    if sealed is None:
        return Refusal("request_invalid", "the token has no such caveat; with several of them, say which by its ticket")
    ticket = _open(passage, sealed)
    now = passage.now()
    if ticket.free is not None and ticket.free.unit == price.unit and price.nano <= ticket.free.nano:
        until = now + SMALL_NS
        return _given(discharge_small(sealed, ticket, ticket.free, until), until)
    labels = "/".join(link.label for link in chain.links if link.label is not None)
    question = Question(
        secrets.token_hex(12),
        now,
        now + OPEN_NS,
        chain.prefix_ids[chain.identifier.minted],
        chain.links[chain.third_parties[number][1]].prefix_id,
        labels,
        sealed.decode("ascii"),
        body.method,
        body.path,
        body.query,
        price.nano,
        price.unit,
        body.purpose,
    )
    if not await passage.book.ask(question):
        return Refusal("rate_limited", "too many questions are open; wait for an answer", retry_after=60)
    return _waiting(question)


async def _read(request: Request, client: Client) -> _Body | Refusal:
    data = await whole_body(request, client, MAX_QUESTION, _BODY_SECONDS)
    if isinstance(data, Refusal):
        return data
    try:
        return msgspec.json.decode(data, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Refusal("request_invalid", f"the question cannot be read: {str(error)[:200]}")


def _sealed(chain: Chain, wanted: str | None) -> tuple[bytes | None, int]:
    """The ticket on the chain that is meant, and its number among the third-party caveats."""
    found = [
        (asked.caveat.cid, number)
        for number, (asked, _, _) in enumerate(chain.third_parties)
        if key_id_of(asked.caveat.cid) is not None and (wanted is None or asked.caveat.cid == wanted.encode("utf-8"))
    ]
    return found[0] if len(found) == 1 else (None, 0)


def _open(passage: Passage, sealed: bytes) -> Ticket:
    secret = passage.approver(key_id_of(sealed) or "")
    return unseal(sealed, b"" if secret is None else secret)


async def _look(passage: Passage, chain: Chain, id_: str) -> dict[str, object] | Refusal:
    asked = await passage.book.asked(id_)
    if asked is None or asked.question.prefix_id not in chain.prefix_ids:
        return Refusal("route_missing", "this token has asked no such question")
    now = passage.now()
    if asked.is_open(now):
        return _waiting(asked.question)
    if not asked.granted:
        return Refusal("discharge_missing", "nobody answered in time" if asked.granted is None else "it was denied")
    until = (asked.answered or 0) + VALID_NS
    if now >= until:
        return Refusal("discharge_missing", "it was approved, and the time for the call is over: ask again")
    return _given(_discharge(asked, _open(passage, asked.question.ticket.encode("ascii")), until), until)


def _discharge(asked: Asked, ticket: Ticket, until: int) -> Macaroon:
    """The same whenever it is asked for, so that an answer that was lost costs nothing."""
    question = asked.question
    once = base64.urlsafe_b64encode(sha256(question.id.encode("ascii")).digest())[:22].decode("ascii")
    call = call_digest(question.method, question.path, question.query)
    price = Amount(question.nano, question.unit)
    return discharge_call(question.ticket.encode("ascii"), ticket, call, price, once=once, until=until)


def _given(discharge: Macaroon, until: int) -> dict[str, object]:
    return {"discharge": discharge.to_text(), "until": format_time(until)}


def _waiting(question: Question) -> dict[str, object]:
    return {
        "approval": question.id,
        "poll": f"{APPROVALS}/{question.id}",
        "retry_after": _RETRY_SECONDS,
        "until": format_time(question.until),
    }
