"""Real payments between two lnd nodes: by our own client, on the command line, and by clients that others wrote."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import mpp as pympp
import pytest
from mpp.client.transport import PaymentTransport

from tests.aperture import EXPECTED, PROBES, Aperture
from tests.charges import charge
from tests.cli import tolsey
from tests.clients import CLIENTS, Foreign
from tests.gateways import Gateway, problem, serving, until
from tests.lightning_rig import LnBits, Rig, lightning
from tests.test_payments import CONFIG as PAYMENTS
from tests.upstreams import Upstream
from tolsey.pay import ChallengeRefused, L402Auth, LnBitsWallet, LndWallet, PaymentFailed, Purses

pytestmark = pytest.mark.lightning


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with lightning(tmp_path_factory.mktemp("lightning")) as running:
        yield running


def config(rig: Rig, more: str = "") -> str:
    seller = rig.seller
    return PAYMENTS.replace(
        'backend = "fake"',
        f'backend = "lnd"\nurl = "{seller.url}"\nsecret = "{seller.macaroon("invoice")}"\n'
        f'certificate = "{seller.certificate}"\n{more}',
    )


@pytest.fixture(scope="module")
def gateway(rig: Rig, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("gateway"), config(rig), port=upstream.port) as running:
        yield running


@pytest.fixture(scope="module")
def alike(rig: Rig, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One that is told to answer as Aperture does."""
    with serving(tmp_path_factory.mktemp("alike"), config(rig, "aperture = true\n"), port=upstream.port) as running:
        yield running


@pytest.fixture(scope="module")
def aperture(rig: Rig, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aperture]:
    running = Aperture(tmp_path_factory.mktemp("real") / "aperture", rig.seller, upstream.port)
    yield running
    running.stop()


@pytest.fixture
def wallet(rig: Rig) -> LndWallet:
    return LndWallet(rig.payer.url, rig.payer.macaroon("admin"))


def base(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.port}"


def test_a_stranger_pays_calls_delegates_and_runs_dry(
    gateway: Gateway, rig: Rig, wallet: LndWallet, upstream: Upstream
) -> None:
    before = upstream.last().line if upstream.heard else ""
    purses = Purses()
    with httpx.Client(base_url=base(gateway), auth=L402Auth(wallet, max="1500 sat", purses=purses)) as agent:
        answer = agent.get("/search?paid=1")
        assert answer.status_code == 200
        assert answer.headers["tolsey-remaining"] == "700 sat"
        assert "tolsey-payment" not in answer.headers
        assert upstream.last().target == "/search?paid=1"
        assert upstream.last().line != before

        (purse,) = purses.all()
        child = purse.attenuate(label="helper", budget="300 sat")
        helper = [httpx.get(base(gateway) + "/search", headers={"Authorization": child.authorization}) for _ in "12"]
        assert [answer.status_code for answer in helper] == [200, 402]
        assert helper[1].json()["link"]["label"] == "helper"

        assert agent.get("/search").headers["tolsey-remaining"] == "100 sat"
        with pytest.raises(ChallengeRefused, match="may be spent"):
            agent.get("/search")

    (payment,) = [entry for entry in gateway.entries() if entry.kind == "pay"]
    found = rig.seller.ask("GET", f"/v1/invoice/{payment.hold}")
    assert (found["state"], found["value"]) == ("SETTLED", "1000")
    assert payment.amount == 1000 * 10**9
    written = gateway.said() + gateway.out.read_text()
    assert purse.preimage not in written
    assert rig.seller.macaroon("invoice") not in written


def test_a_challenge_that_nobody_paid_stays_shut(gateway: Gateway) -> None:
    macaroon = problem(gateway.ask("GET", "/search"))["payment"]["macaroon"]
    for preimage in ("00" * 32, "ab" * 32):
        answer = gateway.ask("GET", "/search", f"Authorization: L402 {macaroon}:{preimage}")
        assert problem(answer)["code"] == "token_forged"


def test_the_command_line_pays(gateway: Gateway, rig: Rig, tmp_path: Path) -> None:
    env = {
        "TOLSEY_WALLET": "lnd",
        "TOLSEY_WALLET_URL": rig.payer.url,
        "TOLSEY_WALLET_SECRET": rig.payer.macaroon("admin"),
        "TOLSEY_PURSES": str(tmp_path / "purses.json"),
    }
    for paid in ("32", "32"):
        # A purse for one call is spent after one.
        status, out, err = tolsey("fetch", f"{base(gateway)}/one/x", "--max", "100sat", "--json", env=env)
        assert status == 0, err
        assert json.loads(out)["paid_sat"] == paid


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_clients_that_others_wrote_pay_once_for_two_calls(gateway: Gateway, rig: Rig, client: Foreign) -> None:
    before = sum(entry.kind == "pay" for entry in gateway.entries())
    assert client.run(base(gateway), rig.payer.url, rig.payer.macaroon("admin")) == [200, 200]
    assert sum(entry.kind == "pay" for entry in gateway.entries()) == before + 1


async def test_pympp_pays_for_single_calls(rig: Rig, upstream: Upstream, tmp_path: Path, wallet: LndWallet) -> None:
    """The `Payment` scheme beside L402: each call is paid for by one invoice, and its receipt names the payment."""
    paid: list[pympp.Challenge] = []
    method = charge(lambda invoice: wallet.pay(invoice, "").hex(), paid)
    with serving(tmp_path, config(rig, "mpp = true\n"), port=upstream.port) as gateway:
        async with httpx.AsyncClient(transport=PaymentTransport(methods=[method]), base_url=base(gateway)) as client:
            answers = [await client.get(path) for path in ("/one/a", "/one/b")]
        assert [answer.status_code for answer in answers] == [200, 200]
        receipts = [pympp.Receipt.from_payment_receipt(answer.headers["payment-receipt"]) for answer in answers]
        payments = [entry.hold for entry in gateway.entries() if entry.kind == "pay"]
        assert [receipt.reference for receipt in receipts] == payments
    found = [rig.seller.ask("GET", f"/v1/invoice/{payment}") for payment in payments]
    assert [(invoice["state"], invoice["value"]) for invoice in found] == [("SETTLED", "32")] * 2


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_and_when_it_answers_as_aperture_does(rig: Rig, upstream: Upstream, tmp_path: Path, client: Foreign) -> None:
    with serving(tmp_path, config(rig, "aperture = true\n"), port=upstream.port) as gateway:
        lines = gateway.ask("GET", "/search").all("www-authenticate")
        assert [line.partition(" ")[0] for line in lines] == ["LSAT", "L402"]
        for header in ("Bearer nonsense", "L402 nonsense", "L402 AAAA:" + "00" * 32):
            assert gateway.ask("GET", "/search", f"Authorization: {header}").status == 402
        assert client.run(base(gateway), rig.payer.url, rig.payer.macaroon("admin")) == [200, 200]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_same_scripts_pass_against_aperture(aperture: Aperture, rig: Rig, client: Foreign) -> None:
    assert client.run(aperture.url, rig.payer.url, rig.payer.macaroon("admin")) == [200, 200]


def test_where_aperture_answers_otherwise(
    aperture: Aperture, gateway: Gateway, alike: Gateway, wallet: LndWallet
) -> None:
    """The table of docs/divergences.md: the same probes of the three."""
    found = {
        name: [probe(url, wallet) for url in (aperture.url, base(gateway), base(alike))]
        for name, probe in PROBES.items()
    }
    assert found == EXPECTED


def test_lnbits_draws_and_pays(rig: Rig, upstream: Upstream, tmp_path: Path, wallet: LndWallet) -> None:
    """An agent's wallet there is filled by a payment between the nodes; then it pays a shop's on the same server."""
    bits = LnBits(tmp_path / "lnbits", rig.seller)
    try:
        (shop, _), (agent_in, agent_admin) = bits.wallet("shop"), bits.wallet("agent")
        backend = f'backend = "lnbits"\nurl = "{bits.url}"\nsecret = "{shop}"'
        text = PAYMENTS.replace('backend = "fake"', backend)
        with serving(tmp_path, text, port=upstream.port) as gateway:
            with httpx.Client(base_url=base(gateway), auth=L402Auth(wallet, max="1000 sat")) as stranger:
                assert stranger.get("/search").headers["tolsey-remaining"] == "700 sat"
            headers = {"X-Api-Key": agent_in}
            body = {"out": False, "amount": 1500, "memo": "pocket money"}
            filled = httpx.post(f"{bits.url}/api/v1/payments", headers=headers, json=body).json()
            wallet.pay(filled["bolt11"], "")
            until(
                lambda: httpx.get(f"{bits.url}/api/v1/wallet", headers=headers).json()["balance"] == 1_500_000,
                "it is there",
            )
            purse = L402Auth(LnBitsWallet(bits.url, agent_admin), max="1000 sat")
            with httpx.Client(base_url=base(gateway), auth=purse) as agent:
                assert [agent.get("/search").status_code for _ in range(3)] == [200] * 3
            assert sum(entry.kind == "pay" for entry in gateway.entries()) == 2
    finally:
        bits.stop()


def test_a_wallet_knows_what_it_surely_did_not_pay(rig: Rig, wallet: LndWallet) -> None:
    own = rig.payer.ask("POST", "/v1/invoices", value="5")["payment_request"]
    with pytest.raises(PaymentFailed, match="self-payments"):
        wallet.pay(own, "")
    dear = rig.seller.ask("POST", "/v1/invoices", value="100000000")["payment_request"]
    with pytest.raises(PaymentFailed):
        wallet.pay(dear, "")
    once = rig.seller.ask("POST", "/v1/invoices", value="5")["payment_request"]
    assert wallet.pay(once, "") == wallet.pay(once, "")


def test_a_seller_whose_node_is_away(gateway: Gateway, rig: Rig, wallet: LndWallet) -> None:
    with httpx.Client(base_url=base(gateway), auth=L402Auth(wallet, max="2000 sat")) as agent:
        assert agent.get("/search").status_code == 200
        rig.seller.stop()
        try:
            assert problem(gateway.ask("GET", "/search"))["code"] == "payment_unavailable"
            assert agent.get("/search").status_code == 200
        finally:
            rig.seller.start()
        until(
            # Each of the two workers finds it when it is next asked.
            lambda: gateway.ask("GET", "/search").status == 402 and "the payment node is back" in gateway.said(),
            "the node is found again",
            60,
        )
