"""For agents that pay: an `httpx` auth that answers 402 within a budget, and the wallets that it pays from.

    import httpx
    from tolsey.pay import L402Auth, LndWallet

    wallet = LndWallet("https://127.0.0.1:8080", macaroon_hex, ca="tls.cert")
    with httpx.Client(auth=L402Auth(wallet, max="1000 sat")) as client:
        client.get("https://api.example/search?q=tolsey")

Needs httpx: pip install 'tolsey[httpx]'.
"""

from tolsey.pay.auth import L402Auth
from tolsey.pay.errors import ChallengeRefused, PaymentFailed, PaymentUnknown
from tolsey.pay.purses import Purse, Purses
from tolsey.pay.wallets import CoreLightningWallet, FakeWallet, LnBitsWallet, LndWallet, PhoenixdWallet, Wallet

__all__ = [
    "ChallengeRefused",
    "CoreLightningWallet",
    "FakeWallet",
    "L402Auth",
    "LnBitsWallet",
    "LndWallet",
    "PaymentFailed",
    "PaymentUnknown",
    "PhoenixdWallet",
    "Purse",
    "Purses",
    "Wallet",
]
