"""Ed25519 (RFC 8032), by libsodium: what signs checkpoints and receipts, and checks them."""

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey


class SealKey:
    """A key that signs. `secret` is its 32 bytes as the keyring has them; `public` may be shown to everybody."""

    def __init__(self, secret: bytes) -> None:
        self._key = SigningKey(secret)
        self.public = bytes(self._key.verify_key)

    def __repr__(self) -> str:
        return f"<seal key {self.public.hex()[:16]}…>"

    def sign(self, data: bytes) -> bytes:
        """The signature over these bytes, of 64 bytes."""
        return self._key.sign(data).signature


def is_signed(public: bytes, data: bytes, signature: bytes) -> bool:
    """Whether the signature over these bytes was made with the key whose public half this is."""
    try:
        VerifyKey(public).verify(data, signature)
    except (BadSignatureError, ValueError):
        return False
    return True
