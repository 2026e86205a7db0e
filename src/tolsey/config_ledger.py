"""What in `tolsey.toml` is about the ledger: where it is, and when its seal is signed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tolsey.config_lines import Table, one_of, seconds, whole
from tolsey.config_secrets import Secret, ledger_in
from tolsey.errors import LedgerRefused

LONGEST_WAIT: Final = 3600.0
"""The longest that a reserve may wait, in seconds."""

MOST_ENTRIES: Final = 1_000_000
MOST_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where the ledger is, `durability` "full" or "normal", and the seconds that a reserve waits at most."""

    where: Path | Secret
    durability: str
    timeout: float

    @property
    def path(self) -> Path:
        """The SQLite file (absolute). Raises `LedgerRefused` for a ledger on PostgreSQL."""
        if isinstance(self.where, Secret):
            raise LedgerRefused("this is for a ledger in a SQLite file; [ledger] url names a PostgreSQL database")
        return self.where

    @property
    def postgresql(self) -> str | None:
        """The URL of the database, to be shown to nobody; None for a SQLite file."""
        return self.where.reveal() if isinstance(self.where, Secret) else None


@dataclass(frozen=True, slots=True)
class Seal:
    """A checkpoint is taken once there are so many `entries` that none has, or so many `seconds` after the last one."""

    entries: int
    seconds: int


def read_ledger(table: Table, base: Path, env: Mapping[str, str]) -> Ledger:
    """Read `[ledger]`; `base` is what paths are relative to."""
    default: Path | Secret = base / "data/ledger.db"
    ledger = Ledger(
        where=table.read("url", ledger_in(base, env), default),
        durability=table.read("durability", one_of("full", "normal"), "full"),
        timeout=table.read("timeout", seconds(LONGEST_WAIT), 5.0),
    )
    table.done()
    return ledger


def read_seal(table: Table) -> Seal:
    """Read `[seal]`."""
    seal = Seal(
        entries=table.read("entries", whole(1, MOST_ENTRIES), 1000),
        seconds=table.read("seconds", whole(1, MOST_SECONDS), 60),
    )
    table.done()
    return seal
