"""What a call asks for in its body, where its price stands there: the body is then read before anything is decided."""

from tolsey.call import Call
from tolsey.errors import Refusal
from tolsey.gateway.client import Client
from tolsey.gateway.messages import whole_body
from tolsey.gateway.record import llm_call
from tolsey.gateway.request import Request
from tolsey.gateway.routes import Route
from tolsey.pricing.llm import Asked
from tolsey.pricing.tariff import Chosen, Tariff


async def ask(
    request: Request, client: Client, route: Route, tariff: Tariff, call: Call, chosen: Chosen | Refusal
) -> Asked | Refusal | None:
    """What the call asks for; None where its price stands elsewhere."""
    if isinstance(chosen, Refusal) or chosen.price.llm is None:
        return None
    body = await whole_body(request, client, tariff.max_body, route.timeout)
    if isinstance(body, Refusal):
        return body
    asked = tariff.read(chosen.price, call, request.headers, body)
    if not isinstance(asked, Refusal):
        client.record.llm = llm_call(asked)
    return asked
