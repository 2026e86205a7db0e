"""What in `tolsey.toml` is about the ledger: where it is, and when its seal is signed."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tolsey.config_lines import Table, boolean, file_in, one_of, seconds, text, whole
from tolsey.config_secrets import Secret, fill, ledger_in
from tolsey.errors import LedgerRefused

LONGEST_WAIT: Final = 3600.0
"""The longest that a reserve may wait, in seconds."""

_WEBHOOK = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[!-~]*)?", re.ASCII)

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
    """A checkpoint is taken once there are so many `entries` that none has, or so many `seconds` after the last one.
    Each is sent to the `file`, the `webhook` and, with `stdout`, to standard output.
    """

    entries: int
    seconds: int
    file: Path | None = None
    webhook: Secret | None = None
    stdout: bool = False


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


def _webhook(env: Mapping[str, str]) -> Callable[[object], Secret]:
    def parse(value: object) -> Secret:
        url = fill(text(value), env)
        if _WEBHOOK.fullmatch(url) is None:
            raise ValueError('must be "http://…" or "https://…"; ${NAME} is filled in from the environment')
        return Secret(url)

    return parse


def read_seal(table: Table, base: Path, env: Mapping[str, str], *, sends: bool) -> Seal:
    """Read `[seal]`. Where the config is for a command that sends nothing, `webhook` is left out, set or not."""
    seal = Seal(
        entries=table.read("entries", whole(1, MOST_ENTRIES), 1000),
        seconds=table.read("seconds", whole(1, MOST_SECONDS), 60),
        file=table.read("file", file_in(base), None),
        webhook=table.read("webhook", _webhook(env) if sends else lambda value: None, None),
        stdout=table.read("stdout", boolean, False),
    )
    table.done()
    return seal
