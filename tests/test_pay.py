"""Agents that pay: within what they may spend, once for each purse, and never twice for what may be paid already."""

import asyncio
import base64
import json
import stat
import time
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateways import Gateway
from tests.test_lightning_nodes import http
from tests.test_payments import CONFIG as PAYMENTS
from tests.upstreams import Upstream
from tolsey.call import Call
from tolsey.pay import (
    ChallengeRefused,
    FakeWallet,
    L402Auth,
    PaymentFailed,
    PaymentUnknown,
    Purse,
    Purses,
    Wallet,
)
from tolsey.pay.purses import Pending, PursesInvalid
from tolsey.pay.wallets import WALLETS
from tolsey.refusals import BudgetExhausted
from tolsey.token.bolt11 import write_unsigned
from tolsey.token.l402 import Challenge, Payment, write_challenge, write_identifier
from tolsey.token.macaroon import Macaroon

CONFIG = PAYMENTS
PREIMAGE = bytes(range(32))
HASH = sha256(PREIMAGE).digest()


class Counting:
    """The fake wallet, which counts and fails as it is told."""

    def __init__(self) -> None:
        self.paid: list[str] = []
        self.fails: list[Exception] = []

    def pay(self, invoice: str, origin: str) -> bytes:
        self.paid.append(invoice)
        preimage = FakeWallet().pay(invoice, origin)
        if self.fails:
            raise self.fails.pop()
        return preimage


@pytest.fixture
def wallet() -> Counting:
    return Counting()


def client(gateway: Gateway, wallet: Wallet, most: str = "100000 sat", purses: Purses | None = None) -> httpx.Client:
    auth = L402Auth(wallet, max=most, purses=purses)
    return httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", auth=auth, trust_env=False)


def test_calls_are_paid_from_one_purse_until_it_is_spent(gateway: Gateway, wallet: Counting) -> None:
    with client(gateway, wallet) as agent:
        for _ in range(3):
            assert agent.get("/search").status_code == 200
        assert len(wallet.paid) == 1
        assert agent.post("/search", json={"q": 1}).status_code == 200
        assert len(wallet.paid) == 2
        assert agent.get("/dear").status_code == 200
        assert agent.get("/search").headers["tolsey-remaining"] == "400 sat"
        assert len(wallet.paid) == 3


async def test_tasks_share_a_purse(gateway: Gateway, wallet: Counting) -> None:
    base = f"http://127.0.0.1:{gateway.port}"
    async with httpx.AsyncClient(base_url=base, auth=L402Auth(wallet, max="3000 sat"), trust_env=False) as agent:
        answers = await asyncio.gather(*(agent.get("/search") for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(wallet.paid) == 1


def test_no_more_is_spent_than_allowed(gateway: Gateway, wallet: Counting) -> None:
    with client(gateway, wallet, "1999 sat") as agent:
        for _ in range(3):
            assert agent.get("/search").status_code == 200
        with pytest.raises(ChallengeRefused, match="over 1000000 msat, and 999000 msat may be spent"):
            agent.get("/search")
    assert len(wallet.paid) == 1
    for wrong in ("1 USD", "many", "-1 sat"):
        with pytest.raises(ValueError, match=r"sat|amount|number"):
            L402Auth(wallet, max=wrong)


def test_what_was_paid_for_is_remembered_in_a_file_of_its_owners(
    gateway: Gateway, wallet: Counting, tmp_path: Path
) -> None:
    path = tmp_path / "home" / "purses.json"
    for _ in range(2):
        with client(gateway, wallet, purses=Purses(path)) as agent:
            assert agent.get("/search").status_code == 200
    assert len(wallet.paid) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    with pytest.raises(PursesInvalid, match="others may use it"):
        Purses(path).all()
    path.chmod(0o600)
    for content in ("", "{", "[]", '{"purses": [{}], "pending": []}', "[" * 100_000):
        path.write_text(content)
        with pytest.raises(PursesInvalid, match="not a file of purses"):
            Purses(path).all()


def test_a_purse_is_narrowed_before_it_is_handed_on(gateway: Gateway, wallet: Counting) -> None:
    purses = Purses()
    with client(gateway, wallet, purses=purses) as agent:
        agent.get("/search")
    (purse,) = purses.all()
    child = purse.attenuate(label="helper", budget="300 sat", caveats=("method = GET",))
    assert purse.macaroon not in child.authorization
    url = f"http://127.0.0.1:{gateway.port}/search"
    first, second = (httpx.get(url, headers={"Authorization": child.authorization}, trust_env=False) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 402)
    assert second.json()["link"]["label"] == "helper"
    assert purse.preimage not in repr(purse)


def test_a_payment_that_failed_is_not_spent(gateway: Gateway, wallet: Counting) -> None:
    purses = Purses()
    with client(gateway, wallet, "1000 sat", purses) as agent:
        wallet.fails.append(PaymentFailed("no route"))
        with pytest.raises(PaymentFailed):
            agent.get("/search")
        assert purses.pending(f"http://127.0.0.1:{gateway.port}") is None
        assert agent.get("/search").status_code == 200
    assert len(set(wallet.paid)) == 2


def test_a_payment_that_is_not_certain_is_not_made_again(gateway: Gateway, wallet: Counting, tmp_path: Path) -> None:
    """S5: a timeout is not a failure. Another process, later, asks for the same invoice and pays no other."""
    path = tmp_path / "purses.json"
    with client(gateway, wallet, "1000 sat", Purses(path)) as agent:
        for _ in range(2):
            wallet.fails.append(PaymentUnknown("it did not answer"))
            with pytest.raises(PaymentUnknown):
                agent.get("/search")
    with client(gateway, wallet, "1000 sat", Purses(path)) as agent:
        assert agent.get("/search").status_code == 200
    assert len(wallet.paid) == 3
    assert len(set(wallet.paid)) == 1
    assert json.loads(path.read_text())["pending"] == []


def test_a_shortfall_that_no_payment_ends_is_an_error(gateway: Gateway, wallet: Counting) -> None:
    token = gateway.token(budget="1 sat")
    with client(gateway, wallet) as agent, pytest.raises(BudgetExhausted) as caught:
        agent.get("/search", headers={"Authorization": f"Bearer {token}"})
    assert (caught.value.limit, caught.value.unit) == (Decimal(1), "sat")
    assert "team cannot pay 300 sat" in str(caught.value)
    assert wallet.paid == []


def test_what_needs_no_payment_is_left_alone(gateway: Gateway, wallet: Counting) -> None:
    with client(gateway, wallet) as agent:
        assert agent.get("/members").status_code == 401
        assert agent.get("/nowhere").status_code == 404
    assert wallet.paid == []


def challenge(
    *, msat: int | None = 5000, hash_: bytes = HASH, identifier: bytes | None = None, expiry: int = 600
) -> Challenge:
    written = identifier or write_identifier(Payment(HASH.hex(), "00" * 4, 1, 5), bytes(22))
    macaroon = Macaroon.mint(root_key=b"k", identifier=written).attenuate("scope = /*")
    invoice = write_unsigned(msat or 1, hash_, bytes(32), "d", at=int(time.time()), expiry=expiry)
    return Challenge(base64.b64encode(macaroon.serialize()).decode(), invoice)


class Known:
    """A wallet that knows one preimage."""

    def __init__(self, preimage: bytes = PREIMAGE) -> None:
        self.preimage = preimage
        self.paid = 0

    def pay(self, invoice: str, origin: str) -> bytes:
        self.paid += 1
        return self.preimage


@pytest.mark.parametrize(
    ("offered", "said"),
    [
        (challenge(hash_=bytes(32)), "its preimage would open nothing"),
        (challenge(identifier=b"\x00\x01" + HASH + bytes(32)), "would open nothing"),
        (challenge(identifier=b"another's"), "would open nothing"),
        (challenge(expiry=0), "has expired"),
        (challenge(msat=10**9), "may be spent"),
        (Challenge("AAAA", challenge().invoice), "cannot be read"),
        (Challenge(challenge().macaroon, "lnbc1"), "cannot be read"),
    ],
)
def test_a_challenge_that_is_a_trick_is_not_paid(offered: Challenge, said: str) -> None:
    wallet = Known()

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(402, headers={"WWW-Authenticate": write_challenge(offered)})

    with (
        httpx.Client(auth=L402Auth(wallet, max="100 sat"), transport=httpx.MockTransport(answer)) as agent,
        pytest.raises(ChallengeRefused, match=said),
    ):
        agent.get("http://x.example/")
    assert wallet.paid == 0


def test_a_wallet_that_shows_another_preimage_is_not_believed() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(402, headers={"WWW-Authenticate": write_challenge(challenge())})

    with (
        httpx.Client(auth=L402Auth(Known(bytes(32)), max="100 sat"), transport=httpx.MockTransport(answer)) as agent,
        pytest.raises(ChallengeRefused, match="not that of the invoice"),
    ):
        agent.get("http://x.example/")


def test_a_server_that_takes_the_money_and_asks_again_is_paid_once_a_call() -> None:
    wallet = Known()
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization", ""))
        return httpx.Response(402, headers={"WWW-Authenticate": write_challenge(challenge())})

    with httpx.Client(auth=L402Auth(wallet, max="6 sat"), transport=httpx.MockTransport(answer)) as agent:
        assert agent.get("http://x.example/").status_code == 402
        assert seen[0] == ""
        assert seen[1].startswith("L402 ")
        with pytest.raises(ChallengeRefused, match="may be spent"):
            agent.get("http://x.example/")
    assert wallet.paid == 1


def test_purses_are_for_their_own_server_and_what_they_allow() -> None:
    purses = Purses()
    purse = Purse("https://a.example", challenge().macaroon, PREIMAGE.hex(), 5000)
    purses.end(Pending("https://a.example", purse.macaroon, "i", 5000), purse)
    call = Call("GET", "/x", "", "", time.time_ns())
    assert purses.find("https://a.example", call) == purse
    assert purses.find("https://b.example", call) is None
    narrow = purse.attenuate(label="l", caveats=("method = POST", "expires = 2999-01-01", "peer = 10.0.0.0/8"))
    assert not narrow.allows(call)
    assert narrow.allows(call._replace(method="POST"))
    assert not Purse("https://a.example", "AAAA", PREIMAGE.hex(), 1).allows(call)


# --- wallets

INVOICE = write_unsigned(5000, HASH, bytes(32), "d", at=1, expiry=60)
NAME = base64.urlsafe_b64encode(HASH).decode()
OK: dict[str, dict[str, dict[str, Any]]] = {
    "lnd": {"/v2/router/send": {"result": {"status": "SUCCEEDED", "payment_preimage": PREIMAGE.hex()}}},
    "cln": {"/v1/pay": {"status": "complete", "payment_preimage": PREIMAGE.hex()}},
    "phoenixd": {
        f"/payments/outgoingbyhash/{HASH.hex()}": {},
        "/payinvoice": {"paymentPreimage": PREIMAGE.hex(), "paymentHash": HASH.hex()},
    },
    "lnbits": {
        "/api/v1/payments": {"payment_hash": HASH.hex()},
        f"/api/v1/payments/{HASH.hex()}": {"paid": True, "preimage": PREIMAGE.hex()},
    },
}


@pytest.fixture(params=WALLETS)
def node(request: pytest.FixtureRequest, upstream: Upstream) -> tuple[str, Wallet]:
    upstream.answers.clear()
    upstream.answers.update({path: http(200, answer) for path, answer in OK[request.param].items()})
    return request.param, WALLETS[request.param](f"http://127.0.0.1:{upstream.port}/", "sesame")


def test_a_wallet_pays(node: tuple[str, Wallet]) -> None:
    assert node[1].pay(INVOICE, "") == PREIMAGE


def test_a_wallet_that_cannot_be_reached_has_not_paid() -> None:
    for make in WALLETS.values():
        with pytest.raises(PaymentFailed, match="cannot be reached"):
            make("http://127.0.0.1:9", "sesame").pay(INVOICE, "")


ENDS: dict[str, tuple[str, str, bytes, type[Exception]]] = {
    "lnd: no route": (
        "lnd",
        "/v2/router/send",
        http(200, {"result": {"status": "FAILED", "failure_reason": "FAILURE_REASON_NO_ROUTE"}}),
        PaymentFailed,
    ),
    "lnd: refused, and no more is known": (
        *("lnd", "/v2/router/send", http(400, {"error": {"message": "invoice expired"}}), PaymentUnknown),
    ),
    "lnd: not HTTP": ("lnd", "/v2/router/send", b"not HTTP\r\n\r\n", PaymentUnknown),
    "lnd: gateway": ("lnd", "/v2/router/send", http(502, b"<html>"), PaymentUnknown),
    "lnd: no preimage": ("lnd", "/v2/router/send", http(200, {"result": {"status": "SUCCEEDED"}}), PaymentUnknown),
    "cln: no route": ("cln", "/v1/pay", http(500, {"code": 205, "message": "no route"}), PaymentFailed),
    "cln: under way": ("cln", "/v1/pay", http(500, {"code": 200, "message": "under way"}), PaymentUnknown),
    "cln: pending": ("cln", "/v1/pay", http(200, {"status": "pending"}), PaymentUnknown),
    "cln: forbidden": ("cln", "/v1/pay", http(401, {"message": "rune"}), PaymentFailed),
    "phoenixd: no route": ("phoenixd", "/payinvoice", http(200, {"reason": "route not found"}), PaymentFailed),
    "phoenixd: broken": ("phoenixd", "/payinvoice", http(500, b""), PaymentUnknown),
    "lnbits: poor": ("lnbits", f"/api/v1/payments/{HASH.hex()}", http(404, {}), PaymentUnknown),
}


@pytest.mark.parametrize("case", ENDS)
def test_how_a_wallet_says_that_it_did_not_pay(upstream: Upstream, case: str) -> None:
    name, path, answer, kind = ENDS[case]
    upstream.answers.clear()
    upstream.answers.update({where: http(200, found) for where, found in OK[name].items()})
    upstream.answers[path] = answer
    with pytest.raises(kind) as caught:
        WALLETS[name](f"http://127.0.0.1:{upstream.port}", "sesame").pay(INVOICE, "")
    assert "sesame" not in str(caught.value)


def test_lnd_says_whether_it_began_a_payment_that_it_refused(upstream: Upstream) -> None:
    track = f"/v2/router/track/{NAME}?no_inflight_updates=true"
    for known, kind in (
        (http(404, {"error": {"code": 5, "message": "payment isn't initiated"}}), PaymentFailed),
        (http(200, {"result": {"status": "FAILED", "failure_reason": "FAILURE_REASON_TIMEOUT"}}), PaymentFailed),
        (http(200, {"result": {"status": "IN_FLIGHT"}}), PaymentUnknown),
        (http(500, b""), PaymentUnknown),
    ):
        upstream.answers.clear()
        upstream.answers["/v2/router/send"] = http(500, {"error": {"message": "self-payments not allowed"}})
        upstream.answers[track] = known
        with pytest.raises(kind):
            WALLETS["lnd"](f"http://127.0.0.1:{upstream.port}", "sesame").pay(INVOICE, "")


def test_an_invoice_that_was_paid_before_gives_its_preimage_again(upstream: Upstream) -> None:
    upstream.answers.clear()
    upstream.answers["/v2/router/send"] = http(409, {"error": {"message": "invoice is already paid"}})
    upstream.answers[f"/v2/router/track/{NAME}?no_inflight_updates=true"] = http(
        200, {"result": {"status": "SUCCEEDED", "payment_preimage": PREIMAGE.hex()}}
    )
    upstream.answers[f"/payments/outgoingbyhash/{HASH.hex()}"] = http(200, {"isPaid": True, "preimage": PREIMAGE.hex()})
    upstream.answers["/payinvoice"] = http(500, b"")
    for name in ("lnd", "phoenixd"):
        assert WALLETS[name](f"http://127.0.0.1:{upstream.port}", "sesame").pay(INVOICE, "") == PREIMAGE


def test_the_fake_wallet_touches_no_real_invoice() -> None:
    with pytest.raises(PaymentFailed, match="nothing but fake"):
        FakeWallet().pay(
            "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqq"
            "syqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53"
            "ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh",
            "http://127.0.0.1:9",
        )
