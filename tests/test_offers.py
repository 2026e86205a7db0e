"""Offers: what they cost, what the token for them says, and that a single path means that path and no other."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_l402_wire import HASH
from tolsey.call import Call, path_fault
from tolsey.gateway.desk import IN_ALL, MAX_CLIENTS, Pace
from tolsey.l402.offers import Offer, exactly, is_for, mint_unpaid, purse_of, terms_of, to_sat
from tolsey.token.caveats import SECOND, RateCaveat, Scope, parse_caveat
from tolsey.token.chain import L402, Chain
from tolsey.token.l402 import MAX_SAT
from tolsey.token.macaroon import derive_key
from tolsey.token.verifier import Verifier
from tolsey.units import MAX_NANO, NANO, Amount, parse_amount

NOW = 1_800_000_000 * SECOND
RATES = {"USD": Fraction(1600), "EUR": Fraction(1, 3)}
KEY = b"k" * 32


def offer(budget: str | None = "100 sat", price: str | None = None, **more: int) -> Offer:
    return Offer(
        "o",
        None if price is None else parse_amount(price),
        None if budget is None else parse_amount(budget),
        more.get("calls"),
        3600 * SECOND,
        ("/a", "/b/*"),
        ("GET", "HEAD"),
    )


@pytest.mark.parametrize(
    ("amount", "sat"),
    [
        ("1 sat", 1),
        ("0.000000001 sat", 1),
        ("1.000000001 sat", 2),
        ("0 sat", 0),
        ("1 USD", 1600),
        ("0.01 USD", 16),
        ("0.000000001 USD", 1),
        ("3 EUR", 1),
        ("3.000000001 EUR", 2),
        ("1 GBP", None),
    ],
)
def test_what_an_amount_is_worth_is_rounded_up_to_whole_sats(amount: str, sat: int | None) -> None:
    assert to_sat(parse_amount(amount), RATES) == sat


def test_the_terms_of_a_purse() -> None:
    terms = terms_of(offer("0.5 USD", calls=7), RATES, now=NOW, grace=600 * SECOND)
    assert terms is not None
    assert terms.sat == 800
    assert terms.until == NOW + 4200 * SECOND
    assert terms.caveats("nonce") == [
        "label = o nonce",
        "scope = /a /b/*",
        "method = GET, HEAD",
        "expires = 2027-01-15T09:10:00Z",
        "calls = 7",
        "budget = 0.5 USD",
    ]
    assert terms.words() == "0.5 USD to spend on /a /b/*, in at most 7 calls, until 2027-01-15T09:10:00Z"


@pytest.mark.parametrize(
    ("sold", "price"),
    [
        (offer(None), None),
        (offer(None), Amount(0, "sat")),
        (offer(None), Amount(1, "GBP")),
        (offer("1 GBP"), None),
        (offer(None), Amount(MAX_NANO, "USD")),
        (offer(f"{MAX_SAT} sat", price=f"{MAX_SAT} sat"), None),
    ],
)
def test_what_cannot_be_had(sold: Offer, price: Amount | None) -> None:
    found = terms_of(sold, RATES, now=NOW, grace=0, price=price, method="GET", path="/x")
    if sold.price is not None:
        assert found is not None
    else:
        assert found is None


SEGMENT = st.text("abcXYZ019-._~!$&'()*+,;=:@", max_size=6).filter(lambda s: s not in (".", ".."))
PATH = st.lists(SEGMENT, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


def fine(path: str) -> bool:
    return path_fault(path.encode()) is None


@given(PATH.filter(fine), PATH.filter(fine))
def test_a_path_that_was_bought_is_that_path_and_no_other(bought: str, other: str) -> None:
    scope = parse_caveat(f"scope = {exactly(bought)}".encode())
    assert isinstance(scope, Scope)
    assert len(scope.patterns) == 1
    for path in (bought, other, bought + "x", bought + "/x", "/" + bought.strip("/,*")):
        if fine(path):
            assert (scope.refusal(Call("GET", path, "", "", 0)) is None) == (path == bought), (bought, path)


def chain(sold: Offer, *appended: str, payment_hash: bytes = HASH) -> Chain:
    terms = terms_of(sold, RATES, now=NOW, grace=0)
    assert terms is not None
    macaroon = mint_unpaid(terms, payment_hash, key_id="0a1b2c3d", root_key=KEY, random=bytes(22), nonce="n").attenuate(
        *appended
    )
    return Verifier(L402, lambda _: derive_key(KEY)).verify(macaroon.to_text())


def test_a_purse_is_the_budget_that_the_minter_wrote() -> None:
    alone = purse_of(chain(offer()))
    assert alone is not None
    assert (alone.limit, alone.unit, alone.parent, alone.label) == (100 * NANO, "sat", None, "o")
    for more in (("budget = 9 sat",), ("label = x y", "budget = 9 sat"), ("budget = 9 USD",), ("calls = 1",)):
        assert purse_of(chain(offer(), *more)) == alone
    other = purse_of(chain(offer(), payment_hash=HASH[::-1]))
    assert other is not None
    assert other.id != alone.id


def test_a_token_is_for_the_offer_that_was_bought() -> None:
    bought = chain(offer(), "label = dear x")
    assert is_for(bought, ("o", "dear"))
    assert not is_for(bought, ("dear",))
    assert not is_for(bought, ())


def test_challenges_come_at_a_pace() -> None:
    pace = Pace(RateCaveat(3, "minute"))
    assert [pace.wait("192.0.2.1", NOW) for _ in range(4)] == [0, 0, 0, 20 * SECOND]
    assert pace.wait("192.0.2.2", NOW) == 0
    assert pace.wait("192.0.2.1", NOW + 20 * SECOND) == 0
    assert pace.wait("192.0.2.1", NOW + 20 * SECOND) == 20 * SECOND
    networks = ("2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::", "2001:db8::3", "2001:db8:0:1::1")
    assert [pace.wait(address, NOW) > 0 for address in networks] == [False, False, False, True, False]
    assert [pace.wait("::ffff:192.0.2.9", NOW), pace.wait("192.0.2.9", NOW), pace.wait("192.0.2.9", NOW)] == [0, 0, 0]
    assert pace.wait("192.0.2.9", NOW) > 0


def test_all_clients_together_have_a_pace_too_and_little_memory() -> None:
    pace = Pace(RateCaveat(2, "second"))
    granted = sum(pace.wait(f"client {n}", NOW) == 0 for n in range(1000))
    assert granted == 2 * IN_ALL
    for n in range(MAX_CLIENTS + 100):
        pace.wait(f"client {n}", NOW + n * SECOND)
    assert len(pace._clients) == MAX_CLIENTS
