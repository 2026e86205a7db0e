"""Macaroons: bearer tokens that anyone can narrow and nobody can widen.

The construction of the paper (Birgisson et al., NDSS 2014) in libmacaroons' form: every HMAC is SHA-256, the root key
is derived with `macaroons-key-generator`, and each caveat replaces the signature by an HMAC of itself under it. So
whoever holds a macaroon can append a caveat, and whoever lacks the earlier signature cannot take one away.

The basic laws:

* `attenuate` appends bytes and never reads them.
* `verify` says that the bytes are intact, before any caveat is read; it raises if they are not.
* What the caveats mean is decided elsewhere (`token/chain.py`), and only after `verify`.

Locations are hints that nothing signs.
"""

import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from tolsey.errors import DischargeInvalid, DischargeMissing, TokenForged, TokenMalformed
from tolsey.token import wire
from tolsey.token.wire import Caveat, Fields

if TYPE_CHECKING:
    from nacl.secret import SecretBox

_GENERATOR: Final = b"macaroons-key-generator"
_ZERO: Final = bytes(32)


class Macaroon:
    """An immutable macaroon.

    `location` is a hint (str), `identifier` bytes, `caveats` a tuple of `Caveat` (`str(caveat)` is its text),
    `signature` 32 bytes.
    """

    __slots__ = ("caveats", "identifier", "location", "signature")

    def __init__(self, location: str, identifier: bytes, caveats: tuple[Caveat, ...], signature: bytes) -> None:
        self.location = location
        self.identifier = identifier
        self.caveats = caveats
        self.signature = signature

    @classmethod
    def mint(cls, *, root_key: bytes, identifier: bytes, location: str = "") -> "Macaroon":
        """Make a macaroon without caveats. `root_key` is any secret bytes; the key in use is derived from it."""
        return cls(location, identifier, (), _hmac(derive_key(root_key), identifier))

    def attenuate(self, *caveats: bytes | str) -> "Macaroon":
        """Return a new macaroon with first-party caveats appended, unparsed. Needs no key, clock or network."""
        appended = [Caveat(c.encode("utf-8") if isinstance(c, str) else bytes(c)) for c in caveats]
        signature = self.signature
        for caveat in appended:
            signature = _hmac(signature, caveat.cid)
        return Macaroon(self.location, self.identifier, (*self.caveats, *appended), signature)

    def attenuate_third_party(self, *, location: str, key: bytes, identifier: bytes, nonce: bytes) -> "Macaroon":
        """Return a new macaroon that needs a discharge from `location`.

        `key` is the caveat's root key, which the third party mints the discharge with, `identifier` the discharge's
        identifier, `nonce` 24 random bytes. Needs PyNaCl.
        """
        vid = nonce + _secretbox(self.signature).encrypt(derive_key(key), nonce).ciphertext
        caveat = Caveat(identifier, vid, location.encode("utf-8"))
        return Macaroon(self.location, self.identifier, (*self.caveats, caveat), mac_after(self.signature, caveat))

    def bind(self, discharge: "Macaroon") -> "Macaroon":
        """Return `discharge` bound to this macaroon, as it must be sent; bind after the last attenuation."""
        return Macaroon(
            discharge.location,
            discharge.identifier,
            discharge.caveats,
            _bound(self.signature, discharge.signature),
        )

    def serialize(self) -> bytes:
        """The macaroon in v2 binary."""
        return wire.write(Fields(self.location.encode("utf-8"), self.identifier, self.caveats, self.signature))

    def to_text(self) -> str:
        """The macaroon as `tolsey_` and base64url without padding."""
        return wire.bytes_to_text(self.serialize())

    @classmethod
    def deserialize(cls, data: bytes | str) -> "Macaroon":
        """Read exactly one macaroon: bytes are binary (v1 or v2), str is text. Raises `TokenMalformed`."""
        found = [fields for part in _parts(data) for fields in wire.parse(part)]
        if len(found) != 1:
            raise TokenMalformed("more than one macaroon stands here")
        return cls._of(found[0])

    @classmethod
    def deserialize_all(cls, data: bytes | str) -> "list[Macaroon]":
        """Read a token and the discharges after it. Raises `TokenMalformed`."""
        return [cls._of(fields) for part in _parts(data) for fields in wire.parse(part)]

    @classmethod
    def _of(cls, fields: Fields) -> "Macaroon":
        return cls(fields.location.decode("utf-8", "replace"), fields.identifier, fields.caveats, fields.signature)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Macaroon)
            and (self.identifier, self.caveats) == (other.identifier, other.caveats)
            and hmac.compare_digest(self.signature, other.signature)
        )

    def __hash__(self) -> int:
        return hash(self.signature)

    def __repr__(self) -> str:
        """Never shows the signature: a macaroon in a log must not be a credential."""
        return f"<Macaroon {self.identifier!r} {len(self.caveats)} caveats, prefix {prefix_id(self.signature)}>"


def _parts(data: bytes | str) -> list[bytes]:
    return wire.text_to_parts(data) if isinstance(data, str) else [data]


def derive_key(root_key: bytes) -> bytes:
    """The key that a chain begins with: HMAC of the root key under libmacaroons' generator string."""
    return _hmac(_GENERATOR, root_key)


def first_mac(derived_key: bytes, identifier: bytes) -> bytes:
    """The MAC of a macaroon without caveats."""
    return _hmac(derived_key, identifier)


def mac_after(mac: bytes, caveat: Caveat) -> bytes:
    """The MAC after one more caveat."""
    if caveat.vid is None:
        return _hmac(mac, caveat.cid)
    return _hmac(mac, _hmac(mac, caveat.vid) + _hmac(mac, caveat.cid))


def prefix_id(mac: bytes) -> str:
    """The public name of the prefix that ends in `mac`: the first 16 bytes of its SHA-256, in lower-case hex."""
    return sha256(mac).hexdigest()[:32]


class ThirdParty(NamedTuple):
    """A third-party caveat that is waiting for its discharge, and the MAC that stood before it."""

    caveat: Caveat
    mac: bytes


def verify(macaroon: Macaroon, root_key: bytes, discharges: Sequence[Macaroon] = ()) -> None:
    """Check a macaroon and its discharges against `root_key`.

    Returns nothing: a result that could be ignored would be. Raises `TokenForged`, `DischargeMissing` or
    `DischargeInvalid`. Says nothing about what the caveats mean.
    """
    mac = first_mac(derive_key(root_key), macaroon.identifier)
    asked = []
    for caveat in macaroon.caveats:
        if caveat.vid is not None:
            asked.append(ThirdParty(caveat, mac))
        mac = mac_after(mac, caveat)
    verify_signature(mac, macaroon.signature)
    discharge_caveats(asked, mac, discharges)


def verify_signature(mac: bytes, signature: bytes) -> None:
    """Compare in constant time. Raises `TokenForged`."""
    if not hmac.compare_digest(mac, signature):
        raise TokenForged("the token's signature does not match its caveats")


def discharge_caveats(
    asked: Iterable[ThirdParty], root_signature: bytes, discharges: Sequence[Macaroon]
) -> list[tuple[int, Caveat]]:
    """Verify all discharges; return their first-party caveats, each with the number of the root's asking caveat.

    They stand in the order in which they are asked for, a discharge's own before those of the ones that it asks for.
    Each discharge answers exactly one third-party caveat and is bound to `root_signature`. A discharge may ask for
    further ones; a used one is never looked at again, so one that asks for itself is simply missing. Nothing recurses.
    Raises `DischargeMissing` or `DischargeInvalid`.
    """
    found: list[tuple[int, Caveat]] = []
    unused: dict[bytes, Macaroon] = {}
    for discharge in discharges:
        if unused.setdefault(discharge.identifier, discharge) is not discharge:
            raise DischargeInvalid("two discharges have the same identifier")
    waiting = list(enumerate(asked))[::-1]
    while waiting:
        number, third_party = waiting.pop()
        answer = unused.pop(third_party.caveat.cid, None)
        if answer is None:
            raise DischargeMissing(f"a third-party caveat for {_place(third_party.caveat)} has no discharge")
        mac = first_mac(_caveat_key(third_party), answer.identifier)
        nested = []
        for caveat in answer.caveats:
            if caveat.vid is None:
                found.append((number, caveat))
            else:
                nested.append((number, ThirdParty(caveat, mac)))
            mac = mac_after(mac, caveat)
        waiting += reversed(nested)
        if not hmac.compare_digest(_bound(root_signature, mac), answer.signature):
            raise DischargeInvalid(f"the discharge from {_place(third_party.caveat)} is not genuine or not bound here")
    if unused:
        raise DischargeInvalid("a discharge was sent that no caveat asks for")
    return found


def _place(caveat: Caveat) -> str:
    return repr((caveat.location or b"").decode("utf-8", "backslashreplace")[:100])


def _caveat_key(third_party: ThirdParty) -> bytes:
    vid = third_party.caveat.vid or b""
    box = _secretbox(third_party.mac)
    from nacl.exceptions import CryptoError

    try:
        key: bytes = box.decrypt(vid)
    except (CryptoError, ValueError):
        key = b""
    if len(key) != 32:
        raise DischargeInvalid(f"the third-party caveat for {_place(third_party.caveat)} holds no key of ours")
    return key


def _secretbox(key: bytes) -> "SecretBox":
    try:
        from nacl.secret import SecretBox
    except ImportError:
        raise DischargeInvalid("third-party caveats need PyNaCl; install it with: pip install pynacl") from None
    return SecretBox(key)


def _bound(root_signature: bytes, signature: bytes) -> bytes:
    return _hmac(_ZERO, _hmac(_ZERO, root_signature) + _hmac(_ZERO, signature))


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
