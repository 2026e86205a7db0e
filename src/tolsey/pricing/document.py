"""JSON that somebody else wrote: read so that no two readers can disagree about it, or not at all."""

import json
import re
from fractions import Fraction
from math import isfinite
from typing import Any, Final, cast

MAX_DIGITS: Final = 40
"""The longest number that is taken for a usage, in characters."""

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)


class Real(str):
    """A number of a document that is not an integer, as it was written."""

    __slots__ = ()


class DocumentInvalid(ValueError):
    """A text that is not JSON, or that two readers could read differently. The message may be shown."""


def read_document(data: bytes) -> Any:  # noqa: ANN401 - JSON can be anything
    """Parse JSON. Numbers that are no integers become `Real`.

    Raises `DocumentInvalid` for what is not JSON (RFC 8259), for a key that an object has twice, for NaN and Infinity,
    and for nesting or numbers beyond all measure.
    """
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except DocumentInvalid:
        raise
    except (ValueError, RecursionError):
        raise DocumentInvalid("it is not JSON") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DocumentInvalid("an object in it has a key twice")
    return found


def _no_constant(name: str) -> object:
    raise DocumentInvalid(f"it holds {name}, which is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_float=Real, parse_constant=_no_constant)


def write_document(document: object) -> bytes:
    """Write what `read_document` read. Raises `DocumentInvalid` for a number that is beyond doubles, and for nesting
    beyond all measure.
    """
    try:
        return json.dumps(_plain(document), separators=(",", ":")).encode("ascii")
    except RecursionError:
        raise DocumentInvalid("it is nested too deep") from None


def _plain(value: object) -> object:
    match value:
        case Real():
            if not isfinite(float(value)):
                raise DocumentInvalid("a number in it is beyond all measure")
            return float(value)
        case dict():
            return {key: _plain(item) for key, item in cast("dict[str, object]", value).items()}
        case list():
            return [_plain(item) for item in cast("list[object]", value)]
    return value


def parse_pointer(text: str) -> tuple[str, ...]:
    """Read a JSON pointer (RFC 6901) into its tokens. Raises ValueError."""
    if text and not text.startswith("/"):
        raise ValueError("a JSON pointer begins with '/'")
    if re.search(r"~(?![01])", text):
        raise ValueError("in a JSON pointer '~' is written '~0', and '/' in a name '~1'")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:])


def resolve(document: object, pointer: tuple[str, ...]) -> object:
    """What a pointer means in a document. Raises LookupError if there is nothing."""
    found = document
    for token in pointer:
        if isinstance(found, dict):
            found = cast("dict[str, object]", found)[token]
        elif isinstance(found, list) and re.fullmatch("0|[1-9][0-9]{0,8}", token, re.ASCII):
            found = cast("list[object]", found)[int(token)]
        else:
            raise LookupError(token)
    return found


def quantity(value: object) -> Fraction:
    """A usage as a document has it: a number from 0, exactly. Raises ValueError, whose text says what is wrong."""
    if isinstance(value, Real):
        return parse_quantity(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("is not a number")
    if value < 0:
        raise ValueError("is negative")
    if value >= 10**MAX_DIGITS:
        raise ValueError("is beyond all measure")
    return Fraction(value)


def parse_quantity(text: str) -> Fraction:
    """A usage as a header has it: a plain number from 0, exactly. Raises ValueError."""
    if len(text) > MAX_DIGITS or _DECIMAL.fullmatch(text) is None:
        raise ValueError("is not a number")
    if text.startswith("-"):
        raise ValueError("is negative")
    return Fraction(text)
