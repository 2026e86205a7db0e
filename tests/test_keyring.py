"""The keyring: who may read it, what it refuses, that nothing is lost between writers, and the ledger's mark."""

import json
import os
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tolsey.errors import KeyringError
from tolsey.store import keyring as module
from tolsey.store.keyring import KINDS, MAX_BYTES, SEAL, Keyring, LiveKeyring, Mark, check_ledger
from tolsey.token.chain import ADMIN, CAPABILITY
from tolsey.token.macaroon import derive_key

SECOND = 1_000_000_000
SRC = str(Path(module.__file__).parents[2])
SECRET = "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def ring(path: Path) -> Keyring:
    return Keyring.create(path)


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_keyring_has_one_key_of_each_kind(path: Path, ring: Keyring) -> None:
    assert mode(path) == 0o600
    assert KINDS == ("tolsey", "tolsey-admin")
    assert ring.ledger is None
    found = content(path)
    assert [key["kind"] for key in found["keys"]] == [CAPABILITY, ADMIN, SEAL]
    assert list(found) == ["version", "ledger", "keys"]
    for kind in KINDS:
        key_id, secret = ring.current(kind)
        assert len(secret) == 32
        assert ring.derived(kind, key_id) == derive_key(secret)
        assert ring.key_ids(kind) == (key_id,)
    assert ring.current(CAPABILITY)[1] != ring.current(ADMIN)[1]
    assert ring.derived(ADMIN, ring.current(CAPABILITY)[0]) is None
    assert ring.derived(CAPABILITY, "other") is None
    again = Keyring.open(path)
    assert again.derived_keys() == ring.derived_keys()


def test_the_umask_does_not_matter(path: Path) -> None:
    before = os.umask(0)
    try:
        Keyring.create(path).write_mark("L1", 1, 1)
    finally:
        os.umask(before)
    assert {mode(p) for p in path.parent.iterdir()} == {0o600}


def test_create_never_overwrites(path: Path, ring: Keyring) -> None:
    before = path.read_bytes()
    with pytest.raises(KeyringError, match="exists"):
        Keyring.create(path)
    assert path.read_bytes() == before
    with pytest.raises(KeyringError, match="No such file"):
        Keyring.create(path.parent / "nowhere" / "keys")


def test_create_forgets_the_mark_of_keys_that_are_gone(path: Path, ring: Keyring) -> None:
    ring.remember_ledger("L1", entries=5)
    path.unlink()
    fresh = Keyring.create(path)
    assert fresh.read_mark() is None
    assert check_ledger(fresh, ledger_id="L2", entries=0) is None


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666])
def test_a_file_open_to_others_is_refused(path: Path, ring: Keyring, bits: int) -> None:
    path.chmod(bits)
    with pytest.raises(KeyringError, match=f"mode 0{bits:o}.*chmod 600"):
        Keyring.open(path)
    ring.path.chmod(0o400)
    assert Keyring.open(path).key_ids(CAPABILITY) == ring.key_ids(CAPABILITY)


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path, path: Path, ring: Keyring) -> None:
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "dir").mkdir(0o700)
    for name in ("link", "pipe", "dir"):
        with pytest.raises(KeyringError, match="not a regular file"):
            Keyring.open(tmp_path / name)


def edits() -> list[tuple[str, Callable[[dict[str, Any]], object]]]:
    def key(name: str, value: object) -> Callable[[dict[str, Any]], object]:
        return lambda c: c["keys"][1].update({name: value})

    return [
        ("$.version", lambda c: c.update(version=2)),
        ("not a keyring of ours", lambda c: c.pop("ledger")),
        ("not a keyring of ours", lambda c: c.update(more=1)),
        ("$.ledger", lambda c: c.update(ledger=7)),
        ("$.ledger", lambda c: c.update(ledger="a b")),
        ("$.keys", lambda c: c.update(keys={})),
        ("no key of kind 'tolsey-admin'", lambda c: c["keys"].pop(1)),
        ("no key of kind 'tolsey'", lambda c: c["keys"].pop(0)),
        ("same id", lambda c: c["keys"][1].update(id=c["keys"][0]["id"])),
        ("same", lambda c: c["keys"][1].update(secret=c["keys"][0]["secret"])),
        ("$.keys[1]", lambda c: c["keys"][1].update({SECRET: 1})),
        ("$.keys[1].kind", key("kind", SECRET)),
        ("$.keys[1].id", key("id", "a:b")),
        ("$.keys[1].id", key("id", "a" * 33)),
        ("$.keys[1].created", key("created", "yesterday")),
        ("$.keys[1].created", key("created", "2026-06-30T00:00:00")),
        ("$.keys[1].secret", key("secret", SECRET + "=")),
        ("$.keys[1].secret", key("secret", SECRET[:-1])),
        ("$.keys[1].secret", key("secret", SECRET[:-1] + "+")),
        ("$.keys[1].secret", key("secret", SECRET + "\n")),
        ("not base64url", key("secret", SECRET[:-1] + "F")),
    ]


@pytest.mark.parametrize(("message", "edit"), edits())
def test_malformed(path: Path, ring: Keyring, message: str, edit: Callable[[dict[str, Any]], object]) -> None:
    found = content(path)
    edit(found)
    path.write_text(json.dumps(found))
    with pytest.raises(KeyringError) as caught:
        Keyring.open(path)
    assert message in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    for secret in (SECRET[:20], *(key["secret"] for key in found["keys"])):
        assert secret not in shown


def test_too_large(path: Path, ring: Keyring) -> None:
    data = path.read_bytes()
    path.write_bytes(data + b" " * (MAX_BYTES - len(data)))
    Keyring.open(path)
    path.write_bytes(data + b" " * (MAX_BYTES - len(data) + 1))
    with pytest.raises(KeyringError, match="larger than 65536"):
        Keyring.open(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_any_bytes_raise_only_keyring_errors(path: Path, data: st.DataObject) -> None:
    for name in ("keys", "keys.lock", "keys.mark"):
        path.with_name(name).unlink(missing_ok=True)
    Keyring.create(path)
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good)))
    mutated = good[:at] + data.draw(st.binary(max_size=12)) + good[at + data.draw(st.integers(0, 60)) :]
    raw = data.draw(st.one_of(st.binary(max_size=200), st.just(mutated), st.just(b"[" * 50_000)))
    path.write_bytes(raw)
    try:
        ring = Keyring.open(path)
    except KeyringError:
        return
    for kind in KINDS:
        assert ring.derived(kind, ring.current(kind)[0]) == derive_key(ring.current(kind)[1])
    ring.rotate(CAPABILITY)


def test_secrets_never_show(path: Path, ring: Keyring) -> None:
    secrets = [key["secret"] for key in content(path)["keys"]]
    live = LiveKeyring(ring)
    shown = "".join([repr(ring), str(ring), repr(live), repr(ring._content), str(ring._content.keys)])
    for secret in secrets:
        assert secret not in shown
        assert secret[4:20] not in shown
    assert repr(ring) == f"<Keyring {path} with 3 keys>"


def test_rotate_and_drop(path: Path, ring: Keyring) -> None:
    first = ring.current(CAPABILITY)[0]
    second = ring.rotate(CAPABILITY)
    assert ring.current(CAPABILITY)[0] == second
    assert ring.key_ids(CAPABILITY) == (first, second)
    assert ring.derived(CAPABILITY, first) is not None
    with pytest.raises(KeyringError, match="current key of its kind"):
        ring.drop(second)
    with pytest.raises(KeyringError, match="current key of its kind"):
        ring.drop(ring.current(ADMIN)[0])
    with pytest.raises(KeyringError, match="no key called 'none'"):
        ring.drop("none")
    with pytest.raises(KeyringError, match="no kind of key"):
        ring.rotate("l402")
    ring.drop(first)
    assert ring.derived(CAPABILITY, first) is None
    assert Keyring.open(path).key_ids(CAPABILITY) == (second,)
    assert mode(path) == 0o600


def test_a_full_keyring_refuses_a_further_key(path: Path, ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", len(path.read_bytes()) + 50)
    before = path.read_bytes()
    with pytest.raises(KeyringError, match="drop old keys"):
        ring.rotate(ADMIN)
    assert path.read_bytes() == before


def test_a_failed_write_changes_nothing(path: Path, ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    before, keys = path.read_bytes(), ring.derived_keys()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyringError, match="No space left"):
        ring.rotate(ADMIN)
    with pytest.raises(KeyringError, match="No space left"):
        ring.write_mark("L1", 1, 1)
    with pytest.raises(KeyringError, match="No space left"):
        Keyring.create(path.parent / "other")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert ring.derived_keys() == keys
    assert sorted(p.name for p in path.parent.iterdir()) == ["keys", "keys.lock", "other.lock"]


def test_what_a_killed_writer_left_is_no_hindrance(path: Path, ring: Keyring) -> None:
    path.with_name(".keys.tmp").write_text("half")
    ring.rotate(ADMIN)
    assert not path.with_name(".keys.tmp").exists()
    assert len(Keyring.open(path).key_ids(ADMIN)) == 2


def test_a_stuck_writer_is_named(path: Path, ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT", 0.05)
    with module._locked(path), pytest.raises(KeyringError, match="held its lock"):
        ring.rotate(ADMIN)


def test_two_processes_that_rotate_at_once_lose_nothing(path: Path, ring: Keyring) -> None:
    program = (
        "import sys; from pathlib import Path; from tolsey.store.keyring import Keyring\n"
        "ring = Keyring.open(Path(sys.argv[1])); print(sys.stdin.readline())\n"
        "for n in range(25):\n"
        "    ring.rotate('tolsey'); ring.write_mark('L1', n * 10 + int(sys.argv[2]), n)\n"
    )
    env = {**os.environ, "PYTHONPATH": SRC}
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(path), n], env=env, stdin=subprocess.PIPE, text=True)
        for n in ("1", "2")
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.close()
    assert [process.wait(60) for process in started] == [0, 0]
    found = Keyring.open(path)
    assert len(found.key_ids(CAPABILITY)) == 51
    assert found.read_mark() == Mark("L1", 242, 24)


class Changes:
    """A LiveKeyring with how often it said that the keys changed."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self.live = LiveKeyring(Keyring.open(path), self.add)

    def add(self) -> None:
        self.count += 1


def test_a_live_keyring_follows_within_a_second(path: Path, ring: Keyring) -> None:
    seen = Changes(path)
    live, first = seen.live, ring.current(CAPABILITY)[0]
    assert live.derived(CAPABILITY, first, 0) == ring.derived(CAPABILITY, first)
    second = ring.rotate(CAPABILITY)
    # An unknown id is looked for at once …
    assert live.derived(CAPABILITY, second, 1) == ring.derived(CAPABILITY, second)
    assert seen.count == 1
    third = ring.rotate(CAPABILITY)
    # … and not twice in a second.
    assert live.derived(CAPABILITY, third, SECOND - 1) is None
    assert live.derived(CAPABILITY, third, SECOND + 1) is not None
    assert seen.count == 2
    ring.drop(first)
    assert not live.refresh(2 * SECOND)
    assert live.refresh(2 * SECOND + 1)
    assert live.derived(CAPABILITY, first, 2 * SECOND + 1) is None
    assert seen.count == 3
    ring.remember_ledger("L1")
    assert not live.refresh(5 * SECOND)
    assert live.keyring.ledger == "L1"
    assert seen.count == 3


def test_unknown_ids_cost_one_read_a_second(path: Path, ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveKeyring(ring)
    reads = []
    load = module._load

    def counted(path: Path) -> object:
        reads.append(path)
        return load(path)

    monkeypatch.setattr(module, "_load", counted)
    for n in range(1000):
        assert live.derived(CAPABILITY, f"k{n}", n * SECOND // 100) is None
    assert len(reads) == 10


def test_a_drop_through_the_live_keyring_is_told_too(path: Path, ring: Keyring) -> None:
    seen = Changes(path)
    first = ring.current(ADMIN)[0]
    seen.live.keyring.rotate(ADMIN)
    seen.live.keyring.drop(first)
    assert seen.live.refresh(0)
    assert seen.count == 1


def test_a_clock_that_goes_back_does_not_stop_it(path: Path, ring: Keyring) -> None:
    live = LiveKeyring(ring)
    live.refresh(100 * SECOND)
    Keyring.open(path).rotate(ADMIN)
    assert live.refresh(50 * SECOND)


def test_an_unreadable_keyring_keeps_the_last_good_keys(path: Path, ring: Keyring) -> None:
    seen = Changes(path)
    live, key_id = seen.live, ring.current(CAPABILITY)[0]
    good = path.read_bytes()
    now = 0

    def broken(message: str) -> None:
        nonlocal now
        now += SECOND
        assert not live.refresh(now)
        assert live.problem is not None
        assert message in live.problem
        assert live.derived(CAPABILITY, key_id, now) == ring.derived(CAPABILITY, key_id)

    assert not live.refresh(now)
    path.chmod(0o644)
    broken("mode 0644")
    path.chmod(0o600)
    now += SECOND
    assert not live.refresh(now)
    assert live.problem is None
    path.write_bytes(b"{}")
    broken("not a keyring")
    broken("not a keyring")
    path.unlink()
    broken("No such file")
    assert live.derived(CAPABILITY, "unknown", now) is None
    path.write_bytes(good)
    path.chmod(0o600)
    now += SECOND
    assert not live.refresh(now)
    assert live.problem is None
    assert seen.count == 0


def test_the_mark_only_rises(path: Path, ring: Keyring) -> None:
    assert ring.read_mark() is None
    ring.write_mark("L1", 10, 100)
    ring.write_mark("L1", 9, 200)
    assert ring.read_mark() == Mark("L1", 10, 100)
    assert mode(path.with_name("keys.mark")) == 0o600
    assert content(path.with_name("keys.mark")) == {"ledger": "L1", "entries": 10, "at": 100}
    with pytest.raises(KeyringError, match="mark is of ledger L1, not L2"):
        ring.write_mark("L2", 11, 300)
    ring.write_mark("L2", 1, 300, replace=True)
    assert ring.read_mark() == Mark("L2", 1, 300)
    for ledger, entries, at in [("", 1, 1), ("a b", 1, 1), ("L", -1, 1), ("L", 1, -1), ("L", 2**63, 1)]:
        with pytest.raises(KeyringError, match="not a mark"):
            ring.write_mark(ledger, entries, at)


def test_remember_ledger(path: Path, ring: Keyring) -> None:
    ring.remember_ledger("L1", entries=3, at=7)
    assert (ring.ledger, Keyring.open(path).ledger) == ("L1", "L1")
    ring.remember_ledger("L1")
    assert ring.read_mark() == Mark("L1", 3, 7)
    with pytest.raises(KeyringError, match="used with ledger L1, not L2"):
        ring.remember_ledger("L2")
    ring.remember_ledger("L2", entries=1, at=9, replace=True)
    assert ring.ledger == "L2"
    assert ring.read_mark() == Mark("L2", 1, 9)
    assert content(path)["ledger"] == "L2"


LEDGERS: list[tuple[str | None, str | None, str | None, int, str | None]] = [
    # remembered, mark, ledger, its entries, why it is refused
    (None, None, None, 0, None),
    (None, None, "L1", 7, None),
    (None, '{"ledger":"L1","entries":0,"at":1}', "L1", 0, None),
    (None, '{"ledger":"L1","entries":0,"at":1}', "L2", 5, "the mark beside the keyring is of ledger L1"),
    ("L1", '{"ledger":"L1","entries":7,"at":1}', "L1", 7, None),
    ("L1", '{"ledger":"L1","entries":7,"at":1}', "L1", 9, None),
    ("L1", '{"ledger":"L1","entries":7,"at":1}', "L1", 6, "6 entries where there were 7"),
    ("L1", '{"ledger":"L1","entries":7,"at":1}', "L1", 0, "0 entries where there were 7"),
    ("L1", '{"ledger":"L1","entries":7,"at":1}', None, 0, "the ledger is empty"),
    ("L1", '{"ledger":"L1","entries":7,"at":1}', "L2", 99, "this is ledger L2"),
    ("L1", '{"ledger":"L2","entries":7,"at":1}', "L1", 99, "the mark beside the keyring is of ledger L2"),
    ("L1", None, "L1", 99, "the mark of ledger L1 is missing"),
    ("L1", "", "L1", 99, "cannot be read"),
    ("L1", '{"ledger":"L1","entries":-1,"at":1}', "L1", 99, "cannot be read"),
    ("L1", '{"ledger":"L1","entries":7,"at":1,"x":1}', "L1", 99, "cannot be read"),
]


@pytest.mark.parametrize(("remembered", "mark", "ledger", "entries", "reason"), LEDGERS)
def test_which_ledgers_are_refused(
    path: Path,
    ring: Keyring,
    remembered: str | None,
    mark: str | None,
    ledger: str | None,
    entries: int,
    reason: str | None,
) -> None:
    if remembered is not None:
        ring.remember_ledger(remembered)
    file = path.with_name("keys.mark")
    file.unlink(missing_ok=True)
    if mark is not None:
        file.write_text(mark)
        file.chmod(0o600)
    found = check_ledger(Keyring.open(path), ledger_id=ledger, entries=entries)
    assert (found is None) == (reason is None)
    assert (reason or "") in (found or "")


def test_a_mark_open_to_others_refuses(path: Path, ring: Keyring) -> None:
    ring.remember_ledger("L1")
    path.with_name("keys.mark").chmod(0o666)
    assert "mode 0666" in (check_ledger(ring, ledger_id="L1", entries=9) or "")
    ring.remember_ledger("L1", entries=9, replace=True)
    assert check_ledger(ring, ledger_id="L1", entries=9) is None
