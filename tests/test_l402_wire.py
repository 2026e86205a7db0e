"""L402 on the wire: what is written every client reads, and what is read never surprises (RULES.md T8, T12)."""

import base64
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tolsey.errors import TokenForged, TokenMalformed
from tolsey.token import l402
from tolsey.token.chain import L402, Identifier, parse_identifier
from tolsey.token.l402 import Challenge, Payment, Presented, read_challenges, read_credential

PREIMAGE = bytes(range(32))
HASH = sha256(PREIMAGE).digest()
MACAROON = base64.b64encode(b"\x02\x01\x00 a macaroon").decode()
INVOICE = "lnbcrt10u1pjtest"
CHALLENGE = Challenge(MACAROON, INVOICE)


def test_an_identifier_is_that_of_l402() -> None:
    payment = Payment(HASH.hex(), "0a1b2c3d", 5, 1000)
    written = l402.write_identifier(payment, bytes(22))
    assert len(written) == 66
    assert written[:34] == b"\x00\x00" + HASH
    assert parse_identifier(written) == Identifier(L402, "0a1b2c3d", 5, payment)


@pytest.mark.parametrize(
    ("payment", "random"),
    [
        (Payment(HASH[1:].hex(), "0a1b2c3d", 5, 1), bytes(22)),
        (Payment(HASH.hex(), "0a1b2c3", 5, 1), bytes(22)),
        (Payment(HASH.hex(), "0A1B2C3D", 5, 1), bytes(22)),
        (Payment(HASH.hex(), "0a1b2c3d", 0, 1), bytes(22)),
        (Payment(HASH.hex(), "0a1b2c3d", 256, 1), bytes(22)),
        (Payment(HASH.hex(), "0a1b2c3d", 5, 0), bytes(22)),
        (Payment(HASH.hex(), "0a1b2c3d", 5, l402.MAX_SAT + 1), bytes(22)),
        (Payment(HASH.hex(), "0a1b2c3d", 5, 1), bytes(21)),
    ],
)
def test_what_no_identifier_is_made_of(payment: Payment, random: bytes) -> None:
    with pytest.raises(ValueError, match="an identifier has"):
        l402.write_identifier(payment, random)


@pytest.mark.parametrize("identifier", [bytes(65), bytes(67), b"\x00\x01" + bytes(64), bytes(66), b"tolsey"])
def test_another_version_or_length_is_not_ours(identifier: bytes) -> None:
    assert l402.read_identifier(identifier) is None


def test_a_preimage_is_that_of_its_hash_alone() -> None:
    l402.check_preimage(PREIMAGE, HASH.hex())
    for wrong in (HASH, bytes(32), PREIMAGE[:-1], PREIMAGE + b"\x00", b""):
        with pytest.raises(TokenForged):
            l402.check_preimage(wrong, HASH.hex())


@pytest.mark.parametrize(
    "text",
    [
        f"{MACAROON}:{PREIMAGE.hex()}",
        f" {MACAROON}:{PREIMAGE.hex().upper()} ",
        f"{MACAROON},{MACAROON}:{PREIMAGE.hex()}",
    ],
)
def test_a_credential(text: str) -> None:
    assert read_credential(text) == Presented(text.strip().rpartition(":")[0], PREIMAGE)
    assert PREIMAGE.hex() not in repr(read_credential(text))
    assert MACAROON not in repr(read_credential(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        MACAROON,
        f"{MACAROON}:",
        f":{PREIMAGE.hex()}",
        f"{MACAROON}:{PREIMAGE.hex()[:-1]}",
        f"{MACAROON}:{PREIMAGE.hex()}0",
        f"{MACAROON}:{PREIMAGE.hex()[:-1]}g",
        f"{MACAROON}:{base64.b64encode(PREIMAGE).decode()}",
        f"{MACAROON}:{PREIMAGE.hex()}:",
        f"{MACAROON}:{PREIMAGE.hex()[:-2]}\u0663\u0663",
    ],
)
def test_what_is_no_credential(text: str) -> None:
    with pytest.raises(TokenMalformed):
        read_credential(text)


@given(st.text(max_size=200))
def test_reading_a_credential_raises_nothing_else(text: str) -> None:
    try:
        token, preimage, _ = read_credential(text)
    except TokenMalformed:
        return
    assert token
    assert len(preimage) == 32


def test_what_is_written_is_read() -> None:
    header = l402.write_credential(MACAROON, PREIMAGE)
    scheme, _, rest = header.partition(" ")
    assert (scheme, read_credential(rest)) == ("L402", Presented(MACAROON, PREIMAGE))
    for text in (l402.write_challenge(CHALLENGE), l402.write_old_challenge(CHALLENGE, "LSAT")):
        assert read_challenges([text]) == [CHALLENGE]
    assert l402.write_challenge(CHALLENGE).startswith(f'L402 macaroon="{MACAROON}", invoice="{INVOICE}", version=')


@pytest.mark.parametrize(
    "value",
    [
        'L402 macaroon="M=", invoice="I"',
        'LSAT macaroon="M=",invoice="I"',
        'l402   invoice="I" , MACAROON="M="',
        "L402 macaroon=M=, invoice=I",
        'L402 version="0", token="M=", invoice="I"',
        'L402 macaroon="M=", invoice="I", version="0", token="other"',
        'LSAT macaroon="M=", invoice="I", L402 macaroon="M=", invoice="I"',
        'Bearer realm="a, b=c", error="x", L402 macaroon="M=", invoice="I"',
        'Payment id="a", request="eyJ9", L402 macaroon="M=", invoice="I", Basic realm="x"',
        'Negotiate abc==, L402 macaroon="M=", invoice="I"',
        'Negotiate, L402 macaroon="M=", invoice="I"',
        ',, L402 macaroon="M=", invoice="I",',
        'L402 macaroon="\\M=", invoice="\\I"',
    ],
)
def test_a_challenge_in_every_shape(value: str) -> None:
    assert read_challenges([value]) == [Challenge("M=", "I")]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "L402",
        'L402 macaroon="M="',
        'L402 invoice="I"',
        'L402 macaroon="", invoice="I"',
        'Bearer macaroon="M=", invoice="I"',
        'macaroon="M=", invoice="I"',
        'L402 macaroon="M=", invoice="I", invoice="J"',
        'L402 macaroon="M=", invoice="I", macaroon="N", macaroon="O"',
        'L402 macaroon="M=" invoice="I"',
        'L402 macaroon="M=", invoice="I',
        'L402 macaroon="M=", invoice="I"' + " " * l402.MAX_CHALLENGE,
    ],
)
def test_what_is_no_challenge(value: str) -> None:
    assert read_challenges([value]) == []


def test_several_challenges_keep_their_order() -> None:
    values = ['L402 macaroon="A", invoice="1", LSAT macaroon="B", invoice="2"', 'L402 macaroon="A", invoice="1"']
    assert read_challenges(values) == [Challenge("A", "1"), Challenge("B", "2")]


WORDS = st.sampled_from(
    ["L402", "LSAT", "Bearer", "macaroon", "invoice", "token", "=", '"', ",", " ", "\\", "M=", "\t"]
)


@given(st.lists(st.one_of(WORDS, st.text(max_size=4)), max_size=40).map("".join))
@example("L402 macaroon=")
@example('a="')
def test_reading_challenges_raises_nothing(value: str) -> None:
    for challenge in read_challenges([value]):
        assert all(challenge)


TEXT = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=40)


@given(st.lists(st.tuples(TEXT, TEXT).map(lambda pair: Challenge(*pair)), max_size=4, unique=True))
def test_folded_or_not_is_the_same(challenges: list[Challenge]) -> None:
    lines = [l402.write_challenge(challenge) for challenge in challenges]
    assert read_challenges(lines) == challenges
    assert read_challenges([", ".join(lines)]) == challenges
