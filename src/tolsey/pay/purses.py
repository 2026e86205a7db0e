"""What was paid for, remembered: in memory, or in a file for its owner alone, which several processes may share."""

import base64
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import tolsey
from tolsey.call import Call
from tolsey.errors import TokenMalformed, TolseyError
from tolsey.token.caveats import CONDITIONS, Peer, Upstream
from tolsey.token.delegation import meanings
from tolsey.token.l402 import write_credential
from tolsey.token.macaroon import Macaroon

MAX_FILE: Final = 1024 * 1024
"""The largest file of purses that is read, in bytes."""

MAX_PURSES: Final = 256
"""How many purses, and how many invoices that are still to be paid, are kept; the oldest go first."""


class PursesInvalid(TolseyError):
    """A file of purses that cannot be used."""

    code = "purses_invalid"


@dataclass(frozen=True)
class Purse:
    """A token that was paid for at `origin`. `macaroon` is base64, `preimage` hex; both together are money."""

    origin: str
    macaroon: str
    preimage: str
    msat: int

    def __repr__(self) -> str:
        return f"<Purse at {self.origin}, {self.msat} msat>"

    @property
    def authorization(self) -> str:
        """The header that spends from it."""
        return write_credential(self.macaroon, bytes.fromhex(self.preimage))

    def attenuate(self, *, label: str, budget: str | None = None, caveats: tuple[str, ...] = ()) -> "Purse":
        """A narrower one to hand on, made offline. Raises as `tolsey.attenuate` does."""
        text = tolsey.attenuate(self.macaroon, label=label, budget=budget, caveats=caveats)
        macaroon = base64.b64encode(Macaroon.deserialize(text).serialize()).decode("ascii")
        return Purse(self.origin, macaroon, self.preimage, self.msat)

    def allows(self, call: Call) -> bool:
        """Whether what its token says lets it be used for `call`. What we do not understand is the server's to know,
        and so are addresses and upstreams.
        """
        try:
            macaroon = Macaroon.deserialize(self.macaroon)
        except TokenMalformed:
            return False
        conditions = [m for m in meanings(macaroon) if isinstance(m, CONDITIONS) and not isinstance(m, Peer | Upstream)]
        return all(condition.refusal(call) is None for condition in conditions)


@dataclass(frozen=True)
class Pending:
    """An invoice whose payment may be under way."""

    origin: str
    macaroon: str
    invoice: str
    msat: int


class Purses:
    """Remembers purses. Without a `path` for the life of this object, else in that file (mode 0600)."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._purses: list[Purse] = []
        self._pending: list[Pending] = []

    def find(self, origin: str, call: Call) -> Purse | None:
        """The newest purse of a server that a call can be paid from."""
        with self._open():
            return next((p for p in reversed(self._purses) if p.origin == origin and p.allows(call)), None)

    def all(self) -> list[Purse]:
        """Every purse, oldest first."""
        with self._open():
            return list(self._purses)

    def pending(self, origin: str) -> Pending | None:
        """The oldest invoice of a server whose payment may be under way."""
        with self._open():
            return next((p for p in self._pending if p.origin == origin), None)

    def begin(self, pending: Pending) -> None:
        """A payment is about to be made."""
        with self._open(writes=True):
            if pending not in self._pending:
                self._pending.append(pending)

    def end(self, pending: Pending, purse: Purse | None) -> None:
        """It was made, and `purse` came of it, or it surely was not."""
        with self._open(writes=True):
            self._pending = [other for other in self._pending if other != pending]
            if purse is not None:
                self._purses.append(purse)

    def drop(self, purse: Purse) -> None:
        """A purse is spent, or refused."""
        with self._open(writes=True):
            self._purses = [other for other in self._purses if other != purse]

    @contextmanager
    def _open(self, *, writes: bool = False) -> Iterator[None]:
        """The file's content as it is now; with `writes`, kept as it is at the end."""
        if self._path is None:
            yield
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._read(self._path)
            yield
            if writes:
                self._write(self._path)
        finally:
            os.close(lock)

    def _read(self, path: Path) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        with os.fdopen(fd, "rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise PursesInvalid(f"{path}: others may use it; run: chmod 600 {path}")
            data = file.read(MAX_FILE + 1)
        try:
            if len(data) > MAX_FILE:
                raise ValueError
            found = json.loads(data)
            self._purses = [Purse(**each) for each in found["purses"]]
            self._pending = [Pending(**each) for each in found["pending"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            # The file holds money: what it says is not quoted.
            raise PursesInvalid(f"{path}: this is not a file of purses") from None

    def _write(self, path: Path) -> None:
        purses, pending = self._purses[-MAX_PURSES:], self._pending[-MAX_PURSES:]
        text = json.dumps({"purses": [asdict(p) for p in purses], "pending": [asdict(p) for p in pending]})
        temporary = f"{path}.new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            # Before a payment is made that it remembers.
            os.fsync(file.fileno())
        os.replace(temporary, path)
