"""`backup`: one whole file from a ledger in use, and what becomes of it when it is put in the ledger's place."""

import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest

from tests import gateways, swarm
from tests.cli import answer, refusal, tolsey
from tests.cli_books import TEAM, book, chain_of, open_book, spend
from tests.ledgers import database
from tests.reading import fsck
from tests.test_grants import CONFIG
from tests.upstreams import Upstream
from tolsey.ledger.events import Granted, Outcome, Reserve, Settle
from tolsey.store import backup as backup_module


def test_one_whole_private_file(config: Path, c: tuple[str, str], tmp_path: Path) -> None:
    token = answer(*TEAM, *c)["token"]
    spend(config, token, "1 USD", hold="h1")
    spend(config, token, "1 USD", hold="h2", settle=False)
    target = tmp_path / "copies" / "ledger.db"
    target.parent.mkdir()
    found = answer("backup", str(target), *c)
    assert {**found, "ledger": "…", "bytes": "…"} == {
        "file": str(target),
        "ledger": "…",
        "accounts": 1,
        "entries": 4,
        "open_holds": 1,
        "bytes": "…",
    }
    assert os.listdir(target.parent) == ["ledger.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert found["bytes"] == target.stat().st_size
    with database(target) as copy, database(book(config)) as live:
        for table in ("ledger", "account", "entry", "hold", "owner", "config"):
            query = f"SELECT * FROM {table}"
            assert copy.execute(query).fetchall() == live.execute(query).fetchall()


def test_nothing_is_overwritten(config: Path, c: tuple[str, str], tmp_path: Path) -> None:
    answer(*TEAM, *c)
    (tmp_path / "mine").write_text("precious")
    assert refusal("backup", str(tmp_path / "mine"), *c)["code"] == "file_unusable"
    assert (tmp_path / "mine").read_text() == "precious"
    assert refusal("backup", str(book(config)), *c)["code"] == "file_unusable"
    assert answer("fsck", *c)["difference"] is None


def test_no_copy_is_left_of_what_cannot_be_copied(config: Path, c: tuple[str, str], tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    assert refusal("backup", str(target), *c)["code"] == "ledger_refused"
    spend(config, answer(*TEAM, *c)["token"], "1 USD", hold="h1")
    with database(book(config), lawless=True) as db:
        db.execute("UPDATE account SET spent = 0")
    assert refusal("backup", str(target), *c)["code"] == "ledger_differs"
    book(config).write_bytes(b"no database" * 1000)
    assert refusal("backup", str(target), *c)["code"] == "ledger_unavailable"
    assert not list(tmp_path.glob("copy*"))


def test_it_is_of_one_instant_while_a_gateway_writes(
    config: Path, c: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each group makes SQLite begin anew, unless the copy stands on one view; it must end all the same, and add up."""
    monkeypatch.setattr(backup_module, "PAGES", 1)
    token = answer(*TEAM, *c)["token"]
    purse = chain_of(config, token).purse("USD")
    ledger = open_book(config)
    ledger.register("gateway", time.time_ns())
    for number in range(200):
        ledger.run([Reserve(f"before {number}", purse, 10), Settle(f"before {number}", 5)], time.time_ns())
    served: list[Outcome] = []
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            hold = f"hold {len(served)}"
            served.extend(ledger.run([Reserve(hold, purse, 1000), Settle(hold, 500)], time.time_ns()))
            if len(served) % 50 == 0:
                ledger.checkpoint()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        found = [answer("backup", str(tmp_path / f"{n}.db"), *c) for n in range(3)]
    finally:
        stopping.set()
        thread.join()
        ledger.close()
    assert all(isinstance(outcome, Granted) for outcome in served[::2])
    assert 401 <= found[0]["entries"] <= found[1]["entries"] <= found[2]["entries"] <= 401 + len(served)
    assert all(fsck(tmp_path / f"{n}.db").difference is None for n in range(3))


def test_a_restored_backup_is_older_and_is_taken_by_name(tmp_path: Path, upstream: Upstream) -> None:
    """The whole story: a backup beside a gateway, more calls, the disk is lost, the copy is put in place."""
    copy = tmp_path / "copy.db"
    running = gateways.lay_out(tmp_path, CONFIG, port=upstream.port)
    with swarm.ending(running):
        running.begin()
        token = running.token(budget="5 USD")
        assert running.ask("GET", "/a", token=token).status == 200
        status, out, err = tolsey("backup", str(copy), "-c", str(running.file))
        assert (status, err) == (0, "")
        assert out == f"{copy}: accounts: 1, entries: 2, open holds: 0; everything adds up\n"
        assert running.ask("GET", "/a", token=token).status == 200
        assert running.process is not None
        running.process.terminate()
        assert running.ends() == 0

        for left in running.ledger.parent.glob("ledger.db*"):
            if left.is_file():
                left.unlink()
        shutil.copy(copy, running.ledger)
        said = refusal("mint", "--label", "a", "--budget", "1 USD", "-c", str(running.file))
        assert said["code"] == "ledger_refused"
        assert "the ledger holds 2 entries where there were 4: it is older than its keys" in said["detail"]

        running.launch(accept_lost_spend="the disk broke")
        gateways.until(lambda: '"event": "listening"' in running.said(), "it takes calls again", 20)
        assert [running.ask("GET", "/a", token=token).status for _ in range(5)] == [200] * 4 + [402]
        running.process.terminate()
        assert running.ends() == 0
    assert running.fsck().difference is None
