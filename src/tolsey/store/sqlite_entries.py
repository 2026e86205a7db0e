"""Appends to the journal of a SQLite ledger, inside the caller's transaction."""

import sqlite3
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from tolsey.ledger.events import RESOLUTIONS, Entry, Key, Kind
from tolsey.store.sqlite_file import CACHED_STATEMENTS, MOST_ROWS, parts

# Which of the columns that may be NULL have a value.
_HOLD: Final = 1
_LEAF: Final = 2
_COUNTER: Final = 4
_UNTIL: Final = 8

# Here, since str() of a member costs more each time than to look it up.
_TEXT: Final = {kind: str(kind) for kind in Kind}


def append(
    db: sqlite3.Connection,
    entries: Sequence[Entry],
    sealed: Sequence[tuple[int, bytes]],
    numbers: Mapping[Key, int],
    config: int | None,
) -> list[str]:
    """Append entries of one owner and one instant, each with its place and its seal, and keep the open holds as these
    have them. `numbers` are those of their accounts. Returns the holds that were closed. Raises
    `sqlite3.IntegrityError` where another process was first.
    """
    closed: list[str] = []
    begin = 0
    while begin < len(entries):
        shape = _shape(entries[begin])
        end = begin + 1
        while end < len(entries) and end - begin < MOST_ROWS and _shape(entries[end]) == shape:
            end += 1
        closed += _append_alike(db, shape, entries[begin:end], sealed[begin:end], numbers, config)
        begin = end
    for part in parts(closed):
        db.execute(f"DELETE FROM hold WHERE id IN ({','.join('?' * len(part))})", part)  # noqa: S608 - only marks
    return closed


def _shape(entry: Entry) -> int:
    _, _, hold, leaf, _, _, _, counter, until = entry
    return (
        (0 if hold is None else _HOLD)
        | (0 if leaf is None else _LEAF)
        | (0 if counter is None else _COUNTER)
        | (0 if until is None else _UNTIL)
    )


def _append_alike(
    db: sqlite3.Connection,
    shape: int,
    entries: Sequence[Entry],
    sealed: Sequence[tuple[int, bytes]],
    numbers: Mapping[Key, int],
    config: int | None,
) -> list[str]:
    """Append entries of one shape in one statement: Python lets other threads run at every step of every statement, and
    that costs more than the step (measured: 5 statements a call took 50 µs of a call, 8 a group take 10).

    To bind a value costs more than to insert it, and most of all None, for which sqlite3 looks for a converter. So what
    is the same in all rows stands in the statement, or is bound once.
    """
    at, owner = entries[0].at, entries[0].owner
    lines: list[object] = [at, sealed[0][0]]
    opened: list[object] = [at]
    grown: list[tuple[int, str]] = []
    closed: list[str] = []
    holds = 0
    for entry, (_, seal) in zip(entries, sealed, strict=True):
        kind, _, hold, leaf, amount, _, note, counter, until = entry
        first = len(lines)
        if hold is not None:
            lines.append(hold)
        if leaf is not None:
            lines.append(numbers[leaf])
        if counter is not None:
            lines.append(numbers[counter])
        if until is not None:
            lines.append(until)
        lines.append(amount)
        if hold is not None:
            if kind is Kind.RESERVE:
                opened += lines[first:]
                holds += 1
            elif kind in RESOLUTIONS:
                closed.append(hold)
            elif kind is Kind.EXTEND:
                grown.append((amount, hold))
        lines.append(_TEXT[kind])
        lines.append(note)
        # A bytearray, since for bytes sqlite3 looks for a converter.
        lines.append(bytearray(seal))
    db.execute(_insert_entries(shape, len(entries), owner, config), lines)
    if holds:
        db.execute(_insert_holds(shape, holds, owner), opened)
    for growth in grown:
        if not db.execute("UPDATE hold SET amount = amount + ? WHERE id = ?", growth).rowcount:
            raise sqlite3.IntegrityError(f"hold {growth[1]} is not open")
    return closed


def _marks(shape: int) -> str:
    return ",".join(["?" if shape & column else "NULL" for column in (_HOLD, _LEAF, _COUNTER, _UNTIL)])


@lru_cache(maxsize=CACHED_STATEMENTS)
def _insert_entries(shape: int, rows: int, owner: int, config: int | None) -> str:
    same = f"{owner},{config or 'NULL'},{_marks(shape)},?,?,?,?"
    lines = ",".join([f"(?1,?2+{row},{same})" for row in range(rows)])
    columns = "at, place, owner, config, hold, leaf, counter, until, amount, kind, note, seal"
    return f"INSERT INTO entry ({columns}) VALUES {lines}"  # noqa: S608 - numbers and marks


@lru_cache(maxsize=CACHED_STATEMENTS)
def _insert_holds(shape: int, rows: int, owner: int) -> str:
    lines = ",".join([f"(?1,{owner},{_marks(shape)},?)"] * rows)
    return f"INSERT INTO hold (at, owner, id, leaf, counter, until, amount) VALUES {lines}"  # noqa: S608 - numbers and marks
