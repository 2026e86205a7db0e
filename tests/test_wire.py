"""The bytes and texts of macaroons: what is read, what is refused as malformed, and the limits, exactly on the edge.

Whatever the bytes, reading raises `TokenMalformed` or nothing; and no single bit of a token can be flipped, no byte cut
off, without the verifier refusing it.
"""

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tokens import article, ask, mint, text_of, v1, verdict, verifier
from tolsey import Macaroon
from tolsey.errors import TokenError, TokenForged, TokenMalformed
from tolsey.token.wire import Limits, bytes_to_text, parse, text_to_parts

SIGNATURE = b"s" * 32
END = b"\x00\x06\x20" + SIGNATURE
"""What ends every v2 macaroon: the end of its caveats, and the signature."""


def field(tag: int, value: bytes) -> bytes:
    length = len(value)
    return bytes([tag, length]) + value if length < 0x80 else bytes([tag, length & 0x7F | 0x80, length >> 7]) + value


def packets(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"%04x%b %b\n" % (len(name) + len(value) + 6, name, value) for name, value in pairs)


ID = field(2, b"keyid") + b"\x00"
V1_HEAD = packets((b"location", b"here"), (b"identifier", b"keyid"))
V1_END = packets((b"signature", SIGNATURE))

WELL_FORMED = {
    "v2: the least": b"\x02" + ID + END,
    "v2: location": b"\x02" + field(1, b"here") + ID + END,
    "v2: empty location": b"\x02\x01\x00" + ID + END,
    "v2: location that is not UTF-8": b"\x02" + field(1, b"\xff") + ID + END,
    "v2: empty identifier": b"\x02\x02\x00\x00" + END,
    "v2: empty caveat": b"\x02" + ID + b"\x02\x00\x00" + END,
    "v2: third party without location": b"\x02" + ID + field(2, b"c") + field(4, b"v") + b"\x00" + END,
    "v2: third party": b"\x02" + ID + field(1, b"l") + field(2, b"c") + field(4, b"v") + b"\x00" + END,
    "v1": V1_HEAD + V1_END,
    "v1: no location": packets((b"identifier", b"keyid")) + V1_END,
    "v1: caveat": V1_HEAD + packets((b"cid", b"a = b c")) + V1_END,
    "v1: newline in a caveat": V1_HEAD + packets((b"cid", b"a\nb")) + V1_END,
    "v1: third party": V1_HEAD + packets((b"cid", b"c"), (b"vid", b"v"), (b"cl", b"l")) + V1_END,
}

MALFORMED = {
    "nothing": b"",
    "v2: version alone": b"\x02",
    "v2: no identifier": b"\x02\x00" + END,
    "v2: location alone": b"\x02" + field(1, b"here") + b"\x00" + END,
    "v2: identifier twice": b"\x02" + field(2, b"a") + ID + END,
    "v2: location after the identifier": b"\x02" + field(2, b"a") + field(1, b"l") + b"\x00" + END,
    "v2: location twice": b"\x02" + field(1, b"l") + field(1, b"l") + ID + END,
    "v2: verification id in the head": b"\x02" + field(2, b"a") + field(4, b"v") + b"\x00" + END,
    "v2: unknown tag": b"\x02" + field(3, b"x") + ID + END,
    "v2: signature in the head": b"\x02" + field(2, b"a") + field(6, SIGNATURE) + b"\x00" + END,
    "v2: L402's own tags": b"\x02" + field(6, b"here") + field(1, b"keyid") + b"\x00" + END,
    "v2: head without end": b"\x02" + field(2, b"keyid"),
    "v2: caveat without identifier": b"\x02" + ID + field(4, b"v") + b"\x00" + END,
    "v2: caveat with a location and no third party": b"\x02" + ID + field(1, b"l") + field(2, b"c") + b"\x00" + END,
    "v2: empty verification id": b"\x02" + ID + field(1, b"l") + field(2, b"c") + b"\x04\x00\x00" + END,
    "v2: no end of caveats": b"\x02" + ID + field(6, SIGNATURE),
    "v2: no signature": b"\x02" + ID + b"\x00",
    "v2: signature cut off": b"\x02" + ID + END[:-1],
    "v2: signature of 31 bytes": b"\x02" + ID + b"\x00\x06\x1f" + SIGNATURE[1:],
    "v2: signature of 33 bytes": b"\x02" + ID + b"\x00\x06\x21" + SIGNATURE + b"s",
    "v2: end after the signature": b"\x02" + ID + END + b"\x00",
    "v2: length beyond the end": b"\x02\x02\x7fkeyid\x00" + END,
    "v2: length cut off": b"\x02\x02\x80",
    "v2: length of five bytes": b"\x02\x02\x85\x80\x80\x80\x00keyid\x00" + END,
    "v2: length of 2^28": b"\x02\x02\x80\x80\x80\x80\x01keyid\x00" + END,
    "v2: length with a leading zero": b"\x02\x02\x85\x00keyid\x00" + END,
    "v3": b"\x03" + ID + END,
    "v1: no identifier": packets((b"location", b"here")) + V1_END,
    "v1: no signature": V1_HEAD,
    "v1: signature alone": V1_END,
    "v1: signature of 31 bytes": V1_HEAD + packets((b"signature", SIGNATURE[1:])),
    "v1: signature twice": V1_HEAD + V1_END + V1_END,
    "v1: bytes after the signature": V1_HEAD + V1_END + b"\n",
    "v1: a v2 macaroon after it": V1_HEAD + V1_END + b"\x02" + ID + END,
    "v1: length 0": b"0000" + V1_HEAD + V1_END,
    "v1: length 4": b"0004" + V1_HEAD + V1_END,
    "v1: length too small": V1_HEAD + b"0007cid a = b\n" + V1_END,
    "v1: length too large": V1_HEAD + b"000fcid a = b\n" + V1_END,
    "v1: length beyond the end": V1_HEAD + b"ffffcid a = b\n" + V1_END,
    "v1: length in capitals": packets((b"identifier", b"keyid")).replace(b"0015", b"001A") + V1_END,
    "v1: length not hexadecimal": b"00g1" + V1_HEAD + V1_END,
    "v1: length with a sign": b"+015identifier keyid\n" + V1_END,
    "v1: length cut off": V1_HEAD + b"00",
    "v1: packet without a space": V1_HEAD + b"0009cid:a"[:8] + b"\n" + V1_END,
    "v1: packet without a newline": V1_HEAD + b"000acid abc" + V1_END,
    "v1: unknown packet": V1_HEAD + packets((b"sid", b"a = b")) + V1_END,
    "v1: location twice in the head": packets((b"location", b"here")) + V1_HEAD + V1_END,
    "v1: identifier twice": V1_HEAD + packets((b"identifier", b"other")) + V1_END,
    "v1: location after the identifier": packets((b"identifier", b"i"), (b"location", b"l")) + V1_END,
    "v1: caveat before the identifier": packets((b"cid", b"a"), (b"identifier", b"i")) + V1_END,
    "v1: verification id without a caveat": V1_HEAD + packets((b"vid", b"v")) + V1_END,
    "v1: verification id twice": V1_HEAD + packets((b"cid", b"c"), (b"vid", b"v"), (b"vid", b"v")) + V1_END,
    "v1: empty verification id": V1_HEAD + packets((b"cid", b"c"), (b"vid", b"")) + V1_END,
    "v1: location of a first-party caveat": V1_HEAD + packets((b"cid", b"c"), (b"cl", b"l")) + V1_END,
    "v1: location of a third party twice": V1_HEAD
    + packets((b"cid", b"c"), (b"vid", b"v"), (b"cl", b"l"), (b"cl", b"l"))
    + V1_END,
    "v2 JSON": json.dumps({"v": 2, "i": "keyid", "s64": base64.b64encode(SIGNATURE).decode()}).encode(),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed_bytes_are_read(name: str) -> None:
    assert Macaroon.deserialize(WELL_FORMED[name]).signature == SIGNATURE


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bytes_are_refused(name: str) -> None:
    with pytest.raises(TokenMalformed):
        Macaroon.deserialize(MALFORMED[name])
    assert verdict(base64.b64encode(MALFORMED[name]).decode()) == "token_malformed"


def texts(data: bytes) -> dict[str, str]:
    standard, url = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    return {
        "ours": "tolsey_" + url.rstrip("="),
        "no prefix": url.rstrip("="),
        "padded": url,
        "prefix and padding": "tolsey_" + url,
        "standard alphabet": standard,
        "standard alphabet without padding": standard.rstrip("="),
        "white space around it": f" {url}\n",
    }


@pytest.mark.parametrize("form", texts(b""))
@pytest.mark.parametrize("fill", range(3))
def test_prefix_alphabet_and_padding_are_free(form: str, fill: int) -> None:
    data = mint("purpose = ~~~???>>>" + "x" * fill).serialize()
    assert {"+", "/"} & set(base64.b64encode(data).decode())
    assert Macaroon.deserialize(texts(data)[form]).serialize() == data


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "tolsey_",
        lambda text: "====",
        lambda text: text + "=",
        lambda text: text + "==",
        lambda text: text + "===",
        lambda text: text + "====",
        lambda text: text[:-1] + "=",
        lambda text: text + "AA=",
        lambda text: text + "AA===",
        lambda text: text[:20] + "=" + text[20:],
        lambda text: text[:20] + "\n" + text[20:],
        lambda text: text[:20] + " " + text[20:],
        lambda text: text[:20] + "." + text[20:],
        lambda text: text[:20] + "%3D" + text[20:],
        lambda text: text[:20] + "é" + text[20:],
        lambda text: text[:20] + "\ud800" + text[20:],
        lambda text: text[:20] + "\x00" + text[20:],
        lambda text: text + "A",
        lambda text: "tolsey_tolsey_" + text,
        lambda text: "Tolsey_" + text,
        lambda text: text + ",",
        lambda text: "," + text,
        lambda text: "Bearer " + text,
        lambda text: "_" + text,
        lambda text: text[:20] + "==" + text[20:-2],
    ],
)
def test_wrong_base64_is_refused(spoil: Callable[[str], str]) -> None:
    text = mint("purpose = eleven char").to_text().removeprefix("tolsey_")
    assert len(text) % 4 == 0, "else a '=' could be in its place"
    with pytest.raises(TokenMalformed):
        Macaroon.deserialize_all(spoil(text))


def of_size(size: int) -> Macaroon:
    """A token of exactly `size` bytes that verifies."""
    made = mint(*["purpose = " + "x" * 1014] * 7, minted=0)
    empty = len(made.attenuate("purpose = ").serialize())
    made = made.attenuate("purpose = " + "x" * (size - empty - 1))
    assert len(made.serialize()) == size
    return made


def test_a_token_has_at_most_8_kib() -> None:
    for good in (of_size(8192).to_text(), base64.b64encode(of_size(8192).serialize()).decode()):
        assert verdict(good) == "budget_missing"
    for data in (of_size(8193), of_size(8194)):
        assert verdict(data) == "token_malformed"
        with pytest.raises(TokenMalformed, match="8192"):
            Macaroon.deserialize(data.serialize())


def test_a_token_and_its_discharges_have_8_kib_together() -> None:
    fits, over = b"\x02\x02\x17" + b"i" * 23 + b"\x00" + END, b"\x02\x02\x18" + b"i" * 24 + b"\x00" + END
    assert (len(fits), len(over)) == (62, 63)
    small = Limits(token_bytes=len(article().serialize()) + len(fits))
    for glue in ("", ","):
        joined = [
            bytes_to_text(article().serialize() + extra)
            if not glue
            else f"{article().to_text()},{bytes_to_text(extra)}"
            for extra in (fits, over)
        ]
        assert [verdict(text, by=verifier(small)) for text in joined] == ["discharge_invalid", "token_malformed"]


def test_a_token_of_a_mebibyte_is_refused_undecoded() -> None:
    with pytest.raises(TokenMalformed, match="at most 8192 bytes"):
        Macaroon.deserialize("!" * 2**20)
    with pytest.raises(TokenMalformed, match="at most 8192 bytes"):
        Macaroon.deserialize(bytes(2**20))
    with pytest.raises(TokenMalformed, match="at most 8192 bytes"):
        verifier().verify("!" * 2**20)


def test_a_token_has_at_most_64_caveats() -> None:
    assert verdict(mint(*["purpose = a"] * 64)) == "budget_missing"
    for count in (65, 300):
        with pytest.raises(TokenMalformed, match="64 caveats"):
            Macaroon.deserialize(mint(*["purpose = a"] * count).serialize())
        with pytest.raises(TokenMalformed, match="64 caveats"):
            Macaroon.deserialize(v1(mint(*["purpose = a"] * count)))


def test_ten_thousand_caveats_are_refused() -> None:
    token = mint().attenuate(*["a"] * 10_000)
    for form in (token.serialize(), token.to_text(), v1(token)):
        with pytest.raises(TokenMalformed):
            Macaroon.deserialize(form)
    assert verdict(token) == "token_malformed"


def test_a_caveat_has_at_most_1_kib() -> None:
    fits, over = "purpose = " + "x" * 1014, "purpose = " + "x" * 1015
    assert verdict(mint(fits)) == "budget_missing"
    assert Macaroon.deserialize(v1(mint(fits))) == mint(fits)
    for form in (mint(over).serialize(), v1(mint(over))):
        with pytest.raises(TokenMalformed, match="1024 bytes"):
            Macaroon.deserialize(form)


def test_a_third_party_caveat_has_at_most_1_kib() -> None:
    fits, over = "t" * 1024, "t" * 1025
    assert len(Macaroon.deserialize(ask(mint(), fits).serialize()).caveats) == 1
    with pytest.raises(TokenMalformed, match="1024 bytes"):
        Macaroon.deserialize(ask(mint(), over).serialize())
    for size, count in ((1024, 1), (1025, None)):
        data = b"\x02" + ID + field(2, b"c") + field(4, b"v" * size) + b"\x00" + END
        if count:
            assert len(Macaroon.deserialize(data).caveats) == count
        else:
            with pytest.raises(TokenMalformed, match="1024 bytes"):
                Macaroon.deserialize(data)


def test_limits_can_be_lowered() -> None:
    token = mint("purpose = a", "purpose = b")
    exact = Limits(token_bytes=len(token.serialize()), caveats=2, caveat_bytes=11)
    assert len(parse(token.serialize(), exact)[0].caveats) == 2
    for lower in (
        Limits(token_bytes=exact.token_bytes - 1),
        Limits(caveats=1),
        Limits(caveat_bytes=10),
    ):
        with pytest.raises(TokenMalformed):
            parse(token.serialize(), lower)
        assert verdict(token, by=verifier(lower)) == "token_malformed"


def test_at_most_nine_macaroons_are_read() -> None:
    assert len(Macaroon.deserialize_all(mint().serialize() * 9)) == 9
    for ten in (mint().serialize() * 10, ",".join([mint().to_text()] * 10)):
        with pytest.raises(TokenMalformed, match="8 discharges"):
            Macaroon.deserialize_all(ten)


def test_at_most_nine_parts_are_decoded() -> None:
    assert len(text_to_parts(",".join(["AAAA"] * 9))) == 9
    with pytest.raises(TokenMalformed, match="8 discharges"):
        text_to_parts(",".join(["AAAA"] * 10))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    for form in (data, b"\x02" + data, b"\x02" + ID + data, V1_HEAD + data):
        only_malformed(form)


@given(st.text(max_size=200))
@example("\ud800")
@example("٣٣٣٣")
def test_any_text_is_read_or_malformed(text: str) -> None:
    only_malformed(text)
    only_malformed("tolsey_" + text)


@given(st.data())
def test_any_damage_to_a_macaroon_is_read_or_malformed(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([article().serialize(), ask(mint("a")).serialize(), v1(ask(mint("a")))]))
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    only_malformed(whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:])


def only_malformed(data: bytes | str) -> None:
    """Read it; if that works, writing and reading again must change nothing. Any other error fails the test."""
    try:
        read = Macaroon.deserialize(data)
    except TokenMalformed:
        return
    assert Macaroon.deserialize(read.serialize()) == read


FLIPPED = {"v2": article().serialize(), "v1": v1(article())}


@pytest.mark.parametrize("form", FLIPPED)
@pytest.mark.parametrize("known", [False, True], ids=["new", "remembered"])
def test_every_flipped_bit_is_refused(form: str, known: bool) -> None:
    """Also by a verifier that remembers the token. The location of v1 is empty here: nothing signs a location."""
    data, judge = FLIPPED[form], verifier()
    for _ in range(3 if known else 0):
        judge.verify(bytes_to_text(data))
    unsigned = range(data.find(b"location "), data.find(b"location ") + len("location ")) if form == "v1" else ()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        if bit // 8 not in unsigned:
            with pytest.raises(TokenError):
                judge.verify(bytes_to_text(bytes(flipped)))
    judge.verify(bytes_to_text(data))


@pytest.mark.parametrize("form", FLIPPED)
def test_every_truncation_is_refused(form: str) -> None:
    judge = verifier()
    for end in range(len(FLIPPED[form])):
        with pytest.raises(TokenError):
            judge.verify(base64.b64encode(FLIPPED[form][:end]).decode())


def test_every_flipped_bit_of_a_third_party_caveat_is_refused() -> None:
    """In the root and in the discharge; a location may change, since nothing signs it."""
    root = ask(mint("budget = 5 USD"))
    discharge = Macaroon.mint(root_key=b"a key that the approver shares with us", identifier=b"approval 1")
    data = base64.urlsafe_b64decode(text_of(root, discharge.attenuate("method = GET")).removeprefix("tolsey_") + "==")
    assert verdict(bytes_to_text(data)) == "cleared"
    place = data.find(b"https://approve.example")
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        if not place <= bit // 8 < place + len(b"https://approve.example"):
            with pytest.raises(TokenError):
                verifier().verify(bytes_to_text(bytes(flipped)))


def test_a_location_is_a_hint_that_nothing_signs() -> None:
    here, there = mint("budget = 5 USD", location="here"), mint("budget = 5 USD", location="there")
    assert here.signature == there.signature
    assert verifier().verify(here.to_text()) == verifier().verify(there.to_text())


def test_a_token_begun_by_another_key_is_forged() -> None:
    for stranger in (
        Macaroon.mint(root_key=b"?", identifier=mint().identifier),
        mint(key_id="k2"),
        Macaroon.mint(root_key=b"the root key of the tests", identifier=b"some other service"),
    ):
        with pytest.raises(TokenForged):
            verifier().verify(stranger.to_text())
