"""The gateway's own tools at an endpoint: what an agent may ask about its budget, and how it hands on a part of it.

They cost nothing and go to no server. A token may use them as it may any tool: a `tool` caveat says which.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from tolsey.errors import LedgerUnavailable, Refusal, TolseyError
from tolsey.gateway import headers as header_rules
from tolsey.gateway.own import balance_of
from tolsey.gateway.passage import Passage
from tolsey.gateway.request import Request
from tolsey.ledger.books import Child
from tolsey.token.chain import Chain
from tolsey.token.delegation import compose, narrow
from tolsey.token.macaroon import Macaroon, prefix_id
from tolsey.units import format_nano

BALANCE: Final = "tolsey_balance"
ATTENUATE: Final = "tolsey_attenuate"
CHILDREN: Final = "tolsey_children"
"""With `_`, and not `/` or `.`: those that models are called with take letters, digits, `_` and `-` alone."""

MOST_CHILDREN: Final = 100
"""How many are told of at once."""

_TEXT: Final = {"type": "string"}
_NOTHING: Final = {"type": "object", "properties": {}, "additionalProperties": False}
_PART: Final = {
    "type": "object",
    "properties": {
        "label": {**_TEXT, "description": "The name of whoever gets the token, as in 'search-worker'."},
        "budget": {**_TEXT, "description": "The most that it may spend: '5 USD', '1 USD/day'."},
        "scope": {**_TEXT, "description": "The paths that it may call, as in '/api/v1/*'."},
        "expires": {**_TEXT, "description": "A date (its end, UTC) or an RFC 3339 time."},
        "caveats": {
            "type": "array",
            "items": _TEXT,
            "description": "Any others, as in 'tool = search_*', 'calls = 100', 'max-price = 0.05 USD'.",
        },
    },
    "required": ["label"],
    "additionalProperties": False,
}

LISTED: Final[Mapping[str, dict[str, object]]] = {
    BALANCE: {
        "name": BALANCE,
        "title": "What is my budget?",
        "description": "How much of your budget is spent, held and left, for each account that your calls are charged"
        " to, and when it is filled again.",
        "inputSchema": _NOTHING,
        "annotations": {"readOnlyHint": True, "openWorldHint": False},
    },
    ATTENUATE: {
        "name": ATTENUATE,
        "title": "Hand a part of my budget to a sub-agent",
        "description": "A narrower token for a sub-agent, made from yours. It may do no more than yours; what it spends"
        " is charged to your budget too. Nothing is set aside, and nothing has to be given back. Whoever has the token"
        " can use it.",
        "inputSchema": _PART,
        "annotations": {"readOnlyHint": True, "openWorldHint": False},
    },
    CHILDREN: {
        "name": CHILDREN,
        "title": "What did my sub-agents spend?",
        "description": "What those spent, with all below them, whom you handed a token to and who have called.",
        "inputSchema": _NOTHING,
        "annotations": {"readOnlyHint": True, "openWorldHint": False},
    },
}
"""The tools as `tools/list` shows them."""


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """The arguments of `ATTENUATE`."""

    label: str
    budget: str | None = None
    scope: str | None = None
    expires: str | None = None
    caveats: list[str] = []


async def use(
    passage: Passage, request: Request, chain: Chain, name: str, arguments: object
) -> dict[str, object] | Refusal:
    """What one of the tools answers: a result, which may say that the arguments are wrong, or a refusal."""
    if name == ATTENUATE:
        try:
            return _result(_attenuate(request, msgspec.convert(arguments, Part)))
        except (msgspec.ValidationError, TolseyError) as error:
            return _result({"error": str(error)}, wrong=True)
    if arguments != {}:
        return _result({"error": f"{name} takes no arguments"}, wrong=True)
    if name == BALANCE:
        found = await balance_of(passage, chain)
        return found if isinstance(found, Refusal) else _result(found)
    try:
        children = await passage.book.children(sorted(chain.own_accounts()), MOST_CHILDREN + 1)
    except LedgerUnavailable as error:
        return Refusal("ledger_unavailable", error.detail)
    return _result(_children(children))


def _attenuate(request: Request, part: Part) -> dict[str, object]:
    """The token that was shown, with a Link more. Raises `TolseyError`."""
    token = header_rules.credential(request.headers)
    parent = Macaroon.deserialize(token if isinstance(token, str) else "")
    texts = compose(
        label=part.label,
        nonce=secrets.token_urlsafe(9),
        scope=part.scope,
        expires=part.expires,
        budget=part.budget,
        caveats=part.caveats,
    )
    child = narrow(parent, texts)
    return {
        "token": child.to_text(),
        "prefix_id": prefix_id(child.signature),
        "label": part.label,
        "caveats": texts,
    }


def _children(children: Sequence[Child]) -> dict[str, object]:
    return {
        "children": [
            {
                "id": child.id,
                "label": child.label,
                "unit": child.unit,
                "limit": None if child.limit is None else format_nano(child.limit + child.granted),
                "period": child.period,
                "spent": format_nano(child.spent),
                "held": format_nano(child.held),
                "calls": child.calls,
            }
            for child in children[:MOST_CHILDREN]
        ],
        "more": len(children) > MOST_CHILDREN,
    }


def _result(found: Mapping[str, Any], *, wrong: bool = False) -> dict[str, object]:
    text = msgspec.json.encode(found).decode("utf-8")
    return {
        "content": [{"type": "text", "text": text}],
        "structuredContent": found,
        "isError": wrong,
        "resultType": "complete",
    }
