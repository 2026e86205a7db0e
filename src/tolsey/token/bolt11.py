"""Lightning invoices (BOLT11), as far as one must read them before paying: how much, for which payment, until when.

The signature is not checked: whoever pays has a node that does. Written is only what the fake backend shows.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple

from tolsey.errors import TolseyError

MAX_INVOICE: Final = 4096
"""The longest invoice that is read, in characters."""

MAX_MSAT: Final = 21_000_000 * 100_000_000 * 1000
"""All the bitcoin that there will ever be, in thousandths of a sat."""

_CHARSET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_NUMBERS: Final = {char: number for number, char in enumerate(_CHARSET)}
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_HEAD = re.compile(r"ln(bcrt|bc|tbs|tb|sb)(?:([1-9][0-9]{0,17})([munp])?)?", re.ASCII)
_PICO: Final = {"m": 10**9, "u": 10**6, "n": 10**3, "p": 1, None: 10**12}
_HASH, _DESCRIPTION, _EXPIRY, _SECRET = (_NUMBERS[char] for char in "pdxs")
_STAMP_WORDS: Final = 7
_SIGNATURE_WORDS: Final = 104
_CHECKSUM_WORDS: Final = 6
_DEFAULT_EXPIRY: Final = 3600


class InvoiceInvalid(TolseyError, ValueError):
    """A text that is not an invoice."""

    code = "invoice_invalid"


class Invoice(NamedTuple):
    """`msat` is None where the payer chooses the amount; `at` and `expires` are in seconds since the epoch."""

    network: str
    msat: int | None
    payment_hash: bytes
    at: int
    expires: int
    secret: bytes


def read_invoice(text: str) -> Invoice:
    """Read an invoice, in either case, with or without `lightning:`. Raises `InvoiceInvalid`."""
    if len(text) > MAX_INVOICE:
        raise InvoiceInvalid(f"an invoice has at most {MAX_INVOICE} characters")
    text = text.strip()
    text = text.lower() if text.isupper() else text
    head, one, data = text.removeprefix("lightning:").rpartition("1")
    match = _HEAD.fullmatch(head)
    if not one or match is None or any(char not in _NUMBERS for char in data):
        raise InvoiceInvalid("this is not a Lightning invoice")
    words = [_NUMBERS[char] for char in data]
    if _checksum(head, words) != 1:
        raise InvoiceInvalid("the invoice's checksum is wrong: it was mistyped or cut")
    body = words[: -_CHECKSUM_WORDS - _SIGNATURE_WORDS]
    if len(body) < _STAMP_WORDS:
        raise InvoiceInvalid("the invoice is too short")
    at = _number(body[:_STAMP_WORDS])
    fields = _fields(body[_STAMP_WORDS:])
    payment_hash = fields.get(_HASH)
    if payment_hash is None or len(payment_hash) != 52:
        raise InvoiceInvalid("the invoice has no payment hash")
    expiry = _number(fields[_EXPIRY][:13]) if _EXPIRY in fields else _DEFAULT_EXPIRY
    return Invoice(
        match[1], _msat(match), _bytes(payment_hash)[:32], at, at + expiry, _bytes(fields.get(_SECRET, []))[:32]
    )


def write_unsigned(msat: int, payment_hash: bytes, secret: bytes, description: str, *, at: int, expiry: int) -> str:
    """An invoice for the test network of one machine (`lnbcrt`) whose signature is all zeros: nobody can pay it."""
    body = [at >> 5 * n & 31 for n in reversed(range(_STAMP_WORDS))]
    for tag, words in (
        (_HASH, _words(payment_hash)),
        (_SECRET, _words(secret)),
        (_DESCRIPTION, _words(description.encode("utf-8"))),
        (_EXPIRY, [expiry >> 5 * n & 31 for n in reversed(range(4))]),
    ):
        body += [tag, len(words) >> 5, len(words) & 31, *words]
    words = body + [0] * _SIGNATURE_WORDS
    head = f"lnbcrt{msat * 10}p"
    check = _checksum(head, [*words, *[0] * _CHECKSUM_WORDS]) ^ 1
    words += [check >> 5 * n & 31 for n in reversed(range(_CHECKSUM_WORDS))]
    return f"{head}1{''.join(_CHARSET[word] for word in words)}"


def fits(preimage: bytes, invoice: Invoice) -> bool:
    """Whether the preimage proves that the invoice was paid."""
    return sha256(preimage).digest() == invoice.payment_hash


def _msat(match: re.Match[str]) -> int | None:
    if match[2] is None:
        return None
    pico = int(match[2]) * _PICO[match[3]]
    msat, rest = divmod(pico, 10)
    if rest or msat > MAX_MSAT:
        raise InvoiceInvalid("the invoice's amount is no whole number of thousandths of a sat")
    return msat


def _fields(words: list[int]) -> dict[int, list[int]]:
    """Each tagged field's words; of one that is repeated, the first."""
    found: dict[int, list[int]] = {}
    at = 0
    while at < len(words):
        if at + 3 > len(words):
            raise InvoiceInvalid("the invoice is cut off")
        size = words[at + 1] << 5 | words[at + 2]
        if at + 3 + size > len(words):
            raise InvoiceInvalid("the invoice is cut off")
        found.setdefault(words[at], words[at + 3 : at + 3 + size])
        at += 3 + size
    return found


def _number(words: Iterable[int]) -> int:
    number = 0
    for word in words:
        number = number << 5 | word
    return number


def _bytes(words: list[int]) -> bytes:
    """The whole bytes in words of five bits; bits that are left over are dropped."""
    size = len(words) * 5 // 8
    return (_number(words) >> (len(words) * 5 - size * 8)).to_bytes(size, "big")


def _words(data: bytes) -> list[int]:
    """Words of five bits that hold the bytes, filled up with zeros."""
    count = -(-len(data) * 8 // 5)
    number = int.from_bytes(data, "big") << (count * 5 - len(data) * 8)
    return [number >> 5 * n & 31 for n in reversed(range(count))]


def _checksum(head: str, words: list[int]) -> int:
    """Bech32's polynomial: 1 for a whole invoice (BIP 173)."""
    found = 1
    for value in [*(ord(char) >> 5 for char in head), 0, *(ord(char) & 31 for char in head), *words]:
        top = found >> 25
        found = (found & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                found ^= generator
    return found
