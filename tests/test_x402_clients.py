"""The x402 package, unchanged: its client signs, its facilitator checks the signature and moves a token on an EVM."""

import json
from pathlib import Path
from typing import Final

import pytest

from tests.clients import Foreign
from tests.facilitators import ASSET, CONFIG, NETWORK, SELLER
from tests.gateways import serving, until
from tests.ports import free_port
from tests.test_payments import CONFIG as PAYMENTS
from tests.upstreams import Upstream

pytestmark = pytest.mark.lightning

EVM_NETWORK: Final = "eip155:131277322940537"
"""The chain of eth-tester."""

TOKEN: Final = "0xF2E246BB76DF876Cef8b38ae84130F4F55De395b"
"""What its first account deploys first."""

X402: Final = Foreign(
    "x402",
    pip=("x402[evm]==2.25.0", "httpx==0.28.1", "eth-tester==0.14.0b1", "py-evm==0.12.1b1", "vyper==0.4.3"),
    script='''
import asyncio, base64, json, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
import httpx
import vyper
from eth_account import Account
from eth_tester import EthereumTester, PyEVMBackend
from web3 import EthereumTesterProvider, Web3
from x402 import x402Client
from x402.http.clients.httpx import x402HttpxClient
from x402.http.utils import decode_payment_response_header
from x402.mechanisms.evm.exact.facilitator import ExactEvmScheme
from x402.mechanisms.evm.exact.register import register_exact_evm_client
from x402.mechanisms.evm.signers import EthAccountSigner, FacilitatorWeb3Signer
from x402.schemas import PaymentPayload, PaymentRequirements

gateway, port, seller = sys.argv[1], int(sys.argv[2]), sys.argv[3]
SOURCE = """
# pragma version 0.4.3
event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    value: uint256
event AuthorizationUsed:
    authorizer: indexed(address)
    nonce: indexed(bytes32)
balanceOf: public(HashMap[address, uint256])
authorizationState: public(HashMap[address, HashMap[bytes32, bool]])
name: public(String[16])
version: public(String[4])
DOMAIN: immutable(bytes32)
TYPE: constant(bytes32) = keccak256("<type>")
@deploy
def __init__(payer: address, amount: uint256):
    self.balanceOf[payer] = amount
    self.name = "USD Coin"
    self.version = "2"
    DOMAIN = keccak256(abi_encode(
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
        keccak256("USD Coin"), keccak256("2"), chain.id, self
    ))
@external
def transferWithAuthorization(
    sender: address, receiver: address, amount: uint256, validAfter: uint256, validBefore: uint256, nonce: bytes32,
    v: uint8, r: bytes32, s: bytes32
):
    assert block.timestamp > validAfter and block.timestamp < validBefore, "authorization is not valid now"
    assert not self.authorizationState[sender][nonce], "authorization is used"
    digest: bytes32 = keccak256(concat(
        x"1901", DOMAIN, keccak256(abi_encode(TYPE, sender, receiver, amount, validAfter, validBefore, nonce))
    ))
    assert ecrecover(digest, v, r, s) == sender, "invalid signature"
    assert self.balanceOf[sender] >= amount, "transfer amount exceeds balance"
    self.authorizationState[sender][nonce] = True
    self.balanceOf[sender] -= amount
    self.balanceOf[receiver] += amount
    log AuthorizationUsed(authorizer=sender, nonce=nonce)
    log Transfer(sender=sender, receiver=receiver, value=amount)
"""
TYPE = (
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    "uint256 validBefore,bytes32 nonce)"
)
payer, relayer = Account.create(), Account.create()
w3 = Web3(EthereumTesterProvider(EthereumTester(PyEVMBackend())))
first = w3.eth.accounts[0]
built = vyper.compile_code(SOURCE.replace("<type>", TYPE), output_formats=["abi", "bytecode"])
contract = w3.eth.contract(abi=built["abi"], bytecode=built["bytecode"])
made = contract.constructor(payer.address, 50_000).transact({"from": first})
token = w3.eth.contract(w3.eth.wait_for_transaction_receipt(made)["contractAddress"], abi=built["abi"])
w3.eth.send_transaction({"from": first, "to": relayer.address, "value": 10**18})
signer = FacilitatorWeb3Signer(relayer.key.hex(), "http://127.0.0.1:1")
signer._w3 = w3
scheme = ExactEvmScheme(signer)
asked = []

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked.append(body)
        payload = PaymentPayload.model_validate(body["paymentPayload"])
        wanted = PaymentRequirements.model_validate(body["paymentRequirements"])
        found = (scheme.verify if self.path == "/verify" else scheme.settle)(payload, wanted)
        answer = found.model_dump_json(by_alias=True, exclude_none=True)
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())
    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", port), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()

async def main():
    client = x402Client()
    # By itself it pays with assets that it knows, and this chain has none of them.
    client.set_spend_controls({"allowed_assets": True})
    register_exact_evm_client(client, EthAccountSigner(payer))
    out = {"token": token.address, "chain": w3.eth.chain_id, "statuses": [], "transactions": [], "replays": []}
    async with x402HttpxClient(client) as http:
        for path in ("/one/a", "/one/b", "/one/c"):
            answer = await http.get(gateway + path, timeout=60)
            out["statuses"].append(answer.status_code)
            response = answer.headers.get("payment-response")
            if response:
                out["transactions"].append(decode_payment_response_header(response).transaction)
                sent = base64.b64encode(json.dumps(asked[-1]["paymentPayload"]).encode()).decode()
                replay = httpx.get(gateway + path + "?refused", headers={"PAYMENT-SIGNATURE": sent})
                out["replays"].append(replay.status_code)
            else:
                out["refused"] = answer.json()["detail"]
    out["seller"] = token.functions.balanceOf(Web3.to_checksum_address(seller)).call()
    out["payer"] = token.functions.balanceOf(payer.address).call()
    out["mined"] = [w3.eth.get_transaction_receipt(t)["status"] for t in out["transactions"]]
    print(json.dumps(out))

asyncio.run(main())
''',
)


def test_the_x402_package_pays_and_its_facilitator_settles_on_an_evm(tmp_path: Path, upstream: Upstream) -> None:
    """The payer has 0.05, a call costs 0.02: two are served, each signature once, and for a third there is no money."""
    port = free_port()
    x402 = CONFIG.replace(NETWORK, EVM_NETWORK).replace(ASSET, TOKEN).replace("timeout = 2", "timeout = 30")
    config = PAYMENTS.replace("[payment.rates]", f"{x402}[payment.rates]")
    with serving(tmp_path, config, port=upstream.port, facilitator=port) as gateway:
        found = X402.run(f"http://127.0.0.1:{gateway.port}", str(port), SELLER)
        assert (found["token"], found["chain"]) == (TOKEN, int(EVM_NETWORK.partition(":")[2]))
        assert found["statuses"] == [200, 200, 402], json.dumps(found)
        assert found["replays"] == [402, 402]
        assert found["mined"] == [1, 1]
        assert (found["seller"], found["payer"]) == (40_000, 10_000)
        until(lambda: gateway.fsck().open_holds == 0, "the calls are settled")
        notes = [entry.note for entry in gateway.entries() if entry.kind == "pay"]
        assert notes == [f"x402 {EVM_NETWORK} {transaction} offer call" for transaction in found["transactions"]]
    assert [message.line for message in upstream.heard if "refused" in message.target] == []
