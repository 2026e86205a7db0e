"""Locks: whose turn it is to write, and which owners are alive.

Both are `flock`s. An owner is a random id drawn by one process; it is alive as long as the lock on its file is held,
which the kernel drops when the process is gone, however it went (RULES.md L2). Never by pid, host or clock. `fcntl`
locks would not do: they drop at any close of the file.
"""

import contextlib
import fcntl
import os
from pathlib import Path


class Turn:
    """The right to write to one ledger file: one holder on the machine, waiters woken by the kernel."""

    def __init__(self, ledger: Path) -> None:
        self._fd = os.open(f"{ledger}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_take(self) -> bool:
        """Take the turn if nobody has it. Never waits."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def take(self) -> None:
        """Take the turn, waiting for it; blocks the thread."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def give(self) -> None:
        """Let the next one have it."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the turn up for good."""
        os.close(self._fd)


class OwnerLock:
    """The sign of life of one owner. Opened once, after any fork, and closed by the end of the process."""

    def __init__(self, ledger: Path, owner: str) -> None:
        self.path = _owner_path(ledger, owner)
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """End this owner: from here on it counts as dead."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        os.close(self._fd)


def is_dead(ledger: Path, owner: str) -> bool:
    """Whether the owner's process is gone: its lock can be taken, or its file is no longer there."""
    try:
        fd = os.open(_owner_path(ledger, owner), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def forget(ledger: Path, owner: str) -> None:
    """Remove the file of an owner that is dead and has no open holds."""
    with contextlib.suppress(FileNotFoundError):
        _owner_path(ledger, owner).unlink()


def _owner_path(ledger: Path, owner: str) -> Path:
    return ledger.with_name(ledger.name + ".owners") / owner
