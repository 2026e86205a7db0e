"""Steps 4 and 5 of a call: whether its token allows it, and what it is charged to."""

from collections.abc import Sequence

import msgspec

from tolsey.call import Call
from tolsey.errors import Refusal
from tolsey.gateway import headers as header_rules
from tolsey.gateway.messages import Cleared
from tolsey.gateway.record import CallRecord
from tolsey.gateway.repeats import claim_of, key_of
from tolsey.gateway.request import Request
from tolsey.l402.offers import is_for
from tolsey.pricing.llm import Asked
from tolsey.pricing.tariff import Chosen, Quote, Tariff
from tolsey.token.chain import Chain, Charge
from tolsey.token.clearing import Clearance, clear
from tolsey.token.tags import tags_of


def allowed(
    chain: Chain,
    offers: Sequence[str],
    request: Request,
    record: CallRecord,
    call: Call,
    leaving: tuple[type, ...] = (),
) -> Clearance | Refusal:
    """Step 4: whether a token allows a call, as far as its price; caveats of the kinds in `leaving` are not asked. The
    tags of the call are written into its record.
    """
    clearance = clear(chain, call, leaving)
    if isinstance(clearance, Refusal):
        return clearance
    if not is_for(chain, offers):
        return Refusal("caveat_refused", "what was paid for is not offered on this route")
    if chain.tags:
        tags = tags_of(chain, header_rules.joined(request.headers, b"tolsey-tag"))
        if isinstance(tags, Refusal):
            return tags
        record.tags = tags
    return clearance


def charged(
    clearance: Clearance, request: Request, call: Call, tariff: Tariff, chosen: Chosen, asked: Asked | None
) -> Cleared | Refusal:
    """Step 5: what an allowed call costs, and what it is charged to."""
    chain = clearance.chain
    quote = tariff.quote(chosen, request.size, asked)
    if isinstance(quote, Refusal):
        return quote
    charge = clearance.charge(quote.amount)
    if isinstance(charge, Refusal):
        return charge
    key = key_of(request.headers)
    if isinstance(key, Refusal):
        return key
    claim = None
    # A call that holds nothing leaves no place for its outcome either: its key only goes on to the upstream.
    if key is not None and (charge.accounts or charge.counters):
        scope = chain.links[-1].prefix_id
        claim = claim_of(key, scope, request.method, request.path, request.query, request.headers)
    return Cleared(call, chain, quote, charge, claim)


def observed(
    record: CallRecord, cleared: Cleared | Refusal, call: Call, chain: Chain | Refusal, quote: Quote | Refusal
) -> Cleared | None:
    """What a call that is only observed counts for, whether it was cleared or not; None where that is not known. What
    it met is written into its record.
    """
    if isinstance(cleared, Cleared):
        record.observed = ""
        return msgspec.structs.replace(cleared, claim=None)
    record.observed = cleared.code
    if isinstance(quote, Refusal):
        return None
    if isinstance(chain, Refusal):
        return Cleared(call, None, quote, Charge((), (), ()), None)
    purse = chain.purse(quote.amount.unit) if quote.amount.nano else ()
    return Cleared(call, chain, quote, Charge(purse, chain.counters, chain.rates), None)
