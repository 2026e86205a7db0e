"""The keyring: the root keys that tokens are minted with, and which ledger they were used with.

One JSON file of at most 64 KiB, mode 0600, beside which stand `<keys>.lock` (held while either is written) and
`<keys>.mark`, how far the ledger had come (RULES.md L1). Every write is a new file renamed over the old one, made from
what the file holds at that moment, so that two processes that rotate at once lose nothing. The last key of a kind in
the file is the current one; the older verify until they are dropped by name.

Secrets stand in no `repr`, no `str` and no error here, also not when the file is malformed.
"""

import base64
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from tolsey.errors import KeyringError
from tolsey.store.private_file import replace_file, sync_directory, write_new
from tolsey.token.approvals import APPROVAL
from tolsey.token.chain import ADMIN, CAPABILITY, L402
from tolsey.token.l402 import is_key_id
from tolsey.token.macaroon import derive_key
from tolsey.units import MAX_NANO

MAX_BYTES: Final = 64 * 1024
"""The largest keyring or mark that is read or written, in bytes."""

LOCK_WAIT: Final = 5.0
"""How long a writer waits for another one, in seconds."""

LOOK_EVERY: Final = 1_000_000_000
"""How often the file is looked at, in nanoseconds (RULES.md T9)."""

KINDS: Final = (CAPABILITY, ADMIN)
"""The kinds of key that a keyring has at least one of each of. One for paid tokens (`L402`) and one that questions
are sealed to (`APPROVAL`) are made when they are first wanted: see `with_key`.
"""

SEAL: Final = "tolsey-seal"
"""The kind of the keys that sign checkpoints and receipts: Ed25519, of which the secret is the seed."""

_KEY_ID = r"\A[A-Za-z0-9_-]{1,32}\Z"
_SECRET = r"\A[A-Za-z0-9_-]{43}\Z"  # noqa: S105 - a pattern
_LEDGER_ID = r"\A[\x21-\x7e]{1,128}\Z"
_AT = re.compile(r" - at `([^`]*)`$")

_LedgerId = Annotated[str, msgspec.Meta(pattern=_LEDGER_ID)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_NANO)]
_Stamp = tuple[int, int, int, int]


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[str, msgspec.Meta(pattern=_KEY_ID)]
    kind: Literal["tolsey", "tolsey-admin", "tolsey-l402", "tolsey-approval", "tolsey-seal"]
    secret: Annotated[str, msgspec.Meta(pattern=_SECRET)]
    created: Annotated[datetime, msgspec.Meta(tz=True)]

    def __repr__(self) -> str:
        return f"<key {self.id} of kind {self.kind}>"

    def secret_bytes(self) -> bytes:
        return base64.urlsafe_b64decode(self.secret + "=")


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    ledger: _LedgerId | None
    keys: tuple[_Key, ...]

    def with_keys(self, *keys: _Key) -> "_Content":
        return _Content(1, self.ledger, keys)


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a ledger had come: it held at least `entries` entries at time `at` (nanoseconds since the epoch)."""

    ledger: _LedgerId
    entries: _Count
    at: _Count


_T = TypeVar("_T", _Content, Mark)


class Keyring:
    """The keys of one file, as they were when it was last read or written here. Every error is a `KeyringError`.

    `path` is absolute; `stamp` tells whether the file has been changed since.
    """

    __slots__ = ("_content", "_derived", "path", "stamp")

    def __init__(self, path: Path, content: _Content, stamp: _Stamp) -> None:
        self.path = path
        self._take(content, stamp)

    def _take(self, content: _Content, stamp: _Stamp) -> None:
        self._content = content
        derived: dict[tuple[str, str], bytes] = {(k.kind, k.id): derive_key(k.secret_bytes()) for k in content.keys}
        self._derived = MappingProxyType(derived)
        self.stamp = stamp

    @classmethod
    def create(cls, path: Path) -> "Keyring":
        """Make a keyring with one new key of each kind. Refuses where a file stands; its directory must exist."""
        path = Path(os.path.abspath(path))
        content = _Content(1, None, (_new_key(CAPABILITY), _new_key(ADMIN), _new_key(SEAL)))
        with _errors_of(path), _locked(path):
            write_new(path, msgspec.json.encode(content))
            # A mark that is left here belongs to keys that are gone.
            _beside(path, ".mark").unlink(missing_ok=True)
            sync_directory(path)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "Keyring":
        """Read a keyring. Refuses one that is open to others, not a regular file, too large or malformed."""
        path = Path(os.path.abspath(path))
        return cls(path, *_load(path))

    def __repr__(self) -> str:
        return f"<Keyring {self.path} with {len(self._content.keys)} keys>"

    @property
    def ledger(self) -> str | None:
        """The id of the ledger that these keys were used with, or None before their first use."""
        return self._content.ledger

    def key_ids(self, kind: str) -> tuple[str, ...]:
        """The ids of the keys of a kind, the current one last."""
        return tuple(key.id for key in self._content.keys if key.kind == kind)

    def derived(self, kind: str, key_id: str) -> bytes | None:
        """The key that chains under this id begin with, or None where there is no such key of that kind."""
        return self._derived.get((kind, key_id))

    def derived_keys(self) -> MappingProxyType[tuple[str, str], bytes]:
        """All of them, by (kind, key id)."""
        return self._derived

    def current(self, kind: str) -> tuple[str, bytes]:
        """The id and the secret (32 bytes) of the key that new tokens of a kind are minted with."""
        for key in reversed(self._content.keys):
            if key.kind == kind:
                return key.id, key.secret_bytes()
        raise KeyringError(f"there is no kind of key called {kind!r}")

    def secrets_of(self, kind: str) -> tuple[bytes, ...]:
        """The secrets of the keys of a kind, the current one last."""
        return tuple(key.secret_bytes() for key in self._content.keys if key.kind == kind)

    def rotate(self, kind: str) -> str:
        """Add a new key, which becomes the current one of its kind; return its id. The old ones still verify."""
        key = _new_key(kind)
        self._change(lambda content: content.with_keys(*content.keys, key))
        return key.id

    def with_key(self, kind: str) -> "Keyring":
        """Make sure that there is a key of a kind, whoever asks for it at the same time; return this keyring."""
        if not self.key_ids(kind):
            key = _new_key(kind)
            self._change(
                lambda content: (
                    content
                    if any(other.kind == kind for other in content.keys)
                    else content.with_keys(*content.keys, key)
                )
            )
        return self

    def drop(self, key_id: str) -> None:
        """Remove a key: every token minted with it is refused from then on. Refuses to drop a current key."""
        self._change(lambda content: self._without(content, key_id))

    def check_drop(self, key_id: str) -> None:
        """Raise `KeyringError` for a key that `drop` would refuse."""
        self._without(self._content, key_id)

    def _without(self, content: _Content, key_id: str) -> _Content:
        key = next((key for key in content.keys if key.id == key_id), None)
        if key is None:
            raise KeyringError(f"{self.path}: there is no key called {key_id!r}")
        if key is [other for other in content.keys if other.kind == key.kind][-1]:
            raise KeyringError(f"{self.path}: {key_id} is the current key of its kind; rotate first")
        return content.with_keys(*(other for other in content.keys if other is not key))

    def remember_ledger(self, ledger_id: str, *, entries: int = 0, at: int = 0, replace: bool = False) -> None:
        """Tie the keys to a ledger, and write its first mark. Doing it again changes nothing.

        Refuses where another ledger is remembered, unless `replace` says that its loss was accepted; then the mark is
        lowered too.
        """
        mark = _mark(ledger_id, entries, at)
        with _errors_of(self.path), _locked(self.path):
            content, stamp = _load(self.path)
            if content.ledger not in (None, ledger_id) and not replace:
                raise KeyringError(f"{self.path}: the keys were used with ledger {content.ledger}, not {ledger_id}")
            if content.ledger is None or replace:
                # The mark first: after a crash in between, the keys are still free or still refuse.
                self._raise_mark(mark, replace=replace)
                replace_file(self.path, msgspec.json.encode(_Content(1, ledger_id, content.keys)))
                content, stamp = _load(self.path)
            self._take(content, stamp)

    def read_mark(self) -> Mark | None:
        """The ledger's high-water mark, or None where none was ever written."""
        path = _beside(self.path, ".mark")
        with _errors_of(path):
            try:
                data, _ = _read(path)
            except FileNotFoundError:
                return None
        return _decode(path, data, Mark, "a mark of ours")

    def write_mark(self, ledger: str, entries: int, at: int, *, replace: bool = False) -> None:
        """Raise the mark: `ledger` holds `entries` entries at `at` (nanoseconds). A lower one changes nothing.

        Write it after the entries are on disk. It syncs the disk: once a second is often enough. Refuses where the mark
        is another ledger's, unless `replace`, which lowers too.
        """
        mark = _mark(ledger, entries, at)
        with _errors_of(self.path), _locked(self.path):
            self._raise_mark(mark, replace=replace)

    def _raise_mark(self, mark: Mark, *, replace: bool) -> None:
        if not replace:
            before = self.read_mark()
            if before is not None and before.ledger != mark.ledger:
                raise KeyringError(f"{self.path}.mark: the mark is of ledger {before.ledger}, not {mark.ledger}")
            if before is not None and before.entries >= mark.entries:
                return
        replace_file(_beside(self.path, ".mark"), msgspec.json.encode(mark))

    def _change(self, change: Callable[[_Content], _Content]) -> None:
        with _errors_of(self.path), _locked(self.path):
            content, _ = _load(self.path)
            data = msgspec.json.encode(change(content))
            if len(data) > MAX_BYTES:
                raise KeyringError(f"{self.path}: a keyring has at most {MAX_BYTES} bytes; drop old keys first")
            replace_file(self.path, data)
            self._take(*_load(self.path))


class LiveKeyring:
    """A Keyring that follows its file: keys added or dropped elsewhere count within a second.

    `on_change` is called after the keys became others: a verifier must then forget what it remembers. A file that has
    become unreadable leaves the last good keys in use; `problem` says why (or is None). For one thread.
    """

    def __init__(self, keyring: Keyring, on_change: Callable[[], None] = lambda: None) -> None:
        self.keyring = keyring
        self.problem: str | None = None
        self._on_change = on_change
        self._keys = keyring.derived_keys()
        self._stamp = keyring.stamp
        self._looked: int | None = None
        self._asked: int | None = None

    def refresh(self, now_ns: int) -> bool:
        """Look at the file unless that was done within the last second; return whether the keys changed.

        A verifier that remembers asks for no key, so this must be called before it: at each call, or by a timer.
        """
        if not _due(self._looked, now_ns):
            return False
        self._looked = now_ns
        if self.problem is None:
            with suppress(OSError):
                if _stamp(os.stat(self.keyring.path, follow_symlinks=False)) == self._stamp:
                    return False
        return self.read_again()

    def derived(self, kind: str, key_id: str, now_ns: int) -> bytes | None:
        """As `Keyring.derived`. An unknown id reads the file at once, though not twice in a second."""
        self.refresh(now_ns)
        found = self.keyring.derived(kind, key_id)
        if found is None and _due(self._asked, now_ns):
            self._asked = self._looked = now_ns
            self.read_again()
            found = self.keyring.derived(kind, key_id)
        return found

    def read_again(self) -> bool:
        """Read the file now; return whether keys that tokens are made with changed."""
        try:
            fresh = Keyring.open(self.keyring.path)
        except KeyringError as error:
            self.problem = error.detail
            return False
        self.problem = None
        self.keyring, self._stamp = fresh, fresh.stamp
        # Against the keys known here, not those of `keyring`: a drop made through that object must be told as well.
        if fresh.derived_keys() == self._keys:
            return False
        self._keys = fresh.derived_keys()
        self._on_change()
        return True


def check_ledger(keyring: Keyring, *, ledger_id: str | None, entries: int) -> str | None:
    """Why these keys must not be used with a ledger, or None when they may (RULES.md L1).

    `ledger_id` is None for a ledger that is yet to be made; `entries` is how many it holds.
    """
    remembered = keyring.ledger
    if remembered is not None and ledger_id is None:
        return f"the ledger is empty, and these keys were used with ledger {remembered}"
    if remembered is not None and ledger_id != remembered:
        return f"this is ledger {ledger_id}, and these keys were used with ledger {remembered}"
    try:
        mark = keyring.read_mark()
    except KeyringError as error:
        return f"the ledger's mark cannot be read: {error.detail}"
    if mark is None:
        return None if remembered is None else f"the mark of ledger {remembered} is missing beside the keyring"
    if mark.ledger != ledger_id:
        return f"this is ledger {ledger_id or 'none yet'}, and the mark beside the keyring is of ledger {mark.ledger}"
    if entries < mark.entries:
        return f"the ledger holds {entries} entries where there were {mark.entries}: it is older than its keys"
    return None


def _new_key(kind: str) -> _Key:
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode("ascii")
    created = datetime.now(UTC).replace(microsecond=0)
    # Hex, since an id that begins with '-' is a nuisance on a command line.
    if kind not in (*KINDS, L402, APPROVAL, SEAL):
        raise KeyringError(f"there is no kind of key called {kind!r}")
    return _Key(secrets.token_hex(4), kind, secret, created)  # type: ignore[arg-type]  # one of those just named


def _mark(ledger: str, entries: int, at: int) -> Mark:
    try:
        return msgspec.convert({"ledger": ledger, "entries": entries, "at": at}, Mark)
    except msgspec.ValidationError as error:
        raise KeyringError(f"this is not a mark: {error}") from None


def _load(path: Path) -> tuple[_Content, _Stamp]:
    with _errors_of(path):
        data, stamp = _read(path)
    content = _decode(path, data, _Content, "a keyring of ours")
    keys = content.keys
    for kind in KINDS:
        if not any(key.kind == kind for key in keys):
            raise KeyringError(f"{path}: there is no key of kind {kind!r}")
    if len({key.id for key in keys}) != len(keys) or len({key.secret for key in keys}) != len(keys):
        raise KeyringError(f"{path}: two keys have the same id or the same secret")
    for key in keys:
        if base64.urlsafe_b64encode(key.secret_bytes()).rstrip(b"=").decode("ascii") != key.secret:
            raise KeyringError(f"{path}: the secret of key {key.id} is not base64url of 32 bytes")
        if key.kind == L402 and not is_key_id(key.id):
            raise KeyringError(f"{path}: the id of key {key.id} is not 8 hex digits, as a key for paid tokens has")
    return content, stamp


def _decode(path: Path, data: bytes, kind: type[_T], what: str) -> _T:
    """Never quotes the data, nor what msgspec says of it: both may hold a secret. Only the place is named."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        at = _AT.search(str(error))
        place = f" (at {at[1]})" if at else ""
    raise KeyringError(f"{path}: this is not {what}{place}")


def _due(last: int | None, now_ns: int) -> bool:
    """Also when the clock went back: a look too many costs nothing, one too few would keep a dropped key."""
    return last is None or not 0 <= now_ns - last < LOOK_EVERY


def _stamp(found: os.stat_result) -> _Stamp:
    """What changes whenever the file does; the ctime, so that a chmod is noticed."""
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def _read(path: Path) -> tuple[bytes, _Stamp]:
    # Not through a link, which the next write would replace; not waiting for the other end of a pipe.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise KeyringError(f"{path}: this is a link, not a regular file") from None
        raise
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise KeyringError(f"{path}: this is not a regular file")
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise KeyringError(f"{path}: others may use it (mode {mode:04o}); run: chmod 600 {path}")
        data = b""
        while len(data) <= MAX_BYTES and (more := os.read(fd, MAX_BYTES + 1 - len(data))):
            data += more
    finally:
        os.close(fd)
    if len(data) > MAX_BYTES:
        raise KeyringError(f"{path}: it is larger than {MAX_BYTES} bytes")
    return data, _stamp(found)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KeyringError(f"{path}: {error.strerror or error}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the keyring at `path`. The lock file stays: removing it would let two hold 'the' lock."""
    fd = os.open(_beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise KeyringError(f"{path}: another process has held its lock for {LOCK_WAIT:g} s") from None
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)
