"""The `Payment` scheme (MPP) on the wire, for a charge over Lightning: another way to ask for a paid token, and to
present it.

The challenge carries the same macaroon as an L402 one, in `opaque`, which a client sends back unchanged; with the
preimage in the payload that is a paid token as any other. Its `id` is an HMAC over all that it asks for, so that
nothing is kept of it either. draft-httpauth-payment-01 and draft-lightning-charge-00.
"""

import base64
import binascii
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from tolsey.errors import TokenForged, TokenMalformed
from tolsey.token.l402 import Echo, Presented, read_preimage
from tolsey.token.objects import read_object

SCHEME: Final = "payment"
"""The scheme's name, in lower case, as schemes are compared."""

METHOD: Final = "lightning"
INTENT: Final = "charge"
REALM: Final = "tolsey"

MAX_CREDENTIAL: Final = 16 * 1024
"""The longest credential that is read, in characters. One that answers a challenge of ours has some four thousand."""

NETWORKS: Final = {"bc": "mainnet", "bcrt": "regtest", "tbs": "signet", "tb": "testnet", "sb": "simnet"}
"""What the network of an invoice is called. The last two have no name in the draft."""

_SUBKEY: Final = b"tolsey Payment challenge"
_SLOTS: Final[tuple[str, ...]] = ("realm", "method", "intent", "request", "expires", "digest", "opaque")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*={0,2}", re.ASCII)
_WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)


class Charge(NamedTuple):
    """What a challenge asks for: a payment of `sat` to `invoice`, and the macaroon (base64) that counts after it.
    `network` is one of `NETWORKS`' values, `payment_hash` hex, `expires` RFC 3339.
    """

    macaroon: str
    invoice: str
    payment_hash: str
    sat: int
    network: str
    expires: str


def challenge_key(derived_key: bytes) -> bytes:
    """The key of challenge ids that belongs to a root key of paid tokens, given as its chains begin with it."""
    return hmac.digest(derived_key, _SUBKEY, "sha256")


def challenge_id(key: bytes, bound: str) -> str:
    """The id of a challenge whose parameters are `bound`."""
    return encode(hmac.digest(key, bound.encode("utf-8", "surrogatepass"), "sha256"))


def bind(parameters: Mapping[str, str]) -> str:
    """What an id is computed over: seven values in their places, an absent one empty, and `header` only if there."""
    slots = [parameters.get(name, "") for name in _SLOTS]
    return "|".join([*slots, parameters["header"]] if "header" in parameters else slots)


def write_challenge(key: bytes, charge: Charge) -> str:
    """One `WWW-Authenticate` value."""
    request = {
        "amount": str(charge.sat),
        "currency": "sat",
        "methodDetails": {
            "invoice": charge.invoice,
            "network": charge.network,
            "paymentHash": charge.payment_hash,
        },
    }
    parameters = {
        "realm": REALM,
        "method": METHOD,
        "intent": INTENT,
        "request": encode(_canonical(request)),
        "expires": charge.expires,
        "opaque": encode(_canonical({"macaroon": charge.macaroon})),
    }
    parameters = {"id": challenge_id(key, bind(parameters)), **parameters}
    return "Payment " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())


def read_credential(text: str) -> Presented:
    """Read what stands behind the scheme. Raises `TokenMalformed` for what answers no challenge of a gateway's."""
    if len(text) > MAX_CREDENTIAL:
        raise TokenMalformed(f"a Payment credential has at most {MAX_CREDENTIAL} characters")
    document = _object(decode(text))
    challenge, payload = _member(document, "challenge"), _member(document, "payload")
    echoed = {name: _text(challenge, name) for name in ("id", *_SLOTS, "header") if name in challenge}
    if [echoed.get(name) for name in ("realm", "method", "intent")] != [REALM, METHOD, INTENT]:
        raise TokenMalformed("the Payment credential answers no challenge of a gateway's: another realm or method")
    macaroon = _text(_object(decode(_text(challenge, "opaque"))), "macaroon")
    preimage = read_preimage(_text(payload, "preimage"))
    return Presented(macaroon, preimage, Echo(_text(challenge, "id"), bind(echoed)))


def check_echo(key: bytes, echo: Echo) -> None:
    """Compare in constant time. Raises `TokenForged` unless a challenge with this id asked for exactly this."""
    expected = challenge_id(key, echo.bound).encode("ascii")
    if not hmac.compare_digest(expected, echo.id.encode("utf-8", "surrogatepass")):
        raise TokenForged("the Payment credential's challenge is not as it was written here")


def write_receipt(payment_hash: str, challenge: str, at: str) -> str:
    """A `Payment-Receipt` value: for which payment (hex) and challenge id, and when (RFC 3339)."""
    receipt = {
        "challengeId": challenge,
        "method": METHOD,
        "reference": payment_hash,
        "status": "success",
        "timestamp": at,
    }
    return encode(_canonical(receipt))


def prefers_charge(values: Sequence[str]) -> bool:
    """Whether `Accept-Payment` values name a charge over Lightning; of several ranges the most specific counts."""
    best = (-1, False)
    for item in ",".join(values).split(","):
        name, _, weight = item.strip().partition(";")
        method, _, intent = name.strip().partition("/")
        if method in (METHOD, "*") and intent in (INTENT, "*"):
            best = max(best, ((method != "*") * 2 + (intent != "*"), _above_zero(weight.strip())))
    return best[1]


def encode(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """The bytes of base64url, with padding or without. Raises `TokenMalformed`; nothing has two spellings."""
    padded = text if text.endswith("=") else text + "=" * (-len(text) % 4)
    try:
        if _BASE64URL.fullmatch(text) is None:
            raise binascii.Error
        data = binascii.a2b_base64(padded.translate({45: "+", 95: "/"}), strict_mode=True)
    except binascii.Error:
        raise TokenMalformed("a Payment credential is base64url of JSON") from None
    if encode(data) != text.rstrip("="):
        raise TokenMalformed("a Payment credential is base64url of JSON, its last bits zero")
    return data


def _canonical(document: Mapping[str, object]) -> bytes:
    """JSON as RFC 8785 writes it, for texts of printable ASCII, which ours are."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def _object(data: bytes) -> dict[str, Any]:
    found = read_object(data)
    if found is None:
        raise TokenMalformed("a Payment credential holds something that is not a JSON object")
    return found


def _member(document: Mapping[str, object], name: str) -> dict[str, Any]:
    found = document.get(name)
    if not isinstance(found, dict):
        raise TokenMalformed(f"a Payment credential has an object {name!r}")
    return found


def _text(document: Mapping[str, object], name: str) -> str:
    found = document.get(name)
    if not isinstance(found, str):
        raise TokenMalformed(f"a Payment credential has a text {name!r}")
    return found


def _above_zero(weight: str) -> bool:
    """Whether a range's weight (`q=0.5`, or none) is above 0."""
    name, _, value = weight.partition("=")
    if not weight or name.strip().lower() != "q" or _WEIGHT.fullmatch(value.strip()) is None:
        return True
    return float(value) > 0
