"""Approvals: a third-party caveat that asks the gateway's people, and the discharge that answers it.

A holder seals a ticket to the gateway's public key, offline. The ticket holds the caveat's root key and from which
price on somebody has to be asked. For a call below that the gateway discharges by itself, for one above it only once
somebody said yes: that discharge is bound to method, path, query and price, ends soon, and is good for one call.
Needs PyNaCl.
"""

import base64
import json
import re
from typing import Final, NamedTuple

from tolsey.errors import AmountInvalid, CaveatInvalid, DischargeInvalid
from tolsey.token.caveats import format_time
from tolsey.token.macaroon import Macaroon
from tolsey.units import Amount, parse_amount

APPROVAL: Final = "tolsey-approval"
"""The kind of key that tickets are sealed to."""

MAX_TICKET: Final = 1024
"""The longest ticket that is read, in bytes: as long as a caveat can be."""

_TICKET = re.compile(rb"tolsey-approval:1:([A-Za-z0-9_-]{1,32}):([A-Za-z0-9_-]{1,900})", re.ASCII)
_APPROVER = re.compile(r"(https?://[^\s#]{1,200})#([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]{43})", re.ASCII)
_ABOVE: Final = "above "
_NONCE_BYTES: Final = 24


class Approver(NamedTuple):
    """A gateway that can be asked: where, and the public key (32 bytes) with its id."""

    url: str
    key_id: str
    key: bytes

    def __str__(self) -> str:
        return f"{self.url}#{self.key_id}.{_text(self.key)}"


class Ticket(NamedTuple):
    """What is sealed: the caveat's root key (32 bytes), and up to which price nobody is asked (None: always ask)."""

    key: bytes
    free: Amount | None


def parse_approver(text: str) -> Approver:
    """Read `https://gateway:8402#KEYID.KEY`. Raises `CaveatInvalid`."""
    match = _APPROVER.fullmatch(text.strip())
    if match is None:
        raise CaveatInvalid(
            "approval: the approver is written https://gateway:8402#KEYID.KEY; `tolsey approver` shows it"
        )
    return Approver(match[1].rstrip("/"), match[2], _bytes(match[3]))


def parse_condition(text: str) -> Amount | None:
    """Read `above 5 USD`, or `always` (None). Raises `CaveatInvalid`."""
    if text == "always":
        return None
    try:
        if text.startswith(_ABOVE):
            return parse_amount(text.removeprefix(_ABOVE))
    except AmountInvalid as error:
        raise CaveatInvalid(f"approval: {error.detail}") from None
    raise CaveatInvalid("approval: write 'above 5 USD' or 'always'")


def public_key(secret: bytes) -> bytes:
    """The public key (32 bytes) of a secret one."""
    from nacl.public import PrivateKey

    found: bytes = PrivateKey(secret).public_key.encode()
    return found


def seal(ticket: Ticket, approver: Approver, ephemeral: bytes) -> bytes:
    """A ticket that the approver alone can read: a sealed box of libsodium's. `ephemeral` is 32 random bytes."""
    from nacl.public import Box, PrivateKey, PublicKey

    sender, receiver = PrivateKey(ephemeral), PublicKey(approver.key)
    free = "" if ticket.free is None else str(ticket.free)
    content = json.dumps({"key": _text(ticket.key), "free": free}).encode()
    nonce = _seal_nonce(sender.public_key.encode(), approver.key)
    sealed = sender.public_key.encode() + Box(sender, receiver).encrypt(content, nonce).ciphertext
    return f"{APPROVAL}:1:{approver.key_id}:{_text(sealed)}".encode("ascii")


def key_id_of(ticket: bytes) -> str | None:
    """The id of the key that a ticket was sealed to; None for what is no ticket."""
    match = _TICKET.fullmatch(ticket) if len(ticket) <= MAX_TICKET else None
    return None if match is None else match[1].decode("ascii")


def unseal(ticket: bytes, secret: bytes) -> Ticket:
    """Read a ticket. Raises `DischargeInvalid`."""
    from nacl.exceptions import CryptoError
    from nacl.public import PrivateKey, SealedBox

    match = _TICKET.fullmatch(ticket) if len(ticket) <= MAX_TICKET else None
    try:
        if match is None:
            raise ValueError
        content = json.loads(SealedBox(PrivateKey(secret)).decrypt(_bytes(match[2].decode("ascii"))))
        key, free = _bytes(content["key"]), content["free"]
        found = Ticket(key, parse_amount(free) if free else None)
        if len(key) != 32:
            raise ValueError
    except (CryptoError, ValueError, KeyError, TypeError, AmountInvalid, RecursionError):
        raise DischargeInvalid("the ticket was not sealed to this gateway, or is damaged") from None
    return found


def require(parent: Macaroon, ticket: Ticket, approver: Approver, *, ephemeral: bytes, nonce: bytes) -> Macaroon:
    """`parent` with the caveat that asks for approval. `ephemeral` is 32 random bytes, `nonce` 24."""
    identifier = seal(ticket, approver, ephemeral)
    return parent.attenuate_third_party(location=approver.url, key=ticket.key, identifier=identifier, nonce=nonce)


def discharge_small(sealed: bytes, ticket: Ticket, free: Amount, until: int) -> Macaroon:
    """The discharge for every call whose price is at most `free`, until an instant (nanoseconds)."""
    return Macaroon.mint(root_key=ticket.key, identifier=sealed).attenuate(
        f"max-price = {free}", f"expires = {format_time(until)}"
    )


def discharge_call(sealed: bytes, ticket: Ticket, call: str, price: Amount, *, once: str, until: int) -> Macaroon:
    """The discharge for one call (its digest, see `once.call_digest`) at no more than `price`, until an instant
    (nanoseconds). `once` is 22 characters of base64url, the approval's own.
    """
    return Macaroon.mint(root_key=ticket.key, identifier=sealed).attenuate(
        f"max-price = {price}", f"expires = {format_time(until)}", f"once = {once} {call}"
    )


def _seal_nonce(ephemeral: bytes, receiver: bytes) -> bytes:
    """The nonce of a sealed box: BLAKE2b of both public keys (libsodium, crypto_box_seal)."""
    from hashlib import blake2b

    return blake2b(ephemeral + receiver, digest_size=_NONCE_BYTES).digest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
