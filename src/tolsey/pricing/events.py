"""Server-sent events, cut where they end, whatever the pieces are that they arrive in (WHATWG HTML, 9.2.6)."""

import re
from typing import Final, NamedTuple

MAX_EVENT: Final = 16 * 1024 * 1024
"""The longest event that is waited for, in bytes."""

_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)
_BOM: Final = b"\xef\xbb\xbf"


class StreamEvent(NamedTuple):
    """One event: its bytes as they came, blank line included, and its data, the lines joined."""

    raw: bytes
    data: bytes


class Events:
    """Takes a stream in pieces and gives the events that are whole. `rest` is what has no end yet."""

    def __init__(self) -> None:
        self.rest = b""
        self._line = 0
        self._at = 0
        self._data: list[bytes] = []
        self._first = True

    def feed(self, piece: bytes) -> list[StreamEvent]:
        """The events that end in this piece. Raises ValueError if one is longer than `MAX_EVENT`."""
        self.rest += piece
        found = []
        begin = 0
        # A "\r" at the very end may be half of a "\r\n": it is looked at again with the next piece.
        while (end := _LINE_END.search(self.rest, self._at)) is not None:
            line = self.rest[self._line : end.start()]
            self._line = self._at = end.end()
            if self._first:
                line = line.removeprefix(_BOM)
                self._first = False
            if line:
                name, _, value = line.partition(b":")
                if name == b"data":
                    self._data.append(value.removeprefix(b" "))
                continue
            found.append(StreamEvent(self.rest[begin : self._line], b"\n".join(self._data)))
            begin = self._line
            self._data = []
        self.rest = self.rest[begin:]
        self._line -= begin
        self._at = max(self._line, len(self.rest) - 1)
        if len(self.rest) > MAX_EVENT:
            raise ValueError("an event of the stream has no end")
        return found
