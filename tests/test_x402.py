"""Calls paid for over x402: settled before they are served, once, and never asked for twice when nobody knows.

The attacks are those of arXiv 2605.11781 and 2605.30998, and the faults that were found in other products (S5).
"""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import answer as command
from tests.ends import Message
from tests.facilitators import ASSET, NETWORK, PAYER, SELLER, Facilitator, facilitating, signed
from tests.facilitators import CONFIG as X402
from tests.gateways import Gateway, lay_out, problem, serving, until
from tests.payers import Paid, challenge_of, preimage_of
from tests.swarm import ending
from tests.test_payments import CONFIG as PAYMENTS
from tests.upstreams import Upstream
from tolsey.token.macaroon import Macaroon

CONFIG = PAYMENTS.replace("[payment.rates]", f"{X402}[payment.rates]")


@pytest.fixture(scope="module")
def facilitator() -> Iterator[Facilitator]:
    with facilitating() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    facilitator: Facilitator, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with serving(folder, CONFIG, port=upstream.port, facilitator=facilitator.port) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_is_forwarded_that_is_refused(upstream: Upstream) -> Iterator[None]:
    before = len(upstream.heard)
    yield
    assert [m.line for m in upstream.heard[before:] if "refused" in m.target] == []


@pytest.fixture(autouse=True)
def _as_it_should_be(facilitator: Facilitator) -> Iterator[None]:
    yield
    assert facilitator.next == {"/verify": [], "/settle": []}
    facilitator.idempotent = False


def decoded(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(text, validate=True))
    return found


def required(gateway: Gateway, target: str = "/one/x") -> dict[str, Any]:
    answer = gateway.ask("GET", target)
    assert answer.status == 402, answer
    return decoded(answer["payment-required"])


def refused(answer: Message, *codes: str) -> str:
    document = problem(answer)
    assert document["code"] in codes, answer
    detail: str = document["detail"]
    return detail


def paid(gateway: Gateway) -> list[str]:
    return [entry.note for entry in gateway.entries() if entry.kind == "pay" and entry.note.startswith("x402 ")]


# --- what is asked for


def test_a_single_call_is_asked_for(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/one/a,b?q=1")
    assert decoded(answer["payment-required"]) == {
        "x402Version": 2,
        "error": "Pay to call",
        "resource": {"url": "/one/a,b"},
        "accepts": [
            {
                "scheme": "exact",
                "network": NETWORK,
                "amount": "20000",
                "asset": ASSET,
                "payTo": SELLER,
                "maxTimeoutSeconds": 120,
                "extra": {"name": "USD Coin", "version": "2", "assetTransferMethod": "eip3009"},
            }
        ],
    }
    # The other way to pay stands beside it.
    challenge_of(answer)
    assert answer["cache-control"] == "no-store"


def test_what_is_in_another_unit_or_no_single_call_is_not(gateway: Gateway) -> None:
    for target in ("/search", "/dear", "/both", "/members", "/.tolsey/offers/purse"):
        assert "payment-required" not in gateway.ask("GET", target)
    header = signed(required(gateway))
    for target in ("/search?refused", "/dear?refused", "/both?refused"):
        assert "not sold over x402" in refused(gateway.ask("GET", target, header), "payment_required")


# --- the call


def test_a_call_is_settled_served_and_never_again(
    gateway: Gateway, upstream: Upstream, facilitator: Facilitator
) -> None:
    before = len(paid(gateway))
    header = signed(required(gateway))
    answer = gateway.ask("GET", "/one/x?q=1", header)
    assert (answer.status, answer["tolsey-cost"]) == (200, "0.02 USD")
    assert upstream.last().target == "/one/x?q=1"
    assert "payment-signature" not in upstream.last()
    response = decoded(answer["payment-response"])
    assert response == {
        "success": True,
        "transaction": response["transaction"],
        "network": NETWORK,
        "payer": PAYER,
    }
    assert answer["cache-control"] == "private"
    assert response["transaction"] in facilitator.transactions.values()

    settled = facilitator.count("/settle")
    again = gateway.ask("GET", "/one/x?refused", header)
    refused(again, "calls_exhausted", "budget_exhausted")
    assert decoded(again["payment-required"])["accepts"][0]["amount"] == "20000"
    assert "payment-response" not in again
    assert facilitator.count("/settle") == settled
    assert paid(gateway)[before:] == [f"x402 {NETWORK} {response['transaction']} offer call"]


def test_the_books_say_what_was_paid_in_what(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/one/x", signed(required(gateway))).status == 200
    before = command("payments", "-c", str(gateway.file))["paid"]
    assert gateway.ask("GET", "/one/x", signed(required(gateway))).status == 200
    after = command("payments", "-c", str(gateway.file))
    assert float(after["paid"]["USD"]) - float(before["USD"]) == pytest.approx(0.02)
    assert after["paid"]["sat"] == before["sat"]
    last = after["payments"][-1]
    assert (last["paid"], last["paid_unit"], last["label"], last["unit"], last["left"]) == (
        *("0.02", "USD", "call", "USD", "0"),
    )


def test_lightning_goes_on_beside_it(gateway: Gateway) -> None:
    challenge = challenge_of(gateway.ask("GET", "/one/x"))
    token = Paid(Macaroon.deserialize(challenge.macaroon), preimage_of(gateway, challenge))
    answer = gateway.ask("GET", "/one/x", token.header)
    assert answer.status == 200
    assert "payment-response" not in answer


def test_a_call_that_was_not_served_is_still_paid_for(
    tmp_path: Path, upstream: Upstream, facilitator: Facilitator
) -> None:
    """The money is there: the same signature is good for another attempt, and not settled a second time."""
    with serving(tmp_path, CONFIG, port=9, facilitator=facilitator.port) as gateway:
        header = signed(required(gateway))
        before = facilitator.count("/settle")
        refused(gateway.ask("GET", "/one/x", header), "upstream_failed")
        gateway.reload(gateway.file.read_text().replace('"http://127.0.0.1:9"', f'"http://127.0.0.1:{upstream.port}"'))
        # The other worker may have the next call, and be sooner than this one has given the money back.
        until(lambda: gateway.fsck().open_holds == 0, "nothing is held")
        assert gateway.ask("GET", "/one/x", header).status == 200
        refused(gateway.ask("GET", "/one/x?refused", header), "calls_exhausted", "budget_exhausted")
        assert facilitator.count("/settle") == before + 1


# --- what is not known


@pytest.mark.parametrize("fault", ["lose", "500", "garbage", "pending", "late", "invalid_exact_evm_nonce_already_used"])
def test_a_settling_that_nobody_knows_of_is_neither_served_nor_paid_twice(
    gateway: Gateway, facilitator: Facilitator, fault: str
) -> None:
    """S5: a timeout that is read as a failure makes the payer pay again; read as a success, it serves for nothing."""
    header = signed(required(gateway))
    facilitator.next["/settle"] = [fault]
    before = len(paid(gateway))
    answer = gateway.ask("GET", "/one/x?refused", header)
    assert "send the same PAYMENT-SIGNATURE again" in refused(answer, "payment_unavailable")
    assert "payment-required" not in answer
    assert "www-authenticate" not in answer
    assert int(answer["retry-after"]) > 0

    # Asked again it says that the nonce is used: which may be this payment's, or one that its payer took back.
    for _ in range(2):
        if fault.startswith("invalid"):
            facilitator.next["/settle"] = [fault]
        answer = gateway.ask("GET", "/one/x?refused", header)
        refused(answer, "payment_unavailable")
        assert "payment-required" not in answer
    assert len(paid(gateway)) == before
    assert "is not settled" in gateway.said()

    # One that knows what it did says so, and the call is served.
    facilitator.idempotent = True
    assert gateway.ask("GET", "/one/x", header).status == 200
    refused(gateway.ask("GET", "/one/x?refused", header), "calls_exhausted", "budget_exhausted")
    assert len(paid(gateway)) == before + 1


@pytest.mark.slow
def test_after_a_crash_it_is_not_known_and_found_out(
    tmp_path: Path, upstream: Upstream, facilitator: Facilitator
) -> None:
    """The gateway is killed while the facilitator moves the money."""
    gateway = lay_out(tmp_path, CONFIG, port=upstream.port, facilitator=facilitator.port)
    with ending(gateway):
        gateway.begin()
        header = signed(required(gateway))
        facilitator.next["/settle"] = ["late"]
        moved = len(facilitator.moved)
        with gateway.client() as client:
            client.ask("GET", "/one/x?refused", header)
            until(lambda: len(facilitator.moved) == moved + 1, "it is moved")
            gateway.kill_group()
        gateway.begin()
        answer = gateway.ask("GET", "/one/x?refused", header)
        refused(answer, "payment_unavailable")
        assert "payment-required" not in answer
        facilitator.idempotent = True
        assert gateway.ask("GET", "/one/x", header).status == 200
        assert len(facilitator.moved) == moved + 1


def test_a_client_that_leaves_while_it_is_settled_finds_it_paid(gateway: Gateway, facilitator: Facilitator) -> None:
    header = signed(required(gateway))
    facilitator.next["/settle"] = ["late"]
    moved, before = len(facilitator.moved), len(gateway.entries())
    client = gateway.client()
    client.ask("GET", "/one/x?refused", header)
    until(lambda: len(facilitator.moved) == moved + 1, "it is moved")
    client.close()
    until(lambda: any("x402 unknown" in e.note for e in gateway.entries()[before:]), "that is written down")
    facilitator.idempotent = True
    assert gateway.ask("GET", "/one/x", header).status == 200


def test_a_facilitator_that_is_away_takes_nothing(gateway: Gateway, facilitator: Facilitator) -> None:
    header = signed(required(gateway))
    facilitator.next["/verify"] = ["drop"]
    assert "nothing was taken" in refused(gateway.ask("GET", "/one/x?refused", header), "payment_unavailable")
    assert gateway.ask("GET", "/one/x", header).status == 200


# --- what is surely not paid


@pytest.mark.parametrize("reason", ["invalid_exact_evm_insufficient_balance", "insufficient_funds"])
def test_a_refusal_before_anything_moved_is_a_new_challenge(
    gateway: Gateway, facilitator: Facilitator, reason: str
) -> None:
    """S5: `success: false` is not served, and the payer may try the same again."""
    header = signed(required(gateway))
    facilitator.next["/settle"] = [reason]
    answer = gateway.ask("GET", "/one/x?refused", header)
    assert reason in refused(answer, "payment_required")
    assert reason in decoded(answer["payment-required"])["error"]
    assert gateway.ask("GET", "/one/x", header).status == 200


def test_what_the_facilitator_finds_bad_leaves_no_trace(gateway: Gateway) -> None:
    """Else strangers could fill the ledger with signatures that pay nothing."""
    asked = required(gateway)
    until(lambda: gateway.fsck().open_holds == 0, "the holds of other tests are settled")
    before = len(gateway.entries())
    for _ in range(3):
        header = signed(asked, signature="0x" + "00" * 65)
        assert "payload_signature" in refused(gateway.ask("GET", "/one/x?refused", header), "payment_required")
    assert len(gateway.entries()) == before


# --- attacks


def test_a_payment_for_a_cheap_call_does_not_pay_for_another(gateway: Gateway, facilitator: Facilitator) -> None:
    """Cross-resource substitution: what is asked for is what this call costs, not what the payer says it accepted."""
    asked = required(gateway)
    before = len(facilitator.asked)
    for header in (
        signed(asked, value="1"),
        signed(asked, value="19999"),
        signed(asked, value="20001"),
        signed(asked, value="1", accepted={"amount": "1"}),
        signed(asked, to=PAYER),
        signed(asked, to=PAYER, accepted={"payTo": PAYER}),
        signed(asked, validBefore="1"),
        signed(asked, validAfter=str(int(time.time()) + 60)),
    ):
        refused(gateway.ask("GET", "/one/x?refused", header), "payment_required")
    assert len(facilitator.asked) == before


def test_a_settled_payment_is_for_the_call_that_it_was_made_for(tmp_path: Path, facilitator: Facilitator) -> None:
    with serving(tmp_path, CONFIG, port=9, facilitator=facilitator.port) as gateway:
        header = signed(required(gateway))
        refused(gateway.ask("GET", "/one/x", header), "upstream_failed")
        assert "for another call" in refused(gateway.ask("GET", "/one/refused", header), "payment_required")


def test_one_payment_at_the_same_instant_is_served_once(
    gateway: Gateway, upstream: Upstream, facilitator: Facilitator
) -> None:
    """Duplicate settlement, S5: concurrent copies on two workers, at a facilitator that says yes to each."""
    facilitator.idempotent = True
    header = signed(required(gateway, "/one/x402-race"))
    moved = len(facilitator.moved)
    clients = [gateway.client() for _ in range(10)]
    for client in clients:
        client.ask("GET", "/one/x402-race", header)
    statuses = [client.answer().status for client in clients]
    for client in clients:
        client.close()
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 402, 503}
    assert sum(message.target == "/one/x402-race" for message in upstream.heard) == 1
    assert len(facilitator.moved) == moved + 1


def test_one_balance_does_not_pay_twice(gateway: Gateway, facilitator: Facilitator) -> None:
    """Overdraft: two good signatures, money for one. Both pass the check, one is settled, one is served."""
    poor = "0x" + "b2" * 20
    facilitator.balances[poor] = 30_000
    asked = required(gateway)
    first, second = (signed(asked, **{"from": poor}) for _ in range(2))
    assert gateway.ask("GET", "/one/x", first).status == 200
    refused(gateway.ask("GET", "/one/x?refused", second), "payment_required")


def test_another_signature_under_the_same_nonce_is_the_same_payment(gateway: Gateway) -> None:
    """A signature can be written in several ways; the nonce moves money once."""
    asked = required(gateway)
    nonce = "0x" + "ab" * 32
    assert gateway.ask("GET", "/one/x", signed(asked, nonce=nonce)).status == 200
    for changes in ({"nonce": nonce}, {"nonce": "0x" + "AB" * 32}, {"nonce": nonce, "from": "0x" + "A1" * 20}):
        refused(
            gateway.ask("GET", "/one/x?refused", signed(asked, **changes)),
            "payment_required",
            "calls_exhausted",
            "budget_exhausted",
        )


def test_two_headers_and_two_ways_to_pay_are_refused(gateway: Gateway, facilitator: Facilitator) -> None:
    """Confusion of headers: which of two counts is never left to chance."""
    header, other = signed(required(gateway)), signed(required(gateway))
    before = len(facilitator.asked)
    for headers in (
        (header, header),
        (header, other),
        (header, "Authorization: Bearer x"),
        (header, "X-Api-Key: x"),
    ):
        refused(gateway.ask("GET", "/one/x?refused", *headers), "credentials_ambiguous")
    value = header.partition(": ")[2]
    for line in (f"X-PAYMENT: {value}", f"Authorization: Payment {value}", f"Authorization: Bearer {value}"):
        answer = gateway.ask("GET", "/one/x?refused", line)
        refused(answer, "payment_required", "token_malformed", "token_forged")
    refused(gateway.ask("GET", "/one/x?refused", f"{header}, {value}"), "token_malformed")
    assert len(facilitator.asked) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 1},
        {"version": "2"},
        {"accepted": {"scheme": "upto"}},
        {"accepted": {"network": "eip155:1"}},
        {"accepted": {"asset": SELLER}},
        {"value": 20000},
        {"value": "-1"},
        {"value": "020000"},
        {"value": "1e9"},
        {"nonce": "0x00"},
        {"from": "payer"},
        {"from": None},
        {"to": []},
        {"signature": ""},
        {"signature": "0x" + "00" * 3000},
        {"validBefore": "soon"},
    ],
    ids=str,
)
def test_what_is_malformed_goes_nowhere(gateway: Gateway, facilitator: Facilitator, changes: dict[str, Any]) -> None:
    before = len(facilitator.asked)
    refused(gateway.ask("GET", "/one/x?refused", signed(required(gateway), **changes)), "token_malformed")
    assert len(facilitator.asked) == before


def test_a_public_route_passes_it_on(tmp_path: Path, upstream: Upstream, facilitator: Facilitator) -> None:
    """There the upstream may take payments of its own."""
    public = '[[route]]\npath = "/public"\nmethods = ["GET"]\nupstream = "search"\nmode = "public"\n'
    with serving(tmp_path, CONFIG + public, port=upstream.port, facilitator=facilitator.port) as gateway:
        assert gateway.ask("GET", "/public", "PAYMENT-SIGNATURE: theirs").status == 200
        assert upstream.last()["payment-signature"] == "theirs"
        assert gateway.ask("GET", "/free", "PAYMENT-SIGNATURE: theirs").status == 401


def test_a_node_that_is_away_leaves_x402(tmp_path: Path, upstream: Upstream, facilitator: Facilitator) -> None:
    away = CONFIG.replace('backend = "fake"', 'backend = "lnd"\nurl = "http://127.0.0.1:9"\nsecret = "aa"')
    with serving(tmp_path, away, port=upstream.port, facilitator=facilitator.port) as gateway:
        answer = gateway.ask("GET", "/one/x")
        assert "PAYMENT-REQUIRED" in refused(answer, "payment_required")
        assert "www-authenticate" not in answer
        assert gateway.ask("GET", "/one/x", signed(decoded(answer["payment-required"]))).status == 200
        refused(gateway.ask("GET", "/search"), "payment_unavailable")


def test_a_client_sends_only_so_many(tmp_path: Path, upstream: Upstream, facilitator: Facilitator) -> None:
    few = CONFIG.replace("1000/minute", "2/hour").replace("workers = 2", "workers = 1")
    with serving(tmp_path, few, port=upstream.port, facilitator=facilitator.port) as gateway:
        asked = required(gateway)
        bad = [gateway.ask("GET", "/one/x", signed(asked, value="1")).status for _ in range(3)]
        assert bad == [402, 429, 429]


def test_no_signature_is_written_down(gateway: Gateway) -> None:
    header = signed(required(gateway))
    assert gateway.ask("GET", "/one/x", header).status == 200
    document = decoded(header.partition(": ")[2])
    written = gateway.said() + gateway.out.read_text()
    assert document["payload"]["signature"] not in written
    assert header.partition(": ")[2] not in written
