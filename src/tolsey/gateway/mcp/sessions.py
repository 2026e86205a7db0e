"""Sessions without a table: the id that a client gets holds the ids of the sessions behind it, under a seal.

So any worker and any gateway serves any session, and nothing that a stranger does is kept. A session authenticates
nothing: every request shows its token, and the seal binds the session to the Link whose token opened it, so that its id
is of no use to anybody else. The key is derived from the keyring's, which no holder of a token has.
"""

import base64
import binascii
import hmac
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

MAX_SESSION: Final = 8192
"""The longest id, in bytes."""

MAX_INNER: Final = 1024
"""The longest id that a server may give its session, in characters."""

_PURPOSE: Final = b"tolsey mcp session 1"


class Opened(NamedTuple):
    """A session with one server: its id ("" where the server gives none), and the version of the protocol."""

    id: str
    version: str


Session = dict[str, Opened]
"""The sessions behind one of ours, by the server's name."""

_decode = msgspec.msgpack.Decoder(dict[str, tuple[str, str]]).decode


class Sessions:
    """Seals and opens ids. `current` returns the id and the secret of the key to seal with; `key_of` the secret of an
    older one, None where there is none.
    """

    def __init__(self, current: Callable[[], tuple[str, bytes]], key_of: Callable[[str], bytes | None]) -> None:
        self._current = current
        self._key_of = key_of

    def seal(self, session: Session, path: str, link: str) -> str:
        """The id of a session on the endpoint at `path`, for the Link with that prefix id."""
        key_id, key = self._current()
        text = base64.urlsafe_b64encode(msgspec.msgpack.encode(session)).rstrip(b"=").decode("ascii")
        return f"{key_id}.{text}.{_mac(key, key_id, text, path, link)}"

    def open(self, text: str, path: str, link: str) -> Session | None:
        """The session that an id stands for; None if it is not one of ours, or another's."""
        parts = text.split(".")
        if len(text) > MAX_SESSION or len(parts) != 3 or not text.isascii():
            return None
        key = self._key_of(parts[0])
        if key is None or not hmac.compare_digest(_mac(key, parts[0], parts[1], path, link), parts[2]):
            return None
        try:
            found = _decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        except (msgspec.DecodeError, binascii.Error):
            return None
        return {name: Opened(*opened) for name, opened in found.items()}


def _mac(key: bytes, *parts: str) -> str:
    inner = hmac.digest(key, _PURPOSE, "sha256")
    joined = b"".join(len(part).to_bytes(4, "big") + part.encode("utf-8") for part in parts)
    return hmac.digest(inner, joined, "sha256").hex()
