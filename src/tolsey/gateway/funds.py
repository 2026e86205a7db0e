"""What a client is told of the money: what is held for its call, what it costs, what is left."""

from typing import TYPE_CHECKING

from tolsey.gateway.record import CallRecord
from tolsey.ledger.events import Granted
from tolsey.units import format_nano

if TYPE_CHECKING:
    from tolsey.gateway.messages import Cleared


def funds_headers(
    record: CallRecord, cleared: "Cleared | None", granted: Granted | None, *, disclose_chain: bool
) -> list[tuple[bytes, bytes]]:
    """What is held for a call, and what it costs as far as that is known."""
    headers = list(hold_header(record))
    if record.cost is not None:
        headers.append((b"tolsey-cost", record.cost.encode("ascii")))
    elif granted is not None and cleared is not None:
        # What a call that is metered costs is not known before its end (RULES.md M13).
        headers.append((b"tolsey-quote", _money(granted.amount, cleared).encode("ascii")))
    # The least that is left on the chain may be an ancestor's to know (RULES.md M15).
    if granted is not None and cleared is not None and granted.remaining is not None and disclose_chain:
        headers.append((b"tolsey-remaining", _money(granted.remaining, cleared).encode("ascii")))
    return headers


def funds_lines(record: CallRecord, granted: Granted | None, unit: str, *, disclose_chain: bool) -> bytes:
    """The same of a call with a price in `unit`, as it is written."""
    hold = f"tolsey-hold: {record.hold}\r\n" if record.hold else ""
    if record.cost is not None:
        money = f"tolsey-cost: {record.cost}\r\n"
    elif granted is None:
        money = ""
    else:
        money = f"tolsey-quote: {format_nano(granted.amount)} {unit}\r\n"
    left = None if granted is None or not disclose_chain else granted.remaining
    remaining = "" if left is None else f"tolsey-remaining: {format_nano(left)} {unit}\r\n"
    return f"{hold}{money}{remaining}".encode("ascii")


def _money(nano: int, cleared: "Cleared") -> str:
    return f"{format_nano(nano)} {cleared.quote.price.unit}"


def hold_header(record: CallRecord) -> tuple[tuple[bytes, bytes], ...]:
    """The header that names the hold, if there is one."""
    return ((b"tolsey-hold", record.hold.encode("ascii")),) if record.hold else ()
