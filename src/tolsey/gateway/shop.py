"""What a stranger may read: which calls there are, what they cost, what is offered; and an address for each offer.

`/.well-known/l402.json` is for programs, `/llms.txt` for language models; both follow from the config. They are there
if the config has `[payment]`, and come before its routes.
"""

from collections.abc import Iterator
from typing import Final

from tolsey.errors import Refusal
from tolsey.gateway import headers as header_rules
from tolsey.gateway.client import BodyBroken, BodyTooLarge, Client
from tolsey.gateway.desk import MANIFEST, OFFERS, Desk
from tolsey.gateway.own import read_balance, send_json
from tolsey.gateway.passage import Passage
from tolsey.gateway.request import Request
from tolsey.gateway.routes import Mode, Route
from tolsey.l402.offers import Offer, to_sat
from tolsey.pricing.tariff import Price
from tolsey.store.lightning_fake import FakeNode
from tolsey.token.bolt11 import MAX_INVOICE, InvoiceInvalid
from tolsey.units import NANO, Amount, format_nano

FOR_MODELS: Final = "/llms.txt"

FAKE_PAY: Final = "/.tolsey/fake/pay"
"""Where an invoice of the fake backend is paid: POST it, and get its preimage."""

_MSAT: Final = 1000
_BODY_SECONDS: Final = 10.0


def is_shop(desk: Desk | None, path: str) -> bool:
    """Whether a path is answered here."""
    if desk is None:
        return False
    return path in (MANIFEST, FOR_MODELS) or path.startswith(OFFERS) or (path == FAKE_PAY and desk.invoicer.fake)


async def answer_shop(passage: Passage, request: Request, client: Client) -> None:
    """Answer a call to one of these paths."""
    desk, path = passage.desk, request.path
    methods = ("POST",) if path == FAKE_PAY else ("GET", "HEAD")
    if desk is None or request.method not in methods:
        await client.refuse(Refusal("method_not_allowed", "this has another method", allow=methods))
    elif path == MANIFEST:
        await send_json(client, manifest(desk, passage.routes.all))
    elif path == FOR_MODELS:
        body = "\n".join(for_models(desk, passage.routes.all)).encode("utf-8")
        await client.whole(200, [(b"content-type", b"text/plain; charset=utf-8"), _length(body)], body)
    elif path == FAKE_PAY:
        await _pay(desk, client)
    else:
        await _offer(desk, passage, request, client)


async def _offer(desk: Desk, passage: Passage, request: Request, client: Client) -> None:
    """One offer: a challenge for whoever shows no token, and for whoever has paid, what there is."""
    token = header_rules.credential(request.headers)
    if isinstance(token, Refusal) and token.code == "token_missing":
        peer = header_rules.client_address(request.headers, request.socket_peer, passage.trusted_proxies)
        answer = await desk.offer(request.path.removeprefix(OFFERS), peer)
        await client.refuse(answer.refusal, answer.headers, answer.members)
        return
    found = await read_balance(passage, request)
    if isinstance(found, Refusal):
        await client.refuse(found)
    else:
        await send_json(client, found)


async def _pay(desk: Desk, client: Client) -> None:
    """Pay an invoice of the fake backend."""
    try:
        invoice = (await client.read(None, MAX_INVOICE, _BODY_SECONDS)).decode("ascii", "replace")
        if not isinstance(desk.invoicer, FakeNode):
            raise InvoiceInvalid("there is no fake backend here")
        preimage = desk.invoicer.pay(invoice)
    except (BodyTooLarge, BodyBroken, TimeoutError):
        await client.refuse(Refusal("request_invalid", "the body is an invoice"))
    except InvoiceInvalid as error:
        await client.refuse(Refusal("request_invalid", error.detail))
    else:
        await send_json(client, {"preimage": preimage.hex(), "fake": True})


def manifest(desk: Desk, routes: tuple[Route, ...]) -> dict[str, object]:
    """The offers and the routes that have them, as L402's discovery document."""
    return {
        "version": "1.0",
        "provider": {"name": desk.service, "fake": desk.invoicer.fake},
        "currencies": ["msat"],
        "offers": [_offer_of(desk, offer) for offer in desk.offers.values()],
        "services": [
            {
                "name": desk.service,
                "resources": [
                    {
                        "path": route.pattern.text,
                        "method": method,
                        "pricing": _pricing(desk, route),
                        "offers": list(route.offers),
                    }
                    for route in routes
                    if route.offers and route.mode is Mode.ENFORCE
                    for method in route.methods
                ],
            }
        ],
    }


def _offer_of(desk: Desk, offer: Offer) -> dict[str, object]:
    price = offer.price or offer.budget
    sat = None if price is None else to_sat(price, desk.rates)
    return {
        "name": offer.name,
        "kind": "call" if offer.budget is None else "purse",
        "price_msat": None if sat is None else sat * _MSAT,
        "budget": None if offer.budget is None else format_nano(offer.budget.nano),
        "budget_unit": None if offer.budget is None else offer.budget.unit,
        "calls": 1 if offer.budget is None else offer.calls,
        "valid_seconds": offer.valid // NANO,
        "challenge": None if offer.budget is None else OFFERS + offer.name,
    }


def _pricing(desk: Desk, route: Route) -> dict[str, object]:
    """What one call costs: a number where it is always the same, else words."""
    tariff = route.tariff
    prices = [] if tariff is None else [tariff.price, *(rule.price for rule in tariff.rules)]
    price = prices[0] if len(prices) == 1 else None
    if price is None or not _is_flat(price):
        return {"model": "dynamic", "price": [price_words(each) for each in prices if each is not None]}
    sat = to_sat(Amount(price.flat, price.unit), desk.rates)
    return {"model": "fixed", "price": price_words(price), "price_msat": None if sat is None else sat * _MSAT}


def _is_flat(price: Price) -> bool:
    return price == Price(price.unit, price.flat, free_on_failure=price.free_on_failure)


def price_words(price: Price) -> str:
    """A price for people."""
    unit = price.unit
    parts = [
        f"{format_nano(nano)} {unit}{what}"
        for nano, what in (
            (price.flat, ""),
            (price.per_second, " a second"),
            (price.per_request_mb, " a megabyte of request"),
            (price.per_response_mb, " a megabyte of response"),
        )
        if nano
    ]
    if price.llm is not None:
        parts.append("the tokens that it uses")
    if price.reported is not None:
        parts.append("what the upstream reports")
    words = " and ".join(parts) or f"0 {unit}"
    return words if price.at_most is None else f"{words}, at most {format_nano(price.at_most)} {unit}"


def for_models(desk: Desk, routes: tuple[Route, ...]) -> Iterator[str]:
    """`/llms.txt`, line by line."""
    yield f"# {desk.service}"
    yield ""
    if desk.invoicer.fake:
        yield "> This is a test: its payments are FAKE and worth nothing."
        yield ""
    yield "> An HTTP API that anybody may call who pays for it over Lightning (L402)."
    yield ""
    yield 'A call without a token is answered with 402 and a challenge: `WWW-Authenticate: L402 macaroon="…",'
    yield 'invoice="…"`. Pay the invoice, and send the call again with `Authorization: L402 <macaroon>:<preimage>`. The'
    yield "token is a purse: it is good until it is spent or expires, and you can hand on narrower ones offline."
    if desk.mpp_too:
        yield "A single call can also be paid for by the `Payment` scheme: say `Accept-Payment: lightning/charge`."
    yield f"`{MANIFEST}` says the same for programs."
    yield ""
    yield "## Offers"
    yield ""
    for offer in desk.offers.values():
        yield f"- {_offer_words(desk, offer)}"
    yield ""
    yield "## Calls"
    yield ""
    for route in routes:
        if route.offers and route.tariff is not None:
            prices = [route.tariff.price, *(rule.price for rule in route.tariff.rules)]
            cost = " or ".join(price_words(price) for price in prices if price is not None)
            yield f"- `{' '.join(route.methods)} {route.pattern.text}`: {cost} (offers: {', '.join(route.offers)})"
    yield ""


def _offer_words(desk: Desk, offer: Offer) -> str:
    if offer.budget is None:
        price = "the price of the call" if offer.price is None else str(offer.price)
        return f"{offer.name}: {price}, for one call"
    sat = to_sat(offer.price or offer.budget, desk.rates)
    calls = "" if offer.calls is None else f", in at most {offer.calls} calls"
    seconds = offer.valid // NANO
    return (
        f"{offer.name}: {sat} sat, for {offer.budget} to spend{calls}, for {seconds} seconds (`{OFFERS}{offer.name}`)"
    )


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", str(len(body)).encode("ascii")
