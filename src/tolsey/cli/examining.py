"""What is wrong beside the config: the keyring, the ledger, the SQLite library. For `check` and `doctor`."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

from tolsey.cli.place import identify
from tolsey.config import Config
from tolsey.errors import KeyringError, LedgerRefused, TolseyError
from tolsey.store.keyring import Keyring, check_ledger
from tolsey.store.sqlite_file import check_file_system

WAL_RESET_BUG: Final = ((3, 7, 0), (3, 51, 2))
"""The first and the last version of SQLite whose checkpoints can lose a commit made beside them."""


def faults(config: Config, warnings: list[str]) -> Iterator[TolseyError]:
    """What is wrong beside the config: the keyring, the ledger, and whether they belong together."""
    try:
        keyring = Keyring.open(config.keys)
    except KeyringError as error:
        yield error
        return
    refused: str | None = None
    try:
        # Twice, since a gateway may raise the mark between the two readings; it does so no more than twice a second.
        for _ in range(2):
            ledger_id, entries, found = _identify(config)
            refused = check_ledger(keyring, ledger_id=ledger_id, entries=entries)
            if refused is None:
                warnings += found
                return
    except TolseyError as error:
        yield error
        return
    where = "the PostgreSQL database" if config.ledger.postgresql else config.ledger.path
    yield LedgerRefused(f"{where}: {refused}")


def _identify(config: Config) -> tuple[str | None, int, Sequence[str]]:
    """The ledger's id, None where it is yet to be made, the number of its last entry, and what to warn of."""
    url = config.ledger.postgresql
    if url is not None:
        from tolsey.store.postgres_health import examine

        found = examine(url, seconds=config.ledger.timeout)
        return found.id, found.entries, found.warnings
    check_file_system(config.ledger.path)
    return *identify(config.ledger.path), ()


def sqlite_notes() -> Iterator[str]:
    """Known faults of the SQLite library here that Tolsey steers clear of."""
    first, last = WAL_RESET_BUG
    if first <= sqlite3.sqlite_version_info <= last:
        yield (
            f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug (3.7.0 to 3.51.2), which needs a checkpoint beside"
            " a commit; Tolsey takes none there"
        )
