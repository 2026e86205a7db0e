"""The bytes and the text of a macaroon.

Formats as libmacaroons, go-macaroon v2 and npm `macaroon` write them: v2 binary is written, v1 and v2 are read
(libmacaroons doc/format.txt; the tag table in L402's own macaroon-spec.md is another one and wrong). Text is base64url
without padding behind `tolsey_`; on reading, the prefix, the alphabet and the padding are free.

Sizes are checked before anything is decoded, and every refusal here is a `TokenMalformed`.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from tolsey.errors import TokenMalformed

TEXT_PREFIX: Final = "tolsey_"


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a token may be (RULES.md T6). The defaults are the most; a config may only lower them."""

    token_bytes: int = 8192
    caveats: int = 64
    caveat_bytes: int = 1024
    links: int = 32
    accounts: int = 32
    discharges: int = 8


LIMITS: Final = Limits()

_TAG_END, _TAG_LOCATION, _TAG_IDENTIFIER, _TAG_VID, _TAG_SIGNATURE = 0, 1, 2, 4, 6
_STANDARD = bytes.maketrans(b"-_", b"+/")
_V1_LENGTH = re.compile(rb"[0-9a-f]{4}")


class Caveat(NamedTuple):
    """One caveat as it stands in the token. `vid` is there when a third party must discharge it."""

    cid: bytes
    vid: bytes | None = None
    location: bytes | None = None

    def __str__(self) -> str:
        return self.cid.decode("utf-8", "backslashreplace")


class Fields(NamedTuple):
    """A macaroon taken apart. `ends` are, for v2, the offsets in the whole input at which each prefix ends."""

    location: bytes
    identifier: bytes
    caveats: tuple[Caveat, ...]
    signature: bytes
    ends: tuple[int, ...] = ()


class Prefix(NamedTuple):
    """How much of a v2 macaroon there is before: so many bytes, up to the end of so many caveats."""

    bytes: int
    caveats: int


def text_to_parts(text: str, limits: Limits = LIMITS) -> list[bytes]:
    """Decode a token's text: one base64 text, or several separated by commas (a token and its discharges)."""
    if len(text) > limits.token_bytes * 4 // 3 + (limits.discharges + 1) * (len(TEXT_PREFIX) + 5):
        raise TokenMalformed(f"a token has at most {limits.token_bytes} bytes")
    if "," not in text:
        return [_decode(text.strip().removeprefix(TEXT_PREFIX))]
    parts = text.split(",")
    if len(parts) > limits.discharges + 1:
        raise TokenMalformed(f"a token has at most {limits.discharges} discharges")
    return [_decode(part.strip().removeprefix(TEXT_PREFIX)) for part in parts]


def _decode(text: str) -> bytes:
    padded = text if text.endswith("=") else text + "=" * (-len(text) % 4)
    try:
        data = binascii.a2b_base64(padded.encode("ascii").translate(_STANDARD), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        data = b""
    if not data or len(padded) != (len(data) + 2) // 3 * 4:
        raise TokenMalformed("the token is not base64")
    return data


def bytes_to_text(data: bytes) -> str:
    """Encode binary macaroons as text with our prefix."""
    return TEXT_PREFIX + base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def parse(data: bytes, limits: Limits = LIMITS, prefix: Prefix | None = None) -> list[Fields]:
    """Take apart `data`: one v1 macaroon, or v2 macaroons one after another (a token and its discharges).

    `prefix` is what of the first one was taken apart before; its fields then have what comes behind that alone.
    """
    if len(data) > limits.token_bytes:
        raise TokenMalformed(f"a token has at most {limits.token_bytes} bytes, this has {len(data)}")
    if not data:
        raise TokenMalformed("the token is empty")
    if data[0] != 2:
        return [_parse_v1(data, limits)]
    found: list[Fields] = []
    at = 0
    while at < len(data):
        if len(found) > limits.discharges:
            raise TokenMalformed(f"a token has at most {limits.discharges} discharges")
        fields, at = _behind(data, prefix, limits) if prefix is not None and not found else _parse_v2(data, at, limits)
        found.append(fields)
    return found


def write(fields: Fields) -> bytes:
    """Write v2 binary. An empty location is left out, as every other library does."""
    out = bytearray(b"\x02")
    _put(out, _TAG_LOCATION, fields.location)
    _put(out, _TAG_IDENTIFIER, fields.identifier, always=True)
    out.append(_TAG_END)
    for caveat in fields.caveats:
        _put(out, _TAG_LOCATION, caveat.location)
        _put(out, _TAG_IDENTIFIER, caveat.cid, always=True)
        _put(out, _TAG_VID, caveat.vid)
        out.append(_TAG_END)
    out.append(_TAG_END)
    _put(out, _TAG_SIGNATURE, fields.signature, always=True)
    return bytes(out)


def _put(out: bytearray, tag: int, value: bytes | None, *, always: bool = False) -> None:
    if value or always:
        value = value or b""
        out.append(tag)
        length = len(value)
        while length > 0x7F:
            out.append(length & 0x7F | 0x80)
            length >>= 7
        out.append(length)
        out += value


def _section(data: bytes, at: int) -> tuple[dict[int, bytes], int]:
    """Read fields up to an end tag: strictly rising tags, lengths as minimal varints (at most 28 bits)."""
    fields: dict[int, bytes] = {}
    last = 0
    size = len(data)
    while True:
        if at >= size:
            raise TokenMalformed("the token ends in the middle of a section")
        tag = data[at]
        at += 1
        if tag == _TAG_END:
            return fields, at
        if tag <= last or tag not in (_TAG_LOCATION, _TAG_IDENTIFIER, _TAG_VID):
            raise TokenMalformed("the token's fields are unknown or out of order")
        fields[tag], at = _value(data, at)
        last = tag


def _value(data: bytes, at: int) -> tuple[bytes, int]:
    length = shift = 0
    while True:
        if at >= len(data) or shift > 21:
            raise TokenMalformed("a length in the token is cut off or too large")
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise TokenMalformed("a length in the token is not written in the shortest way")
            break
        shift += 7
    if at + length > len(data):
        raise TokenMalformed("a field runs past the end of the token")
    return data[at : at + length], at + length


def _parse_v2(data: bytes, at: int, limits: Limits) -> tuple[Fields, int]:
    if data[at] != 2:
        raise TokenMalformed("bytes that are not a v2 macaroon stand after the token")
    head, at = _section(data, at + 1)
    if _TAG_IDENTIFIER not in head or _TAG_VID in head:
        raise TokenMalformed("the token's identifier is missing or misplaced")
    fields, at = _behind(data, Prefix(at, 0), limits)
    return fields._replace(location=head.get(_TAG_LOCATION, b""), identifier=head[_TAG_IDENTIFIER]), at


def _behind(data: bytes, prefix: Prefix, limits: Limits) -> tuple[Fields, int]:
    at = prefix.bytes
    ends = [at]
    caveats: list[Caveat] = []
    while True:
        if at < len(data) and data[at] == _TAG_END:
            at += 1
            break
        section, at = _section(data, at)
        cid = section.get(_TAG_IDENTIFIER)
        vid = section.get(_TAG_VID)
        location = section.get(_TAG_LOCATION)
        if cid is None or vid == b"" or (vid is None and location is not None):
            raise TokenMalformed("a caveat lacks its identifier, or has an empty verification id or a stray location")
        _check_caveat(prefix.caveats + len(caveats), cid, vid, limits)
        caveats.append(Caveat(cid, vid, location))
        ends.append(at)
    if at >= len(data) or data[at] != _TAG_SIGNATURE:
        raise TokenMalformed("the token has no signature")
    signature, at = _value(data, at + 1)
    if len(signature) != 32:
        raise TokenMalformed("a signature has 32 bytes")
    return Fields(b"", b"", tuple(caveats), signature, tuple(ends)), at


def _check_caveat(count: int, cid: bytes, vid: bytes | None, limits: Limits) -> None:
    if count >= limits.caveats:
        raise TokenMalformed(f"a token has at most {limits.caveats} caveats")
    if len(cid) > limits.caveat_bytes or (vid is not None and len(vid) > limits.caveat_bytes):
        raise TokenMalformed(f"a caveat has at most {limits.caveat_bytes} bytes")


def _packets(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield v1's `(field, value)` packets: four hex digits of length, name, space, value, newline."""
    at = 0
    while at < len(data):
        if _V1_LENGTH.match(data, at) is None:
            raise TokenMalformed("the token is neither a v1 nor a v2 macaroon")
        end = at + int(data[at : at + 4], 16)
        name, space, value = data[at + 4 : end].partition(b" ")
        if end > len(data) or end - at < 7 or not space or not value.endswith(b"\n"):
            raise TokenMalformed("a v1 packet has a wrong length")
        yield name, value[:-1]
        at = end


def _parse_v1(data: bytes, limits: Limits) -> Fields:
    location = identifier = signature = None
    caveats: list[Caveat] = []
    for name, value in _packets(data):
        if signature is not None:
            raise TokenMalformed("bytes stand after the token's signature")
        if name == b"location" and location is None and identifier is None:
            location = value
        elif name == b"identifier" and identifier is None:
            identifier = value
        elif name == b"cid" and identifier is not None:
            _check_caveat(len(caveats), value, None, limits)
            caveats.append(Caveat(value))
        elif name == b"vid" and caveats and caveats[-1].vid is None and value:
            caveats[-1] = caveats[-1]._replace(vid=value)
        elif name == b"cl" and caveats and caveats[-1].vid is not None and caveats[-1].location is None:
            caveats[-1] = caveats[-1]._replace(location=value)
        elif name == b"signature" and identifier is not None and len(value) == 32:
            signature = value
        else:
            raise TokenMalformed("a v1 packet is unknown, repeated or out of order")
    if identifier is None or signature is None:
        raise TokenMalformed("the token lacks its identifier or its signature")
    return Fields(location or b"", identifier, tuple(caveats), signature)
