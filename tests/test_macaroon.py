"""The contract of `Macaroon`: mint, attenuate, read and write, bind, verify (DESIGN.md section 6)."""

import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokens import ROOT_KEY, THIRD_KEY, answer, article, ask, mint
from tolsey import Macaroon
from tolsey.errors import DischargeInvalid, DischargeMissing, TokenForged, TokenMalformed
from tolsey.token.macaroon import prefix_id, verify
from tolsey.token.wire import LIMITS, Caveat

KEYS = st.binary(max_size=80)
IDENTIFIERS = st.binary(max_size=80)
LOCATIONS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
CAVEATS = st.lists(st.binary(max_size=80), max_size=6)


def hmac_of(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, sha256).digest()


def test_minting() -> None:
    made = Macaroon.mint(root_key=b"this is the key", identifier=b"keyid", location="http://example.org/")
    assert (made.location, made.identifier, made.caveats) == ("http://example.org/", b"keyid", ())
    assert made.signature == hmac_of(hmac_of(b"macaroons-key-generator", b"this is the key"), b"keyid")
    assert Macaroon.mint(root_key=b"k", identifier=b"i").location == ""


def test_attenuating_returns_a_new_macaroon() -> None:
    parent = mint("scope = /a")
    child = parent.attenuate("method = GET", b"purpose = bytes")
    assert [str(caveat) for caveat in parent.caveats] == ["scope = /a"]
    assert [str(caveat) for caveat in child.caveats] == ["scope = /a", "method = GET", "purpose = bytes"]
    assert child.signature == hmac_of(hmac_of(parent.signature, b"method = GET"), b"purpose = bytes")
    assert (child.location, child.identifier) == (parent.location, parent.identifier)
    assert parent.attenuate() == parent


def test_attenuating_takes_any_bytes_unparsed() -> None:
    odd = [b"", b"\x00\n\xff", b"budget = 1e400 USD", b"BUDGET=5", "ünï".encode(), b"x" * 5000]
    assert [caveat.cid for caveat in mint().attenuate(*odd).caveats] == odd


def test_one_by_one_is_all_at_once() -> None:
    assert mint().attenuate("a", "b", "c") == mint().attenuate("a").attenuate("b").attenuate("c")


def test_order_counts() -> None:
    assert mint().attenuate("a", "b").signature != mint().attenuate("b", "a").signature


@given(KEYS, IDENTIFIERS, LOCATIONS, CAVEATS)
def test_reading_what_was_written(key: bytes, identifier: bytes, location: str, caveats: list[bytes]) -> None:
    made = Macaroon.mint(root_key=key, identifier=identifier, location=location).attenuate(*caveats)
    for form in (made.serialize(), made.to_text()):
        read = Macaroon.deserialize(form)
        assert (read, read.location) == (made, location)
        assert read.serialize() == made.serialize()


def test_a_third_party_caveat_is_read_as_it_was_written() -> None:
    made = ask(mint("scope = /a"))
    read = Macaroon.deserialize(made.serialize())
    assert read.caveats == made.caveats
    assert read.caveats[1].location == b"https://approve.example"
    assert len(read.caveats[1].vid or b"") == 72


def test_the_text_is_url_safe_without_padding() -> None:
    for n in range(40):
        text = mint("x" * n).to_text()
        assert text.startswith("tolsey_")
        assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_bytes_are_binary_and_str_is_text() -> None:
    made = mint("scope = /a")
    with pytest.raises(TokenMalformed):
        Macaroon.deserialize(made.to_text().encode())
    with pytest.raises(TokenMalformed):
        Macaroon.deserialize(made.serialize().decode("latin-1"))


@pytest.mark.parametrize("trailing", [b"\x00", b"\x02", b"\n", mint().serialize()])
def test_exactly_one_macaroon_is_read(trailing: bytes) -> None:
    with pytest.raises(TokenMalformed):
        Macaroon.deserialize(mint("scope = /a").serialize() + trailing)


def test_a_token_and_its_discharges_are_read_together() -> None:
    root, discharge = ask(mint()), answer()
    together = root.serialize() + discharge.serialize()
    apart = f"{root.to_text()}, {discharge.to_text()}"
    assert Macaroon.deserialize_all(together) == Macaroon.deserialize_all(apart) == [root, discharge]
    with pytest.raises(TokenMalformed):
        Macaroon.deserialize(apart)


def test_equality_is_about_what_is_signed() -> None:
    assert mint("a", location="here") == mint("a", location="there")
    assert hash(mint("a")) == hash(mint("a"))
    assert mint("a") != mint("b")
    assert mint("a") != Macaroon("", mint("a").identifier, mint("a").caveats, bytes(32))
    assert mint("a") != "a"


def test_a_repr_is_no_credential() -> None:
    made = article()
    shown = repr(made)
    assert prefix_id(made.signature) in shown
    assert made.signature.hex() not in shown
    assert repr(made.signature)[2:-1] not in shown
    assert made.to_text() not in shown


def test_a_caveat_as_text() -> None:
    assert str(Caveat("purpose = ünï".encode())) == "purpose = ünï"
    assert str(Caveat(b"\xff\x00")) == "\\xff\x00"


def test_a_prefix_id_is_the_half_of_a_sha_256() -> None:
    assert prefix_id(bytes(32)) == sha256(bytes(32)).hexdigest()[:32] == "66687aadf862bd776c8fc18b8e9f8e20"


def test_verifying() -> None:
    verify(article(), ROOT_KEY)
    with pytest.raises(TokenForged):
        verify(article(), ROOT_KEY + b"!")
    forged = Macaroon("", article().identifier, article().caveats[:-1], article().signature)
    with pytest.raises(TokenForged):
        verify(forged, ROOT_KEY)


@given(KEYS, IDENTIFIERS, CAVEATS, st.data())
def test_taking_a_caveat_away_or_swapping_two_is_forged(
    key: bytes, identifier: bytes, caveats: list[bytes], data: st.DataObject
) -> None:
    made = Macaroon.mint(root_key=key, identifier=identifier).attenuate(*caveats, b"the last")
    verify(made, key)
    at = data.draw(st.integers(0, len(caveats)))
    without = made.caveats[:at] + made.caveats[at + 1 :]
    with pytest.raises(TokenForged):
        verify(Macaroon("", identifier, without, made.signature), key)
    swapped = (*made.caveats[at:], *made.caveats[:at])
    if swapped != made.caveats:
        with pytest.raises(TokenForged):
            verify(Macaroon("", identifier, swapped, made.signature), key)


def test_verifying_with_discharges() -> None:
    root = ask(mint("scope = /a"))
    verify(root, ROOT_KEY, [root.bind(answer("method = GET"))])
    with pytest.raises(DischargeMissing):
        verify(root, ROOT_KEY)
    with pytest.raises(DischargeInvalid):
        verify(root, ROOT_KEY, [answer()])
    with pytest.raises(DischargeInvalid):
        verify(root, ROOT_KEY, [root.bind(answer(key=THIRD_KEY + b"!"))])
    with pytest.raises(DischargeInvalid):
        verify(mint(), ROOT_KEY, [mint().bind(answer())])


def test_a_discharge_bound_before_the_last_attenuation_is_refused() -> None:
    root = ask(mint())
    early = root.bind(answer())
    with pytest.raises(DischargeInvalid):
        verify(root.attenuate("method = GET"), ROOT_KEY, [early])


def test_a_discharge_bound_to_another_token_is_refused() -> None:
    mine, other = ask(mint("purpose = mine")), ask(mint("purpose = other"))
    with pytest.raises(DischargeInvalid):
        verify(mine, ROOT_KEY, [other.bind(answer())])


def test_the_limits_are_those_of_the_rules() -> None:
    """RULES.md T6."""
    assert (LIMITS.token_bytes, LIMITS.caveats, LIMITS.caveat_bytes) == (8192, 64, 1024)
    assert (LIMITS.links, LIMITS.accounts, LIMITS.discharges) == (32, 32, 8)
