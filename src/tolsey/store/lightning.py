"""Lightning nodes that draw invoices for us: LND, Core Lightning, phoenixd and LNbits. Needs httpx.

A preimage that a node tells us together with an invoice is not looked at.
"""

import base64
import binascii
import secrets
import ssl
from collections.abc import Mapping
from typing import Final

import httpx
import msgspec

from tolsey.store.invoices import Drawn, NodeAway

MAX_ANSWER: Final = 64 * 1024
"""The longest answer of a node that is read, in bytes."""

MEMO: Final = "tolsey"
"""What an invoice says that it is for. The payer's node shows it."""


class Node:
    """A node behind HTTP: what is the same for all of them.

    `url` has no slash at its end, `secret` is the credential as the node wants it, `ca` the file of the certificate
    that it is trusted by (None: the system's authorities).
    """

    fake = False
    headers: Mapping[str, str]

    def __init__(self, url: str, secret: str, *, seconds: float, ca: str | None = None) -> None:
        verify: ssl.SSLContext | bool = True if ca is None else ssl.create_default_context(cafile=ca)
        self._client = httpx.AsyncClient(
            base_url=url,
            headers=self.credential(secret),
            timeout=seconds,
            verify=verify,
            trust_env=False,
            limits=httpx.Limits(max_connections=8, max_keepalive_connections=2),
        )

    def credential(self, secret: str) -> dict[str, str]:
        """The headers that say who is asking."""
        raise NotImplementedError

    async def draw(self, sat: int, seconds: int) -> Drawn:
        """A new invoice."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _post(
        self, path: str, json: Mapping[str, object] | None = None, data: Mapping[str, str] | None = None
    ) -> dict[str, object]:
        """Send a request and read its JSON object. Errors say no more than the node's own message."""
        try:
            async with self._client.stream("POST", path, json=json, data=data) as response:
                answer = b""
                async for piece in response.aiter_bytes():
                    answer += piece
                    if len(answer) > MAX_ANSWER:
                        raise NodeAway("the node's answer is too long")
        except httpx.HTTPError as error:
            raise NodeAway(f"the node cannot be asked ({type(error).__name__})") from None
        try:
            found = msgspec.json.decode(answer)
        except msgspec.DecodeError:
            found = None
        if response.status_code not in (200, 201):
            said = found.get("message") or found.get("detail") if isinstance(found, dict) else None
            raise NodeAway(f"the node answered {response.status_code}{_quoted(said)}")
        if not isinstance(found, dict):
            raise NodeAway("the node's answer is not a JSON object")
        return found


class Lnd(Node):
    """LND's REST interface; `secret` is a macaroon in hex that may write invoices (`invoice.macaroon`)."""

    def credential(self, secret: str) -> dict[str, str]:
        """LND's own header."""
        return {"Grpc-Metadata-Macaroon": secret}

    async def draw(self, sat: int, seconds: int) -> Drawn:
        """A new invoice."""
        found = await self._post("/v1/invoices", json={"value": str(sat), "memo": MEMO, "expiry": str(seconds)})
        try:
            payment_hash = base64.b64decode(str(found.get("r_hash")), validate=True)
        except (ValueError, binascii.Error):
            payment_hash = b""
        return _drawn(found.get("payment_request"), payment_hash)


class CoreLightning(Node):
    """Core Lightning's clnrest; `secret` is a rune that may call `invoice`."""

    def credential(self, secret: str) -> dict[str, str]:
        """The rune."""
        return {"Rune": secret}

    async def draw(self, sat: int, seconds: int) -> Drawn:
        """A new invoice, under a label that is used once."""
        label = f"{MEMO}-{secrets.token_hex(16)}"
        body = {"amount_msat": sat * 1000, "label": label, "description": MEMO, "expiry": seconds}
        found = await self._post("/v1/invoice", json=body)
        return _drawn(found.get("bolt11"), _hex(found.get("payment_hash")))


class Phoenixd(Node):
    """phoenixd; `secret` is its (limited access) password."""

    def credential(self, secret: str) -> dict[str, str]:
        """A password without a user."""
        return {"Authorization": f"Basic {base64.b64encode(f':{secret}'.encode()).decode('ascii')}"}

    async def draw(self, sat: int, seconds: int) -> Drawn:
        """A new invoice."""
        body = {"amountSat": str(sat), "description": MEMO, "expirySeconds": str(seconds)}
        found = await self._post("/createinvoice", data=body)
        return _drawn(found.get("serialized"), _hex(found.get("paymentHash")))


class LnBits(Node):
    """LNbits; `secret` is the invoice key of a wallet."""

    def credential(self, secret: str) -> dict[str, str]:
        """The wallet's key."""
        return {"X-Api-Key": secret}

    async def draw(self, sat: int, seconds: int) -> Drawn:
        """A new invoice. The preimage that LNbits adds is dropped with the rest of its answer."""
        body = {"out": False, "unit": "sat", "amount": sat, "memo": MEMO, "expiry": seconds}
        found = await self._post("/api/v1/payments", json=body)
        return _drawn(found.get("bolt11") or found.get("payment_request"), _hex(found.get("payment_hash")))


NODES: Final[Mapping[str, type[Node]]] = {
    "lnd": Lnd,
    "cln": CoreLightning,
    "phoenixd": Phoenixd,
    "lnbits": LnBits,
}
"""The backends by their names in the config."""


def _drawn(invoice: object, payment_hash: bytes) -> Drawn:
    if not isinstance(invoice, str) or not invoice.isalnum() or len(invoice) > 4096 or len(payment_hash) != 32:
        raise NodeAway("the node's answer has no invoice, or no payment hash")
    return Drawn(invoice, payment_hash)


def _hex(value: object) -> bytes:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""


def _quoted(said: object) -> str:
    if not isinstance(said, str):
        return ""
    return ": " + "".join(char for char in said[:200] if char.isprintable())
