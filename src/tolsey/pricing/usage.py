"""What is metered while a call is served: bytes, time, and what the answer says of itself."""

from collections.abc import Iterable
from typing import Final, Protocol

from tolsey.pricing.events import Events

MAX_ANSWER: Final = 16 * 1024 * 1024
"""The largest answer, in bytes, that is kept to be read at its end."""

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case."""


class Reader(Protocol):
    """What is read in the documents of an answer."""

    def take(self, data: bytes) -> bool:
        """Read one document, or the data of one event; whether the client is not to have it."""


class Usage:
    """The usage of one call. `sent` and `received` are the bytes of the request's body and of the answer's, `ns` the
    time that it took, `status` and `headers` the answer's head. `fault` says why the answer could not be read;
    `reader` is what read it.

    `whole` is whether the answer came to its end. With `withholds` the reader may keep events from the client.
    """

    __slots__ = ("_events", "_kept", "_withholds", "fault", "headers", "ns", "reader", "received", "sent", "status",
                 "streamed", "whole")  # fmt: skip

    def __init__(self, reader: Reader | None = None, *, sent: int = 0, withholds: bool = False) -> None:
        self.reader = reader
        self._withholds = withholds
        self._events: Events | None = None
        self._kept = bytearray()
        self.sent = sent
        self.received = 0
        self.ns = 0
        self.status: int | None = None
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.streamed = False
        self.whole = False
        self.fault: str | None = None

    def head(self, status: int, headers: Headers) -> None:
        """The answer's head is there."""
        self.status = status
        self.headers = tuple(headers)
        named = dict(self.headers)
        coded = [value.strip().lower() for name, value in self.headers if name == b"content-encoding"]
        if not {b"", b"identity"}.issuperset(coded):
            self.fault = "the answer is compressed"
        self.streamed = named.get(b"content-type", b"").split(b";")[0].strip().lower() == b"text/event-stream"
        self._events = Events() if self.streamed else None
        self._withholds = self._withholds and self.streamed and b"content-length" not in named

    def body(self, piece: bytes) -> bytes:
        """A piece of the answer has come; returns what of it goes on to the client now."""
        self.received += len(piece)
        if self.reader is None or self.fault is not None:
            return piece
        if self._events is None:
            self._kept += piece
            if len(self._kept) > MAX_ANSWER:
                self._kept.clear()
                self.fault = "the answer is too large to be read"
            return piece
        before = self._events.rest
        try:
            events = self._events.feed(piece)
        except ValueError as error:
            self.fault = str(error)
            return before + piece if self._withholds else piece
        kept = [event.raw for event in events if not self.reader.take(event.data)]
        return b"".join(kept) if self._withholds else piece

    def end(self) -> bytes:
        """The answer came to its end; returns what the client is still to have."""
        self.whole = True
        if self.reader is None or self.fault is not None:
            return b""
        if self._events is None:
            self.reader.take(bytes(self._kept))
            return b""
        return self._events.rest if self._withholds else b""
