"""`[payment.x402]`, as `tolsey.toml` has it: which asset is taken, where it goes, and who settles it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tolsey import config_lines as lines
from tolsey.config_lines import Table, seconds, shown, suggestion, whole
from tolsey.config_secrets import Secret, fill
from tolsey.token.x402 import Asset, is_address, is_network
from tolsey.units import UNITS

LONGEST_SETTLING: Final = 120
"""The longest time that a facilitator may be given, in seconds."""

_NOT_SOLD: Final = ("sat", "call")
_SECRET = re.compile(r"[\x21-\x7e]{1,4096}", re.ASCII)


@dataclass(frozen=True, slots=True)
class X402:
    """How calls are paid for over x402. `secret` is a bearer token for the facilitator, or empty, `timeout` is in
    seconds.
    """

    facilitator: str
    secret: Secret
    timeout: float
    asset: Asset


def read_x402(payment: Table, env: Mapping[str, str], *, sends: bool) -> X402 | None:
    """The `x402` of a `[payment]`, None where it has none."""
    if not payment.has("x402"):
        return None
    table = payment.table("x402")
    found = X402(
        facilitator=table.need("facilitator", lambda value: lines.http_url(value)[0], ""),
        secret=table.read("secret", _secret(env, sends), Secret("")),
        timeout=table.read("timeout", seconds(LONGEST_SETTLING), 30.0),
        asset=Asset(
            network=table.need("network", _network, ""),
            address=table.need("asset", _address, ""),
            decimals=table.read("decimals", whole(0, 18), 6),
            unit=table.read("unit", _unit, "USD"),
            name=table.read("name", _name, "USD Coin"),
            version=table.read("version", _name, "2"),
            pay_to=table.need("pay_to", _address, ""),
        ),
    )
    table.done()
    return found


def _network(value: object) -> str:
    text = lines.text(value)
    if not is_network(text):
        raise ValueError(f'{shown(text)} is not an EVM network, as in "eip155:8453"')
    return text


def _address(value: object) -> str:
    text = lines.text(value)
    if not is_address(text):
        raise ValueError(f"{shown(text)} is not an address: write 0x and 40 hex digits")
    if not int(text, 16):
        raise ValueError("is the address that nobody has")
    return text


def _unit(value: object) -> str:
    text = lines.text(value)
    known = sorted(set(UNITS) - set(_NOT_SOLD))
    if text not in known:
        raise ValueError(f"{shown(text)} is not a unit that an asset can be worth{suggestion(text, known)}")
    return text


def _name(value: object) -> str:
    text = lines.text(value)
    if not 0 < len(text) <= 64 or not (text.isascii() and text.isprintable()):
        raise ValueError("must be at most 64 printable characters")
    return text


def _secret(env: Mapping[str, str], sends: bool) -> Callable[[object], Secret]:
    def parse(value: object) -> Secret:
        filled = fill(lines.text(value), env) if sends else "-"
        if _SECRET.fullmatch(filled) is None:
            raise ValueError("is empty, or holds a character that no credential has")
        return Secret(filled)

    return parse
