"""x402 version 2 on the wire: what is asked for in `PAYMENT-REQUIRED`, and what `PAYMENT-SIGNATURE` authorizes.

Only the scheme `exact` on EVM networks, by EIP-3009: the payer signs that so much of an asset may be moved to us, once,
within a time. Whether the signature is right is for the facilitator to say; what is asked for is said here and never
taken from the payer.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from tolsey.errors import TokenMalformed
from tolsey.token.objects import read_object
from tolsey.units import NANO

VERSION: Final = 2
SCHEME: Final = "exact"
VALID_SECONDS: Final = 120
"""How long an authorization is to be good for, from the challenge on."""

MAX_CREDENTIAL: Final = 8 * 1024
"""The longest `PAYMENT-SIGNATURE` that is read, in characters."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_NONCE = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_SIGNATURE = re.compile(r"0x(?:[0-9a-fA-F]{2}){1,2048}", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,77}", re.ASCII)
_NETWORK = re.compile(r"eip155:[1-9][0-9]{0,18}", re.ASCII)


class Asset(NamedTuple):
    """What is taken: an asset (its contract's address) on a `network` (CAIP-2), of which a whole one is worth one of
    `unit` and has `decimals` places. `name` and `version` are its EIP-712 domain, `pay_to` is the address it goes to.
    """

    network: str
    address: str
    decimals: int
    unit: str
    name: str
    version: str
    pay_to: str

    def atomic(self, nano: int) -> int:
        """What `nano` nano-units are in the asset's smallest unit, rounded up."""
        return -(-nano * int(10**self.decimals) // NANO)


class Authorization(NamedTuple):
    """What a payer signed, as far as it is looked at here. `payment` names it for good: whatever the payer signs under
    the same nonce, the asset moves once. `payload` is what the facilitator gets of it.
    """

    payment: str
    payer: str
    pay_to: str
    value: int
    after: int
    before: int
    payload: Mapping[str, object]

    def __repr__(self) -> str:
        """Never shows the signature."""
        return f"<an authorization {self.payment}>"


def is_address(text: str) -> bool:
    """Whether a text is an EVM address."""
    return _ADDRESS.fullmatch(text) is not None


def is_network(text: str) -> bool:
    """Whether a text names an EVM network."""
    return _NETWORK.fullmatch(text) is not None


def requirements(asset: Asset, nano: int) -> dict[str, object]:
    """What a payment of `nano` nano-units has to be, as both payer and facilitator are told."""
    return {
        "scheme": SCHEME,
        "network": asset.network,
        "amount": str(asset.atomic(nano)),
        "asset": asset.address,
        "payTo": asset.pay_to,
        "maxTimeoutSeconds": VALID_SECONDS,
        "extra": {"name": asset.name, "version": asset.version, "assetTransferMethod": "eip3009"},
    }


def write_required(asset: Asset, nano: int, path: str, error: str) -> str:
    """A `PAYMENT-REQUIRED` value, for a call of `path`; `error` says in words why there is one."""
    return _encode(
        {
            "x402Version": VERSION,
            "error": error,
            "resource": {"url": path},
            "accepts": [requirements(asset, nano)],
        }
    )


def write_response(asset: Asset, payer: str, transaction: str) -> str:
    """A `PAYMENT-RESPONSE` value: that the payment was settled, by which transaction."""
    return _encode({"success": True, "transaction": transaction, "network": asset.network, "payer": payer})


def read_signature(text: str, asset: Asset) -> Authorization:
    """Read a `PAYMENT-SIGNATURE`. Raises `TokenMalformed` for another version, scheme, network or asset."""
    if len(text) > MAX_CREDENTIAL:
        raise TokenMalformed(f"a PAYMENT-SIGNATURE has at most {MAX_CREDENTIAL} characters")
    document = _decode(text)
    accepted, payload = document.get("accepted"), document.get("payload")
    if document.get("x402Version") != VERSION or not isinstance(accepted, dict) or not isinstance(payload, dict):
        raise TokenMalformed("a PAYMENT-SIGNATURE has x402Version 2, what it accepted, and a payload")
    chosen = [accepted.get("scheme"), accepted.get("network"), str(accepted.get("asset")).lower()]
    if chosen != [SCHEME, asset.network, asset.address.lower()]:
        raise TokenMalformed("the payment is of another scheme, network or asset than was asked for")
    signed = payload.get("authorization")
    if not isinstance(signed, dict):
        raise TokenMalformed("the payment's payload is no authorization (EIP-3009)")
    payer, nonce = _match(signed, "from", _ADDRESS).lower(), _match(signed, "nonce", _NONCE).lower()
    pay_to = _match(signed, "to", _ADDRESS)
    value, after, before = (_match(signed, name, _NUMBER) for name in ("value", "validAfter", "validBefore"))
    authorization = {
        "from": signed["from"],
        "to": pay_to,
        "value": value,
        "validAfter": after,
        "validBefore": before,
        "nonce": signed["nonce"],
    }
    name = f"x402 {asset.network} {asset.address.lower()} {payer} {nonce}"
    return Authorization(
        sha256(name.encode("ascii")).hexdigest(),
        payer,
        pay_to,
        int(value),
        int(after),
        int(before),
        {"signature": _match(payload, "signature", _SIGNATURE), "authorization": authorization},
    )


def _encode(document: Mapping[str, object]) -> str:
    return base64.b64encode(json.dumps(document, separators=(",", ":")).encode("ascii")).decode("ascii")


def _decode(text: str) -> dict[str, Any]:
    padded = text if text.endswith("=") else text + "=" * (-len(text) % 4)
    try:
        found = read_object(binascii.a2b_base64(padded.encode("ascii"), strict_mode=True))
    except ValueError:
        found = None
    if found is None:
        raise TokenMalformed("a PAYMENT-SIGNATURE is base64 of a JSON object")
    return found


def _match(document: Mapping[str, object], name: str, pattern: re.Pattern[str]) -> str:
    found = document.get(name)
    if not isinstance(found, str) or pattern.fullmatch(found) is None:
        raise TokenMalformed(f"the payment's {name!r} is not what it is to be")
    return found
