"""The seal: every entry that was changed, dropped, inserted or moved is found in an export, and named, with nothing but
the public key.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ledgers import Ledgers, database, purse, unseal
from tests.reading import difference_after, fsck, sign
from tolsey.audit.canonical import canonical, parse
from tolsey.audit.checkpoint import Chain as Checkpoints
from tolsey.audit.checkpoint import Checkpoint, Logged, make, read
from tolsey.audit.seal import Head, follow, genesis
from tolsey.audit.sealed import Verdict, entry_line, verify
from tolsey.errors import LedgerUnavailable
from tolsey.ledger.events import Event, Grant, Kind, Open, Refund, Reserve, Settle, Void
from tolsey.ledger.windows import DAY
from tolsey.store import sqlite
from tolsey.store.checkpoints import AT_ONCE, SealRefused, take
from tolsey.store.embedded import EmbeddedLedger
from tolsey.store.rollup import roll_up
from tolsey.store.rollup_sqlite import SqliteRollable
from tolsey.store.sealed_export import export_sealed
from tolsey.store.signing import SealKey, is_signed
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.testing import NOON, SECOND, FaultyLedger

ROOT = purse("root 100/day / a 60")
CALLS = purse("calls 9", unit="call")
KEY = SealKey(bytes(32))
OTHER = SealKey(bytes([1]) * 32)
TRUSTED = (KEY.public.hex(),)


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        yield ledgers


def run(ledger: FaultyLedger, at: int, *events: Event) -> None:
    for event in events:
        ledger.run([event], at)


@pytest.fixture
async def path(ledgers: Ledgers) -> Path:
    """Two logs and that of the operators, two checkpoints, and one entry that is not signed yet."""
    one, other, cli = ledgers.open("o1"), ledgers.open("o2"), ledgers.open()
    run(cli, NOON, Open(ROOT[0], 'minted by "ö"\n'))
    run(one, NOON, Reserve("h1", ROOT, 10, "GET /a", CALLS), Settle("h1", 7, "200"))
    await sign(ledgers.path, NOON)
    run(other, NOON + SECOND, Reserve("h2", ROOT, 4), Void("h2"))
    run(one, NOON + SECOND, Refund("h1", 2, "r"), Reserve("h3", ROOT, 4, "", (), (), None, NOON + DAY))
    await sign(ledgers.path, NOON + SECOND)
    run(cli, NOON + 2 * SECOND, Grant(("a", "USD"), 5, "g"))
    return ledgers.path


def exported(path: Path) -> list[bytes]:
    return [line + b"\n" for line in export_sealed(SqliteSnapshot(path), lambda done, total: None)]


def checked(lines: Sequence[bytes], trusted: Sequence[str] = TRUSTED, outside: Sequence[bytes] = ()) -> Verdict:
    return verify(lines, trusted, is_signed, outside)


def entries(lines: Sequence[bytes], log: int) -> list[int]:
    """Where in an export the entries of a log are."""
    return [at for at, line in enumerate(lines) if b'"entry":' in line and json.loads(line)["entry"]["log"] == log]


# what is sound


async def test_a_sound_export(path: Path) -> None:
    verdict = checked(exported(path))
    assert (verdict.fault, verdict.entries, verdict.logs, verdict.checkpoints) == (None, 8, 3, 2)
    assert (verdict.unsigned, verdict.rolled, verdict.keys) == (1, 0, list(TRUSTED))
    found = fsck(path)
    assert (found.difference, found.logs, found.checkpoints, found.unsigned) == (None, 3, 2, 1)


async def test_an_entry_says_what_it_was_about(path: Path) -> None:
    (line,) = [json.loads(line) for line in exported(path) if b'"kind":"reserve"' in line and b'"h1"' in line]
    assert line["entry"] == {
        "amount": "0.00000001",
        "at": "2026-04-01T12:00:00.000000000Z",
        "chain": [
            {"budget": "0.0000001 USD/day", "id": "root", "label": "root"},
            {"budget": "0.00000006 USD", "id": "a", "label": "a"},
        ],
        "config": None,
        "counters": [{"budget": "9 call", "id": "calls", "label": "calls"}],
        "hold": "h1",
        "kind": "reserve",
        "log": 1,
        "note": "GET /a",
        "place": 1,
        "unit": "USD",
        "until": None,
    }


# what is not


async def test_every_byte_counts(path: Path) -> None:
    """A bit of each byte of an export flipped in turn: found, and where."""
    lines = exported(path)
    for number, line in enumerate(lines, 1):
        for place in range(len(line)):
            bad = bytearray(line)
            bad[place] ^= 1 << place % 8
            verdict = checked([*lines[: number - 1], *bytes(bad).splitlines(keepends=True), *lines[number:]])
            assert verdict.fault is not None, (number, place)
            if line.startswith(b'{"entry":'):
                assert verdict.line in (number, number + 1), (verdict, number, place)


def dropped(lines: list[bytes]) -> None:
    del lines[entries(lines, 1)[1]]


def inserted(lines: list[bytes]) -> None:
    at = entries(lines, 1)[1]
    lines.insert(at, lines[at])


def forged_in(lines: list[bytes]) -> None:
    """An entry put in between, with a seal that fits, and all others left as they are."""
    first, second, *_ = entries(lines, 1)
    entry = json.loads(lines[second])["entry"] | {"note": "never happened"}
    body = canonical(entry)
    seal = follow(bytes.fromhex(json.loads(lines[first])["seal"]), body)
    lines.insert(second, entry_line(body, seal) + b"\n")


def swapped(lines: list[bytes]) -> None:
    first, second, *_ = entries(lines, 1)
    lines[first], lines[second] = lines[second], lines[first]


def no_log(lines: list[bytes]) -> None:
    for at in reversed(entries(lines, 2)):
        del lines[at]


def no_end_of_a_log(lines: list[bytes]) -> None:
    del lines[entries(lines, 1)[-1]]


def no_end(lines: list[bytes]) -> None:
    del lines[-1]


def no_last_entry(lines: list[bytes]) -> None:
    del lines[entries(lines, 0)[-1]]


def cut_off(lines: list[bytes]) -> None:
    lines[-1] = lines[-1][:-1]


def rewritten(lines: list[bytes]) -> None:
    """The entry at place 2 of log 1 made cheaper, and every seal behind it made to fit."""
    first, *later = entries(lines, 1)
    seal = bytes.fromhex(json.loads(lines[first])["seal"])
    for number, at in enumerate(later):
        entry = json.loads(lines[at])["entry"]
        if not number:
            entry["amount"] = "0.000000001"
        body = canonical(entry)
        seal = follow(seal, body)
        lines[at] = entry_line(body, seal) + b"\n"


def no_first_checkpoint(lines: list[bytes]) -> None:
    del lines[1]


def no_last_checkpoint(lines: list[bytes]) -> None:
    """Nothing is wrong with that, but that less is signed."""
    del lines[2]


def another_count(lines: list[bytes]) -> None:
    lines[-1] = canonical({"end": 9}) + b"\n"


def spaced(lines: list[bytes]) -> None:
    lines[entries(lines, 1)[0]] = lines[entries(lines, 1)[0]].replace(b":", b": ", 1)


Tamper = Callable[[list[bytes]], None]
TAMPERED: list[tuple[Tamper, str | None]] = [
    (dropped, "entry 2 of log 1 is missing: entry 3 stands in its place"),
    (inserted, "entry 2 of log 1 is there again, behind entry 2"),
    (forged_in, "one of the entries 1 to 2 of log 1 was rewritten: checkpoint 1 has signed another"),
    (swapped, "entry 1 of log 1 is missing: entry 2 stands in its place"),
    (no_log, "log 2 is missing: checkpoint 2 has signed 2 entries of it"),
    (no_end_of_a_log, "log 1 ends at entry 3: checkpoint 2 has signed 4 entries of it"),
    (no_end, "the export ends early: its last lines are missing"),
    (no_last_entry, "it says that there are 8 entries, and there are 7"),
    (cut_off, "the line is cut off"),
    (rewritten, "one of the entries 1 to 2 of log 1 was rewritten: checkpoint 1 has signed another"),
    (no_first_checkpoint, "checkpoint 1 is missing"),
    (no_last_checkpoint, None),
    (another_count, "it says that there are 9 entries, and there are 8"),
    (spaced, "the line cannot be read: it is not in canonical form"),
]


@pytest.mark.parametrize(("tamper", "fault"), TAMPERED, ids=[row[0].__name__ for row in TAMPERED])
async def test_what_was_done_to_it_is_named(
    path: Path, tamper: Callable[[list[bytes]], None], fault: str | None
) -> None:
    lines = exported(path)
    tamper(lines)
    assert checked(lines).fault == fault


async def test_what_only_a_kept_checkpoint_shows(path: Path, ledgers: Ledgers) -> None:
    """Whoever has the key can cut history back, or write another; a checkpoint that went elsewhere tells."""
    lines = exported(path)
    kept = [canonical(json.loads(line)["checkpoint"]) for line in lines[1:3]]
    assert checked(lines, outside=kept).fault is None
    cut = [line for at, line in enumerate(lines) if at not in (2, *entries(lines, 2), *entries(lines, 1)[2:])]
    cut[-1] = canonical({"end": 4}) + b"\n"
    assert checked(cut).fault is None
    assert checked(cut, outside=kept).fault == (
        "checkpoint 2, which was kept elsewhere, is missing: the export is older, or was cut back"
    )
    forged = json.loads(kept[1]) | {"at": "2026-04-01T12:00:09.000000000Z"}
    del forged["signature"]
    forged["signature"] = KEY.sign(canonical(forged)).hex()
    rewritten = [*lines[:2], b'{"checkpoint":' + canonical(forged) + b"}\n", *lines[3:]]
    assert checked(rewritten).fault is None
    assert checked(rewritten, outside=kept).fault == (
        "checkpoint 2 is not the one that was kept elsewhere: history was rewritten"
    )
    assert checked(lines, outside=[b"{}"]).fault == "kept checkpoint 1 cannot be used: it is not a checkpoint"
    assert checked(lines, outside=[b"{"]).fault == "kept checkpoint 1 cannot be used: it is not JSON"


# keys


async def test_another_key(path: Path) -> None:
    lines = exported(path)
    fault = f"the last checkpoint is signed by key {KEY.public.hex()[:16]}…, which is not one that you trust"
    assert checked(lines, (OTHER.public.hex(),)).fault == fault
    assert checked(lines, ()).fault == fault
    assert checked(lines, (OTHER.public.hex(), *TRUSTED)).fault is None


async def test_a_forged_checkpoint(path: Path) -> None:
    """By a key that nobody announced, and with a signature of another document."""
    lines = exported(path)
    document = json.loads(lines[2])["checkpoint"]
    del document["signature"]
    document["key"] = OTHER.public.hex()
    document["signature"] = OTHER.sign(canonical(document)).hex()
    lines[2] = b'{"checkpoint":' + canonical(document) + b"}\n"
    wanted = f"checkpoint 2 is signed by key {OTHER.public.hex()[:16]}…, which is neither trusted nor announced"
    assert checked(lines).fault == wanted
    assert checked(lines).line == 3
    document["key"] = KEY.public.hex()
    lines[2] = b'{"checkpoint":' + canonical(document) + b"}\n"
    assert checked(lines).fault == "checkpoint 2: its signature is wrong"


async def test_a_key_that_was_announced_is_trusted(path: Path) -> None:
    ledger = EmbeddedLedger(
        sqlite.SqliteLedger(path, now=NOON, new_id="", create=False), timeout=5, now=lambda: NOON + 3 * SECOND
    )
    assert await take(ledger, [KEY], AT_ONCE, announced=OTHER) is not None
    with pytest.raises(SealRefused, match="which is not in this keyring"):
        await take(ledger, [KEY], AT_ONCE, announced=OTHER)
    assert await take(ledger, [KEY, OTHER], AT_ONCE) is None, "nothing is new"
    await ledger.note(Kind.ACCEPT, "n")
    assert await take(ledger, [KEY, OTHER], (2, 3600)) is None, "too early"
    assert await take(ledger, [KEY, OTHER], (1, 3600)) is not None, "enough entries"
    await ledger.note(Kind.ACCEPT, "n")
    assert await take(ledger, [KEY, OTHER], (2, 0)) is not None, "enough seconds"
    await ledger.close()
    lines = exported(path)
    for trusted in (KEY, OTHER):
        verdict = checked(lines, (trusted.public.hex(),))
        assert (verdict.fault, verdict.keys) == (None, [KEY.public.hex(), OTHER.public.hex()])
    assert fsck(path).difference is None


async def test_one_can_begin_anew_with_a_key_that_is_given_to_whoever_verifies(path: Path) -> None:
    ledger = EmbeddedLedger(
        sqlite.SqliteLedger(path, now=NOON, new_id="", create=False), timeout=5, now=lambda: NOON + 3 * SECOND
    )
    with pytest.raises(SealRefused):
        await take(ledger, [OTHER], AT_ONCE)
    assert await take(ledger, [OTHER], AT_ONCE, anew=True) is not None
    await ledger.close()
    lines = exported(path)
    assert checked(lines).fault == (
        f"checkpoint 3 is signed by key {OTHER.public.hex()[:16]}…, which is neither trusted nor announced"
    )
    assert checked(lines, (OTHER.public.hex(),)).fault is None


# in the ledger


FSCK = [
    (
        "a note",
        "UPDATE entry SET note = 'x' WHERE n = 2",
        " at entry 2: entry 1 of log 1 was changed",
    ),
    ("a label", "UPDATE account SET label = 'x' WHERE id = 'a'", " at entry 2: entry 1 of log 1 was"),
    ("a seal", "UPDATE entry SET seal = x'00' WHERE n = 3", " at entry 3: entry 2 of log 1 was"),
    (
        "another log",
        "UPDATE entry SET owner = 2 WHERE n = 3",
        " at entry 3: entry 1 of log 2 is missing",
    ),
    ("a head", "UPDATE owner SET head = x'00' WHERE n = 1", ": log 1 has had 4 entries and ends at"),
    (
        "fewer",
        "UPDATE owner SET entries = 3 WHERE n = 1",
        ": log 1 has had 3 entries and ends at entry 4",
    ),
    (
        "a log unknown",
        "UPDATE owner SET entries = 0 WHERE n = 1",
        ": log 1 has entries, and its owner",
    ),
    ("no checkpoint", "DELETE FROM checkpoint WHERE n = 1", "checkpoint 1 is missing"),
    ("a gap", "INSERT INTO gap VALUES (1, 9, 9, x'00', x'00')", ": entry 9 of log 1 is said to be"),
]


@pytest.mark.parametrize(("statement", "difference"), [row[1:] for row in FSCK], ids=[row[0] for row in FSCK])
async def test_fsck_recomputes_the_seal(path: Path, ledgers: Ledgers, statement: str, difference: str) -> None:
    found = difference_after(ledgers.open(), statement)
    assert found.removeprefix("the seal is broken").startswith(difference)


async def test_a_commit_that_is_lost_breaks_no_chain(ledgers: Ledgers) -> None:
    ledger = ledgers.open("o1")
    run(ledger, NOON, Reserve("h1", ROOT, 1))
    for lost in (False, True):
        ledger.fail("commit", lost=lost)
        with pytest.raises(LedgerUnavailable):
            ledger.run([Reserve("h2", ROOT, 1)], NOON)
    run(ledger, NOON, Settle("h1", 1), Settle("h2", 1))
    assert fsck(ledgers.path).difference is None


async def test_what_was_written_before_there_was_a_seal_is_sealed(path: Path, ledgers: Ledgers) -> None:
    with database(path) as db:
        unseal(db)
        db.execute("UPDATE ledger SET version = 7")
    ledger = ledgers.open("o3")
    run(ledger, NOON + DAY, Settle("h3", 1))
    found = fsck(path)
    assert (found.difference, found.logs, found.unsigned) == (None, 4, 9)


# rolled up


async def rolled(path: Path, now: int = NOON + DAY) -> list[bytes]:
    ledger = SqliteRollable(path)
    view = SqliteSnapshot(path, lambda: now)
    await roll_up(ledger, view, before=now, note="by test", archive=lambda _: None, progress=lambda done, total: None)
    await ledger.close()
    return exported(path)


async def test_after_a_roll_up(path: Path, ledgers: Ledgers) -> None:
    lines = await rolled(path)
    verdict = checked(lines)
    assert (verdict.fault, verdict.entries, verdict.rolled, verdict.unsigned) == (None, 3, 6, 2)
    assert fsck(path).difference is None
    kept = [canonical(json.loads(line)["checkpoint"]) for line in lines if line.startswith(b'{"checkpoint"')]
    assert checked(lines, outside=kept).fault is None
    run(ledgers.open("o4"), NOON + DAY, Settle("h3", 1), Reserve("h4", ROOT, 1))
    await sign(path, NOON + DAY)
    lines = await rolled(path, NOON + 2 * DAY)
    assert checked(lines).fault is None
    assert checked(lines).rolled == 9
    assert fsck(path).difference is None
    for number, line in enumerate(lines):
        if line.startswith(b'{"gap"'):
            assert checked([*lines[:number], *lines[number + 1 :]]).fault is not None
            assert checked([*lines[:number], line.replace(b"0", b"1", 1), *lines[number + 1 :]]).fault is not None


@pytest.mark.parametrize(
    ("statement", "difference"),
    [
        ("DELETE FROM gap WHERE log = 2", "the seal is broken: log 2 is missing"),
        (
            "UPDATE gap SET after = zeroblob(32) WHERE log = 2",
            "the seal is broken: one of the entries 1 to 2 of log 2 was",
        ),
        (
            (
                "UPDATE rolled SET spent = spent - 1 WHERE account = 1;"
                "UPDATE account SET spent = spent - 1 WHERE n = 1;"
                "UPDATE window SET spent = spent - 1; UPDATE rolled_window SET spent = spent - 1"
            ),
            "what was rolled up of account root is not what its sealed entries say",
        ),
    ],
)
async def test_tampering_after_a_roll_up(path: Path, ledgers: Ledgers, statement: str, difference: str) -> None:
    await rolled(path)
    assert difference_after(ledgers.open(), statement).startswith(difference)


async def test_what_no_checkpoint_has_is_not_rolled_up(ledgers: Ledgers) -> None:
    run(ledgers.open("o1"), NOON, Reserve("h1", ROOT, 1), Settle("h1", 1), Reserve("h2", ROOT, 1))
    assert checked(await rolled(ledgers.path)).rolled == 0


@given(data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_line_makes_the_verifier_stumble(data: bytes) -> None:
    assert checked([data + b"\n"]).fault is not None


def test_a_checkpoint_says_what_it_says() -> None:
    head = Head(3, genesis("l", 1))
    first = make(None, [Logged(1, head)], ledger="l", at="2030", key=KEY.public, sign=KEY.sign)
    found = read(parse(first), is_signed)
    assert isinstance(found, Checkpoint)
    assert (found.n, found.ledger, found.logs, found.key) == (1, "l", ((1, head),), KEY.public.hex())
    chain = Checkpoints("l", TRUSTED)
    assert chain.follow(found) is None
    second = read(parse(make(found, [], ledger="l", at="2029", key=KEY.public, sign=KEY.sign)), is_signed)
    assert isinstance(second, Checkpoint)
    assert chain.follow(second) == "checkpoint 2 is older than the one before it"
    assert Checkpoints("m", TRUSTED).follow(found) == "checkpoint 1 is of another ledger"
