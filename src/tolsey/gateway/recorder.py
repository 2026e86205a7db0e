"""What a call sends and gets, as far as it is kept for its idempotency key."""

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from tolsey.ledger.events import Kept

KEEP_BYTES: Final = 64 * 1024
"""The largest response body that is kept. One that is larger is not, and a repeat then gets 409."""


Response = tuple[int, list[tuple[bytes, bytes]], bytes]
"""What is kept of a response: status, headers, body."""


class Recorder:
    """Records one call."""

    def __init__(self) -> None:
        self._sent = hashlib.sha256()
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._size = 0
        self._whole = False

    def reading(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The request body as it passes."""
        return _Reading(body, self._sent.update)

    def sent(self, body: bytes) -> None:
        """The request body, which was read before."""
        self._sent.update(body)

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head of the response."""
        self._status, self._headers = status, headers

    def piece(self, piece: bytes, *, more: bool) -> None:
        """A piece of its body."""
        self._size += len(piece)
        if self._size <= KEEP_BYTES:
            self._pieces.append(piece)
        else:
            self._pieces.clear()
        self._whole = not more

    def kept(self) -> Kept | None:
        """What to keep of the call; None if its response did not come to its end, or is too large."""
        if not self._whole or self._size > KEEP_BYTES:
            return None
        response: Response = (self._status, self._headers, b"".join(self._pieces))
        return Kept(self._sent.hexdigest(), msgspec.msgpack.encode(response))


class _Reading:
    """A body that is hashed as it passes. A class, as what compiles this has no asynchronous generators."""

    def __init__(self, body: AsyncIterator[bytes], update: Callable[[bytes], None]) -> None:
        self._body = body
        self._update = update

    def __aiter__(self) -> "_Reading":
        return self

    async def __anext__(self) -> bytes:
        piece = await self._body.__anext__()
        self._update(piece)
        return piece
