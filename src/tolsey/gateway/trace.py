"""W3C Trace Context, level 2: what a client sends of it, checked, and what the upstream gets."""

import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

MAX_STATE: Final = 2048
"""The longest `tracestate` that is passed on, in bytes; a longer one is dropped."""

MAX_MEMBERS: Final = 32
"""How many members a `tracestate` may have."""

SAMPLED: Final = 1
RANDOM: Final = 2

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x20-\x7e]*)?")
_MEMBER = re.compile(
    rb"([a-z0-9][a-z0-9_*/@-]{0,255})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class Trace(msgspec.Struct, frozen=True, gc=False):
    """Where a call stands in a trace. The ids are in lower-case hex; `flags` are `SAMPLED` and `RANDOM`.

    `remote` is whether the client said so; else the trace begins here.
    """

    trace_id: str
    span_id: str
    flags: int = 0
    state: str = ""
    remote: bool = False

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As headers of a request whose parent this is."""
        found = [(b"traceparent", f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}".encode("ascii"))]
        if self.state:
            found.append((b"tracestate", self.state.encode("ascii")))
        return found


def read_trace(headers: Iterable[tuple[bytes, bytes]]) -> Trace | None:
    """The trace of a request from its headers, whose names are in lower case; None if it has no `traceparent`.

    One that is malformed or repeated is dropped, and a trace begun anew, as the specification asks.
    """
    parents, states = [], []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
    if not parents:
        return None
    return (_read(parents[0], states) if len(parents) == 1 else None) or new_trace()


def new_trace() -> Trace:
    """A trace that begins here, not sampled."""
    return Trace(secrets.token_hex(16), secrets.token_hex(8), RANDOM)


def _read(parent: bytes, states: Sequence[bytes]) -> Trace | None:
    found = _PARENT.fullmatch(parent.strip(b" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    # A later version may have more behind the flags; this one has not.
    wrong_version = version == b"ff" or (version == b"00" and more is not None)
    if wrong_version or not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    kept = int(flags, 16) & (SAMPLED | RANDOM)
    return Trace(trace_id.decode("ascii"), span_id.decode("ascii"), kept, _state(states), True)


def _state(states: Sequence[bytes]) -> str:
    """The members in one line; empty if any is malformed, as whose they are is then not known."""
    if sum(map(len, states)) > MAX_STATE:
        return ""
    members = [member for state in states for word in state.split(b",") if (member := word.strip(b" \t"))]
    matches = [_MEMBER.fullmatch(member) for member in members]
    keys = {match[1] for match in matches if match is not None}
    if len(members) > MAX_MEMBERS or len(keys) != len(members):
        return ""
    return b",".join(members).decode("ascii")
