"""Step 8 of a call: what becomes of its hold, and what is said of one that failed. Written into its record."""

from tolsey.errors import Refusal
from tolsey.gateway.destination import NotSent
from tolsey.gateway.messages import Cleared, note_of
from tolsey.gateway.record import CallRecord
from tolsey.ledger.events import Kept, Observe, Settle, Void
from tolsey.pricing.answers import Answer
from tolsey.pricing.tariff import Quote
from tolsey.pricing.usage import Usage
from tolsey.tuples import make


def resolution(
    record: CallRecord, hold: str, quote: Quote, held: int, *, sent: bool, usage: Usage | None, kept: Kept | None
) -> Settle | Void:
    """What becomes of a hold of `held` nano-units. A call that was not surely unsent is paid for: by its cost once a
    head arrived, else in full. `usage` is there where the cost is known only at the call's end, `kept` is its outcome
    where that is to be given again.
    """
    if not sent:
        record.nano = record.cost = None
        return Void(hold, record.note)
    if record.status is None:
        record.charge(held, quote.price.unit)
        record.unmetered = True
        return Settle(hold, held, f"unmetered: {record.note}")
    cost = quote.cost(record.status, usage)
    note = f"{record.note}: {cost.note}" if record.note and cost.note else record.note or cost.note
    if usage is not None:
        # What an upstream says, or its slowness, may cost is never more than what is funded.
        record.unmetered = not cost.metered or cost.nano > held
        note = f"unmetered: {note}" if record.unmetered else note
        record.charge(min(held, cost.nano), quote.price.unit)
    return make(Settle, (hold, min(held, cost.nano), note, kept))


def observe(record: CallRecord, cleared: Cleared, hold: str, usage: Usage | None, *, sent: bool) -> None:
    """Write down what an observed call cost, of which nothing is held, whatever that is. `hold` is an id for it."""
    if not sent:
        record.nano = record.cost = None
        return
    quote = cleared.quote
    cost = record.quoted = quote.amount.nano
    if record.status is not None:
        cost = quote.cost(record.status, usage).nano
    record.charge(cost, quote.price.unit)
    accounts, counters, rates = cleared.charge
    held = quote.amount.nano if accounts else 0
    record.observe = Observe(hold, accounts, held, cost, note_of(record), counters, rates, record.observed or "")


def answered(record: CallRecord, usage: Usage) -> None:
    """Write down what the answer to an LLM call says of itself."""
    answer = usage.reader
    if record.llm is not None and isinstance(answer, Answer):
        record.llm.counts, record.llm.served_by = answer.counts, answer.model


def unsent(record: CallRecord, error: NotSent) -> Refusal:
    """The refusal of a call of which nothing reached the upstream."""
    record.note = error.detail
    record.fault = "connect_timeout" if error.late else "connect"
    return Refusal("upstream_timeout" if error.late else "upstream_failed", error.detail)


def broken(record: CallRecord, detail: str) -> Refusal:
    """The refusal of a call whose upstream failed."""
    record.note = detail
    record.fault = "broken"
    return Refusal("upstream_failed", detail)
