"""A facilitator of x402 for tests: a real server, before a chain that is simulated. A nonce moves money once, and a
balance pays as far as it goes. It does not check signatures: `tests/test_x402_clients.py` has one that does.
"""

import base64
import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

NETWORK: Final = "eip155:84532"
ASSET: Final = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
SELLER: Final = "0x5e5E5e5e5E5e5E5E5e5E5E5e5e5E5E5E5e5E5E5e"
PAYER: Final = "0x" + "a1" * 20

CONFIG: Final = f"""
[payment.x402]
facilitator = "http://127.0.0.1:<facilitator>"
network = "{NETWORK}"
asset = "{ASSET}"
pay_to = "{SELLER}"
timeout = 2
"""


class Facilitator:
    """`moved` is what was moved on its chain, by nonce; `asked` are the paths and bodies of all questions. `next` says
    for a path what happens to its next questions, one after the other: "lose" (done, and the connection breaks), "drop"
    (not done, and it breaks), "500" (done, and an error is said), "garbage" and "pending" (done, and that is said),
    "late" (done, and answered too late), or the reason for which it is refused. With `idempotent` it knows what it did.
    """

    def __init__(self) -> None:
        self.moved: dict[str, int] = {}
        self.balances: dict[str, int] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.next: dict[str, list[str]] = {"/verify": [], "/settle": []}
        self.idempotent = False
        self._lock = threading.Lock()
        self.transactions: dict[str, str] = {}
        facilitator = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                facilitator.answer(self)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, path: str) -> int:
        """How many questions were asked on a path."""
        return sum(asked == path for asked, _ in self.asked)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one question."""
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            self.asked.append((handler.path, body))
            script = self.next[handler.path]
            what = script.pop(0) if script else ""
            done = self._verify(body) if handler.path == "/verify" else self._settle(body, what)
        if what in ("lose", "drop"):
            handler.connection.close()
            return
        if what == "late":
            time.sleep(3)
        text = b"{" if what == "garbage" else json.dumps(done).encode()
        with contextlib.suppress(OSError):
            handler.send_response(500 if what == "500" else 200)
            handler.send_header("content-length", str(len(text)))
            handler.end_headers()
            handler.wfile.write(text)

    def _verify(self, body: dict[str, Any]) -> dict[str, Any]:
        reason = self._fault(body)
        return {"isValid": reason is None, "invalidReason": reason, "payer": PAYER}

    def _settle(self, body: dict[str, Any], what: str) -> dict[str, Any]:
        signed = body["paymentPayload"]["payload"]["authorization"]
        nonce = signed["nonce"]
        said = {"network": NETWORK, "payer": signed["from"], "transaction": ""}
        if self.idempotent and nonce in self.transactions:
            return {**said, "success": True, "transaction": self.transactions[nonce]}
        reason = self._fault(body)
        if reason is None and what not in ("", "lose", "500", "garbage", "pending", "late"):
            reason = what
        if reason is not None:
            return {**said, "success": False, "errorReason": reason}
        self.moved[nonce] = int(signed["value"])
        self.balances[signed["from"]] = self.balances.get(signed["from"], 10**9) - int(signed["value"])
        self.transactions[nonce] = "0x" + secrets.token_hex(32)
        if what == "pending":
            return {
                **said,
                "success": False,
                "errorReason": "settlement_pending",
                "transaction": self.transactions[nonce],
            }
        return {**said, "success": True, "transaction": self.transactions[nonce]}

    def _fault(self, body: dict[str, Any]) -> str | None:
        wanted = body["paymentRequirements"]
        signed = body["paymentPayload"]["payload"]["authorization"]
        if body["paymentPayload"]["payload"]["signature"] == "0x" + "00" * 65:
            return "invalid_exact_evm_payload_signature"
        if signed["to"].lower() != wanted["payTo"].lower():
            return "invalid_exact_evm_payload_recipient_mismatch"
        if signed["nonce"] in self.moved:
            return "invalid_exact_evm_nonce_already_used"
        if self.balances.get(signed["from"], 10**9) < int(signed["value"]):
            return "invalid_exact_evm_insufficient_balance"
        return None


@contextlib.contextmanager
def facilitating() -> Iterator[Facilitator]:
    """A facilitator that is ended with the test."""
    running = Facilitator()
    try:
        yield running
    finally:
        running.stop()


def signed(required: dict[str, Any], **changes: Any) -> str:  # noqa: ANN401 - any JSON
    """The line of a request that pays what is asked for; `changes` to the authorization, or `signature`, `accepted`."""
    accepted = required["accepts"][0]
    authorization = {
        "from": PAYER,
        "to": accepted["payTo"],
        "value": accepted["amount"],
        "validAfter": "0",
        "validBefore": str(int(time.time()) + accepted["maxTimeoutSeconds"]),
        "nonce": "0x" + secrets.token_hex(32),
    }
    signature = changes.pop("signature", "0x" + secrets.token_hex(65))
    accepted = {**accepted, **changes.pop("accepted", {})}
    document = {
        "x402Version": changes.pop("version", 2),
        "accepted": accepted,
        "payload": {"signature": signature, "authorization": {**authorization, **changes}},
        "resource": required["resource"],
    }
    return f"PAYMENT-SIGNATURE: {base64.b64encode(json.dumps(document).encode()).decode()}"
