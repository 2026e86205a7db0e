"""Strangers who pay: what they are asked for, what they get for it, and what becomes of it when things fail."""

import base64
import json
import secrets
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests import swarm
from tests.ends import Message
from tests.gateways import Gateway, lay_out, problem, serving, until
from tests.payers import PURSE, Paid, buy, challenge_of, preimage_of, text_of
from tests.postgres import Server
from tests.reading import fsck
from tests.scraping import scrape, scraped
from tests.swarm import Entry
from tests.upstreams import Upstream
from tolsey.errors import STATUSES
from tolsey.store.contract import PaymentRow
from tolsey.store.keyring import Keyring
from tolsey.store.postgres_snapshot import PostgresSnapshot
from tolsey.token.bolt11 import read_invoice
from tolsey.token.caveats import parse_expiry
from tolsey.token.chain import CAPABILITY, L402
from tolsey.token.l402 import read_identifier
from tolsey.token.macaroon import Macaroon

ROUTES = """
[[upstream]]
name = "search"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/search"
methods = ["GET", "POST"]
upstream = "search"
price = "300 sat"
[[route]]
path = "/dear"
methods = ["GET"]
upstream = "search"
price = "1000 sat"
offers = ["dear"]
[[route]]
path = "/one/*"
methods = ["GET"]
upstream = "search"
price = "0.02 USD"
offers = ["call"]
[[route]]
path = "/free"
methods = ["GET"]
upstream = "search"
price = "0 sat"
[[route]]
path = "/both"
methods = ["GET"]
upstream = "search"
price = "7 sat"
offers = ["purse", "call"]
rule = [{ path = "/both?large=1", price = "5000 sat" }]
[[route]]
path = "/members"
methods = ["GET"]
upstream = "search"
price = "1 sat"
offers = []
"""
DEAR = """
[[payment.offer]]
name = "dear"
price = "5 sat"
budget = "5000 sat"
"""
CONFIG = f"[server]\nworkers = 2\n{PURSE.replace('<more>', '')}{DEAR}{ROUTES}"


@pytest.fixture
def paid(gateway: Gateway) -> Paid:
    return buy(gateway)


def refused(answer: Message, code: str) -> dict[str, Any]:
    document = problem(answer)
    assert (document["code"], document["status"]) == (code, STATUSES[code][0]), document
    return document


def payments(gateway: Gateway) -> list[Entry]:
    return [entry for entry in gateway.entries() if entry.kind == "pay"]


# --- the challenge


def test_a_call_without_a_token_is_told_how_to_pay(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/search")
    document = refused(answer, "payment_required")

    challenge = challenge_of(answer)
    text = challenge.macaroon
    macaroon = Macaroon.deserialize(text)
    invoice = read_invoice(challenge.invoice)
    payment = read_identifier(macaroon.identifier)
    assert payment is not None
    assert (payment.hash, payment.sat, payment.minted) == (invoice.payment_hash.hex(), 1000, len(macaroon.caveats))
    assert (invoice.msat, invoice.expires - invoice.at) == (1_000_000, 600)
    assert [str(c).partition(" = ")[0] for c in macaroon.caveats] == ["label", "scope", "method", "expires", "budget"]
    assert [str(c) for c in macaroon.caveats][1:3] == ["scope = /search /free /both", "method = GET, POST, HEAD"]
    assert str(macaroon.caveats[-1]) == "budget = 1000 sat"
    assert answer.all("www-authenticate") == [
        f'L402 macaroon="{text}", invoice="{challenge.invoice}", version="0", token="{text}"',
    ]
    assert base64.b64decode(text, validate=True) == macaroon.serialize()
    assert document["payment"] == {
        "invoice": challenge.invoice,
        "macaroon": challenge.macaroon,
        "payment_hash": payment.hash,
        "authorization": "L402 <macaroon>:<preimage>",
        "invoice_expires": document["payment"]["invoice_expires"],
        "fake": True,
    }
    (offer,) = document["offers"]
    assert (offer["name"], offer["price"], offer["unit"], offer["challenge"]) == ("purse", "1000", "sat", "here")
    assert parse_expiry(offer["expires"]) // 10**9 - invoice.at in range(4199, 4202)
    for word in (
        "Pay the Lightning invoice",
        "1000 sat",
        "Authorization: L402",
        "1000 sat to spend on /search /free /both",
    ):
        assert word in document["detail"]
    assert answer["link"] == '</.well-known/l402.json>; rel="l402-manifest"'
    assert answer["tolsey-payment"] == "fake"


def test_two_challenges_are_two_payments(gateway: Gateway) -> None:
    one, other = (challenge_of(gateway.ask("GET", "/search")) for _ in range(2))
    assert read_invoice(one.invoice).payment_hash != read_invoice(other.invoice).payment_hash
    assert one.macaroon != other.macaroon


def test_what_is_asked_for_without_a_payment_leaves_no_trace(gateway: Gateway) -> None:
    before = len(gateway.entries())
    for _ in range(20):
        assert gateway.ask("GET", "/search").status == 402
    assert len(gateway.entries()) == before


def test_every_answer_of_the_fake_is_marked(gateway: Gateway, paid: Paid) -> None:
    for answer in (
        gateway.ask("GET", "/search", paid.header),
        gateway.ask("GET", "/nowhere"),
        gateway.ask("GET", "/members"),
        gateway.ask("GET", "/.tolsey/balance", paid.header),
        gateway.ask("GET", "/.well-known/l402.json"),
        gateway.ask("GET", "//"),
    ):
        assert answer["tolsey-payment"] == "fake", answer


def test_a_route_without_offers_asks_for_a_token(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/members")
    refused(answer, "token_missing")
    assert answer["www-authenticate"].startswith("Bearer")


def test_a_holder_of_another_token_is_not_asked_for_money(gateway: Gateway) -> None:
    poor = gateway.token(budget="1 sat")
    answer = gateway.ask("GET", "/search", token=poor)
    refused(answer, "budget_exhausted")
    assert "www-authenticate" not in answer
    refused(gateway.ask("GET", "/search", token="tolsey_nonsense"), "token_malformed")


# --- a purse


def test_a_paid_token_is_a_purse(gateway: Gateway, upstream: Upstream, paid: Paid) -> None:
    before = len(payments(gateway))
    for number in range(3):
        answer = gateway.ask("GET", "/search", paid.header)
        assert answer.status == 200
        assert (answer["tolsey-cost"], answer["tolsey-remaining"]) == ("300 sat", f"{700 - 300 * number} sat")
        assert "authorization" not in upstream.last()

    answer = gateway.ask("GET", "/search", paid.header)
    document = refused(answer, "budget_exhausted")
    # The last of them may not be settled yet.
    assert int(document["spent"]) + int(document["held"]) == 900
    assert (document["limit"], document["unit"]) == ("1000", "sat")

    second = challenge_of(answer)
    other = Paid(Macaroon.deserialize(second.macaroon), preimage_of(gateway, second))
    assert gateway.ask("GET", "/search", other.header)["tolsey-remaining"] == "700 sat"
    assert gateway.ask("GET", "/free", paid.header).status == 200
    new = payments(gateway)[before:]
    assert [(entry.amount, entry.note) for entry in new] == [(1000 * 10**9, "offer purse")] * 2
    assert new[0].hold == sha256(bytes.fromhex(paid.preimage)).hexdigest()
    assert [row.label for row in gateway.trail()][-2:] == ["purse", "purse"]


def test_a_child_that_was_made_offline_spends_the_same_purse(gateway: Gateway, paid: Paid) -> None:
    child = paid.child("label = helper h", "budget = 400 sat")
    assert gateway.ask("GET", "/search", child.header).status == 200
    document = refused(gateway.ask("GET", "/search", child.header), "budget_exhausted")
    assert document["link"]["label"] == "helper"
    assert gateway.ask("GET", "/search", paid.header)["tolsey-remaining"] == "400 sat"

    def spent() -> list[str]:
        accounts = json.loads(gateway.ask("GET", "/.tolsey/balance", child.header).body)["accounts"]
        return [account["spent"] for account in accounts]

    until(lambda: spent() == ["600", "300"], "both calls are settled")


def test_the_first_use_is_by_a_child(gateway: Gateway, paid: Paid) -> None:
    child = paid.child("label = helper h", "budget = 100000 sat")
    assert gateway.ask("GET", "/search", child.header)["tolsey-remaining"] == "700 sat"


def test_a_free_call_takes_the_payment_too(gateway: Gateway, paid: Paid) -> None:
    before = len(payments(gateway))
    assert gateway.ask("GET", "/free", paid.header).status == 200
    assert len(payments(gateway)) == before + 1
    assert gateway.ask("GET", "/free", paid.header).status == 200
    assert len(payments(gateway)) == before + 1


def test_an_observed_call_takes_the_payment_too(tmp_path: Path, upstream: Upstream) -> None:
    """The purse is the payment's, whichever route sees it first; what was observed does not come off it."""
    observing = CONFIG.replace("[server]\n", '[server]\nmode = "observe"\n', 1)
    observing = observing.replace('price = "7 sat"\n', 'price = "7 sat"\nmode = "enforce"\n')
    observing = observing.replace('price = "300 sat"\n', 'price = "300 sat"\noffers = ["purse"]\n')
    with serving(tmp_path, observing, port=upstream.port) as gateway:
        paid = buy(gateway, "/both")
        assert gateway.ask("GET", "/search", paid.header).status == 200
        assert len(payments(gateway)) == 1
        assert gateway.ask("GET", "/both", paid.header)["tolsey-remaining"] == "993 sat"
        until(lambda: [row.observed for row in gateway.trail()] == [300 * 10**9], "what was observed is written", 20)
        assert len(payments(gateway)) == 1


def test_a_token_that_has_expired_is_sold_anew(gateway: Gateway, paid: Paid) -> None:
    answer = gateway.ask("GET", "/search", paid.child("expires = 2020-01-01").header)
    assert "has expired" in refused(answer, "payment_required")["detail"]
    challenge_of(answer)


def test_a_caveat_that_refuses_is_no_reason_to_pay(gateway: Gateway, paid: Paid) -> None:
    answer = gateway.ask("GET", "/search", paid.child("label = reader r", "method = POST").header)
    refused(answer, "caveat_refused")
    assert "www-authenticate" not in answer


# --- one call


def test_a_single_call_is_bound_to_its_path_and_price(gateway: Gateway, upstream: Upstream) -> None:
    answer = gateway.ask("GET", "/one/a,b:c*d?q=1")
    document = refused(answer, "payment_required")
    challenge = challenge_of(answer)
    paid = Paid(Macaroon.deserialize(challenge.macaroon), preimage_of(gateway, challenge))
    assert [str(c) for c in paid.macaroon.caveats if str(c)[:5] != "label" and str(c)[:7] != "expires"] == [
        *("scope = /one/a%2Cb:c%2Ad", "method = GET", "calls = 1", "budget = 0.02 USD"),
    ]
    assert read_invoice(challenge.invoice).msat == 32_000
    assert document["offers"][0]["challenge"] == "here"

    refused(gateway.ask("GET", "/one/other", paid.header), "caveat_refused")
    assert gateway.ask("HEAD", "/one/a,b:c*d", paid.header).status == 403
    refused(gateway.ask("GET", "/search", paid.header), "caveat_refused")
    assert gateway.ask("GET", "/one/a,b:c*d?q=2", paid.header).status == 200
    assert upstream.last().target == "/one/a,b:c*d?q=2"
    again = gateway.ask("GET", "/one/a,b:c*d?q=1", paid.header)
    assert problem(again)["code"] in ("calls_exhausted", "budget_exhausted")
    assert challenge_of(again) != challenge


def test_a_path_too_long_for_a_token_is_not_sold(gateway: Gateway) -> None:
    refused(gateway.ask("GET", f"/one/{'x' * 1100}"), "token_missing")


# --- offers by name


def test_an_offer_has_an_address_of_its_own(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/.tolsey/offers/purse")
    challenge = challenge_of(answer)
    assert refused(answer, "payment_required")["offers"][0]["name"] == "purse"
    paid = Paid(Macaroon.deserialize(challenge.macaroon), preimage_of(gateway, challenge))
    there = gateway.ask("GET", "/.tolsey/offers/purse", paid.header)
    assert there.status == 200
    assert json.loads(there.body)["accounts"][0]["remaining"] == "1000"
    assert gateway.ask("GET", "/search", paid.header).status == 200
    for name in ("call", "nothing", ""):
        refused(gateway.ask("GET", f"/.tolsey/offers/{name}"), "route_missing")
    refused(gateway.ask("POST", "/.tolsey/offers/purse"), "method_not_allowed")
    refused(gateway.ask("GET", "/.tolsey/offers/purse", token="nonsense"), "token_malformed")


def test_a_call_may_name_the_offer_that_it_wants(gateway: Gateway) -> None:
    def offered(*headers: str) -> list[tuple[str, str | None]]:
        document = refused(gateway.ask("GET", "/both", *headers), "payment_required")
        return [(offer["name"], offer["challenge"]) for offer in document["offers"]]

    assert offered() == [("purse", "here"), ("call", None)]
    assert offered("Tolsey-Offer: call") == [("call", "here"), ("purse", "/.tolsey/offers/purse")]
    for other in ("dear", "nothing", ""):
        assert offered(f"Tolsey-Offer: {other}") == offered()


def test_a_purse_that_could_not_pay_for_the_call_is_not_sold_for_it(gateway: Gateway) -> None:
    """Else a client would pay for one after the other, and never be served."""
    document = refused(gateway.ask("GET", "/both?large=1"), "payment_required")
    assert [(offer["name"], offer["price"]) for offer in document["offers"]] == [("call", "5000")]


# --- what is bound


def test_two_kinds_of_token_never_open_each_others_doors(gateway: Gateway, paid: Paid) -> None:
    token = gateway.token(budget="1000 sat")
    text = text_of(paid.macaroon)
    for header in (
        f"Authorization: Bearer {text}",
        f"X-Api-Key: {text}",
        f"Authorization: Bearer {text}:{paid.preimage}",
        f"Authorization: L402 {text_of(Macaroon.deserialize(token))}:{paid.preimage}",
    ):
        answer = gateway.ask("GET", "/search", header)
        assert problem(answer)["code"] in ("token_forged", "token_malformed"), header


def test_a_key_of_one_kind_mints_nothing_of_another(gateway: Gateway, paid: Paid) -> None:
    keyring = Keyring.open(gateway.keys)
    assert keyring.key_ids(L402)
    _, secret = keyring.current(CAPABILITY)
    forged = Macaroon.mint(root_key=secret, identifier=paid.macaroon.identifier)
    forged = forged.attenuate(*[str(caveat) for caveat in paid.macaroon.caveats])
    refused(gateway.ask("GET", "/search", Paid(forged, paid.preimage).header), "token_forged")


# --- things that fail


@pytest.mark.slow
def test_a_crash_neither_loses_nor_repeats_a_payment(tmp_path: Path, upstream: Upstream) -> None:
    with serving(tmp_path, CONFIG, port=upstream.port) as gateway:
        one, other = buy(gateway), buy(gateway)
        assert gateway.ask("GET", "/search", one.header)["tolsey-remaining"] == "700 sat"
        gateway.kill_group()
        gateway.begin()
        assert gateway.ask("GET", "/search", one.header)["tolsey-remaining"] == "400 sat"
        assert gateway.ask("GET", "/search", other.header)["tolsey-remaining"] == "700 sat"
        assert len(payments(gateway)) == 2


def test_a_client_gets_only_so_many_challenges(tmp_path: Path, upstream: Upstream) -> None:
    config = CONFIG.replace("1000/minute", "3/hour").replace("workers = 2\n", 'trusted_proxies = ["127.0.0.1"]\n')
    with serving(tmp_path, config, port=upstream.port) as gateway:
        paid = buy(gateway)
        assert [gateway.ask("GET", "/search").status for _ in range(3)] == [402, 402, 429]
        answer = gateway.ask("GET", "/search")
        refused(answer, "rate_limited")
        assert 1100 < int(answer["retry-after"]) <= 1200
        assert gateway.ask("GET", "/search", paid.header).status == 200
        for address in ("192.0.2.1", "2001:db8::1"):
            assert gateway.ask("GET", "/search", f"X-Forwarded-For: {address}").status == 402
        network = [f"X-Forwarded-For: 2001:db8::{n}" for n in range(2, 5)]
        assert [gateway.ask("GET", "/search", header).status for header in network] == [402, 402, 429]


def test_a_node_that_is_away_stops_no_token(tmp_path: Path, upstream: Upstream) -> None:
    with serving(tmp_path, CONFIG, port=upstream.port) as gateway:
        assert scrape(gateway).value("tolsey_payment_node_away") == 0
        paid = buy(gateway)
        text = gateway.file.read_text()
        away = f'backend = "lnd"\nurl = "http://127.0.0.1:9"\nsecret = "{secrets.token_hex(8)}"'
        gateway.reload(text.replace('backend = "fake"', away))
        answer = gateway.ask("GET", "/search")
        refused(answer, "payment_unavailable")
        assert int(answer["retry-after"]) > 0
        assert "tolsey-payment" not in answer
        assert gateway.ask("GET", "/search", paid.header).status == 200
        assert "the payment node is away" in gateway.said()
        scraped(gateway, lambda page: page.value("tolsey_payment_node_away") >= 1)
        gateway.reload(text)
        scraped(gateway, lambda page: page.value("tolsey_payment_node_away") == 0)
        assert buy(gateway) != paid


@pytest.mark.slow
def test_two_gateways_on_postgresql_take_a_payment_once(tmp_path: Path, upstream: Upstream, postgres: Server) -> None:
    """Both at the same instant: one entry, one purse, and no call more than it pays for."""
    url = postgres.database()
    config = f'{CONFIG}\n[ledger]\nurl = "{url}"\n'
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    first = lay_out(one, config, port=upstream.port)
    with swarm.ending(first):
        first.begin()
        shutil.copytree(one / "data", other / "data")
        second = lay_out(other, config, port=upstream.port)
        with swarm.ending(second):
            second.begin()
            paid = buy(first)
            clients = [gateway.client() for gateway in (first, second) * 3]
            for client in clients:
                client.ask("GET", "/search", paid.header)
            statuses = sorted(client.answer().status for client in clients)
            for client in clients:
                client.close()
            assert statuses == [200] * 3 + [402] * 3
            until(lambda: [payment.calls for payment in payments_of(url)] == [3], "the calls are settled")
    assert [(payment.paid, payment.spent) for payment in payments_of(url)] == [(1000 * 10**9, 900 * 10**9)]
    assert fsck(PostgresSnapshot(url)).difference is None


def payments_of(url: str) -> list[PaymentRow]:
    with PostgresSnapshot(url) as snapshot:
        return list(snapshot.payments())
