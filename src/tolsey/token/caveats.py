"""What first-party caveats mean: `name = value` text into small values that can say why they refuse a Call.

Every caveat is ANDed and nothing is ever last-wins. What is not understood exactly refuses, so `parse_caveat` raises
for anything else, and the chain turns that into a caveat that refuses every call. Adding a kind means one class here.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from tolsey.call import METHODS, Call, Pattern, parse_pattern
from tolsey.errors import AmountInvalid, CaveatInvalid, PatternInvalid
from tolsey.token.once import Once, parse_once
from tolsey.units import MAX_NANO, NANO, PERIODS, Amount, Budget, parse_amount, parse_budget

SECOND: Final = 1_000_000_000
"""Nanoseconds in a second."""

MAX_LABEL_BYTES: Final = 128

MAX_CALLS: Final = MAX_NANO // NANO
"""The largest number of calls that an account holds."""

MAX_RATE: Final = 1_000_000
"""The largest number of calls in a rate."""

RATE_PERIODS: Final = ("second", "minute", "hour", "day")
"""What a rate may be written for."""

_NAME = re.compile(r"[a-z][a-z-]{0,31}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt]((?:[01]\d|2[0-3]):\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
_TAG = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_GLOB = re.compile(r"[A-Za-z0-9_.:/@+*-]+", re.ASCII)
_NUMBER = re.compile(r"0|[1-9]\d{0,3}", re.ASCII)
_COUNT = re.compile(r"0|[1-9]\d{0,9}", re.ASCII)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Label:
    """Opens a Link. Never refuses. `nonce` (None if absent) keeps two equal children apart."""

    name: str
    nonce: str | None


@dataclass(frozen=True, slots=True)
class BudgetCaveat:
    """Opens an Account. The ledger refuses, not the chain."""

    budget: Budget


@dataclass(frozen=True, slots=True)
class Calls:
    """Opens an Account in the unit `call`, from which every call takes one. `period` is the window that `count` is for
    (None: for the account's whole life). The ledger refuses, not the chain.
    """

    count: int
    period: str | None

    def __str__(self) -> str:
        return f"{self.count}" if self.period is None else f"{self.count}/{self.period}"


@dataclass(frozen=True, slots=True)
class RateCaveat:
    """`rate`: at most `calls` calls a `period`, all of them at once if need be. The ledger refuses, not the chain."""

    calls: int
    period: str

    def __str__(self) -> str:
        return f"{self.calls}/{self.period}"


@dataclass(frozen=True, slots=True)
class MaxPrice:
    """Refuses a quote above `amount`, once there is one."""

    amount: Amount


@dataclass(frozen=True, slots=True)
class Depth:
    """Refuses a chain with more than `links` Links after the one that holds this."""

    links: int


@dataclass(frozen=True, slots=True)
class Purpose:
    """Kept for the audit. Never refuses."""

    text: str


@dataclass(frozen=True, slots=True)
class Tag:
    """Which tags a call may have: pairs of a name and a glob for its values. See `tags`."""

    alternatives: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """Refuses a path outside every pattern, and a query that breaks the rules of the patterns it matches."""

    patterns: tuple[Pattern, ...]

    @property
    def code(self) -> str:
        """The code of its refusal."""
        return "caveat_refused"

    def refusal(self, call: Call) -> str | None:
        """Why `call` is outside, or None."""
        broken = None
        for pattern in self.patterns:
            if pattern.matches_path(call.path):
                broken = pattern.query_refusal(call.query)
                if broken is None:
                    return None
        return broken or f"the path {call.path!r} is outside the scope"


@dataclass(frozen=True, slots=True)
class Method:
    """Refuses every method but these."""

    names: tuple[str, ...]

    @property
    def code(self) -> str:
        """The code of its refusal."""
        return "caveat_refused"

    def refusal(self, call: Call) -> str | None:
        """Why `call` is not one of these methods, or None."""
        return None if call.method in self.names else f"the method {call.method} is not allowed"


@dataclass(frozen=True, slots=True)
class Expires:
    """Refuses from the instant `at` on (nanoseconds since the epoch)."""

    at: int

    @property
    def code(self) -> str:
        """The code of its refusal."""
        return "token_expired"

    def refusal(self, call: Call) -> str | None:
        """Why `call` comes too late, or None."""
        return None if call.now < self.at else "the token has expired"


@dataclass(frozen=True, slots=True)
class Upstream:
    """Refuses every upstream but those that a glob names."""

    globs: tuple[str, ...]

    @property
    def code(self) -> str:
        """The code of its refusal."""
        return "caveat_refused"

    def refusal(self, call: Call) -> str | None:
        """Why the call's upstream is not meant, or None."""
        if call.upstream is not None and any(glob_matches(glob, call.upstream) for glob in self.globs):
            return None
        return f"the upstream {call.upstream!r} is not allowed"


@dataclass(frozen=True, slots=True)
class Model:
    """Refuses every call but those that ask for a model that a glob names. Case counts."""

    globs: tuple[str, ...]

    @property
    def code(self) -> str:
        """The code of its refusal."""
        return "caveat_refused"

    def refusal(self, call: Call) -> str | None:
        """Why the call's model is not meant, or None."""
        if call.model is None:
            return "the call names no model that the gateway reads"
        if any(glob_matches(glob, call.model) for glob in self.globs):
            return None
        return f"the model {call.model[:64]!r} is not allowed"


@dataclass(frozen=True, slots=True)
class Tool:
    """Refuses every call but those of a tool (or, over MCP, of what else has a name) that a glob names. Case counts."""

    globs: tuple[str, ...]

    @property
    def code(self) -> str:
        """The code of its refusal."""
        return "caveat_refused"

    def refusal(self, call: Call) -> str | None:
        """Why the call's tool is not meant, or None."""
        if call.tool is None:
            return "the call names no tool"
        if any(glob_matches(glob, call.tool) for glob in self.globs):
            return None
        return f"the tool {call.tool[:64]!r} is not allowed"


@dataclass(frozen=True, slots=True)
class Peer:
    """Refuses every client address outside these networks."""

    networks: tuple[Network, ...]

    @property
    def code(self) -> str:
        """The code of its refusal."""
        return "caveat_refused"

    def refusal(self, call: Call) -> str | None:
        """Why the client's address is not meant, or None."""
        try:
            address = ipaddress.ip_address(call.peer)
        except ValueError:
            return "the client's address is not known"
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return None if any(address in network for network in self.networks) else "the client's address is not allowed"


Condition = Scope | Method | Expires | Upstream | Model | Tool | Peer | Once
"""The caveats that can be decided by looking at the Call alone."""

CONDITIONS: Final = (Scope, Expires, Method, Upstream, Model, Tool, Peer, Once)
"""The same, for `isinstance`, which is slower by half over a union."""

Meaning = Label | BudgetCaveat | Calls | RateCaveat | MaxPrice | Depth | Purpose | Tag | Condition
"""What a first-party caveat can turn out to be."""


def parse_caveat(cid: bytes) -> Meaning:
    """Read one first-party caveat. Raises `CaveatInvalid`, whose text says what is wrong with it."""
    name, value = split_caveat(cid)
    parse = _PARSERS.get(name)
    if parse is None:
        raise CaveatInvalid(f"{name!r} is not a caveat we know")
    try:
        return parse(value)
    except (AmountInvalid, PatternInvalid) as error:
        raise CaveatInvalid(f"{name}: {error.detail}") from None


def split_caveat(cid: bytes) -> tuple[str, str]:
    """Split `name = value` at the first `=` (RULES.md T1). Raises `CaveatInvalid`."""
    try:
        text = cid.decode("utf-8")
    except UnicodeDecodeError:
        raise CaveatInvalid("a caveat is not UTF-8") from None
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text):
        raise CaveatInvalid("a caveat holds a control character or a line break")
    name, equals, value = text.partition("=")
    name, value = name.strip(" "), value.strip(" ")
    if not equals or _NAME.fullmatch(name) is None:
        raise CaveatInvalid("a caveat is written 'name = value', the name in lower case")
    if not value:
        raise CaveatInvalid(f"{name}: the value is missing")
    return name, value


def glob_matches(glob: str, text: str) -> bool:
    """Whether `text` is meant by `glob`, in which `*` stands for any characters. Linear in both."""
    first, *rest = glob.split("*")
    if not rest:
        return glob == text
    last = rest.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in rest:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def parse_expiry(text: str) -> int:
    """Read a date (meaning its end, UTC) or an RFC 3339 time; return nanoseconds since the epoch.

    Raises `CaveatInvalid`.
    """
    try:
        if _DATE.fullmatch(text):
            return (date.fromisoformat(text).toordinal() + 1 - _EPOCH.toordinal()) * 86_400 * SECOND
        match = _RFC3339.fullmatch(text)
        if match is not None:
            day, clock, fraction, zone = match.groups()
            moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
            since = moment - _EPOCH
            return (since.days * 86_400 + since.seconds) * SECOND + int((fraction or "").ljust(9, "0"))
    except (ValueError, OverflowError):
        pass
    raise CaveatInvalid(
        f"expires: {text[:64]!r} is neither a date (2026-06-30) nor an RFC 3339 time (2026-06-30T18:00:00Z)"
    )


def format_time(at: int) -> str:
    """Write nanoseconds since the epoch as RFC 3339, UTC, whole seconds. What lies before year 1 or after year 9999 is
    written as the first or last second of them.
    """
    moment = _EPOCH + timedelta(seconds=min(max(at // SECOND, _FIRST_SECOND), _LAST_SECOND))
    return moment.replace(tzinfo=None).isoformat() + "Z"


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND: Final = -62_135_596_800
_LAST_SECOND: Final = 253_402_300_799


def alternatives(name: str, value: str) -> tuple[str, ...]:
    """Split at white space, dropping one trailing comma of each (RULES.md T4). Raises `CaveatInvalid`; `name` is the
    caveat's.
    """
    words = tuple(word.removesuffix(",") for word in value.split())
    if not all(words):
        raise CaveatInvalid(f"{name}: an alternative is empty")
    return words


def _label(value: str) -> Label:
    if len(value.encode("utf-8")) > MAX_LABEL_BYTES:
        raise CaveatInvalid(f"label: at most {MAX_LABEL_BYTES} bytes")
    name, space, nonce = value.rpartition(" ")
    return Label(name.rstrip(" "), nonce) if space else Label(value, None)


def _budget(value: str) -> BudgetCaveat:
    return BudgetCaveat(parse_budget(value))


def _calls(value: str) -> Calls:
    count, slash, period = (part.strip(" ") for part in value.partition("/"))
    if _COUNT.fullmatch(count) is None or int(count) > MAX_CALLS:
        raise CaveatInvalid(f"calls: write a whole number from 0 to {MAX_CALLS}, as in 1000 or 100/hour")
    if slash and period not in PERIODS:
        raise CaveatInvalid(f"calls: unknown period {period[:32]!r}; known are hour, day, week, month")
    return Calls(int(count), period if slash else None)


def _rate(value: str) -> RateCaveat:
    calls, _, period = (part.strip(" ") for part in value.partition("/"))
    if _COUNT.fullmatch(calls) is None or not 0 < int(calls) <= MAX_RATE or period not in RATE_PERIODS:
        raise CaveatInvalid(
            f"rate: write a number of calls from 1 to {MAX_RATE} and a period, {', '.join(RATE_PERIODS)}: 60/minute"
        )
    return RateCaveat(int(calls), period)


def _depth(value: str) -> Depth:
    if _NUMBER.fullmatch(value) is None:
        raise CaveatInvalid("depth: write a whole number of Links, from 0")
    return Depth(int(value))


def _scope(value: str) -> Scope:
    return Scope(tuple(parse_pattern(word) for word in alternatives("scope", value)))


def _method(value: str) -> Method:
    names = alternatives("method", value)
    for name in names:
        if name not in METHODS:
            raise CaveatInvalid(f"method: {name[:32]!r} is not one of {', '.join(METHODS)}")
    return Method(names)


def read_globs(name: str, value: str) -> tuple[str, ...]:
    """Read alternatives that are names with `*` for any characters. Raises `CaveatInvalid`; `name` is the caveat's."""
    globs = alternatives(name, value)
    for glob in globs:
        if _GLOB.fullmatch(glob) is None:
            raise CaveatInvalid(f"{name}: {glob[:64]!r} is not a name with '*' for any characters")
    return globs


def _tag(value: str) -> Tag:
    pairs = []
    for word in alternatives("tag", value):
        name, equals, glob = word.partition("=")
        if not equals or _TAG.fullmatch(name) is None or _GLOB.fullmatch(glob) is None:
            raise CaveatInvalid(f"tag: {word[:64]!r} is not a name and a value with '*' for any characters: team=res*")
        pairs.append((name, glob))
    return Tag(tuple(pairs))


def _peer(value: str) -> Peer:
    try:
        return Peer(tuple(ipaddress.ip_network(word) for word in alternatives("peer", value)))
    except ValueError:
        raise CaveatInvalid(f"peer: {value[:64]!r} is not a network, as in 10.0.0.0/8") from None


_PARSERS: Final[dict[str, Callable[[str], Meaning]]] = {
    "label": _label,
    "budget": _budget,
    "scope": _scope,
    "method": _method,
    "expires": lambda value: Expires(parse_expiry(value)),
    "max-price": lambda value: MaxPrice(parse_amount(value)),
    "depth": _depth,
    "upstream": lambda value: Upstream(read_globs("upstream", value)),
    "peer": _peer,
    "purpose": Purpose,
    "calls": _calls,
    "rate": _rate,
    "tag": _tag,
    "once": parse_once,
    "tool": lambda value: Tool(read_globs("tool", value)),
    "model": lambda value: Model(read_globs("model", value)),
}

CAVEAT_NAMES: Final = tuple(_PARSERS)
"""Every caveat name that is known."""
