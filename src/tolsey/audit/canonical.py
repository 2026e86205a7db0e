"""JSON in the one form that is hashed and signed: RFC 8785 (JSON Canonicalization Scheme), without fractions.

Fractions are refused, since none occur in what we sign; amounts are text.
"""

import json
from collections.abc import Callable
from typing import Final, TypeAlias

from tolsey.errors import TolseyError

Value: TypeAlias = "str | int | bool | list[Value] | dict[str, Value] | None"

MAX_INTEGER: Final = 2**53 - 1
"""The largest integer that every reader of JSON takes exactly (RFC 8785, appendix D)."""

MAX_DEPTH: Final = 16
"""How deep lists and objects may lie in each other."""


class NotCanonical(TolseyError, ValueError):
    """Something that has no canonical form, or bytes that are not in it."""

    code = "not_canonical"


def canonical(value: Value) -> bytes:
    """The canonical bytes of a value. Raises `NotCanonical`."""
    try:
        return _write(value, MAX_DEPTH).encode("utf-8")
    except UnicodeEncodeError:
        raise NotCanonical("a text is not Unicode") from None


quote: Final[Callable[[str], str]] = json.encoder.encode_basestring
"""A string as JSON (RFC 8785 section 3.2.2.2)."""


def _write(value: object, depth: int) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, int) and -MAX_INTEGER <= value <= MAX_INTEGER:
        return str(int(value))
    if isinstance(value, list | dict) and not depth:
        raise NotCanonical("it is too deep")
    if isinstance(value, list):
        return f"[{','.join(_write(each, depth - 1) for each in value)}]"
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        # By UTF-16 code units (section 3.2.3); a lone surrogate is refused when the whole is encoded.
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return f"{{{','.join(f'{quote(key)}:{_write(value[key], depth - 1)}' for key in keys)}}}"
    raise NotCanonical(f"{type(value).__name__} of this value has no canonical form here")


def parse(data: bytes) -> Value:
    """The value in canonical bytes. Raises `NotCanonical` for bytes that are JSON of another form, or no JSON."""
    try:
        value: Value = json.loads(data, parse_float=_no_fraction, parse_constant=_no_fraction)
        same = canonical(value) == data
    except NotCanonical:
        raise
    except (ValueError, RecursionError):
        raise NotCanonical("it is not JSON") from None
    if not same:
        raise NotCanonical("it is not in canonical form")
    return value


def _no_fraction(text: str) -> None:
    raise NotCanonical(f"{text[:20]} is not an integer")
