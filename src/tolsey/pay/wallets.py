"""Wallets: who pays an invoice, and gives the preimage for it.

A wallet pays one invoice once, however often it is asked: that is what its node does. So an invoice whose payment broke
off is asked for again, and never paid twice.
"""

import base64
import json
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpx

from tolsey.pay.errors import PaymentFailed, PaymentUnknown
from tolsey.token.bolt11 import read_invoice

PAY_SECONDS: Final = 60
"""How long a payment may take."""

MAX_ANSWER: Final = 256 * 1024
"""The longest answer of a node that is read, in bytes."""

_LND_ENDS: Final = ("SUCCEEDED", "FAILED")

_CLN_FAILED: Final = (203, 205, 206, 207)
"""What `pay` says of a payment that surely failed; of others, parts may be under way."""

_FEE_PERCENT: Final = 5
_LEAST_FEE_SAT: Final = 10


class Wallet(Protocol):
    """Pays invoices."""

    def pay(self, invoice: str, origin: str) -> bytes:
        """Pay an invoice that the server at `origin` (`https://host:port`) asked for; return the preimage. Blocks.

        Raises `PaymentFailed` if it was surely not paid, `PaymentUnknown` if nobody knows.
        """


class _Node:
    """A node's REST interface. `ca` is the file of the certificate that it is trusted by."""

    def __init__(self, url: str, headers: Mapping[str, str], ca: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = headers
        # Made once, and only where it is wanted: it reads every authority that the system has.
        self._verify = ssl.create_default_context(cafile=ca) if url.startswith("https:") else False

    def ask(self, method: str, path: str, **more: Any) -> tuple[int, str]:  # noqa: ANN401 - what httpx takes
        """The status and the text of an answer. Raises as `Wallet.pay` does."""
        try:
            with (
                httpx.Client(
                    headers=self._headers, verify=self._verify, timeout=PAY_SECONDS + 10, trust_env=False
                ) as client,
                client.stream(method, self._url + path, **more) as response,
            ):
                data = b""
                for piece in response.iter_bytes():
                    data += piece
                    if len(data) > MAX_ANSWER:
                        raise PaymentUnknown("the wallet's answer is too long")
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise PaymentFailed(f"the wallet cannot be reached ({type(error).__name__})") from None
        except httpx.HTTPError as error:
            raise PaymentUnknown(f"the wallet did not answer ({type(error).__name__})") from None
        return response.status_code, data.decode("utf-8", "replace")

    def found(self, method: str, path: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - what httpx takes
        """The JSON object of an answer."""
        status, text = self.ask(method, path, **more)
        document = _object(text)
        if status not in (200, 201):
            said = document.get("message") or document.get("detail") or document.get("error") or ""
            # What a node refuses it has not paid; what broke inside it, it may have.
            kind = PaymentFailed if status < 500 else PaymentUnknown
            raise kind(f"the wallet answered {status}: {str(said)[:200]}")
        return document


class LndWallet:
    """LND's REST interface. `macaroon` is in hex and may send payments off chain."""

    def __init__(self, url: str, macaroon: str, *, ca: str | None = None) -> None:
        self._node = _Node(url, {"Grpc-Metadata-Macaroon": macaroon}, ca)

    def pay(self, invoice: str, origin: str) -> bytes:
        """Pay, or find out what became of an earlier attempt."""
        known = read_invoice(invoice)
        fee = max(_LEAST_FEE_SAT, (known.msat or 0) * _FEE_PERCENT // 100_000)
        body = {
            "payment_request": invoice,
            "timeout_seconds": PAY_SECONDS,
            "fee_limit_sat": str(fee),
            "no_inflight_updates": True,
        }
        result, said = self._last("POST", "/v2/router/send", json=body)
        if result.get("status") not in _LND_ENDS:
            # Refused, under way, paid before: what the node knows of the payment says which.
            name = base64.urlsafe_b64encode(known.payment_hash).decode("ascii")
            params = {"no_inflight_updates": "true"}
            result, found = self._last("GET", f"/v2/router/track/{name}", params=params)
            if "isn't initiated" in found:
                raise PaymentFailed(f"LND did not begin the payment: {said}")
            said = found
        if result.get("status") == "SUCCEEDED":
            return _preimage(result.get("payment_preimage"))
        if result.get("status") == "FAILED":
            raise PaymentFailed(f"the payment failed: {result.get('failure_reason')}")
        raise PaymentUnknown(f"LND did not say what became of the payment: {said}")

    def _last(self, method: str, path: str, **more: Any) -> tuple[dict[str, Any], str]:  # noqa: ANN401 - what httpx takes
        """The last line of an answer, which says how it ended, and the error there is in its place."""
        status, text = self._node.ask(method, path, **more)
        last = _object(text.strip().rpartition("\n")[2])
        error = last.get("error", last)
        said = str(error.get("message") if isinstance(error, dict) else error)[:200]
        result = last.get("result", last)
        return (result if isinstance(result, dict) else {}), f"{status}, {said}"


class CoreLightningWallet:
    """Core Lightning's clnrest; `rune` may call `pay`."""

    def __init__(self, url: str, rune: str, *, ca: str | None = None) -> None:
        self._node = _Node(url, {"Rune": rune}, ca)

    def pay(self, invoice: str, origin: str) -> bytes:
        """Pay; an invoice that was paid before gives its preimage again."""
        body = {"bolt11": invoice, "retry_for": PAY_SECONDS, "maxfeepercent": _FEE_PERCENT}
        status, text = self._node.ask("POST", "/v1/pay", json=body)
        found = _object(text)
        if status not in (200, 201):
            kind = PaymentFailed if status < 500 or found.get("code") in _CLN_FAILED else PaymentUnknown
            raise kind(f"Core Lightning answered {status}: {str(found.get('message'))[:200]}")
        if found.get("status") not in ("complete", None):
            raise PaymentUnknown(f"the payment is {found.get('status')}")
        return _preimage(found.get("payment_preimage"))


class PhoenixdWallet:
    """phoenixd; `password` is the one that may pay."""

    def __init__(self, url: str, password: str, *, ca: str | None = None) -> None:
        credential = base64.b64encode(f":{password}".encode()).decode("ascii")
        self._node = _Node(url, {"Authorization": f"Basic {credential}"}, ca)

    def pay(self, invoice: str, origin: str) -> bytes:
        """Pay, unless an earlier attempt did: phoenixd itself would not say so."""
        known = read_invoice(invoice)
        status, text = self._node.ask("GET", f"/payments/outgoingbyhash/{known.payment_hash.hex()}")
        before = _object(text) if status == 200 else {}
        if before.get("isPaid") or before.get("preimage"):
            return _preimage(before.get("preimage"))
        found = self._node.found("POST", "/payinvoice", data={"invoice": invoice})
        if not found.get("paymentPreimage"):
            raise PaymentFailed(f"the payment failed: {str(found.get('reason'))[:200]}")
        return _preimage(found.get("paymentPreimage"))


class LnBitsWallet:
    """LNbits; `key` is the admin key of a wallet."""

    def __init__(self, url: str, key: str, *, ca: str | None = None) -> None:
        self._node = _Node(url, {"X-Api-Key": key}, ca)

    def pay(self, invoice: str, origin: str) -> bytes:
        """Pay, unless an earlier attempt did."""
        path = f"/api/v1/payments/{read_invoice(invoice).payment_hash.hex()}"
        status, text = self._node.ask("GET", path)
        if status != 200 or not _object(text).get("paid"):
            self._node.found("POST", "/api/v1/payments", json={"out": True, "bolt11": invoice})
            status, text = self._node.ask("GET", path)
        found = _object(text)
        if status != 200 or not found.get("paid"):
            raise PaymentUnknown("the payment is under way")
        details = found.get("details")
        preimage = found.get("preimage") or (details.get("preimage") if isinstance(details, dict) else None)
        return _preimage(preimage)


class FakeWallet:
    """Has invoices of a gateway's fake backend paid: for trying out alone."""

    def pay(self, invoice: str, origin: str) -> bytes:
        """Ask the gateway for the preimage."""
        if read_invoice(invoice).network != "bcrt":
            raise PaymentFailed("the fake wallet pays nothing but fake invoices")
        found = _Node(origin, {}).found("POST", "/.tolsey/fake/pay", content=invoice)
        return _preimage(found.get("preimage"))


WALLETS: Final[Mapping[str, Callable[..., Wallet]]] = {
    "lnd": LndWallet,
    "cln": CoreLightningWallet,
    "phoenixd": PhoenixdWallet,
    "lnbits": LnBitsWallet,
}
"""The wallets that are a node, by the names that a gateway's config has for their kinds."""


def origin_of(url: str) -> str:
    """`scheme://host[:port]` of a URL, in lower case."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _preimage(value: object) -> bytes:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        found = b""
    if len(found) != 32:
        raise PaymentUnknown("the wallet says that it has paid, and shows no preimage")
    return found
