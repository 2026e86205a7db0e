"""Proofs about one call: that its entries are under a checkpoint, and a receipt that says what it was and cost.

A proof has runs: from an entry of the call to the head that a checkpoint has signed, with the digests of the bodies
between, so that nobody else's entries are shown. A receipt is signed by itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from tolsey.audit.canonical import NotCanonical, Value, canonical, parse
from tolsey.audit.checkpoint import Check, Sign, read
from tolsey.audit.seal import Head, follow
from tolsey.units import format_nano, parse_amount

PROOF: Final = "tolsey-proof-1"
RECEIPT: Final = "tolsey-receipt-1"

MAX_BYTES: Final = 64 * 1024 * 1024
"""The largest document that is checked, in bytes: a digest for each entry up to the next checkpoint."""

_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SIGNATURE = re.compile(r"[0-9a-f]{128}", re.ASCII)


@dataclass(slots=True)
class Proved:
    """What a document proves of a hold, or why it proves nothing (`fault`)."""

    fault: str | None
    format: str = ""
    hold: str = ""
    ledger: str = ""
    entries: list[dict[str, Value]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def run(before: bytes, items: Sequence[bytes | dict[str, Value]], checkpoint: Value) -> Value:
    """One run of a proof: the seal before the first item, then for each entry up to the head of the log in `checkpoint`
    its body, or the digest of its body where it is not of the call.
    """
    shown: list[Value] = [item.hex() if isinstance(item, bytes) else item for item in items]
    return {"before": before.hex(), "checkpoint": checkpoint, "items": shown}


def proof(hold: str, ledger: str, runs: Sequence[Value]) -> bytes:
    """A proof of a hold's entries, in canonical bytes."""
    return canonical({"format": PROOF, "hold": hold, "ledger": ledger, "runs": list(runs)})


def receipt(
    hold: str,
    ledger: str,
    entries: Sequence[dict[str, Value]],
    *,
    caveats: Value,
    at: str,
    key: bytes,
    sign: Sign,
) -> bytes:
    """A receipt for a hold whose `entries` (bodies) begin with its reserve, in canonical bytes; `caveats` are those of
    the token, or None where it was not shown.
    """
    first = entries[0]
    document: dict[str, Value] = {
        "at": at,
        "call": first["note"],
        "calls": first["counters"],
        "caveats": caveats,
        "chain": first["chain"],
        "entries": list(entries),
        "format": RECEIPT,
        "hold": hold,
        "key": key.hex(),
        "ledger": ledger,
        **_figures(entries),
    }
    document["signature"] = sign(canonical(document)).hex()
    return canonical(document)


def _figures(entries: Sequence[dict[str, Value]]) -> dict[str, Value]:
    """What was held and what it cost: `cost` is null as long as the hold is open."""
    by_kind: dict[str, int] = {}
    for entry in entries:
        kind = str(entry["kind"])
        by_kind[kind] = by_kind.get(kind, 0) + parse_amount(f"{entry['amount']} credit").nano
    held = by_kind.get("reserve", 0) + by_kind.get("extend", 0)
    back = by_kind.get("refund", 0) + by_kind.get("annul", 0)
    ended = next((kind for kind in ("settle", "void", "expire") if kind in by_kind), None)
    cost = None if ended is None else format_nano(by_kind[ended] - back)
    return {"cost": cost, "quote": format_nano(held), "state": ended or "open", "unit": entries[0]["unit"]}


def check(data: bytes, trusted: Sequence[str], is_signed: Check) -> Proved:
    """Check a proof or a receipt by keys that are trusted (hex)."""
    try:
        value = parse(data)
    except NotCanonical as error:
        return Proved(f"it cannot be read: {error.detail}")
    if not isinstance(value, dict):
        return Proved("it is neither a proof nor a receipt")
    match value:
        case {"format": "tolsey-proof-1", "hold": str(hold), "ledger": str(ledger), "runs": list(runs), **more}:
            if more:
                return Proved("it is neither a proof nor a receipt")
            found = Proved(None, PROOF, hold, ledger)
            found.fault = next((fault for each in runs if (fault := _run(found, each, trusted, is_signed))), None)
            if not found.entries and found.fault is None:
                found.fault = "it has no entry"
            return found
        case {"format": "tolsey-receipt-1", "hold": str(hold), "ledger": str(ledger), "entries": list(entries)}:
            bodies = [entry for entry in entries if isinstance(entry, dict)]
            found = Proved(None, RECEIPT, hold, ledger, bodies)
            found.fault = _receipt(found, value, trusted, is_signed)
            return found
    return Proved("it is neither a proof nor a receipt")


def _run(found: Proved, value: Value, trusted: Sequence[str], is_signed: Check) -> str | None:
    match value:
        case {"before": str(before), "checkpoint": document, "items": list(items), **rest} if not rest:
            pass
        case _:
            return "a run of it cannot be read"
    checkpoint = read(document, is_signed)
    if isinstance(checkpoint, str):
        return f"its checkpoint: {checkpoint}"
    if checkpoint.key not in trusted:
        return f"it is signed by key {checkpoint.key[:16]}…, which is not one that you trust"
    if checkpoint.ledger != found.ledger:
        return "its checkpoint is of another ledger"
    if checkpoint.key not in found.keys:
        found.keys.append(checkpoint.key)
    match items[0] if items else None:
        case {"log": int(log), "place": int(first)} if _HASH.fullmatch(before):
            pass
        case _:
            return "a run of it does not begin with an entry"
    seal = bytes.fromhex(before)
    for place, item in enumerate(items, first):
        if isinstance(item, dict):
            if (item.get("log"), item.get("place"), item.get("hold")) != (log, place, found.hold):
                return f"entry {place} of log {log} is not an entry of this hold"
            found.entries.append(item)
            seal = follow(seal, canonical(item))
        elif isinstance(item, str) and _HASH.fullmatch(item):
            seal = sha256(seal + bytes.fromhex(item)).digest()
        else:
            return "a run of it cannot be read"
    if (log, Head(first + len(items) - 1, seal)) not in checkpoint.logs:
        return f"the entries of log {log} do not lead to what checkpoint {checkpoint.n} has signed"
    return None


def _receipt(found: Proved, value: dict[str, Value], trusted: Sequence[str], is_signed: Check) -> str | None:
    key, signature = value.get("key"), value.get("signature")
    if not (isinstance(key, str) and _HASH.fullmatch(key)):
        return "it names no key"
    if not (isinstance(signature, str) and _SIGNATURE.fullmatch(signature)):
        return "it has no signature"
    signed = canonical({name: each for name, each in value.items() if name != "signature"})
    if not is_signed(bytes.fromhex(key), signed, bytes.fromhex(signature)):
        return "its signature is wrong"
    if key not in trusted:
        return f"it is signed by key {key[:16]}…, which is not one that you trust"
    found.keys.append(key)
    try:
        figures = _figures(found.entries) if found.entries else {}
    except (LookupError, ValueError):
        figures = {}
    if not figures or any(value.get(name) != figure for name, figure in figures.items()):
        return "its figures are not those of its entries"
    return None
