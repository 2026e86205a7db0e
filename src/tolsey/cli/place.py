"""The gateway that a command is about: its config, its keyring, its ledger, and the admin token."""

import os
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tolsey.config import Config, load
from tolsey.errors import ConfigError, LedgerUnavailable
from tolsey.store.keyring import Keyring
from tolsey.store.minting import LOCATION, new_nonce
from tolsey.token.chain import ADMIN, write_identifier
from tolsey.token.macaroon import Macaroon


def find_config(file: Path) -> Path:
    """`file` if it is there. Raises `ConfigError`, which says how to make one."""
    if not file.exists():
        raise ConfigError("there is no such file; `tolsey init` makes one, -c FILE names another", file=os.fspath(file))
    return file


def read_config(file: Path) -> Config:
    """Read a config for a command that calls no upstream: it works where the upstreams' secrets are not set.

    Raises `ConfigError`.
    """
    return load(find_config(file), os.environ, sends=False)


def read_keyring(file: Path) -> tuple[Config, Keyring]:
    """Read a config and its keyring. Raises `ConfigError` or `KeyringError`."""
    config = read_config(file)
    return config, Keyring.open(config.keys)


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

    Raises `LedgerUnavailable`, and `LedgerRefused` for one that was moved elsewhere.
    """
    from tolsey.store.queries import check_moved
    from tolsey.store.sqlite_file import connect_read_only

    if not ledger.exists():
        return None, 0
    with reading(ledger), closing(connect_read_only(ledger)) as db:
        if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            return None, 0
        cursor = db.execute("SELECT * FROM ledger")
        head = dict(zip((column[0] for column in cursor.description), cursor.fetchone(), strict=True))
        check_moved(head.get("moved_to"))
        return head["id"], db.execute("SELECT coalesce(max(n), 0) FROM entry").fetchone()[0]
