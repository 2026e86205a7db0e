"""Single calls sold under the `Payment` scheme (MPP): L402's paid token, asked for and presented in another way."""

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mpp as pympp
import pytest
from mpp.client.transport import PaymentTransport

from tests.charges import charge
from tests.ends import Message
from tests.gateways import Gateway, problem, serving, until
from tests.payers import Paid, preimage_of
from tests.test_payments import CONFIG as PAYMENTS
from tests.upstreams import Upstream
from tolsey.store.keyring import Keyring
from tolsey.token.bolt11 import read_invoice
from tolsey.token.chain import L402
from tolsey.token.l402 import Challenge, read_challenges
from tolsey.token.macaroon import Macaroon

CONFIG = PAYMENTS.replace('backend = "fake"', 'backend = "fake"\nmpp = true')


class Bought:
    """A call that was paid for: the challenge as pympp reads it, and what proves the payment."""

    def __init__(self, gateway: Gateway, answer: Message) -> None:
        self.challenge = payment_of(answer)
        self.preimage = preimage_of(gateway, Challenge("", self.challenge.request["methodDetails"]["invoice"]))

    @property
    def header(self) -> str:
        """The line of a request that presents it."""
        payload = {"preimage": self.preimage}
        return f"Authorization: {pympp.Credential(self.challenge.to_echo(), payload).to_authorization()}"

    def changed(self, **changes: Any) -> str:  # noqa: ANN401 - any JSON
        """The same line with changes to what is sent back of the challenge, or to the `preimage`."""
        document = json.loads(base64.urlsafe_b64decode(self.header.rpartition(" ")[2] + "=="))
        document["payload"]["preimage"] = changes.pop("preimage", self.preimage)
        document["challenge"] |= changes
        return f"Authorization: Payment {base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip('=')}"

    @property
    def l402(self) -> Paid:
        """The same paid token for L402's scheme."""
        assert self.challenge.opaque is not None
        return Paid(Macaroon.deserialize(self.challenge.opaque["macaroon"]), self.preimage)


def payment_of(answer: Message) -> pympp.Challenge:
    """The one `Payment` challenge of an answer."""
    assert answer.status == 402, answer
    (found,) = [line for line in answer.all("www-authenticate") if line.startswith("Payment ")]
    return pympp.Challenge.from_www_authenticate(found)


def schemes(answer: Message) -> list[str]:
    return [line.partition(" ")[0] for line in answer.all("www-authenticate")]


def buy(gateway: Gateway, target: str = "/one/x") -> Bought:
    return Bought(gateway, gateway.ask("GET", target))


def refused(answer: Message, *codes: str) -> None:
    assert problem(answer)["code"] in codes, answer


def granted(gateway: Gateway) -> int:
    """How many payments were taken and calls let through."""
    return sum(entry.kind in ("pay", "reserve") for entry in gateway.entries())


def receipt_of(answer: Message) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(answer["payment-receipt"] + "=="))
    return found


@pytest.fixture(autouse=True)
def _nothing_is_forwarded_that_is_refused(upstream: Upstream) -> Iterator[None]:
    before = len(upstream.heard)
    yield
    assert [m.line for m in upstream.heard[before:] if "refused" in m.target] == []


# --- the challenge


def test_a_single_call_has_both_challenges(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/one/x")
    assert schemes(answer) == ["L402", "Payment"]
    assert answer["cache-control"] == "no-store"
    (l402,) = read_challenges(answer.all("www-authenticate"))
    payment = payment_of(answer)
    invoice = read_invoice(l402.invoice)
    assert payment.opaque == {"macaroon": l402.macaroon}
    assert (payment.realm, payment.method, payment.intent) == ("tolsey", "lightning", "charge")
    assert payment.request == {
        "amount": "32",
        "currency": "sat",
        "methodDetails": {
            "invoice": l402.invoice,
            "network": "regtest",
            "paymentHash": invoice.payment_hash.hex(),
        },
    }
    assert payment.expires == problem(answer)["payment"]["invoice_expires"]
    assert len(answer.all("www-authenticate")[1]) < 4096


def test_folded_into_one_line_both_are_read(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/one/x")
    folded = ", ".join(answer.all("www-authenticate"))
    assert read_challenges([folded]) == read_challenges(answer.all("www-authenticate"))


def test_a_purse_is_not_a_charge(gateway: Gateway) -> None:
    """A charge is for one call; a client that pays so would throw the rest of a purse away."""
    assert schemes(gateway.ask("GET", "/search")) == ["L402"]
    assert schemes(gateway.ask("GET", "/both")) == ["L402"]
    assert schemes(gateway.ask("GET", "/.tolsey/offers/purse")) == ["L402"]


def test_who_says_that_it_pays_so_is_offered_a_single_call(gateway: Gateway) -> None:
    def offered(*headers: str) -> tuple[str, list[str]]:
        answer = gateway.ask("GET", "/both", *headers)
        return problem(answer)["offers"][0]["name"], schemes(answer)

    assert offered("Accept-Payment: tempo/charge, lightning/charge;q=0.3") == ("call", ["L402", "Payment"])
    assert offered("Accept-Payment: tempo/charge") == ("purse", ["L402"])
    assert offered("Accept-Payment: lightning/charge;q=0") == ("purse", ["L402"])
    assert offered("Accept-Payment: lightning/charge", "Tolsey-Offer: purse") == ("purse", ["L402"])
    assert offered("Tolsey-Offer: call") == ("call", ["L402", "Payment"])


def test_it_is_off_unless_asked_for(tmp_path: Path, upstream: Upstream) -> None:
    with serving(tmp_path, CONFIG, port=upstream.port) as gateway:
        bought = buy(gateway)
        gateway.reload(gateway.file.read_text().replace("mpp = true", "mpp = false"))
        answer = gateway.ask("GET", "/one/x", "Accept-Payment: lightning/charge")
        assert schemes(answer) == ["L402"]
        assert "Accept-Payment" not in gateway.ask("GET", "/llms.txt").body.decode()
        # What was paid for goes on.
        assert gateway.ask("GET", "/one/x", bought.header).status == 200


def test_and_beside_apertures(tmp_path: Path, upstream: Upstream) -> None:
    text = CONFIG.replace("mpp = true", "mpp = true\naperture = true")
    with serving(tmp_path, text, port=upstream.port) as gateway:
        assert schemes(gateway.ask("GET", "/one/x")) == ["LSAT", "L402", "Payment"]
        assert schemes(gateway.ask("GET", "/one/x", "Authorization: Payment nonsense")) == ["LSAT", "L402", "Payment"]
        assert "Accept-Payment" in gateway.ask("GET", "/llms.txt").body.decode()


# --- the call


def test_a_call_is_paid_for_and_served_once(gateway: Gateway, upstream: Upstream) -> None:
    before = sum(entry.kind == "pay" for entry in gateway.entries())
    bought = buy(gateway)
    answer = gateway.ask("GET", "/one/x?q=1", bought.header)
    assert (answer.status, answer["tolsey-cost"]) == (200, "0.02 USD")
    assert upstream.last().target == "/one/x?q=1"
    assert "authorization" not in upstream.last()
    assert answer["cache-control"] == "private"
    receipt = receipt_of(answer)
    assert receipt == {
        "challengeId": bought.challenge.id,
        "method": "lightning",
        "reference": bought.challenge.request["methodDetails"]["paymentHash"],
        "status": "success",
        "timestamp": receipt["timestamp"],
    }
    assert pympp.Receipt.from_payment_receipt(answer["payment-receipt"]).method == "lightning"

    again = gateway.ask("GET", "/one/x?refused", bought.header)
    refused(again, "calls_exhausted", "budget_exhausted")
    assert payment_of(again).id != bought.challenge.id
    assert "payment-receipt" not in again
    assert sum(entry.kind == "pay" for entry in gateway.entries()) == before + 1


def test_a_payment_is_consumed_once_whichever_scheme_presents_it(gateway: Gateway) -> None:
    first, second = buy(gateway), buy(gateway)
    assert gateway.ask("GET", "/one/x", first.header).status == 200
    refused(gateway.ask("GET", "/one/x?refused", first.l402.header), "calls_exhausted", "budget_exhausted")
    answer = gateway.ask("GET", "/one/x", second.l402.header)
    assert answer.status == 200
    assert "payment-receipt" not in answer
    refused(gateway.ask("GET", "/one/x?refused", second.header), "calls_exhausted", "budget_exhausted")


def test_at_the_same_instant_on_two_workers_it_is_served_once(gateway: Gateway, upstream: Upstream) -> None:
    bought = buy(gateway, "/one/mpp-race")
    clients = [gateway.client() for _ in range(12)]
    for number, client in enumerate(clients):
        client.ask("GET", "/one/mpp-race", bought.header if number % 2 else bought.l402.header)
    statuses = sorted(client.answer().status for client in clients)
    for client in clients:
        client.close()
    assert statuses == [200] + [402] * 11
    assert sum(message.target == "/one/mpp-race" for message in upstream.heard) == 1


def test_a_call_that_surely_was_not_served_is_still_paid_for(tmp_path: Path, upstream: Upstream) -> None:
    """Nothing was sent, so nothing was charged: the same credential is good for another attempt."""
    with serving(tmp_path, CONFIG, port=9) as gateway:
        bought = buy(gateway)
        for _ in range(2):
            answer = gateway.ask("GET", "/one/x", bought.header)
            refused(answer, "upstream_failed")
            assert "payment-receipt" not in answer
            # The other worker may be asked next, before the void is on disk.
            until(lambda: not any(row.held for row in gateway.trail()), "what was held is given back")
        gateway.reload(gateway.file.read_text().replace("http://127.0.0.1:9", f"http://127.0.0.1:{upstream.port}"))
        assert gateway.ask("GET", "/one/x", bought.header).status == 200
        refused(gateway.ask("GET", "/one/x?refused", bought.header), "calls_exhausted", "budget_exhausted")


@pytest.mark.slow
def test_a_payment_after_a_crash(tmp_path: Path, upstream: Upstream) -> None:
    with serving(tmp_path, CONFIG, port=upstream.port) as gateway:
        used, unused = buy(gateway), buy(gateway)
        assert gateway.ask("GET", "/one/x", used.header).status == 200
        gateway.kill_group()
        gateway.begin()
        refused(gateway.ask("GET", "/one/x?refused", used.header), "calls_exhausted", "budget_exhausted")
        assert gateway.ask("GET", "/one/x", unused.header).status == 200


def test_a_key_that_was_rotated_goes_on(tmp_path: Path, upstream: Upstream) -> None:
    with serving(tmp_path, CONFIG, port=upstream.port) as gateway:
        bought = buy(gateway)
        Keyring.open(gateway.keys).rotate(L402)
        assert gateway.ask("GET", "/one/x", bought.header).status == 200


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        (b"Cache-Control: public, max-age=60\r\n", ["private"]),
        (b"Cache-Control: max-age=60\r\nCache-Control: no-store\r\n", ["max-age=60", "no-store"]),
        (b"Cache-Control: Private, max-age=5\r\n", ["Private, max-age=5"]),
        (b'Cache-Control: private="x"\r\n', ["private"]),
        (b"Payment-Receipt: theirs\r\n", ["private"]),
    ],
)
def test_an_answer_with_a_receipt_is_kept_by_nobody_else(
    gateway: Gateway, upstream: Upstream, sent: bytes, got: list[str]
) -> None:
    path = f"/one/{secrets.token_hex(4)}"
    upstream.answers[path] = b"HTTP/1.1 200 OK\r\n" + sent + b"Content-Length: 2\r\n\r\nhi"
    answer = gateway.ask("GET", path, buy(gateway, path).header)
    assert answer.all("cache-control") == got
    assert receipt_of(answer)["status"] == "success"


def test_an_error_of_the_upstream_has_no_receipt(gateway: Gateway, upstream: Upstream) -> None:
    upstream.answers["/one/fails"] = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    answer = gateway.ask("GET", "/one/fails", buy(gateway, "/one/fails").header)
    assert answer.status == 500
    assert "payment-receipt" not in answer


# --- hostile credentials


def test_what_is_not_an_answer_to_a_challenge_opens_nothing(gateway: Gateway) -> None:
    bought, other = buy(gateway), buy(gateway)
    dear = Bought(gateway, gateway.ask("GET", "/both?large=1"))
    before = granted(gateway)
    cheaper = base64.urlsafe_b64encode(json.dumps({"amount": "1", "currency": "sat"}).encode()).decode().rstrip("=")
    opaque = other.changed().rpartition(" ")[2]
    others = json.loads(base64.urlsafe_b64decode(opaque + "=="))["challenge"]
    for line in (
        bought.changed(id=other.challenge.id),
        bought.changed(request=cheaper),
        bought.changed(expires="2999-01-01T00:00:00Z"),
        bought.changed(opaque=others["opaque"]),
        bought.changed(opaque=others["opaque"], preimage=other.preimage),
        bought.changed(id=others["id"], opaque=others["opaque"], preimage=other.preimage),
        bought.changed(preimage=other.preimage),
        bought.changed(preimage="00" * 32),
        bought.changed(preimage=bought.challenge.request["methodDetails"]["paymentHash"]),
        bought.changed(header="Payment-Authorization"),
        bought.changed(realm="api.example.com"),
        bought.changed(intent="session"),
        bought.changed(preimage="5a" * 31),
        "Authorization: Payment",
        "Authorization: Payment e30",
        f"Authorization: Payment {bought.l402.header.rpartition(' ')[2]}",
        bought.header.replace("Payment", "L402"),
        bought.header.replace("Payment", "Bearer"),
        bought.header.replace("Authorization: Payment ", "X-Api-Key: "),
    ):
        answer = gateway.ask("GET", "/one/x?refused", line)
        assert answer.status in (401, 402), (line, answer)
        refused(answer, "token_forged", "token_malformed", "payment_required")
    for line in (bought.header, dear.header):
        for target in ("/one/refused", "/search?refused", "/dear?refused", "/members?refused"):
            refused(gateway.ask("GET", target, line), "caveat_refused")
    assert granted(gateway) == before
    refused(gateway.ask("GET", "/one/x?refused", bought.header, bought.header), "credentials_ambiguous")
    assert gateway.ask("GET", "/one/x", bought.changed(preimage=bought.preimage.upper())).status == 200


def test_a_narrower_one_is_handed_on_under_l402_alone(gateway: Gateway) -> None:
    """What a holder appends is not in the challenge that was written here."""
    bought = buy(gateway)
    child = bought.l402.child("label = helper h")
    text = base64.b64encode(child.macaroon.serialize()).decode()
    opaque = base64.urlsafe_b64encode(json.dumps({"macaroon": text}).encode()).decode().rstrip("=")
    refused(gateway.ask("GET", "/one/x?refused", bought.changed(opaque=opaque)), "token_forged")
    assert gateway.ask("GET", "/one/x", child.header).status == 200


def test_nothing_of_it_is_written_down(gateway: Gateway) -> None:
    bought = buy(gateway)
    assert gateway.ask("GET", "/one/x", bought.header).status == 200
    refused(gateway.ask("GET", "/one/x?refused", bought.changed(preimage="ab" * 32)), "token_forged")
    written = gateway.said().encode() + gateway.out.read_bytes()
    for path in (gateway.ledger, gateway.ledger.with_name("ledger.db-wal")):
        written += path.read_bytes()
    for secret in (bought.preimage, bought.header.rpartition(" ")[2], bought.challenge.id):
        assert secret.encode() not in written
    assert bytes.fromhex(bought.preimage) not in written


def test_on_a_public_route_another_sellers_credential_goes_up(tmp_path: Path, upstream: Upstream) -> None:
    public = '[[route]]\npath = "/public"\nmethods = ["GET"]\nupstream = "search"\nmode = "public"\n'
    with serving(tmp_path, CONFIG + public, port=upstream.port) as gateway:
        bought = buy(gateway)
        assert gateway.ask("GET", "/public", bought.header).status == 200
        assert "authorization" not in upstream.last()
        theirs = "Payment eyJjaGFsbGVuZ2UiOnt9LCJwYXlsb2FkIjp7fX0"
        assert gateway.ask("GET", "/public", f"Authorization: {theirs}").status == 200
        assert upstream.last()["authorization"] == theirs


# --- clients that others wrote


@pytest.mark.asyncio
async def test_pympp_pays_by_itself(gateway: Gateway) -> None:
    """Its transport finds the challenge, also where a purse comes first, pays once a call, and reads the receipt."""
    paid: list[pympp.Challenge] = []
    method = charge(lambda invoice: preimage_of(gateway, Challenge("", invoice)), paid)
    transport = PaymentTransport(methods=[method])
    async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{gateway.port}") as client:
        answers = [await client.get(path) for path in ("/one/a", "/one/b", "/both")]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        for answer in answers:
            assert pympp.Receipt.from_payment_receipt(answer.headers["payment-receipt"]).status == "success"
        assert (await client.get("/search")).status_code == 402
    assert [challenge.request["amount"] for challenge in paid] == ["32", "32", "7"]
