"""One line for a served call, as JSON; and refusals, as totals. Never a token, a key, a query or a header.

Lines are gathered and written a few times a second, so that a call does not wait for the log. Refusals of verified
tokens are counted in bounded memory and flushed once a second (RULES.md L9); unverified calls leave no line at all.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tolsey.errors import Refusal
from tolsey.gateway.log_line import Line
from tolsey.gateway.record import CallRecord
from tolsey.gateway.routes import Route

FLUSH_SECONDS: Final = 0.2
REFUSAL_SECONDS: Final = 1.0
ATOMIC_BYTES: Final = 4096
"""A write of at most this many bytes to a pipe is not mixed with another worker's (POSIX, PIPE_BUF)."""
MAX_REFUSAL_KEYS: Final = 1024
"""How many (prefix id, code) pairs are told apart between two flushes; further ones are counted together."""


class CallLog:
    """Gathers lines and hands them to `write` as bytes. `now` returns nanoseconds since the epoch."""

    def __init__(self, write: Callable[[bytes], object], now: Callable[[], int]) -> None:
        self._write = write
        self._now = now
        self._lines: list[bytes] = []
        self._refusals: dict[tuple[str, str], int] = {}
        self._armed = False
        self._loop = asyncio.get_running_loop()
        self._encode = msgspec.json.Encoder().encode

    def over(self, records: Sequence[CallRecord]) -> None:
        """Write one line for each of these calls that was forwarded, or tried to be."""
        for record in records:
            if record.route is not None and record.forwarded:
                self._lines.append(self._encode(_line(record, record.route)))
        self._arm()

    def refused(self, refusal: Refusal) -> None:
        """Count a refusal of a verified token."""
        key = (refusal.prefix_id or "", refusal.code)
        if key not in self._refusals and len(self._refusals) >= MAX_REFUSAL_KEYS:
            key = ("", refusal.code)
        if not self._refusals:
            self._loop.call_later(REFUSAL_SECONDS, self._total)
        self._refusals[key] = self._refusals.get(key, 0) + 1

    def flush(self) -> None:
        """Write everything now."""
        self._total()
        self._write_lines()

    def _total(self) -> None:
        """Turn the refusals counted since the last time into lines."""
        for (prefix_id, code), count in self._refusals.items():
            total = {
                "event": "refused",
                "at": self._now(),
                "prefix_id": prefix_id or None,
                "code": code,
                "count": count,
            }
            self._lines.append(self._encode(total))
        self._refusals.clear()
        if self._lines:
            self._arm()

    def _write_lines(self) -> None:
        self._armed = False
        lines, self._lines = self._lines, []
        piece = bytearray()
        for line in lines:
            if piece and len(piece) + len(line) >= ATOMIC_BYTES:
                self._write(bytes(piece))
                piece.clear()
            piece += line + b"\n"
        if piece:
            self._write(bytes(piece))

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self._loop.call_later(FLUSH_SECONDS, self._write_lines)


def _line(record: CallRecord, route: Route) -> Line:
    return Line(
        record.at,
        record.method,
        record.path,
        record.tool or None,
        route.upstream.name,
        record.hold,
        record.status,
        record.cost,
        record.note,
        (record.ended - record.began) // 1000 / 1000,
        None if record.trace is None else record.trace.trace_id,
    )
