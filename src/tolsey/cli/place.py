"""The gateway that a command is about: its config, its keyring, its ledger, and the admin token."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from tolsey.config import Config, load
from tolsey.errors import ConfigError, LedgerUnavailable
from tolsey.store.keyring import Keyring
from tolsey.token.chain import ADMIN, write_identifier
from tolsey.token.macaroon import Macaroon

LOCATION = "tolsey"
"""The location in our tokens: a hint that nothing relies on."""


class _AnyValue(Mapping[str, str]):
    """An environment that has every variable: for commands that send nothing to an upstream and need none of it."""

    def __getitem__(self, name: str) -> str:
        return "not read"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def find_config(file: Path) -> Path:
    """`file` if it is there. Raises `ConfigError`, which says how to make one."""
    if not file.exists():
        raise ConfigError("there is no such file; `tolsey init` makes one, -c FILE names another", file=os.fspath(file))
    return file


def read_config(file: Path) -> Config:
    """Read a config for a command that calls no upstream: it works where the upstreams' secrets are not set.

    Raises `ConfigError`.
    """
    return load(find_config(file), _AnyValue())


def read_keyring(file: Path) -> tuple[Config, Keyring]:
    """Read a config and its keyring. Raises `ConfigError` or `KeyringError`."""
    config = read_config(file)
    return config, Keyring.open(config.keys)


def new_nonce() -> str:
    """The nonce of an identifier: 22 characters for 16 random bytes."""
    return secrets.token_urlsafe(16)


def admin_token(keyring: Keyring) -> str:
    """A new admin token, made with the current admin key. It stands nowhere else."""
    key_id, secret = keyring.current(ADMIN)
    identifier = write_identifier(ADMIN, key_id, new_nonce(), 1)
    macaroon = Macaroon.mint(root_key=secret, identifier=identifier, location=LOCATION)
    return macaroon.attenuate(f"label = admin {secrets.token_urlsafe(9)}").to_text()


@contextmanager
def reading(ledger: Path) -> Iterator[None]:
    """Turn what SQLite raises while `ledger` is read into `LedgerUnavailable`."""
    import sqlite3

    try:
        yield
    except sqlite3.Error as error:
        raise LedgerUnavailable(f"the ledger {ledger} cannot be read: {error}") from None


def identify(ledger: Path) -> tuple[str | None, int]:
    """The id of the ledger in a file, None where it is yet to be made, and how many entries it holds.

    Raises `LedgerUnavailable`.
    """
    from tolsey.store.sqlite_file import connect_read_only

    if not ledger.exists():
        return None, 0
    with reading(ledger), closing(connect_read_only(ledger)) as db:
        if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            return None, 0
        return (
            db.execute("SELECT id FROM ledger").fetchone()[0],
            db.execute("SELECT coalesce(max(n), 0) FROM entry").fetchone()[0],
        )
