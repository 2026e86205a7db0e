"""Invoices: the amounts and hashes of BOLT11's own examples, what is refused, and what the fake backend writes."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.token.bolt11 import MAX_INVOICE, InvoiceInvalid, fits, read_invoice, write_unsigned

HASH = bytes.fromhex("0001020304050607080900010203040506070809000102030405060708090102")
COFFEE = (
    "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsy"
    "qcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353"
    "s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh"
)
"""BOLT11, "Please send $3 for a cup of coffee": 2500 µBTC, expiry one minute."""
DONATION = (
    "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5"
    "rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls0"
    "87fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql"
)
"""BOLT11, "Please make a donation of any amount"."""


def test_the_examples_of_bolt_11() -> None:
    coffee = read_invoice(COFFEE)
    assert (coffee.network, coffee.msat, coffee.payment_hash) == ("bc", 250_000_000, HASH)
    assert (coffee.at, coffee.expires) == (1_496_314_658, 1_496_314_718)
    assert coffee.secret == b"\x11" * 32
    donation = read_invoice(f" lightning:{DONATION}\n")
    assert (donation.msat, donation.expires - donation.at) == (None, 3600)
    assert read_invoice(COFFEE.upper()) == coffee


@pytest.mark.parametrize(
    "text",
    [
        *("", "lnbc", "1", "lnbc1" + "q" * 120, "a" * (MAX_INVOICE + 1)),
        *(COFFEE[:-1], COFFEE[:-1] + "q", "lnxx" + COFFEE[4:], "L" + COFFEE[1:], COFFEE.replace("2500u", "2500x", 1)),
    ],
)
def test_what_is_no_invoice(text: str) -> None:
    with pytest.raises(InvoiceInvalid):
        read_invoice(text)


@given(st.text(max_size=60) | st.text("qpzry9x8gf2tvdw0s3jn54khce6mua7l1", max_size=300).map("lnbcrt1".__add__))
def test_reading_raises_nothing_else(text: str) -> None:
    with pytest.raises(InvoiceInvalid):
        read_invoice(text)


@given(st.integers(1, 10**15), st.binary(min_size=32, max_size=32), st.integers(0, 2**34), st.integers(1, 2**20 - 1))
def test_what_the_fake_writes_is_read(msat: int, preimage: bytes, at: int, expiry: int) -> None:
    digest = sha256(preimage).digest()
    found = read_invoice(write_unsigned(msat, digest, preimage[::-1], "FAKE", at=at, expiry=expiry))
    assert tuple(found) == ("bcrt", msat, digest, at, at + expiry, preimage[::-1])
    assert fits(preimage, found)
    assert not fits(preimage[::-1], found) or preimage == preimage[::-1]
