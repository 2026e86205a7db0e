"""The sealed export: a ledger's logs, its gaps and its checkpoints as lines that anybody can verify without it.

Every line is canonical JSON: a head, the gaps, the checkpoints, the entries each with its seal, and an end that says
how many there are. So there is no byte that could be another one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from tolsey.audit.canonical import NotCanonical, Value, canonical, parse
from tolsey.audit.checkpoint import Chain, Check, Checkpoint, read
from tolsey.audit.seal import Gap
from tolsey.audit.walk import Walk

FORMAT: Final = "tolsey-sealed-1"

MAX_LINE: Final = 4 * 1024 * 1024
"""The longest line, in bytes."""


@dataclass(slots=True)
class Verdict:
    """What was gone through, and the first thing that is wrong (None: nothing). `line` is where, from 1 on.

    `unsigned` entries lie behind the last checkpoint: they are chained, and nobody has signed them yet. `rolled` ones
    are known by their seals and totals alone.
    """

    fault: str | None = None
    line: int = 0
    ledger: str = ""
    entries: int = 0
    logs: int = 0
    rolled: int = 0
    unsigned: int = 0
    checkpoints: int = 0
    last: Checkpoint | None = None
    keys: list[str] = field(default_factory=list)


def head_line(ledger: str) -> bytes:
    """The first line."""
    return canonical({"format": FORMAT, "ledger": ledger})


def gap_line(gap: Gap) -> bytes:
    """The line of a gap."""
    return canonical({"gap": [gap.log, gap.first, gap.last, gap.before.hex(), gap.after.hex()]})


def checkpoint_line(document: bytes) -> bytes:
    """The line of a checkpoint."""
    return b'{"checkpoint":' + document + b"}"


def entry_line(body: bytes, seal: bytes) -> bytes:
    """The line of an entry."""
    return b'{"entry":' + body + b',"seal":"' + seal.hex().encode() + b'"}'


def end_line(entries: int) -> bytes:
    """The last line."""
    return canonical({"end": entries})


def verify(lines: Iterable[bytes], trusted: Sequence[str], check: Check, outside: Sequence[bytes] = ()) -> Verdict:
    """Verify a sealed export (its lines, with their line breaks) by keys that are trusted (hex). `outside` are
    checkpoints that were kept elsewhere, as documents: each must be in the export.
    """
    verdict = Verdict()
    for fault in _faults(lines, trusted, check, outside, verdict):
        verdict.fault = fault
        break
    return verdict


def _faults(
    lines: Iterable[bytes], trusted: Sequence[str], check: Check, outside: Sequence[bytes], verdict: Verdict
) -> Iterator[str]:
    chain = Chain("", trusted)
    gaps: list[Gap] = []
    checkpoints: list[Checkpoint] = []
    walk: Walk | None = None
    ended = False
    for raw in lines:
        verdict.line += 1
        value = _parsed(raw)
        if isinstance(value, str):
            yield value
            return
        match value:
            case {"format": str(name), "ledger": str(ledger), **rest} if verdict.line == 1 and not rest:
                if name != FORMAT:
                    yield "it is of another format"
                verdict.ledger = ledger
                chain = Chain(ledger, trusted)
            case _ if ended or verdict.line == 1:
                yield "it is not the line that belongs here"
            case {"gap": [int(log), int(first), int(last), str(before), str(after)], **rest} if not rest and not walk:
                gap = _gap(log, first, last, before, after)
                if gap is None or checkpoints:
                    yield "it is not the line that belongs here"
                else:
                    gaps.append(gap)
            case {"checkpoint": document, **rest} if not rest and not walk:
                found = read(document, check)
                if isinstance(found, str):
                    yield f"checkpoint {len(checkpoints) + 1}: {found}"
                    return
                fault = chain.follow(found)
                if fault is not None:
                    yield fault
                checkpoints.append(found)
                verdict.checkpoints, verdict.last, verdict.keys = len(checkpoints), found, chain.keys
            case {"entry": dict(entry), "seal": str(seal), **rest} if not rest:
                if walk is None:
                    yield from _trust(chain, checkpoints, outside, check)
                    walk = Walk(verdict.ledger, gaps, checkpoints)
                fault = _entry(walk, entry, seal)
                _sum_up(verdict, walk)
                if fault is not None:
                    yield fault
            case {"end": int(count), **rest} if not rest:
                ended = True
                if walk is None:
                    yield from _trust(chain, checkpoints, outside, check)
                    walk = Walk(verdict.ledger, gaps, checkpoints)
                yield from walk.end()
                _sum_up(verdict, walk)
                if count != walk.entries:
                    yield f"it says that there are {count} entries, and there are {walk.entries}"
            case _:
                yield "it is not the line that belongs here"
    if not ended:
        verdict.line += 1
        yield "the export ends early: its last lines are missing"


def _sum_up(verdict: Verdict, walk: Walk) -> None:
    verdict.entries, verdict.logs = walk.entries, len(walk.heads)
    verdict.rolled, verdict.unsigned = walk.rolled, walk.unsigned


def _parsed(raw: bytes) -> Value:
    """The object in a line, or what is wrong with it."""
    if not raw.endswith(b"\n") or len(raw) > MAX_LINE:
        return "the line is cut off" if len(raw) <= MAX_LINE else "the line is too long"
    try:
        value = parse(raw[:-1])
    except NotCanonical as error:
        return f"the line cannot be read: {error.detail}"
    return value if isinstance(value, dict) else "it is not the line that belongs here"


def _gap(log: int, first: int, last: int, before: str, after: str) -> Gap | None:
    if not 1 <= first <= last or log < 0 or len(before) != 64 or len(after) != 64:
        return None
    try:
        return Gap(log, first, last, bytes.fromhex(before), bytes.fromhex(after))
    except ValueError:
        return None


def _entry(walk: Walk, entry: dict[str, Value], seal: str) -> str | None:
    match entry:
        case {"log": int(log), "place": int(place), "kind": str(kind), "note": str(note)}:
            # Compared as text: there is one way to write a seal.
            try:
                found = bytes.fromhex(seal)
            except ValueError:
                found = b""
            return walk.entry(log, place, kind, note, canonical(entry), found if found.hex() == seal else b"")
    return "it is not an entry"


def _trust(chain: Chain, checkpoints: Sequence[Checkpoint], outside: Sequence[bytes], check: Check) -> Iterator[str]:
    """Whether the checkpoints may be relied on, and whether those kept elsewhere are among them."""
    if checkpoints and not chain.is_trusted:
        yield f"the last checkpoint is signed by key {checkpoints[-1].key[:16]}…, which is not one that you trust"
    there = {each.n: each for each in checkpoints}
    for place, document in enumerate(outside, 1):
        try:
            kept = read(parse(document), check)
        except NotCanonical as error:
            kept = error.detail
        if isinstance(kept, str):
            yield f"kept checkpoint {place} cannot be used: {kept}"
            return
        found = there.get(kept.n)
        if found is None:
            yield f"checkpoint {kept.n}, which was kept elsewhere, is missing: the export is older, or was cut back"
            return
        if found.digest != kept.digest:
            yield f"checkpoint {kept.n} is not the one that was kept elsewhere: history was rewritten"
            return
