"""Proofs and receipts of one call: what they show, and that whatever is changed in them is found."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import answer, invoke, refusal, tolsey
from tests.cli_books import TEAM, book, child, spend
from tests.ledgers import Ledgers, purse
from tests.reading import entries, sign
from tolsey.audit.canonical import canonical
from tolsey.audit.proof import check
from tolsey.ledger.events import Event, Extend, Refund, Reserve, Settle, Void
from tolsey.store.by_hand import HoldUnknown
from tolsey.store.proofs import ProofRefused, prove, write_receipt
from tolsey.store.signing import SealKey, is_signed
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.testing import NOON, SECOND, FaultyLedger

ROOT = purse("root 100/day / a 60")
KEY = SealKey(bytes(32))
OTHER = SealKey(bytes([1]) * 32)
TRUSTED = (KEY.public.hex(),)
DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        yield ledgers


def run(ledger: FaultyLedger, at: int, *events: Event) -> None:
    for event in events:
        ledger.run([event], at)


@pytest.fixture
async def path(ledgers: Ledgers) -> Path:
    """A call in two logs and under two checkpoints, others between."""
    one, cli = ledgers.open("o1"), ledgers.open()
    run(one, NOON, Reserve("h0", ROOT, 1), Reserve("h1", ROOT, 10, "GET /a"), Reserve("h2", ROOT, 3, "GET /secret"))
    run(one, NOON, Extend("h1", 5), Settle("h2", 3), Settle("h1", 12, "200"), Void("h0"))
    await sign(ledgers.path, NOON)
    run(cli, NOON + SECOND, Refund("h1", 2, "r"))
    run(one, NOON + SECOND, Reserve("h3", ROOT, 2, "GET /c"))
    await sign(ledgers.path, NOON + SECOND)
    run(one, NOON + SECOND, Settle("h3", 1))
    return ledgers.path


def proved(path: Path, hold: str = "h1") -> bytes:
    return prove(SqliteSnapshot(path), hold)


async def test_a_proof_shows_the_call_and_no_other(path: Path) -> None:
    document = proved(path)
    found = check(document, TRUSTED, is_signed)
    assert (found.fault, found.hold, found.keys) == (None, "h1", list(TRUSTED))
    assert [entry["kind"] for entry in found.entries] == ["reserve", "extend", "settle", "refund"]
    assert b"secret" not in document
    assert [len(run["items"]) for run in json.loads(document)["runs"]] == [6, 1]


async def test_a_bit_of_each_byte_of_a_proof(path: Path) -> None:
    document = proved(path)
    for place in range(len(document)):
        bad = bytearray(document)
        bad[place] ^= 1 << place % 8
        assert check(bytes(bad), TRUSTED, is_signed).fault is not None, place


def of_another_call(document: dict[str, Any]) -> None:
    document["hold"] = "h2"


def without_an_entry(document: dict[str, Any]) -> None:
    del document["runs"][0]["items"][1]


def without_a_run(document: dict[str, Any]) -> None:
    document["runs"] = []


def without_items(document: dict[str, Any]) -> None:
    document["runs"][0]["items"] = []


def under_another_checkpoint(document: dict[str, Any]) -> None:
    document["runs"][0]["checkpoint"] = document["runs"][1]["checkpoint"]


def with_another_ledger(document: dict[str, Any]) -> None:
    document["ledger"] = "other"


def with_more(document: dict[str, Any]) -> None:
    document["more"] = 1


def cheaper(document: dict[str, Any]) -> None:
    document["runs"][0]["items"][4]["amount"] = "0"


WRONG: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (of_another_call, "entry 2 of log 1 is not an entry of this hold"),
    (without_an_entry, "entry 3 of log 1 is not an entry of this hold"),
    (without_a_run, "it has no entry"),
    (without_items, "a run of it does not begin with an entry"),
    (under_another_checkpoint, "the entries of log 1 do not lead to what checkpoint 2 has signed"),
    (with_another_ledger, "its checkpoint is of another ledger"),
    (with_more, "it is neither a proof nor a receipt"),
    (cheaper, "the entries of log 1 do not lead to what checkpoint 1 has signed"),
]


@pytest.mark.parametrize(("change", "fault"), WRONG, ids=[row[0].__name__ for row in WRONG])
async def test_a_proof_that_was_changed(path: Path, change: Callable[[dict[str, Any]], None], fault: str) -> None:
    document = json.loads(proved(path))
    change(document)
    assert check(canonical(document), TRUSTED, is_signed).fault == fault


async def test_by_whose_key(path: Path) -> None:
    found = check(proved(path), (OTHER.public.hex(),), is_signed)
    assert found.fault == f"it is signed by key {KEY.public.hex()[:16]}…, which is not one that you trust"


async def test_what_cannot_be_proved(path: Path) -> None:
    with pytest.raises(HoldUnknown):
        proved(path, "h9")
    with pytest.raises(ProofRefused, match="entry 10 is under no checkpoint yet"):
        proved(path, "h3")


# receipts


def receipt(path: Path, hold: str = "h1") -> bytes:
    return write_receipt(SqliteSnapshot(path), hold, KEY, caveats=None)


async def test_a_receipt(path: Path) -> None:
    document = json.loads(receipt(path))
    figures = {name: document[name] for name in ("call", "quote", "cost", "unit", "state", "caveats")}
    assert figures == {
        "call": "GET /a",
        "quote": "0.000000015",
        "cost": "0.00000001",
        "unit": "USD",
        "state": "settle",
        "caveats": None,
    }
    assert [link["label"] for link in document["chain"]] == ["root", "a"]
    assert check(receipt(path), TRUSTED, is_signed).fault is None
    assert (json.loads(receipt(path, "h0"))["cost"], json.loads(receipt(path, "h0"))["state"]) == ("0", "void")
    with pytest.raises(HoldUnknown):
        receipt(path, "h9")


async def test_a_receipt_for_a_call_that_is_not_over(path: Path, ledgers: Ledgers) -> None:
    run(ledgers.open("o4"), NOON + SECOND, Reserve("h5", ROOT, 2))
    document = receipt(path, "h5")
    assert (json.loads(document)["cost"], json.loads(document)["state"]) == (None, "open")
    assert check(document, TRUSTED, is_signed).fault is None


async def test_a_receipt_with_other_figures(path: Path) -> None:
    """By the key itself: then its own entries tell."""
    document = json.loads(receipt(path))
    del document["signature"]
    document["cost"] = "0.000000001"
    signed = canonical(document | {"signature": KEY.sign(canonical(document)).hex()})
    assert check(signed, TRUSTED, is_signed).fault == "its figures are not those of its entries"
    unsigned = canonical(document | {"signature": OTHER.sign(canonical(document)).hex()})
    assert check(unsigned, TRUSTED, is_signed).fault == "its signature is wrong"
    assert check(signed, (OTHER.public.hex(),), is_signed).fault is not None


async def test_the_thirty_lines_of_the_docs(path: Path) -> None:
    """They agree with the command, also on a bit of each byte."""
    page = (DOCS / "audit.md").read_text("utf-8")
    (text,) = (block.split("```")[0] for block in page.split("```python\n")[1:])
    assert len([line for line in text.splitlines() if line]) <= 30
    names: dict[str, Any] = {}
    exec(compile(text, "docs/audit.md", "exec"), names)
    verify, document = names["verify"], receipt(path)
    assert verify(document, TRUSTED[0])["cost"] == "0.00000001"
    for wrong in (OTHER.public.hex(), "", "x" * 64):
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it raises is a no
            verify(document, wrong)
    for place in range(len(document)):
        bad = bytearray(document)
        bad[place] ^= 1 << place % 8
        assert check(bytes(bad), TRUSTED, is_signed).fault is not None, place
        if bytes(bad).lower() == document.lower():
            continue  # To it, a digit of the signature in upper case is the same digit.
        with pytest.raises(Exception):  # noqa: B017, PT011 - as above
            verify(bytes(bad), TRUSTED[0])


# the commands


@pytest.fixture
def paid(config: Path, c: tuple[str, str]) -> str:
    """A token, with which hold h1 was paid."""
    token = child(answer(*TEAM, *c)["token"], "worker", "--scope", "/api/*", "--budget", "5 USD")
    spend(config, token, "1 USD", hold="h1")
    return token


def test_proving_and_checking(config: Path, c: tuple[str, str], paid: str, tmp_path: Path) -> None:
    assert refusal("audit", "prove", "h1", *c)["code"] == "proof_refused"
    answer("audit", "checkpoint", *c)
    public = tmp_path / "seal.pub"
    public.write_text(invoke("audit", "key", *c)[1])
    for name, made in (("proof", invoke("audit", "prove", "h1", *c)), ("receipt", invoke("receipt", "h1", *c))):
        file = tmp_path / name
        file.write_text(made[1])
        found = answer("audit", "check", str(file), "--key", str(public))
        assert (found["format"], found["hold"]) == (f"tolsey-{name}-1", "h1")
        assert [entry["kind"] for entry in found["entries"]] == ["reserve", "settle"]
        status, out, err = tolsey("audit", "check", "-", "--key", public.read_text().strip(), stdin=made[1])
        assert status == 0, err
        assert "reserve  1 USD  GET /api/v1/search" in out
        assert err.endswith(": it holds\n")
        file.write_text(made[1].replace("search", "other"))
        assert refusal("audit", "check", str(file), "--key", str(public))["code"] == "seal_broken"
    assert refusal("audit", "check", str(public), "--key", str(public))["code"] == "seal_broken"
    assert refusal("audit", "check", str(public), "--key", str(book(config)), status=2)["code"] == "usage"
    assert refusal("audit", "prove", "h9", *c)["code"] == "hold_unknown"
    assert refusal("receipt", "h9", *c)["code"] == "hold_unknown"


def test_a_receipt_with_the_token(config: Path, c: tuple[str, str], paid: str) -> None:
    caveats = json.loads(invoke("receipt", "h1", "--token", "-", *c, stdin=paid)[1])["caveats"]
    assert [text.split()[0] for text in caveats] == ["label", "budget", "label", "scope", "budget"]
    narrower = child(paid, "below", "--expires", "2999-01-01")
    assert json.loads(invoke("receipt", "h1", "--token", "-", *c, stdin=narrower)[1])["caveats"] == caveats
    other = answer(*TEAM, *c)["token"]
    assert refusal("receipt", "h1", "--token", "-", *c, stdin=other, status=2)["code"] == "usage"
    forged = paid[:-3] + ("aaa" if paid[-3:] != "aaa" else "bbb")
    assert refusal("receipt", "h1", "--token", "-", *c, stdin=forged)["code"] in ("token_forged", "token_malformed")


def test_rotating(config: Path, c: tuple[str, str], paid: str, tmp_path: Path) -> None:
    answer("audit", "checkpoint", *c)
    old = answer("audit", "key", *c)["current"]
    found = answer("audit", "rotate", *c)
    assert found["announced"]
    assert answer("audit", "key", *c) == {"keys": [old, found["key"]], "current": found["key"]}
    spend(config, paid, "1 USD", hold="h2")
    answer("audit", "checkpoint", *c)
    assert answer("audit", "checkpoint", *c)["checkpoint"]["key"] == found["key"]
    ring = json.loads((config.parent / "data/keys").read_bytes())["keys"]
    (first, _) = (key["id"] for key in ring if key["kind"] == "tolsey-seal")
    assert "signs nothing any more" in invoke("keys", "drop", first, *c)[1]
    file = tmp_path / "sealed"
    answer("export", "--format", "sealed", "-o", str(file), *c)
    for key in (old, found["key"]):
        assert answer("audit", "verify", str(file), "--key", key)["keys"] == [old, found["key"]]
    lost = answer("audit", "rotate", "--lost", "--reason", "a disk was stolen", *c)
    assert not lost["announced"]
    (note,) = [entry.note for entry in entries(config.parent / "data/ledger.db") if lost["key"] in entry.note]
    assert note.endswith(": a disk was stolen")
    file.unlink()
    answer("export", "--format", "sealed", "-o", str(file), *c)
    assert refusal("audit", "verify", str(file), "--key", old)["code"] == "seal_broken"
    assert answer("audit", "verify", str(file), "--key", old, "--key", lost["key"])["fault"] is None
    assert answer("fsck", *c)["difference"] is None


def test_a_key_before_anything_was_signed_is_not_announced(config: Path, c: tuple[str, str]) -> None:
    answer(*TEAM, *c)
    assert answer("audit", "rotate", *c)["announced"] is False
    assert "give it to everybody who verifies" in invoke("audit", "rotate", *c)[2]


def test_rotating_without_the_key_that_signs(config: Path, c: tuple[str, str], paid: str) -> None:
    answer("audit", "checkpoint", *c)
    keys = config.parent / "data/keys"
    content = json.loads(keys.read_bytes())
    content["keys"] = [key for key in content["keys"] if key["kind"] != "tolsey-seal"]
    keys.write_text(json.dumps(content))
    assert refusal("audit", "rotate", *c)["code"] == "seal_refused"
    spend(config, paid, "1 USD", hold="h2")
    assert refusal("audit", "checkpoint", *c)["code"] == "seal_refused"
    assert answer("audit", "rotate", "--lost", *c)["announced"] is False
    assert answer("fsck", *c)["difference"] is None
