"""x402 on the wire: amounts are exact, and what is read is of one shape or malformed."""

import base64
import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facilitators import ASSET, NETWORK, PAYER, SELLER
from tolsey.errors import TokenMalformed
from tolsey.token import x402
from tolsey.token.x402 import Asset, read_signature

USDC: Final = Asset(NETWORK, ASSET, 6, "USD", "USD Coin", "2", SELLER)
SIGNED: Final = {
    "from": PAYER,
    "to": SELLER,
    "value": "20000",
    "validAfter": "0",
    "validBefore": "1800000000",
    "nonce": "0x" + "ab" * 32,
}


def written(document: object) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def document(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    payload = {"signature": "0x" + "cd" * 65, "authorization": {**SIGNED, **changes}}
    return {"x402Version": 2, "accepted": x402.requirements(USDC, 20_000_000), "payload": payload}


@pytest.mark.parametrize(
    ("decimals", "nano", "atomic"),
    [
        (6, 20_000_000, 20_000),
        (6, 1, 1),
        (6, 1001, 2),
        (6, 1000, 1),
        (9, 7, 7),
        (18, 1, 10**9),
        (0, 1, 1),
        (2, 10**9, 100),
    ],
)
def test_amounts_are_rounded_up_and_exact(decimals: int, nano: int, atomic: int) -> None:
    assert USDC._replace(decimals=decimals).atomic(nano) == atomic


def test_what_is_signed_is_read() -> None:
    found = read_signature(written({**document(), "extensions": {"x": 1}, "resource": {"url": "/"}}), USDC)
    assert (found.payer, found.pay_to, found.value, found.after, found.before) == (
        PAYER,
        SELLER,
        20000,
        0,
        1_800_000_000,
    )
    assert found.payload == {"signature": "0x" + "cd" * 65, "authorization": SIGNED}
    assert "cd" * 65 not in repr(found)


def test_a_payment_is_named_by_what_moves_once() -> None:
    one = read_signature(written(document()), USDC).payment
    same = [
        document(value="1"),
        document(validBefore="1800000001"),
        document(nonce="0x" + "AB" * 32),
        {**document(), "payload": {"signature": "0x" + "ef" * 65, "authorization": SIGNED}},
    ]
    assert {read_signature(written(each), USDC).payment for each in same} == {one}
    others = [document(nonce="0x" + "ac" * 32), document(**{"from": SELLER})]
    assert one not in {read_signature(written(each), USDC).payment for each in others}


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(max_size=300) | JSON.map(written))
def test_whatever_comes_is_read_or_malformed(text: str) -> None:
    with pytest.raises(TokenMalformed):
        read_signature(text, USDC)


@given(st.sampled_from(["x402Version", "accepted", "payload"]), JSON)
def test_a_member_of_another_kind_is_malformed(name: str, value: Any) -> None:  # noqa: ANN401 - any JSON
    if value == document()[name]:
        return
    with pytest.raises(TokenMalformed):
        read_signature(written({**document(), name: value}), USDC)


@pytest.mark.parametrize(
    "data",
    [b'{"x402Version":2,"x402Version":2}', b"[" * 6000, b"\xff", b"[]", b""],
)
def test_what_is_not_one_json_object_is_malformed(data: bytes) -> None:
    with pytest.raises(TokenMalformed):
        read_signature(base64.b64encode(data).decode(), USDC)


def test_the_longest_that_is_read() -> None:
    text = written({**document(), "resource": {"url": ""}})
    room = (x402.MAX_CREDENTIAL - len(text)) // 4 * 3
    longest = written({**document(), "resource": {"url": "x" * (room - 2)}})
    assert x402.MAX_CREDENTIAL - 4 < len(longest) <= x402.MAX_CREDENTIAL
    assert read_signature(longest, USDC).value == 20000
    with pytest.raises(TokenMalformed, match="at most"):
        read_signature("A" * (x402.MAX_CREDENTIAL + 1), USDC)
