"""What in a config must not be shown: secrets, the variables that they come from, and where the ledger is, since the
URL of a database may hold a password.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from tolsey.config_lines import sqlite_in, text

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", re.ASCII)
_POSTGRESQL: Final = ("postgresql://", "postgres://")
_BETWEEN_HOSTS: Final = ",:[]"
"""What a variable may hold that names several hosts with their ports."""


class Secret:
    """A text that must not be shown: `repr`, `str` and formatting give `***`. `reveal()` gives the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def fill(raw: str, env: Mapping[str, str], *, encode: Callable[[str], str] = str) -> str:
    """The text with `${NAME}` filled in, once, each value encoded. Raises ValueError, which quotes no value."""

    def value(variable: re.Match[str]) -> str:
        # Empty counts as missing: `Bearer ` with nothing behind it never is what was meant.
        if not env.get(variable[1]):
            raise ValueError(f"the environment variable {variable[1]} is not set")
        return encode(env[variable[1]])

    if "${" in _VARIABLE.sub(" ", raw):
        raise ValueError("'${' begins a variable, which is written ${NAME}")
    return _VARIABLE.sub(value, raw)


def ledger_in(base: Path, env: Mapping[str, str]) -> Callable[[object], Path | Secret]:
    """Parse where the ledger is: a SQLite file, or the URL of a PostgreSQL database with its variables filled in.

    A variable that is all there is holds a whole URL; any other is a part of one, and percent-encoded.
    """

    def parse(value: object) -> Path | Secret:
        raw = text(value)
        whole = _VARIABLE.fullmatch(raw) is not None
        if not whole and not raw.startswith(_POSTGRESQL):
            return sqlite_in(base)(raw)
        url = fill(raw, env, encode=str if whole else lambda part: quote(part, safe=_BETWEEN_HOSTS))
        if not url.startswith(_POSTGRESQL):
            return sqlite_in(base)(url)
        _check(url)
        return Secret(url)

    return parse


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("is not a URL; special characters in a password are written as %XX") from None
    if not url.isprintable() or " " in url or "#" in url:
        raise ValueError("is not a URL; special characters in a password are written as %XX")
    if not parts.path.strip("/") or "/" in parts.path[1:]:
        raise ValueError('must name a database: "postgresql://user@host/database"')
