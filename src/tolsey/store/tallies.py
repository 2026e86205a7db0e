"""Tallies as rows, and rows as tallies."""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import msgspec

from tolsey.errors import TolseyError
from tolsey.ledger.tallies import BUCKETS_MS, Counts, TallyKey
from tolsey.store.contract import Snapshot, TallyRow


class TallyDamaged(TolseyError):
    """A row of the tallies that cannot be read."""

    code: ClassVar[str] = "tally_damaged"


class _Figures(NamedTuple):
    calls: int
    errors: int
    cost: int
    dearest: int
    us: int
    buckets: list[int]
    held: int = 0


def tally_row(source: str, hour: int, key: TallyKey, counts: Counts) -> TallyRow:
    """The row for what the process `source` has counted."""
    figures = (counts.calls, counts.errors, counts.cost, counts.dearest, counts.us, counts.buckets, counts.held)
    return TallyRow(hour, source, _text(key), _text(figures))


def refused_row(source: str, hour: int, prefix_id: str, code: str, count: int) -> TallyRow:
    """The row for the refusals that the process `source` has counted of one Link or account."""
    return TallyRow(hour, source, _text(("refused", prefix_id, code)), _text((count,)))


def refusals(snapshot: Snapshot, since: int, until: int) -> dict[str, dict[str, int]]:
    """How often each Link or account refused a call from the hour `since` to before the hour `until`, by prefix id and
    code, of an open snapshot. Raises `TallyDamaged`.
    """
    found: dict[str, dict[str, int]] = {}
    for row in snapshot.refusals(since, until):
        try:
            _, prefix_id, code = msgspec.json.decode(row.key, type=tuple[str, str, str])
            (count,) = msgspec.json.decode(row.counts, type=tuple[int])
        except msgspec.MsgspecError as error:
            raise TallyDamaged(f"the refusals of the hour {row.hour} cannot be read: {error}") from None
        codes = found.setdefault(prefix_id, {})
        codes[code] = codes.get(code, 0) + count
    return found


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode("utf-8")


def tallies(snapshot: Snapshot, since: int, until: int) -> Iterator[tuple[int, TallyKey, Counts]]:
    """What all processes counted from the hour `since` to before the hour `until` (hours since the epoch), row by row,
    of an open snapshot. Raises `TallyDamaged`.
    """
    for row in snapshot.tallies(since, until):
        try:
            key = msgspec.json.decode(row.key, type=TallyKey)
            found = msgspec.json.decode(row.counts, type=_Figures)
        except msgspec.MsgspecError as error:
            raise TallyDamaged(f"a tally of the hour {row.hour} cannot be read: {error}") from None
        if len(found.buckets) != len(BUCKETS_MS) + 1:
            raise TallyDamaged(f"a tally of the hour {row.hour} has other buckets")
        yield row.hour, key, Counts(*found)
