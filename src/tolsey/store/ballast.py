"""Disk that is kept back beside a SQLite ledger, so that what is held can be settled on a full one (RULES.md L8)."""

import contextlib
import os
from pathlib import Path
from typing import Final

BALLAST_BYTES: Final = 8 * 1024 * 1024


def keep(ledger: Path) -> bool:
    """Make sure that 8 MiB are kept back; False if they are not to be had."""
    try:
        fd = os.open(_file(ledger), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        os.posix_fallocate(fd, 0, BALLAST_BYTES)
    except OSError:
        os.ftruncate(fd, 0)
        return False
    finally:
        os.close(fd)
    return True


def drop(ledger: Path) -> None:
    """Give the kept disk back."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_file(ledger))


def _file(ledger: Path) -> str:
    return f"{ledger}.ballast"
