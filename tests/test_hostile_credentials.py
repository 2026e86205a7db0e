"""Hostile credentials: each weakness that was found in another product (its number is the test's name), and the tricks
with payments, headers and paths that an attacker would try next. None of them reaches the upstream.
"""

import secrets
from collections.abc import Iterator

import pytest

from tests.ends import Message
from tests.gateways import Gateway, problem
from tests.payers import Paid, buy, challenge_of, preimage_of, text_of
from tests.test_payments import CONFIG as PAYMENTS
from tests.upstreams import Upstream
from tolsey.token.macaroon import Macaroon

CONFIG = PAYMENTS


@pytest.fixture(autouse=True)
def _nothing_is_forwarded_that_is_refused(upstream: Upstream) -> Iterator[None]:
    """Whatever a test calls `/search?refused`, or anything else with that word, must never be heard upstream."""
    before = len(upstream.heard)
    yield
    assert [m.line for m in upstream.heard[before:] if "refused" in m.target] == []


@pytest.fixture
def paid(gateway: Gateway) -> Paid:
    return buy(gateway)


def refused(answer: Message, *codes: str) -> None:
    assert problem(answer)["code"] in codes, answer


UNPAID_FORMS = {
    "bearer": "Authorization: Bearer {m}",
    "bearer with a prefix": "Authorization: Bearer tolsey_{m}",
    "key": "X-Api-Key: {m}",
    "l402 alone": "Authorization: L402 {m}",
    "l402 without a preimage": "Authorization: L402 {m}:",
    "lsat with zeros": "Authorization: LSAT {m}:" + "00" * 32,
    "the hash as preimage": "Authorization: L402 {m}:{h}",
    "anybody's preimage": "Authorization: L402 {m}:" + "5a" * 32,
    "basic": "Authorization: Basic {m}",
    "the bare token": "Authorization: {m}",
    "the invoice": "Authorization: L402 {m}:{i}",
}


@pytest.mark.parametrize(
    "target",
    [
        "/search?refused",
        "/dear?refused",
        "/one/refused",
        "/free?refused",
        "/members?refused",
        "/.tolsey/balance",
        "/.tolsey/offers/purse",
    ],
)
@pytest.mark.parametrize("form", UNPAID_FORMS)
def test_w4_an_unpaid_challenge_opens_nothing(gateway: Gateway, form: str, target: str) -> None:
    answer = gateway.ask("GET", "/search")
    challenge = challenge_of(answer)
    header = UNPAID_FORMS[form].format(
        m=challenge.macaroon, i=challenge.invoice, h=problem(answer)["payment"]["payment_hash"]
    )
    before = len(gateway.entries())
    answer = gateway.ask("GET", target, header)
    assert answer.status in (401, 402), answer
    assert len(gateway.entries()) == before


APPENDED = [
    "expires = 2999-01-01",
    "exp=9999999999999",
    "scope = /*",
    "scope=api:*",
    "mc=1000000",
    "mc=x",
    "calls = 1000000",
    "budget = 1000000 sat",
    "budget = 1000000 USD",
    "method = GET, POST, PUT",
    "services=everything:0",
    "search_valid_until=9999999999",
    "ph=" + "00" * 32,
    "payment_hash = " + "00" * 32,
    "preimage=" + "00" * 32,
    "label = dear x",
    "note=0",
]


@pytest.mark.parametrize("caveat", APPENDED)
def test_wn1_nothing_that_a_holder_appends_widens_a_token(gateway: Gateway, caveat: str) -> None:
    """W-N1, W-N3, W5: no caveat is last-wins, and none that is not understood is passed over."""
    paid = buy(gateway)
    for target in ("/dear?refused", "/one/refused", "/members?refused", "/nowhere?refused"):
        assert gateway.ask("GET", target, paid.child(caveat).header).status in (402, 403, 404)
    for _ in range(3):
        gateway.ask("GET", "/search", paid.header)
    answer = gateway.ask("GET", "/search?refused", paid.child(caveat).header)
    refused(answer, "budget_exhausted", "caveat_refused", "caveat_unknown", "budget_missing")


def test_wn1_an_expired_token_stays_expired(gateway: Gateway, paid: Paid) -> None:
    child = paid.child("expires = 2020-01-01", "expires = 2999-01-01", "scope = /*", "calls = 1000000")
    refused(gateway.ask("GET", "/search?refused", child.header), "payment_required")


def test_wn2_w2_appending_gives_no_fresh_counter(gateway: Gateway, paid: Paid) -> None:
    for number in range(3):
        assert gateway.ask("GET", "/search", paid.child(f"label = again {number}").header).status == 200
    for number in range(3, 6):
        child = paid.child(f"label = again {number}", f"purpose = {number}")
        refused(gateway.ask("GET", "/search?refused", child.header), "budget_exhausted")


def test_wn2_a_single_call_stays_single(gateway: Gateway) -> None:
    one = buy(gateway, "/one/x")
    assert gateway.ask("GET", "/one/x", one.child("purpose = 0").header).status == 200
    for number in range(1, 4):
        answer = gateway.ask("GET", "/one/x?refused", one.child(f"purpose = {number}").header)
        refused(answer, "calls_exhausted", "budget_exhausted")


def test_w3_a_cheap_payment_is_not_replayed_on_a_dear_route(gateway: Gateway, paid: Paid) -> None:
    one = buy(gateway, "/one/x")
    for target in ("/dear?refused", "/search?refused", "/one/refused", "/free?refused"):
        refused(gateway.ask("GET", target, one.header), "caveat_refused")
    refused(gateway.ask("GET", "/dear?refused", paid.header), "caveat_refused")
    refused(gateway.ask("GET", "/members?refused", paid.header), "caveat_refused")


def test_a_swapped_payment_hash(gateway: Gateway, paid: Paid) -> None:
    """The hash in the identifier is another's, whose preimage is known: the MAC is over the identifier."""
    other = buy(gateway)
    swapped = other.macaroon.identifier[:34] + paid.macaroon.identifier[34:]
    forged = Macaroon("", swapped, paid.macaroon.caveats, paid.macaroon.signature)
    refused(gateway.ask("GET", "/search?refused", Paid(forged, other.preimage).header), "token_forged")


@pytest.mark.parametrize("at", [0, 1, 2, 33, 34, 37, 38, 39, 43, 44, 65])
def test_any_byte_of_the_identifier(gateway: Gateway, paid: Paid, at: int) -> None:
    identifier = bytearray(paid.macaroon.identifier)
    identifier[at] ^= 1
    forged = Macaroon("", bytes(identifier), paid.macaroon.caveats, paid.macaroon.signature)
    refused(gateway.ask("GET", "/search?refused", Paid(forged, paid.preimage).header), "token_forged")


def test_the_preimage_of_another_invoice(gateway: Gateway, paid: Paid) -> None:
    other = buy(gateway)
    for one, preimage in ((paid, other.preimage), (other, paid.preimage), (paid, secrets.token_hex(32))):
        refused(gateway.ask("GET", "/search?refused", Paid(one.macaroon, preimage).header), "token_forged")
    assert gateway.ask("GET", "/search", paid.header).status == 200


def test_a_minted_caveat_that_was_taken_away(gateway: Gateway, paid: Paid) -> None:
    for count in range(len(paid.macaroon.caveats)):
        less = Macaroon("", paid.macaroon.identifier, paid.macaroon.caveats[:count], paid.macaroon.signature)
        refused(gateway.ask("GET", "/search?refused", Paid(less, paid.preimage).header), "token_forged")


def test_headers_in_every_shape_that_is_right(gateway: Gateway, paid: Paid) -> None:
    text = text_of(paid.macaroon)
    for header in (
        f"authorization: l402 {text}:{paid.preimage}",
        f"AUTHORIZATION: LSAT {text}:{paid.preimage.upper()}",
        f"Authorization:   lSaT    {text.rstrip('=')}:{paid.preimage}  ",
    ):
        assert gateway.ask("GET", "/free", header).status == 200, header


def test_headers_in_every_shape_that_is_wrong(gateway: Gateway, paid: Paid) -> None:
    text = text_of(paid.macaroon)
    good = f"L402 {text}:{paid.preimage}"
    for headers in (
        (f"Authorization: {good}, {good}",),
        (f"Authorization: {good},",),
        (f"Authorization: L402 {text},{text}:{paid.preimage}",),
        (f"Authorization: L402 {text}:{paid.preimage}:{paid.preimage}",),
        (f"Authorization: L402:{text}:{paid.preimage}",),
        (f"Authorization: L402\t{text}:{paid.preimage}",),
        (f"Authorization: {good}", f"Authorization: {good}"),
        (f"Authorization: {good}", f"X-Api-Key: {text}"),
        (f"Authorization: {good}", "authorization: Bearer x"),
    ):
        answer = gateway.ask("GET", "/search?refused", *headers)
        refused(
            answer, "token_malformed", "token_missing", "payment_required", "credentials_ambiguous", "discharge_invalid"
        )
    with gateway.client() as client:
        client.say(
            "GET /search?refused HTTP/1.1\r\nHost: x\r\nAuthorization: L402 ", text, "\r\n :", paid.preimage, "\r\n\r\n"
        )
        assert client.answer().status == 400


@pytest.mark.parametrize("path", ["/one/a,", "/one/a:b", "/one/a,b:0", "/one/*", "/one/a%2C", "/one/a;b", "/one/a=b"])
def test_a_path_that_could_be_more_than_one(gateway: Gateway, path: str) -> None:
    """Bought for exactly one path: what a list, a glob or a pair would read into it opens nothing else."""
    paid = buy(gateway, path)
    for other in ("/one/refused", "/one/arefused", "/one/refused,a", "/one/b:refused"):
        refused(gateway.ask("GET", other, paid.header), "caveat_refused")
    assert gateway.ask("GET", path, paid.header).status == 200


def test_a_payment_in_flight_is_spent_once(gateway: Gateway, upstream: Upstream) -> None:
    """S5: many clients present one payment at the same instant, on two workers."""
    one = buy(gateway, "/one/race")
    clients = [gateway.client() for _ in range(12)]
    for client in clients:
        client.ask("GET", "/one/race", one.header)
    statuses = sorted(client.answer().status for client in clients)
    for client in clients:
        client.close()
    assert statuses == [200] + [402] * 11
    assert sum(message.target == "/one/race" for message in upstream.heard) == 1


def test_a_preimage_pays_for_one_token(gateway: Gateway, paid: Paid) -> None:
    """The invoice can be paid again at the fake, and the same preimage comes back: it is the same purse."""
    challenge = challenge_of(gateway.ask("GET", "/search"))
    first, second = preimage_of(gateway, challenge), preimage_of(gateway, challenge)
    assert first == second
    before = sum(entry.kind == "pay" for entry in gateway.entries())
    token = Paid(Macaroon.deserialize(challenge.macaroon), first)
    for left in (700, 400, 100):
        assert gateway.ask("GET", "/search", token.header)["tolsey-remaining"] == f"{left} sat"
    refused(gateway.ask("GET", "/search?refused", token.header), "budget_exhausted")
    assert sum(entry.kind == "pay" for entry in gateway.entries()) == before + 1


def test_no_secret_is_written_down(gateway: Gateway) -> None:
    """Neither preimages nor tokens, in no log and no ledger, whatever was done above."""
    paid = buy(gateway)
    assert gateway.ask("GET", "/search", paid.header).status == 200
    refused(gateway.ask("GET", "/search?refused", Paid(paid.macaroon, "ab" * 32).header), "token_forged")
    written = gateway.said().encode() + gateway.out.read_bytes()
    for path in (gateway.ledger, gateway.ledger.with_name("ledger.db-wal")):
        written += path.read_bytes()
    for secret in (paid.preimage, text_of(paid.macaroon)):
        assert secret.encode() not in written
    assert bytes.fromhex(paid.preimage) not in written
    assert paid.macaroon.signature not in written
