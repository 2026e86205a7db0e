"""L402 on the wire: the identifier of a paid token, the challenge that offers one, the credential that presents one.

A challenge is written so that every client that we know reads it, and the present text of the specification too. What
is read is any order and case of the same, several in one header, one after another. See docs/divergences.md for where
the published texts disagree with each other.
"""

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple

from tolsey.errors import TokenForged, TokenMalformed
from tolsey.units import MAX_NANO, NANO

IDENTIFIER_BYTES: Final = 66
"""A version (two bytes, 0), the payment hash (32), and a token id (32) that no other token has. In a token id of ours
stand the key id (4), the number of caveats that the minter wrote (1), the sats that are paid (5), and random bytes.
"""

MAX_SAT: Final = MAX_NANO // NANO
"""The largest payment, in sats."""

MAX_CHALLENGE: Final = 32 * 1024
"""The longest `WWW-Authenticate`, in characters, that is read for challenges."""

SCHEMES: Final = ("l402", "lsat")
"""The scheme's name, and the one that it had before; in lower case, as schemes are compared."""

_VERSION: Final = b"\x00\x00"
_KEY_ID_BYTES: Final = 4
_SAT_BYTES: Final = 5
_RANDOM_BYTES: Final = 22
_PREIMAGE = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
_KEY_ID = re.compile(rf"[0-9a-f]{{{2 * _KEY_ID_BYTES}}}", re.ASCII)
_SPACE = re.compile(r"[ \t]*")
_WORD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))", re.ASCII)
_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s",]+)')
_ESCAPED = re.compile(r"\\(.)")


class Payment(NamedTuple):
    """What an identifier of version 0 says: the payment hash (hex), and, out of the token id, which key, how many
    caveats the minter wrote, and how many sats the invoice was for.
    """

    hash: str
    key_id: str
    minted: int
    sat: int


class Echo(NamedTuple):
    """What a credential of the `Payment` scheme says of the challenge that it answers: its id, and what that binds."""

    id: str
    bound: str


class Presented(NamedTuple):
    """A paid token as it is presented: the macaroon's text, and the preimage, which proves the payment. `echo` is there
    under the `Payment` scheme.
    """

    token: str
    preimage: bytes
    echo: Echo | None = None

    def __repr__(self) -> str:
        """Never shows either: both together are money."""
        return "<a paid token>"


class Challenge(NamedTuple):
    """What a server asks to be paid for: a macaroon (base64) that counts once the invoice (BOLT11) is paid."""

    macaroon: str
    invoice: str


def write_identifier(payment: Payment, random: bytes) -> bytes:
    """The identifier of a token that is paid for. `random` are 22 bytes that were never used before."""
    payment_hash = bytes.fromhex(payment.hash)
    if (len(payment_hash), len(random)) != (32, _RANDOM_BYTES) or not 0 < payment.minted < 256:
        raise ValueError("an identifier has a payment hash, 1 to 255 caveats and 22 random bytes")
    if not (is_key_id(payment.key_id) and 0 < payment.sat <= MAX_SAT):
        raise ValueError(f"an identifier has a key id of 8 hex digits and 1 to {MAX_SAT} sats")
    key_id, sat = bytes.fromhex(payment.key_id), payment.sat.to_bytes(_SAT_BYTES, "big")
    return _VERSION + payment_hash + key_id + bytes([payment.minted]) + sat + random


def is_key_id(key_id: str) -> bool:
    """Whether a key's id fits an identifier."""
    return _KEY_ID.fullmatch(key_id) is not None


def read_identifier(identifier: bytes) -> Payment | None:
    """What an identifier of version 0 says; None for anything else."""
    if len(identifier) != IDENTIFIER_BYTES or identifier[:2] != _VERSION or not identifier[38]:
        return None
    sat = int.from_bytes(identifier[39 : 39 + _SAT_BYTES], "big")
    return Payment(identifier[2:34].hex(), identifier[34:38].hex(), identifier[38], sat)


def check_preimage(preimage: bytes, payment_hash: str) -> None:
    """Compare in constant time. Raises `TokenForged` if `preimage` is not what the hash (hex) was made of."""
    if not hmac.compare_digest(sha256(preimage).digest(), bytes.fromhex(payment_hash)):
        raise TokenForged("the preimage is not that of the payment which the token is bound to")


def read_credential(text: str) -> Presented:
    """Read what stands behind the scheme: `<base64>[,<base64>…]:<preimage, 64 hex digits>`. Raises `TokenMalformed`."""
    token, colon, preimage = text.strip().rpartition(":")
    if not colon or not token:
        raise TokenMalformed("a paid token is presented as 'L402 <macaroon>:<preimage>'")
    return Presented(token, read_preimage(preimage))


def read_preimage(text: str) -> bytes:
    """Read a preimage: 64 hex digits, of either case. Raises `TokenMalformed`."""
    if _PREIMAGE.fullmatch(text) is None:
        raise TokenMalformed("a preimage is 64 hex digits")
    return bytes.fromhex(text)


def write_credential(token: str, preimage: bytes) -> str:
    """A whole `Authorization` value. `token` is standard base64 with padding, which all servers read."""
    return f"L402 {token}:{preimage.hex()}"


def write_challenge(challenge: Challenge) -> str:
    """One `WWW-Authenticate` value. The macaroon stands there under its old and its new name, in the one order that all
    clients read.
    """
    macaroon, invoice = challenge
    return f'L402 macaroon="{macaroon}", invoice="{invoice}", version="0", token="{macaroon}"'


def write_old_challenge(challenge: Challenge, scheme: str) -> str:
    """One `WWW-Authenticate` value as Aperture writes it."""
    return f'{scheme} macaroon="{challenge.macaroon}", invoice="{challenge.invoice}"'


def read_challenges(values: Iterable[str]) -> list[Challenge]:
    """The challenges in `WWW-Authenticate` values, in order, without repetitions. Other schemes, parameters that we do
    not know and whatever is malformed are passed over.
    """
    found: dict[Challenge, None] = {}
    for value in values:
        if len(value) > MAX_CHALLENGE:
            continue
        for scheme, parameters in _challenges(value):
            macaroon = parameters.get("macaroon") or parameters.get("token")
            invoice = parameters.get("invoice")
            if scheme in SCHEMES and macaroon and invoice:
                found[Challenge(macaroon, invoice)] = None
    return list(found)


def _challenges(value: str) -> list[tuple[str, dict[str, str]]]:
    """Schemes and their parameters (RFC 9110, 11.6.1), names in lower case; of a repeated parameter none counts. What
    follows a fault is left out.
    """
    found: list[tuple[str, dict[str, str]]] = []
    repeated: set[str] = set()
    at = 0
    while at < len(value):
        at = _skip(value, at)
        if value[at : at + 1] == ",":
            at += 1
            continue
        word = _WORD.match(value, at)
        if word is None:
            break
        after = _skip(value, word.end())
        if value[after : after + 1] != "=":
            found.append((word[0].lower(), {}))
            repeated = set()
            single = _TOKEN68.match(value, after)
            at = single.end() if after > word.end() and single is not None else after
            continue
        content = _VALUE.match(value, _skip(value, after + 1))
        if content is None or not found:
            break
        name = word[0].lower()
        parameters = found[-1][1]
        if name in parameters or name in repeated:
            repeated.add(name)
            parameters.pop(name, None)
        else:
            parameters[name] = content[2] if content[1] is None else _ESCAPED.sub(r"\1", content[1])
        at = _skip(value, content.end())
        if at < len(value) and value[at] != ",":
            break
    return found


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()
