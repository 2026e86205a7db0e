"""Reading a TOML document so that whatever is wrong with it is said with its line, and all of it at once.

`locate` finds the line of every key of a document that tomllib has already accepted: tomllib itself forgets them.
`Table` takes keys out of a parsed table by name; it keeps the errors in `Problems`, and a stand-in takes the place of
the bad value, so that reading goes on. The functions at the end parse single values; each raises ValueError with a text
that may be shown.
"""

import difflib
import ipaddress
import os
import re
import tomllib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from tolsey.call import path_fault
from tolsey.errors import ConfigError

Key = tuple[str | int, ...]
"""Where a value stands: names of keys, and 0-based places in arrays. `("route", 1, "price")` is `route[1].price`."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

T = TypeVar("T")

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_NAME = re.compile(r"""[A-Za-z0-9_-]+|'[^'\n]*'|"(?:[^"\\\n]|\\.)*\"""")
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?""""{0,2}|\'\'\'.*?\'\'\'\'{0,2}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''', re.DOTALL
)
_OTHER = re.compile(r"[^,\]}\n#]+")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN: Final = 64

_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:-]{0,252}", re.ASCII)
_SQLITE: Final = "sqlite:///"
_USERINFO = re.compile(r"[^/]*//[^/?#]*@")
_URL = re.compile(
    r"https?://([A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?(/.*)?", re.ASCII
)


def locate(text: str) -> dict[Key, int]:
    """The 1-based line of every key and array item of `text`, which must be TOML that tomllib accepts."""
    scanner = _Scanner(text)
    # Should tomllib read something that this does not: better an error without its line than none at all.
    with suppress(ValueError, RecursionError):
        scanner.scan()
    return scanner.lines


class _Scanner:
    """Walks over a document once. `lines` is what it found."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Key, int] = {}
        self._text = text
        self._at = 0
        self._newlines = [n for n, char in enumerate(text) if char == "\n"]
        self._items: dict[Key, int] = {}

    def scan(self) -> None:
        table: Key = ()
        self._take(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._take(_BLANK)

    def _take(self, what: re.Pattern[str]) -> str:
        found = what.match(self._text, self._at)
        if found is None:
            raise ValueError(f"not TOML at {self._at}")
        self._at = found.end()
        return found[0]

    def _skip(self, literal: str) -> None:
        self._take(_BLANK)
        if not self._text.startswith(literal, self._at):
            raise ValueError(f"not TOML at {self._at}")
        self._at += len(literal)
        self._take(_BLANK)

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _note(self, key: Key, at: int) -> None:
        self.lines.setdefault(key, bisect_left(self._newlines, at) + 1)

    def _names(self) -> list[str]:
        """A dotted key."""
        names = []
        while True:
            raw = self._take(_NAME)
            names.append(str(tomllib.loads(f"k = {raw}")["k"]) if raw[0] == '"' else raw.strip("'"))
            self._take(_BLANK)
            if self._next() != ".":
                return names
            self._skip(".")

    def _header(self) -> Key:
        at = self._at
        of_array = self._text.startswith("[[", at)
        self._skip("[[" if of_array else "[")
        names = self._names()
        self._skip("]]" if of_array else "]")
        key: Key = ()
        for number, name in enumerate(names):
            key = (*key, name)
            self._note(key, at)
            if of_array and number == len(names) - 1:
                self._items[key] = self._items.get(key, -1) + 1
            if key in self._items:
                # `[a.b]` after `[[a]]` is in the last of them.
                key = (*key, self._items[key])
                self._note(key, at)
        return key

    def _pair(self, table: Key) -> None:
        at = self._at
        key = table
        for name in self._names():
            key = (*key, name)
            self._note(key, at)
        self._skip("=")
        self._value(key)

    def _value(self, key: Key) -> None:
        opening = self._next()
        if opening == "[":
            self._skip("[")
            number = 0
            while self._next() != "]":
                self._note((*key, number), self._at)
                self._value((*key, number))
                number += 1
                self._after_item("]")
            self._skip("]")
        elif opening == "{":
            self._skip("{")
            while self._next() != "}":
                self._pair(key)
                self._after_item("}")
            self._skip("}")
        else:
            self._take(_STRING if opening in ("'", '"') else _OTHER)

    def _after_item(self, closing: str) -> None:
        self._take(_BLANK)
        if self._next() != closing:
            self._skip(",")


class Problems:
    """What is wrong with one file, each with its line."""

    def __init__(self, file: str, lines: Mapping[Key, int]) -> None:
        self._file = file
        self._lines = lines
        self._found: list[ConfigError] = []

    def line(self, key: Key) -> int | None:
        """The line of a key, or that of the table it should stand in."""
        for end in range(len(key), 0, -1):
            if key[:end] in self._lines:
                return self._lines[key[:end]]
        return None

    def add(self, key: Key, detail: str) -> None:
        """Note an error. `detail` must hold no secret."""
        self._found.append(ConfigError(detail, file=self._file, line=self.line(key), key=dotted(key)))

    def in_order(self) -> list[ConfigError]:
        """Everything noted, in file order."""
        return sorted(self._found, key=lambda error: error.line or 0)


class Table:
    """One table of the document. Every name that is asked for is known; `done` complains of the others."""

    def __init__(self, problems: Problems, key: Key, data: Mapping[str, object]) -> None:
        self.problems = problems
        self.key = key
        self._data = data
        self._known: list[str] = []
        self._bad: set[str] = set()

    def read(self, name: str, parse: Callable[[object], T], default: T) -> T:
        """The value of a key that may be left out. `parse` raises ValueError."""
        self._known.append(name)
        if name not in self._data:
            return default
        try:
            return parse(self._data[name])
        except ValueError as error:
            self.complain(name, str(error))
            return default

    def need(self, name: str, parse: Callable[[object], T], stand_in: T) -> T:
        """The value of a key that must be there."""
        if name not in self._data:
            self.complain(name, "is missing")
        return self.read(name, parse, stand_in)

    def has(self, name: str) -> bool:
        """Whether the key is there, well-formed or not."""
        self._known.append(name)
        return name in self._data

    def good(self, name: str) -> bool:
        """Whether nothing was wrong with a key so far."""
        return name not in self._bad

    def each(self, name: str, parse: Callable[[object], T]) -> tuple[T, ...]:
        """The items of an array that may be left out, each read by `parse`."""
        nothing: list[object] = []
        items = self.read(name, _array, nothing)
        found = []
        for number, item in enumerate(items):
            try:
                found.append(parse(item))
            except ValueError as error:
                self._bad.add(name)
                self.problems.add((*self.key, name, number), str(error))
        return tuple(found)

    def table(self, name: str) -> "Table":
        """A table that may be left out."""
        return Table(self.problems, (*self.key, name), self.read(name, _table(name, self.key), {}))

    def tables(self, name: str, most: int) -> "list[Table]":
        """An array of tables that may be left out, of at most `most`."""
        nothing: list[dict[str, object]] = []
        items = self.read(name, _tables(name), nothing)
        if len(items) > most:
            self.problems.add((*self.key, name, most), f"there may be at most {most} of these")
        return [Table(self.problems, (*self.key, name, n), item) for n, item in enumerate(items[:most])]

    def items(self) -> list[tuple[str, object]]:
        """All keys of a table whose names are free."""
        self._known += self._data
        return list(self._data.items())

    def complain(self, name: str, detail: str) -> None:
        """Note an error about one key of this table."""
        self._bad.add(name)
        self.problems.add((*self.key, name), detail)

    def done(self) -> None:
        """Complain of the keys that nobody asked for."""
        for name in self._data:
            if name not in self._known:
                self.complain(name, f"unknown key{suggestion(name, self._known)}")


def _array(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"must be an array, not {kind_of(value)}")
    return value


def _table(name: str, parent: Key) -> Callable[[object], dict[str, object]]:
    def parse(value: object) -> dict[str, object]:
        if not isinstance(value, dict):
            hint = "" if parent else f"; write [{name}]"
            raise ValueError(f"must be a table, not {kind_of(value)}{hint}")
        return value

    return parse


def _tables(name: str) -> Callable[[object], list[dict[str, object]]]:
    def parse(value: object) -> list[dict[str, object]]:
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise ValueError(f"must be an array of tables, not {kind_of(value)}; write [[{name}]]")
        return value

    return parse


def dotted(key: Key) -> str:
    """`route[1].price`; a name that TOML would quote is quoted."""
    out = ""
    for part in key:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            out += ("." if out else "") + (part[:_SHOWN] if _BARE.fullmatch(part) else shown(part))
    return out


def shown(text: str) -> str:
    """A text in quotes, escaped and cut, for an error."""
    escaped = "".join(char if char.isprintable() and char not in '"\\' else f"\\u{ord(char):04x}" for char in text)
    return f'"{escaped[:_SHOWN]}{"…" if len(escaped) > _SHOWN else ""}"'


def kind_of(value: object) -> str:
    """What a TOML value is, for an error."""
    for kind, name in ((str, "a string"), (bool, "a boolean"), (int, "an integer"), (float, "a float")):
        if isinstance(value, kind):
            return name
    return "an array" if isinstance(value, list) else "a table" if isinstance(value, dict) else "a date or time"


def suggestion(name: str, known: Sequence[str]) -> str:
    """`; did you mean "port"?`, or all that is known where nothing is near."""
    near = difflib.get_close_matches(name[:_SHOWN], known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {shown(near[0])}?"
    return f"; known are {', '.join(map(shown, known))}" if known else ""


def text(value: object) -> str:
    """Parse a string."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {kind_of(value)}")
    return value


def boolean(value: object) -> bool:
    """Parse `true` or `false`."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {kind_of(value)}")
    return value


def one_of(*choices: str, later: Sequence[str] = ()) -> Callable[[object], str]:
    """Parse one of these strings. Those in `later` are refused as not supported yet."""

    def parse(value: object) -> str:
        found = text(value)
        if found in later:
            raise ValueError(f"{shown(found)} is not supported yet; write {' or '.join(map(shown, choices))}")
        if found not in choices:
            raise ValueError(f"must be {' or '.join(map(shown, choices))}, not {shown(found)}")
        return found

    return parse


def whole(low: int, high: int) -> Callable[[object], int]:
    """Parse an integer from `low` to `high`."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"must be an integer from {low} to {high}, not {kind_of(value)}")
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return parse


def seconds(most: float) -> Callable[[object], float]:
    """Parse a number of seconds above 0 and at most `most`."""

    def parse(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"must be a number of seconds, not {kind_of(value)}")
        if not 0 < value <= most:
            raise ValueError(f"must be above 0 and at most {most:g} seconds")
        return float(value)

    return parse


def host(value: object) -> str:
    """Parse an address or a host name to listen on."""
    found = text(value)
    if _HOST.fullmatch(found) is None:
        raise ValueError(f"{shown(found)} is not an address or a host name (an IPv6 address has no brackets here)")
    return found


def network(value: object) -> Network:
    """Parse a network of IP addresses."""
    found = text(value)
    try:
        return ipaddress.ip_network(found)
    except ValueError:
        raise ValueError(f'{shown(found)} is not a network, as in "10.0.0.0/8" or "192.0.2.1"') from None


def file_in(base: Path) -> Callable[[object], Path]:
    """Parse the path of a file, relative to the directory `base`, into an absolute one."""

    def parse(value: object) -> Path:
        found = text(value)
        if not found or found.endswith("/") or not found.isprintable():
            raise ValueError(f"{shown(found)} is not the path of a file")
        return Path(os.path.abspath(base / found))

    return parse


def sqlite_in(base: Path) -> Callable[[object], Path]:
    """Parse the URL of a SQLite file. The URL is never shown: one of another kind holds a password."""

    def parse(value: object) -> Path:
        found = text(value)
        if not found.startswith(_SQLITE):
            raise ValueError(
                f'must begin with "{_SQLITE}" (a path after it is relative to this file, "/x" is absolute), or with'
                ' "postgresql://"'
            )
        rest = found.removeprefix(_SQLITE)
        if "?" in rest or "#" in rest or rest == ":memory:":
            raise ValueError("must name a file, without options")
        return file_in(base)(rest)

    return parse


def http_url(value: object) -> tuple[str, str]:
    """Parse the URL of an upstream into itself and its path prefix. It is never shown: it may hold a password."""
    found = text(value)
    if _USERINFO.match(found):
        raise ValueError("holds a user name or a password, which belong in `headers`, from the environment")
    if "?" in found or "#" in found:
        raise ValueError("may not hold a query or a fragment")
    match = _URL.fullmatch(found)
    if match is None or (match[2] and not 0 < int(match[2]) < 65536):
        raise ValueError('must be "http://host" or "https://host", with an optional port and path prefix')
    if match[1].startswith("["):
        try:
            ipaddress.IPv6Address(match[1][1:-1])
        except ValueError:
            raise ValueError("what stands in brackets is not an IPv6 address") from None
    prefix = match[3] or ""
    if prefix.endswith("/"):
        raise ValueError("may not end in '/': the path of a call is put behind it")
    fault = path_fault(prefix.encode("ascii", "replace")) if prefix else None
    if fault:
        raise ValueError(f"has a path prefix that is not in canonical form: {fault}")
    return found, prefix
