"""Nodes that draw invoices: what each of them is asked, how its answer is read, and what becomes of one that fails.

The answers are written as LND 0.18, Core Lightning 24, phoenixd 0.4 and LNbits 1 give them.
"""

import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.upstreams import Upstream
from tolsey.cli.assemble import _node
from tolsey.config import load
from tolsey.errors import ConfigError
from tolsey.store.invoices import AWAY_SECONDS, Drawn, NodeAway, Patient
from tolsey.store.lightning import MAX_ANSWER, NODES, Node
from tolsey.store.lightning_fake import FakeNode
from tolsey.token.bolt11 import InvoiceInvalid, fits, read_invoice

HASH = bytes(range(32))
INVOICE = "lnbcrt10u1pjexample"
SECRET = "sesame"


def http(status: int, body: object) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text


ASKED: dict[str, tuple[str, tuple[str, str], dict[str, Any], dict[str, object]]] = {
    "lnd": (
        "/v1/invoices",
        ("grpc-metadata-macaroon", SECRET),
        {"value": "1000", "memo": "tolsey", "expiry": "600"},
        {"r_hash": base64.b64encode(HASH).decode(), "payment_request": INVOICE, "add_index": "1"},
    ),
    "cln": (
        "/v1/invoice",
        ("rune", SECRET),
        {"amount_msat": 1_000_000, "description": "tolsey", "expiry": 600},
        {"payment_hash": HASH.hex(), "bolt11": INVOICE, "payment_secret": "ab" * 32, "expires_at": 1},
    ),
    "phoenixd": (
        "/createinvoice",
        ("authorization", "Basic " + base64.b64encode(b":sesame").decode()),
        {"amountSat": ["1000"], "description": ["tolsey"], "expirySeconds": ["600"]},
        {"amountSat": 1000, "paymentHash": HASH.hex(), "serialized": INVOICE},
    ),
    "lnbits": (
        "/api/v1/payments",
        ("x-api-key", SECRET),
        {"out": False, "unit": "sat", "amount": 1000, "memo": "tolsey", "expiry": 600},
        {"payment_hash": HASH.hex(), "bolt11": INVOICE, "preimage": "cd" * 32, "checking_id": "x"},
    ),
}


@pytest.fixture(params=NODES)
async def node(request: pytest.FixtureRequest, upstream: Upstream) -> AsyncIterator[tuple[str, Node]]:
    found = NODES[request.param](f"http://127.0.0.1:{upstream.port}", SECRET, seconds=5)
    yield request.param, found
    await found.close()


async def test_an_invoice_is_drawn(node: tuple[str, Node], upstream: Upstream) -> None:
    name, backend = node
    path, credential, wanted, answer = ASKED[name]
    upstream.answers[path] = http(201 if name in ("cln", "lnbits") else 200, answer)

    assert await backend.draw(1000, 600) == Drawn(INVOICE, HASH)

    asked = upstream.last()
    assert asked.line.startswith(f"POST {path} ")
    assert asked[credential[0]] == credential[1]
    body = asked.body.decode()
    sent = parse_qs(body) if name == "phoenixd" else json.loads(body)
    label = sent.pop("label", None)
    assert sent == wanted
    assert (label is not None and len(label) > 32) == (name == "cln")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(500, {"message": "no route", "code": 2}), "the node answered 500: no route"),
        (http(401, {"detail": "invalid rune"}), "the node answered 401: invalid rune"),
        (http(403, b"<html>"), "the node answered 403"),
        (http(200, []), "not a JSON object"),
        (http(200, b"{"), "not a JSON object"),
        (http(200, {}), "has no invoice, or no payment hash"),
        (http(200, b'{"a": "%b"}' % (b"x" * MAX_ANSWER)), "too long"),
        (http(302, {}), "the node answered 302"),
        (b"not HTTP\r\n\r\n", "cannot be asked"),
    ],
)
async def test_an_answer_that_is_none(node: tuple[str, Node], upstream: Upstream, answer: bytes, said: str) -> None:
    name, backend = node
    upstream.answers[ASKED[name][0]] = answer
    with pytest.raises(NodeAway) as caught:
        await backend.draw(1000, 600)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("wrong", ["", "zz", "00" * 31, "00" * 33, None, 7, ["00" * 32]])
async def test_a_payment_hash_that_is_none(upstream: Upstream, name: str, wrong: object) -> None:
    path, _, _, answer = ASKED[name]
    key = {"lnd": "r_hash", "phoenixd": "paymentHash"}.get(name, "payment_hash")
    if name == "lnd" and isinstance(wrong, str):
        wrong = base64.b64encode(bytes.fromhex(wrong)).decode() if wrong != "zz" else "%%"
    upstream.answers[path] = http(200, {**answer, key: wrong})
    backend = NODES[name](f"http://127.0.0.1:{upstream.port}", SECRET, seconds=5)
    with pytest.raises(NodeAway):
        await backend.draw(1000, 600)
    await backend.close()


class Scripted:
    """A node that fails as it is told."""

    fake = False

    def __init__(self) -> None:
        self.asked = 0
        self.away = False

    async def draw(self, sat: int, seconds: int) -> Drawn:
        self.asked += 1
        if self.away:
            raise NodeAway("it is away")
        return Drawn(INVOICE, HASH)

    async def close(self) -> None:
        pass


async def test_a_node_that_fails_is_left_alone_for_a_while_and_found_again() -> None:
    said: list[str | None] = []
    now = 0.0
    scripted = Scripted()
    node = Patient(scripted, said.append, lambda: now)
    assert await node.draw(1, 60) == Drawn(INVOICE, HASH)
    scripted.away = True
    for pause in (*AWAY_SECONDS, AWAY_SECONDS[-1]):
        with pytest.raises(NodeAway, match="it is away"):
            await node.draw(1, 60)
        before = scripted.asked
        now += pause - 0.001
        with pytest.raises(NodeAway, match="a moment ago"):
            await node.draw(1, 60)
        assert scripted.asked == before
        now += 0.001
    scripted.away = False
    assert await node.draw(1, 60) == Drawn(INVOICE, HASH)
    assert said == ["it is away", None]


async def test_the_fake_pays_what_it_drew_and_nothing_else() -> None:
    one, same, other = FakeNode(b"secret"), FakeNode(b"secret"), FakeNode(b"other")
    invoice, payment_hash = await one.draw(7, 60)
    found = read_invoice(invoice)
    assert (found.network, found.msat, found.payment_hash) == ("bcrt", 7000, payment_hash)
    assert fits(same.pay(invoice), found)
    for wrong in ("", invoice[:-1], (await other.draw(7, 60))[0]):
        with pytest.raises(InvoiceInvalid):
            one.pay(wrong)
    expired, _ = await one.draw(7, 0)
    with pytest.raises(InvoiceInvalid, match="has expired"):
        one.pay(expired)


def test_a_gateway_needs_httpx_only_for_a_real_node(tmp_path: Path) -> None:
    program = """
import os, sys
sys.modules["httpx"] = None
from pathlib import Path
import tolsey.cli.worker
from tolsey.cli.assemble import _node
from tolsey.config import load
from tolsey.errors import ConfigError
config = load(Path(sys.argv[1]), os.environ)
try:
    _node(config, config.payment)
except ConfigError as error:
    print(error.reason)
"""
    file = tmp_path / "tolsey.toml"
    file.write_text('[payment]\nbackend = "cln"\nurl = "https://n"\nsecret = "s"\noffer = [{ name = "o" }]\n')
    done = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True, check=False)
    assert done.stdout == "needs httpx: pip install 'tolsey[httpx]'\n", done.stderr


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), ("nonsense", "no certificate")])
def test_a_certificate_that_is_none(tmp_path: Path, content: str | None, reason: str) -> None:
    file = tmp_path / "tolsey.toml"
    node = 'backend = "cln"\nurl = "https://n"\nsecret = "s"\ncertificate = "ca.pem"'
    file.write_text(f'[payment]\n{node}\noffer = [{{ name = "o" }}]\n')
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    config = load(file, {})
    assert config.payment is not None
    with pytest.raises(ConfigError, match=reason) as caught:
        _node(config, config.payment)
    assert caught.value.key == "payment.certificate"
