"""What is known of one call, as it goes on; whoever counts or writes calls down gets it when the call is over."""

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tolsey.errors import Refusal
from tolsey.gateway.trace import Trace
from tolsey.ledger.events import Observe
from tolsey.pricing.llm import Api, Asked
from tolsey.token.caveats import format_time
from tolsey.token.chain import Chain, Link
from tolsey.token.l402 import Presented
from tolsey.token.mpp import write_receipt
from tolsey.token.tags import Tags
from tolsey.units import format_nano

if TYPE_CHECKING:
    from tolsey.gateway.routes import Route
    from tolsey.gateway.till import Sale


PAYMENT_RECEIPT: Final = b"payment-receipt"
"""What is told of a payment under the `Payment` scheme, of calls that were served."""

TEAM: Final = "team"
"""The tag that says who pays; the label of the minted token stands for it."""


class LlmCall(msgspec.Struct, gc=False):
    """What is kept of an LLM call once its bodies are gone. `model` is as the caller wrote it, `listed` the name that
    its price is listed under. `counts` (by the unit's name) and `served_by` (a model) are what the answer says.
    """

    api: Api
    model: str | None
    listed: str | None
    counts: Mapping[str, int] = {}
    served_by: str | None = None


class CallRecord:
    """One call. `at` is nanoseconds since the epoch; `began`, `reserving` (the ledger is asked for a hold), `forwarded`
    and `ended` are instants of one clock, in nanoseconds, 0 for what did not happen.

    `status` is the upstream's, `answered` what the client got, `refusal` why it was refused or cut. `nano` is what was
    charged, in nano-units of `unit`, None if nothing was, and `cost` says it; `quoted` is what an observed call would
    have held at once. `received` and `sent` are the bytes of
    the bodies that came from the client and went to it. `fault` is a kind of upstream error (`counting.FAULTS`).
    `tool` is what is called over MCP. `llm` is there for an LLM call whose body was read. `chain` is that of a verified
    token, with its `links`; without one an observed call has `agent`, who seems to call. `receipt` is the header that
    tells of a payment, `sale` how the call is paid for over x402. `observed` is there on an observed call: the code of
    the Refusal that it met, or ""; and `observe` what of it is for the ledger. `fast` is whether it took the fast path.
    `span` belongs to the telemetry.
    """

    own: bool = False
    fast: bool = False
    route: "Route | None" = None
    span: Any = None
    hold: str | None = None
    unit: str = ""
    nano: int | None = None
    quoted: int = 0
    cost: str | None = None
    status: int | None = None
    answered: int | None = None
    tool: str = ""
    refusal: Refusal | None = None
    unknown_key: bool = False
    replayed: bool = False
    unmetered: bool = False
    fault: str | None = None
    note: str = ""
    llm: LlmCall | None = None
    chain: Chain | None = None
    links: tuple[Link, ...] = ()
    agent: str = ""
    receipt: tuple[bytes, bytes] | None = None
    sale: "Sale | None" = None
    tags: Tags = ()
    observed: str | None = None
    observe: Observe | None = None
    received: int = 0
    sent: int = 0
    reserving: int = 0
    forwarded: int = 0
    ended: int = 0

    def __init__(
        self,
        at: int,
        began: int,
        method: str,
        path: str = "",
        scheme: str = "http",
        trace: Trace | None = None,
    ) -> None:
        self.at = at
        self.began = began
        self.method = method
        self.path = path
        self.scheme = scheme
        self.trace = trace

    def charge(self, nano: int, unit: str) -> None:
        """Say what the call costs."""
        self.nano, self.unit, self.cost = nano, unit, _money(nano, unit)

    def shown(self, token: str | Presented, chain: Chain) -> None:
        """Say which token was verified, and what it is."""
        self.chain = chain
        self.links = chain.links
        payment = chain.identifier.payment
        if isinstance(token, Presented) and token.echo is not None and payment is not None:
            receipt = write_receipt(payment.hash, token.echo.id, format_time(self.at))
            self.receipt = PAYMENT_RECEIPT, receipt.encode("ascii")

    @property
    def team(self) -> str:
        """The tag `team`, else the label of the minted token, "" where there is neither."""
        for name, value in self.tags:
            if name == TEAM and value:
                return value
        for link in self.links:
            if link.label is not None:
                return link.label
        return ""


@lru_cache(maxsize=512)
def _money(nano: int, unit: str) -> str:
    return f"{format_nano(nano)} {unit}"


def llm_call(asked: Asked) -> LlmCall | None:
    """What is kept of what an LLM call asks for; None if it speaks no protocol that is known."""
    if asked.api is None:
        return None
    return LlmCall(asked.api, asked.model, None if asked.price is None else asked.price.listed)
