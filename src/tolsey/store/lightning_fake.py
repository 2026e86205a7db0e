"""A Lightning node that is none, to develop with: its invoices are worth nothing, and whoever asks has them paid.

It keeps nothing: the preimage follows from a secret and from what stands in the invoice, so that every worker of a
gateway can pay every invoice, also after a restart.
"""

import hmac
import secrets
import time
from hashlib import sha256

from tolsey.store.invoices import Drawn
from tolsey.token.bolt11 import InvoiceInvalid, fits, read_invoice, write_unsigned


class FakeNode:
    """`secret` is the same for all workers of a gateway."""

    fake = True

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    async def draw(self, sat: int, seconds: int) -> Drawn:
        """An invoice that no node would take: it is for a network of one machine, and nobody has signed it."""
        seed = secrets.token_bytes(32)
        payment_hash = sha256(self._preimage(seed)).digest()
        invoice = write_unsigned(
            sat * 1000, payment_hash, seed, "FAKE, worth nothing", at=int(time.time()), expiry=seconds
        )
        return Drawn(invoice, payment_hash)

    def pay(self, invoice: str) -> bytes:
        """The preimage of an invoice of this node's own, for the asking. Raises `InvoiceInvalid`."""
        found = read_invoice(invoice)
        preimage = self._preimage(found.secret)
        if not fits(preimage, found):
            raise InvoiceInvalid("this is not an invoice of the fake backend here")
        if time.time() >= found.expires:
            raise InvoiceInvalid("the invoice has expired")
        return preimage

    async def close(self) -> None:
        """Nothing is open."""

    def _preimage(self, seed: bytes) -> bytes:
        return hmac.digest(self._secret, seed, "sha256")
