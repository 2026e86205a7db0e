"""The ledger on a bad disk: full, broken, read-only, damaged, swapped. What fails says so as `LedgerUnavailable` or
`LedgerRefused`, grants nothing, and works again without a restart.
"""

import asyncio
import contextlib
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.ledgers import DEADLINE_SECONDS, Ledgers, database, journal, purse, say, stands
from tests.reading import fsck, trail
from tolsey.errors import LedgerFull, LedgerRefused, LedgerUnavailable
from tolsey.ledger.events import Granted, Kind, Reserve, Settle, Void
from tolsey.store import ballast, sqlite, sqlite_file
from tolsey.store.ballast import BALLAST_BYTES
from tolsey.store.book import Book
from tolsey.store.embedded import EmbeddedLedger
from tolsey.store.keyring import Keyring, check_ledger
from tolsey.store.sqlite import SqliteLedger
from tolsey.store.sqlite_file import Durability, check_file_system, check_library
from tolsey.testing import NOON

MIB = 1024 * 1024
ROOT = purse("root 100")


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        yield ledgers


@contextlib.contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """Let the kernel refuse every write past `size` in a file: to SQLite, an I/O error in the midst of a commit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_commit_that_the_disk_refuses_leaves_nothing_and_the_next_one_works(ledgers: Ledgers) -> None:
    ledger, other = ledgers.open("o1"), ledgers.open("o2")
    ledger.run([Reserve("h1", ROOT, 10)], NOON)
    with no_file_grows_beyond(ledger.wal_bytes()):
        for _ in range(3):
            with pytest.raises(LedgerUnavailable, match="disk I/O error"):
                ledger.run([Settle("h1", 4), Reserve("h2", ROOT, 90)], NOON)
        assert stands(ledger, ROOT) == [(0, 10)]
    assert journal(ledgers.path) == [("reserve", "h1", 10)]
    assert say(other.run([Reserve("h3", ROOT, 91)], NOON)[0]) == "root is short: 0 spent, 10 held of 100"
    assert [say(o) for o in ledger.run([Settle("h1", 4), Reserve("h2", ROOT, 90)], NOON)] == [
        "settle 4",
        "granted, 6 left",
    ]
    assert fsck(ledgers.path).difference is None


def test_a_connection_that_cannot_be_opened_anew_is_tried_again(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledgers.open("o1")
    ledger.run([Reserve("h1", ROOT, 10)], NOON)

    def refuse(path: Path, durability: Durability) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    with no_file_grows_beyond(ledger.wal_bytes()), monkeypatch.context() as patch:
        patch.setattr(sqlite, "connect", refuse)
        for _ in range(2):
            with pytest.raises(LedgerUnavailable):
                ledger.run([Settle("h1", 4)], NOON)
    assert [say(outcome) for outcome in ledger.run([Settle("h1", 4)], NOON)] == ["settle 4"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MiB of its own. Needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk takes the right to mount one")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Fill a disk to the last byte with one file; removing it makes room again."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(MIB) if file.tell() < 32 * MIB else b"")
    with open(filler, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


def test_on_a_full_disk_grants_stop_and_settles_go_on(small_disk: Path) -> None:
    """RULES.md L8, at the ledger: the ballast makes the room that settling needs."""
    with Ledgers(small_disk / "ledger.db", durability="full") as ledgers:
        ledger = ledgers.open("o1")
        assert ballast.keep(ledger.path)
        assert (small_disk / "ledger.db.ballast").stat().st_size == BALLAST_BYTES == 8 * MIB
        ledger.run([Reserve(f"h{n}", ROOT, 1) for n in range(20)], NOON)
        filler = fill(small_disk)
        with pytest.raises(LedgerFull):  # noqa: PT012 - which of them meets the full disk is not known
            for n in range(20, 40):
                ledger.run([Reserve(f"h{n}", ROOT, 1, "x" * 4000)], NOON)
        open_holds = fsck(ledgers.path).open_holds
        ballast.drop(ledger.path)
        ledger.run([Settle(f"h{n}", 1) for n in range(20)], NOON)
        assert not ballast.keep(ledger.path), "there is no room for it yet"
        assert fsck(ledgers.path).open_holds == open_holds - 20
        filler.unlink()
        assert ballast.keep(ledger.path)
        assert isinstance(ledger.run([Reserve("again", ROOT, 1)], NOON)[0], Granted)
        assert fsck(ledgers.path).difference is None


async def eventually(attempt: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the attempt gives
    """Try until it does not raise `LedgerUnavailable`."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return await attempt()
        except LedgerUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def test_a_book_on_a_full_disk_recovers_without_a_restart(small_disk: Path) -> None:
    with Ledgers(small_disk / "ledger.db", durability="full") as ledgers:
        ledger = ledgers.open("o1")
        book = Book(EmbeddedLedger(ledger, timeout=5, now=ledgers.clock), new_owner=lambda: "o2")
        for n in range(20):
            await book.reserve(Reserve(f"h{n}", ROOT, 1))
        filler = fill(small_disk)
        full = None
        for n in range(20, 60):
            try:
                await book.reserve(Reserve(f"h{n}", ROOT, 1, "x" * 4000))
            except LedgerUnavailable as error:
                full = error
                break
        assert full is not None
        assert [book.problem] != [None]
        for n in range(20):
            book.resolve(Settle(f"h{n}", 1))
        assert (await eventually(lambda: book.balances(ROOT)))[0].spent == 20
        with pytest.raises(LedgerUnavailable, match="full"):
            await book.reserve(Reserve("too early", ROOT, 1))
        filler.unlink()
        assert isinstance(await eventually(lambda: book.reserve(Reserve("again", ROOT, 1))), Granted)
        assert book.problem is None
        book.resolve(Void("again"))
        assert await book.close(5) == 0
        assert fsck(ledgers.path).difference is None


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A ledger that this process may read and not write, in a folder of which the same is true."""
    folder = Path(tempfile.mkdtemp(prefix="tolsey-read-only-"))
    path = folder / "ledger.db"
    with Ledgers(path) as ledgers:
        ledgers.open("o1").run([Reserve("h1", ROOT, 10)], NOON)
    for file in folder.rglob("*"):
        file.chmod(0o555 if file.is_dir() else 0o444)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield path
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


def test_a_read_only_file_is_refused_and_says_so(read_only: Path) -> None:
    before = read_only.read_bytes()
    with pytest.raises(LedgerUnavailable, match="denied"):
        SqliteLedger(read_only, now=NOON, new_id="another")
    assert fsck(read_only).difference is not None, "WAL cannot be read where nothing may be written"
    with pytest.raises(LedgerUnavailable):
        trail(read_only)
    assert read_only.read_bytes() == before


def every_verb(ledger: SqliteLedger) -> Iterator[Callable[[], object]]:
    yield lambda: ledger.run([Reserve("h2", purse("root 100 / team 80"), 1)], NOON)
    yield lambda: ledger.run([Settle("h1", 1), Void("h3")], NOON)
    yield lambda: ledger.balances(ROOT, NOON)
    yield lambda: ledger.register("o9", NOON)
    yield lambda: ledger.number_config("generation 1", NOON)
    yield lambda: ledger.note(Kind.ACCEPT, "as it is", NOON)
    yield lambda: ledger.expire(NOON)
    yield ledger.entry_count
    yield ledger.checkpoint


@pytest.mark.parametrize("page", [0, 1], ids=["whole file", "all but the schema"])
def test_every_verb_on_a_ruined_file_says_that_the_ledger_is_unavailable(ledgers: Ledgers, page: int) -> None:
    ledger = ledgers.open("o1")
    ledger.run([Reserve("h1", ROOT, 10)], NOON)
    ledger.checkpoint()
    with open(ledgers.path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(page * 4096)
        file.write(b"\xa5" * (size - page * 4096))
    for verb in every_verb(ledger):
        # What is still in memory may be answered from there; nothing else may be raised.
        with contextlib.suppress(LedgerUnavailable):
            verb()
    checked = fsck(ledgers.path)
    assert checked.difference is not None


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a ledger whose root has spent 60 of 100 and holds 20."""
    path = tmp_path_factory.mktemp("sound") / "ledger.db"
    with Ledgers(path) as ledgers:
        ledger = ledgers.open("o1")
        for n in range(60):
            ledger.run([Reserve(f"h{n}", ROOT, 1, "GET /a"), Settle(f"h{n}", 1, "200")], NOON)
        ledger.run([Reserve("open", ROOT, 20)], NOON)
        ledger.checkpoint()
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_are_an_error_or_a_difference_and_pay_for_nothing_unseen(
    tmp_path: Path, sound: bytes, seed: int
) -> None:
    """SQLite pages have no checksums, so a flip in a balance can go unnoticed by a grant: never by `fsck`."""
    chance = random.Random(seed)
    for number in range(60):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(damaged))] ^= chance.randrange(1, 256)
        path = tmp_path / f"{number}.db"
        path.write_bytes(damaged)
        difference = fsck(path).difference
        granted = False
        with contextlib.suppress(LedgerRefused, LedgerUnavailable), Ledgers(path) as ledgers:
            ledger = ledgers.open()
            outcome = ledger.run([Reserve("beyond", ROOT, 21)], NOON)[0]
            granted = isinstance(outcome, Granted)
            for verb in every_verb(ledger):
                verb()
        assert not granted or difference is not None, f"flip {number} of seed {seed}"


def test_a_lost_wal_shows_in_the_mark(ledgers: Ledgers, tmp_path: Path) -> None:
    """RULES.md L1: entries that are gone, for whatever reason, were counted before."""
    keyring = Keyring.create(tmp_path / "keys")
    ledger = ledgers.open("o1")
    keyring.remember_ledger(ledger.id)
    for n in range(10):
        ledger.run([Reserve(f"h{n}", ROOT, 1)], NOON)
    keyring.write_mark(ledger.id, ledger.entry_count(), NOON)
    copy = tmp_path / "copy" / "ledger.db"
    copy.parent.mkdir()
    whole = (tmp_path / "ledger.db-wal").read_bytes()
    for cut in (len(whole), len(whole) * 3 // 4, len(whole) // 2):
        copy.write_bytes(ledgers.path.read_bytes())
        copy.with_name("ledger.db-wal").write_bytes(whole[:cut])
        with Ledgers(copy) as copies:
            found = copies.open()
            refused = check_ledger(keyring, ledger_id=found.id, entries=found.entry_count())
            assert (refused is None) == (cut == len(whole))
            assert fsck(copy).difference is None, "what is left is sound in itself"


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE ledger SET version = version + 1", LedgerRefused),
        ("UPDATE ledger SET version = 0", LedgerRefused),
        ("DELETE FROM ledger", LedgerRefused),
        ("DROP TABLE ledger", LedgerUnavailable),
    ],
)
def test_a_ledger_of_another_version_is_refused(ledgers: Ledgers, statement: str, error: type[Exception]) -> None:
    ledgers.open().close()
    with database(ledgers.path) as db:
        db.execute(statement)
    with pytest.raises(error):
        ledgers.open()


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_where_no_ledger_is_none_is_made_unless_asked_for(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ledger.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LedgerRefused, match="there is no ledger"):
        SqliteLedger(path, now=NOON, new_id="x", create=False)
    assert path.exists() is (content is not None)


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and no database at all\n" * 100)
    before = path.read_bytes()
    with pytest.raises(LedgerUnavailable, match="not a database"):
        SqliteLedger(path, now=NOON, new_id="x")
    assert path.read_bytes() == before
    assert fsck(path).difference is not None
    with pytest.raises(LedgerUnavailable):
        SqliteLedger(tmp_path, now=NOON, new_id="x")
    with pytest.raises(LedgerUnavailable):
        fsck(tmp_path)
    with pytest.raises(LedgerUnavailable):
        trail(tmp_path)


def test_a_missing_ledger_is_made_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    for look in (fsck, trail, lambda path: SqliteLedger(path, now=NOON, new_id="x", create=False)):
        with pytest.raises(LedgerRefused, match="no ledger"):
            look(path)
    assert list(tmp_path.iterdir()) == []
    SqliteLedger(path, now=NOON, new_id="the first").close()
    again = SqliteLedger(path, now=NOON, new_id="the second", create=False)
    assert again.id == "the first"
    again.close()


def test_an_old_library_is_refused() -> None:
    check_library((3, 37, 0))
    with pytest.raises(LedgerRefused, match="3\\.36\\.9 is too old"):
        check_library((3, 36, 9))


MOUNTS = """\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 0:19 / /proc rw,nosuid - proc proc rw
30 21 0:40 / {folder}/nfs rw shared:1 master:2 - nfs4 server:/export rw
31 30 0:41 / {folder}/nfs/local rw - ext4 /dev/vdb rw
32 21 0:42 / {folder}/with\\040space rw - cifs //server/share rw
33 21 0:43 / {folder}/covered rw - nfs server:/a rw
34 33 0:44 / {folder}/covered rw - xfs /dev/vdc rw
35 21 0:45 / {folder}/ssh rw - fuse.sshfs me@there: rw
"""


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("place", "refused"),
    [
        ("ledger.db", None),
        ("nfs/ledger.db", "nfs4"),
        ("nfs/deep/er/ledger.db", "nfs4"),
        ("nfs-not/ledger.db", None),
        ("nfs/local/ledger.db", None),
        ("with space/ledger.db", "cifs"),
        ("covered/ledger.db", None),
        ("ssh/ledger.db", "fuse.sshfs"),
        ("link/ledger.db", "nfs4"),
    ],
)
def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, refused: str | None
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nfs")

    def mounts(path: str, **options: str) -> StringIO:
        assert path == "/proc/self/mountinfo"
        return StringIO(MOUNTS.format(folder=tmp_path))

    monkeypatch.setattr(sqlite_file, "open", mounts, raising=False)
    if refused is None:
        check_file_system(tmp_path / place)
    else:
        with pytest.raises(LedgerRefused, match=f"network file system \\({refused}\\)"):
            SqliteLedger(tmp_path / place, now=NOON, new_id="x")


def test_where_no_mounts_are_to_be_seen_any_file_system_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str, **options: str) -> StringIO:
        raise FileNotFoundError(path)

    monkeypatch.setattr(sqlite_file, "open", missing, raising=False)
    check_file_system(Path("/anywhere/ledger.db"))
