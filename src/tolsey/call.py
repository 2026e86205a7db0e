r"""A Call is what is attempted; a Pattern says which calls are meant.

One path is matched, priced, scoped and forwarded: the raw one, in its one canonical form. What is not canonical is
refused and never repaired (RULES.md H2). Matching compares percent-decoded segments, so that two spellings of one
resource can never be two prices; this is sound because an escape of `/`, `\`, `.` or `%` is refused first.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from tolsey.errors import PatternInvalid

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What `methods = ["*"]` means. TRACE, CONNECT and anything else is refused before pricing (RULES.md H1)."""

MAX_PATTERN: Final = 1024
"""The longest pattern, in characters."""

_VISIBLE = re.compile(rb"[\x21-\x7e]*")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_FORBIDDEN = _UNRESERVED | frozenset(b"/\\.%\x7f") | frozenset(range(0x20))


class Call(NamedTuple):
    """What is attempted.

    `path` and `query` (without the `?`) are the raw text that will be forwarded, ASCII. `now` is in nanoseconds since
    the epoch. `peer` is the client's address, `upstream` the name of the upstream that the route chose. `tool` and
    `model` are None for a plain HTTP call.
    """

    method: str
    path: str
    query: str
    peer: str
    now: int
    upstream: str | None = None
    tool: str | None = None
    model: str | None = None


@lru_cache(maxsize=512)
def path_fault(path: bytes) -> str | None:
    """Say why `path` is not in canonical form, or None when it is (RULES.md H2)."""
    if not path.startswith(b"/"):
        return "it does not begin with '/'"
    if _VISIBLE.fullmatch(path) is None:
        return "it holds a byte outside 0x21–0x7E"
    if b"\\" in path:
        return "it holds a backslash"
    if b"?" in path or b"#" in path:
        return "it holds '?' or '#'"
    if b"//" in path:
        return "it holds an empty segment"
    for segment in path.split(b"/"):
        if segment in (b".", b".."):
            return "it holds a '.' or '..' segment"
    if b"%" in path:
        for escape in _ESCAPE.finditer(path):
            if escape[1] is None:
                return "it holds an invalid escape"
            if int(escape[1], 16) in _FORBIDDEN:
                return f"it holds the escape {escape[0].decode('ascii')}, which is never needed or never allowed"
    return None


def query_fault(query: bytes) -> str | None:
    """Say why `query` (without the `?`) cannot be forwarded, or None when it can."""
    if query and (_VISIBLE.fullmatch(query) is None or b"#" in query):
        return "the query holds '#' or a byte outside 0x21–0x7E"
    return None


def _unescape(text: str) -> str:
    """Decode every `%XX` once, each byte to the character of that number. Raises ValueError on an invalid escape."""
    if "%" not in text:
        return text
    head, *rest = text.split("%")
    out = [head]
    for part in rest:
        if re.fullmatch("[0-9A-Fa-f]{2}", part[:2]) is None:
            raise ValueError("invalid escape")
        out.append(chr(int(part[:2], 16)) + part[2:])
    return "".join(out)


@lru_cache(maxsize=512)
def split_path(path: str) -> tuple[str, ...]:
    """The decoded segments of a canonical path."""
    return tuple(_unescape(path)[1:].split("/"))


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which paths and queries are meant: `/api/v1/search?source=arxiv`, `/api/*/items`, `/api/v1/*`, `/*`.

    `segments` are decoded; None stands for `*`, one non-empty segment. `rest` says that the pattern ends in `/*`: one
    or more segments below. `query` are the decoded pairs that must each occur exactly once.
    """

    text: str
    segments: tuple[str | None, ...]
    rest: bool
    query: tuple[tuple[str, str], ...]

    def matches_path(self, path: str) -> bool:
        """Whether the canonical `path` is meant. Case counts, and `/a` is not `/a/`."""
        got = split_path(path)
        want = self.segments
        if self.rest:
            depth = len(want)
            if depth and (len(got) <= depth or not got[depth]):
                return False
            got = got[:depth]
        elif len(got) != len(want):
            return False
        return got == want or all((bool(g) if w is None else g == w) for w, g in zip(want, got, strict=True))

    def query_refusal(self, query: str) -> str | None:
        """Why `query` does not meet the pattern's query rules, or None when it does (RULES.md H3)."""
        for name, value in self.query:
            try:
                found = query_value(query, name)
            except ValueError as error:
                return str(error)
            if found is None:
                return f"the query parameter {name!r} is missing"
            if found != value:
                return f"the query parameter {name!r} has another value"
        return None

    def within(self, other: "Pattern") -> bool:
        """Whether every call that this pattern means, `other` means too."""
        if not set(other.query) <= set(self.query):
            return False
        if other.rest:
            deeper = len(self.segments) > len(other.segments) or (
                self.rest and len(self.segments) == len(other.segments)
            )
            below = self.segments[len(other.segments) : len(other.segments) + 1]
            if other.segments and (not deeper or below == ("",)):
                return False
        elif self.rest or len(self.segments) != len(other.segments):
            return False
        return all(
            (mine != "" if theirs is None else mine == theirs)
            for theirs, mine in zip(other.segments, self.segments, strict=False)
        )


def parse_pattern(text: str) -> Pattern:
    """Read a path pattern, with an optional `?name=value&…`. Raises `PatternInvalid`, which says what is wrong."""
    if len(text) > MAX_PATTERN:
        raise PatternInvalid(f"a pattern has at most {MAX_PATTERN} characters")
    path, mark, query = text.partition("?")
    try:
        fault = path_fault(path.encode("ascii")) or query_fault(query.encode("ascii"))
    except UnicodeEncodeError:
        fault = "it holds characters outside ASCII; percent-encode them"
    if fault:
        raise PatternInvalid(f"{text!r} is not a pattern: {fault}")
    raw = path[1:].split("/")
    rest = raw[-1] == "*"
    segments: list[str | None] = []
    for segment in raw[:-1] if rest else raw:
        if segment != "*" and "*" in segment:
            raise PatternInvalid(f"{text!r} is not a pattern: '*' stands for a whole segment")
        segments.append(None if segment == "*" else _unescape(segment))
    pairs: list[tuple[str, str]] = []
    if mark:
        if ";" in query:
            raise PatternInvalid(f"{text!r} is not a pattern: the query holds a raw ';'")
        try:
            pairs = query_pairs(query)
        except ValueError:
            raise PatternInvalid(f"{text!r} is not a pattern: the query holds an invalid escape") from None
        if not pairs or len({_folded(k) for k, _ in pairs}) != len(pairs) or any(not k for k, _ in pairs):
            raise PatternInvalid(f"{text!r} is not a pattern: a query rule is 'name=value', each name once")
    return Pattern(text, tuple(segments), rest, tuple(pairs))


def query_pairs(query: str) -> list[tuple[str, str]]:
    """Split on `&` and decode once, `+` being a space; a key without `=` has the value `""`.

    Raises ValueError on an invalid escape. Bytes above 0x7F come out as the characters of the same number.
    """
    pairs = []
    for part in query.split("&"):
        if part:
            key, _, value = part.replace("+", " ").partition("=")
            pairs.append((_unescape(key), _unescape(value)))
    return pairs


def query_value(query: str, name: str) -> str | None:
    """The one value that a query parameter has, None if it is not there.

    Raises ValueError, whose text says why, where two readers of `query` could disagree about it (RULES.md H3).
    """
    if ";" in query:
        raise ValueError("the query holds a raw ';'")
    try:
        pairs = query_pairs(query)
    except ValueError:
        raise ValueError("the query holds an invalid escape") from None
    found = [v for k, v in pairs if k == name]
    if any(k != name and _folded(k) == _folded(name) for k, _ in pairs):
        raise ValueError(f"another query parameter can be read as {name!r}")
    if len(found) > 1:
        raise ValueError(f"the query parameter {name!r} is repeated")
    return found[0] if found else None


def _folded(key: str) -> str:
    """What a careless upstream may read `key` as: PHP, Rails, ASP.NET and Java fold case, brackets, dots and NUL."""
    text = key.encode("latin-1").decode("utf-8", "replace")
    return re.split(r"[\[.\x00]", text.lstrip(" "), maxsplit=1)[0].replace(" ", "_").casefold()
