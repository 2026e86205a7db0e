"""What a proxy, or whoever serves a call, reports of it: in a request of its own, or in a line of an access log."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec

MAX_REPORT: Final = 64 * 1024
"""The largest report, in bytes."""

MAX_COUNT: Final = 2**53
"""The largest number of bytes."""

MAX_SECONDS: Final = 10_000_000.0
"""The longest duration."""

_Hold = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Number = int | float | str | None


class _Document(msgspec.Struct):
    hold: _Hold
    status: _Number = None
    sent: _Number = None
    received: _Number = None
    seconds: _Number = None
    milliseconds: _Number = None
    served: bool = True
    headers: dict[str, str] = {}


class _Posted(_Document, forbid_unknown_fields=True):
    """In a request nothing stands beside; in a log the proxy's own fields do."""


class Report(msgspec.Struct, frozen=True):
    """What became of the call with this hold. What is None was not measured.

    `status` is that of the answer; `sent` and `received` are the bytes of the bodies, as the upstream got and sent
    them; `ns` is how long the call took, in nanoseconds. Not `served` means that surely nothing was sent.
    `headers` are those of the answer that a price depends on.
    """

    hold: str
    status: int | None = None
    sent: int | None = None
    received: int | None = None
    ns: int | None = None
    served: bool = True
    headers: dict[str, str] = {}

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The headers, with names in lower case."""
        return [
            (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, value in self.headers.items()
        ]


_posted = msgspec.json.Decoder(_Posted)
_logged = msgspec.json.Decoder(_Document)


def read_report(data: bytes) -> Report:
    """Read a report. Raises ValueError, which says what is wrong."""
    return _report(_posted.decode(data))


def report_of(document: Mapping[str, object]) -> Report:
    """A report from the members of its document. Raises ValueError, which says what is wrong."""
    return _report(msgspec.convert(document, _Document))


def reports_in(data: bytes) -> Sequence[Report]:
    """The reports in a datagram or a piece of a log: JSON lines, whatever stands before each brace. Lines that are no
    reports are left out, such as those about refused calls, which have no hold.
    """
    found = []
    for line in data[:MAX_REPORT].split(b"\n"):
        try:
            found.append(_report(_logged.decode(line[line.index(b"{") :].rstrip(b" \r\x00"))))
        except ValueError:
            continue
    return found


def _report(document: _Document) -> Report:
    status = _number(document.status, "status", 999)
    seconds = _number(document.seconds, "seconds", MAX_SECONDS)
    if seconds is None:
        milliseconds = _number(document.milliseconds, "milliseconds", MAX_SECONDS * 1000)
        seconds = None if milliseconds is None else milliseconds / 1000
    return Report(
        document.hold,
        # A proxy that got no answer logs 0 or -1; and 1xx is none.
        int(status) if status is not None and status >= 200 else None,
        _whole(document.sent, "sent"),
        _whole(document.received, "received"),
        None if seconds is None else round(seconds * 1_000_000_000),
        document.served,
        document.headers,
    )


def _whole(value: _Number, name: str) -> int | None:
    found = _number(value, name, MAX_COUNT)
    return None if found is None else int(found)


def _number(value: _Number, name: str, most: float) -> float | None:
    """A number as logs write it: plain or quoted; empty, `-` or below 0 where there is none."""
    if value is None or value in ("", "-"):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} is not a number") from None
    if not number <= most:
        raise ValueError(f"{name} is more than {most:g}")
    return number if number >= 0 else None
