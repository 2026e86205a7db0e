"""Moving a ledger to PostgreSQL and back, copying it, and rolling its entries up there."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import gateway, refusal, tolsey
from tests.ledgers import Ledgers, purse, revise
from tests.postgres import Gateways, Server, asking, rows
from tests.reading import fsck
from tests.test_migrate import contents, url
from tests.test_retention import compact
from tolsey.cli import copying
from tolsey.errors import LedgerRefused, LedgerUnavailable
from tolsey.ledger.approving import Question
from tolsey.ledger.events import (
    Annul,
    Claim,
    Event,
    Expire,
    Extend,
    Grant,
    Granted,
    Kept,
    Observe,
    Open,
    Refund,
    Reserve,
    Resolved,
    Settle,
    Unknown,
    Void,
)
from tolsey.ledger.revoking import Revoke
from tolsey.ledger.windows import DAY, HOUR
from tolsey.store.approvals_sqlite import answer, ask
from tolsey.store.checkpoints import AT_ONCE, take
from tolsey.store.contract import RollUp, TallyRow
from tolsey.store.export import export
from tolsey.store.moving import TABLES
from tolsey.store.moving_postgres import PostgresMovable
from tolsey.store.postgres import open_postgres
from tolsey.store.postgres_snapshot import PostgresSnapshot
from tolsey.store.rollup import roll_up
from tolsey.store.rollup_postgres import rollable_at
from tolsey.store.sealing import Sealer
from tolsey.store.signing import SealKey
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.token.chain import Account, Rate
from tolsey.units import NANO

NAME = purse("root 100/day / a 60")
CALLS = purse("calls 9", unit="call")
RATE = Rate("rate", "team", 5, "day")
LONG = 2**62
HISTORY: list[Event] = [
    Open(NAME[0], "minted, by “somebody”"),
    Reserve("h1", NAME, 10, "GET /a", CALLS, (RATE,), Claim("scope", "key", "request"), until=LONG),
    Extend("h1", 2),
    Settle("h1", 11, "", Kept("body", b"\x00\xffresponse")),
    Refund("h1", 1, "r"),
    Grant(("root", "USD"), 50, "g"),
    Grant(("a", "USD"), 5, "g"),
    Reserve("h2", NAME, 20, "GET /b", CALLS, until=LONG),
    Reserve("h3", NAME, 4, "", CALLS),
    Expire("h3"),
    Annul("h3", "n"),
    Reserve("h4", (), 0, "", CALLS),
    Void("h4"),
    Void("h1"),
    Reserve("h5", NAME, 3),
    Observe("o1", NAME, 8, 7, "", CALLS),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A ledger in a file, with everything in it."""
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        ledger = ledgers.open("o1")
        now = time.time_ns() - DAY
        ledger.number_config("generation", now)
        ledger.config = 1
        for event in HISTORY:
            assert not isinstance(ledger.run([event], now)[0], Unknown)
        revise(ledger, Revoke("a" * 32, LONG, "by somebody"), now)
        ledger.tally([TallyRow(now // HOUR, "a worker", "{}", "{}")])
        ledger.change(
            lambda db, _: db.execute("INSERT INTO alert VALUES ('a', 1, 't', '{}', NULL, 0, 1, 'sent', '')"), now
        )
        question = Question("q1", now, now + HOUR, "r", "p", "a/b", "t", "GET", "/x", "y=1", 7, "USD", "why")
        assert ledger.change(lambda db, _: ask(db, question), now)
        ledger.change(
            lambda db, at: answer(db, Sealer(), "q1", granted=True, note="n", at=at, owner=0, config=None), now
        )
    return tmp_path / "ledger.db"


@pytest.fixture
async def gateways(postgres: Server) -> AsyncIterator[Gateways]:
    found = Gateways(postgres.database())
    yield found
    await found.close()


async def in_database(url: str) -> dict[str, list[tuple[Any, ...]]]:
    async with asking(url) as db:
        found = {t.name: await db.fetch(f'SELECT {t.column_list} FROM "{t.name}"') for t in TABLES}
    return {name: sorted((tuple(row) for row in found[name]), key=repr) for name in found}


async def migrate(source: str, target: str) -> str:
    """As the command does, with the target's URL from the environment; what it prints."""
    status, out, err = await asyncio.to_thread(tolsey, "migrate", source, "${TARGET}", env={"TARGET": target})
    assert status == 0, err
    return out


async def test_there_and_back(gateways: Gateways, file: Path, tmp_path: Path) -> None:
    await compact(file, time.time_ns())
    before = contents(file)
    assert all(before[table.name] for table in TABLES)
    out = await migrate(url(file), gateways.url)
    assert out.startswith(f"moved to {gateways.url}: accounts: 3, entries: ")
    assert await in_database(gateways.url) == before
    with pytest.raises(LedgerRefused, match="was moved to postgresql://"):
        fsck(file)
    back = tmp_path / "back.db"
    await migrate(gateways.url, url(back))
    assert contents(back) == before
    assert fsck(back).difference is None
    with pytest.raises(LedgerRefused, match="was moved to sqlite:///"):
        await gateways.open("o9", create=False)


async def test_gateways_go_on_there(gateways: Gateways, file: Path) -> None:
    """With the same id and behind the last number, so that the keys take it for what it is."""
    await migrate(url(file), gateways.url)
    ledger = await gateways.open("o2")
    assert (ledger.id, await ledger.entry_count()) == ("the-ledger", 19)
    outcomes = await ledger.write([Reserve("h6", NAME, 5), Settle("h6", 5), Settle("h2", 9), Refund("h1", 10, "r")])
    assert [type(outcome) for outcome in outcomes] == [Granted, Resolved, Resolved, Resolved]
    assert (await rows(gateways.url, "SELECT min(n), max(n) FROM entry WHERE n > 19")) == [(20, 23)]
    assert await ledger.entry_count() == 23
    assert (await asyncio.to_thread(fsck, PostgresSnapshot(gateways.url))).difference is None


async def test_not_while_a_gateway_runs(gateways: Gateways, file: Path, tmp_path: Path) -> None:
    await migrate(url(file), gateways.url)
    ledger = await gateways.open("o2")
    target = url(tmp_path / "back.db")
    found = await asyncio.to_thread(refusal, "migrate", gateways.url, target)
    assert (found["code"], "owner o2" in found["detail"]) == ("ledger_refused", True)
    await ledger.close()
    assert not (tmp_path / "back.db").exists()
    await migrate(gateways.url, target)


async def test_who_has_it_open_writes_no_more(gateways: Gateways, file: Path, tmp_path: Path) -> None:
    await migrate(url(file), gateways.url)
    ledger = await gateways.open()
    await migrate(gateways.url, url(tmp_path / "back.db"))
    with pytest.raises(LedgerUnavailable, match="moved"):
        await ledger.write([Open(purse("late 5")[0])])
    with pytest.raises(LedgerUnavailable, match="moved"):
        await ledger.register("o3")


async def test_a_database_that_has_a_ledger_is_left_alone(gateways: Gateways, file: Path) -> None:
    ledger = await gateways.open("o2")
    await ledger.write([Reserve("mine", NAME, 5)])
    before = await in_database(gateways.url)
    found = await asyncio.to_thread(refusal, "migrate", url(file), gateways.url)
    assert (found["code"], "already" in found["detail"]) == ("ledger_refused", True)
    assert await in_database(gateways.url) == before
    assert fsck(file).difference is None


async def test_nothing_is_left_where_it_fails(gateways: Gateways, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = PostgresMovable.load

    async def fail(*_: object) -> None:
        raise LedgerUnavailable("as told")

    async def lose(self: PostgresMovable, table: object, lines: list[object]) -> None:
        await load(self, table, lines[1:])  # type: ignore[arg-type]  # as it is called

    for verb, broken in (("load", fail), ("finish", fail), ("load", lose)):
        with monkeypatch.context() as patch:
            patch.setattr(PostgresMovable, verb, broken)
            code = "ledger_differs" if broken is lose else "ledger_unavailable"
            assert (await asyncio.to_thread(refusal, "migrate", url(file), gateways.url))["code"] == code
        async with asking(gateways.url) as db:
            assert await db.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'tolsey'") == 0
        assert fsck(file).difference is None
    await migrate(url(file), gateways.url)


async def test_no_server_and_no_password_in_what_is_said(file: Path) -> None:
    target = "postgresql://me:hunter2@127.0.0.1:1/x"
    found = await asyncio.to_thread(refusal, "migrate", url(file), "${T}", env={"T": target})
    assert (found["code"], "hunter2" in str(found)) == ("ledger_unavailable", False)
    assert fsck(file).difference is None


async def test_a_backup_of_a_database_in_use(gateways: Gateways, file: Path, tmp_path: Path) -> None:
    await migrate(url(file), gateways.url)
    ledger = await gateways.open("o2")
    await ledger.write([Reserve("h6", NAME, 5)])
    target = tmp_path / "copies" / "copy.db"
    target.parent.mkdir()
    before = await in_database(gateways.url)
    await copying.copy_of(gateways.url, target, lambda done, total: None)
    assert os.listdir(target.parent) == ["copy.db"]
    assert contents(target) == before
    assert fsck(target).difference is None
    assert isinstance((await ledger.write([Settle("h6", 5)]))[0], Resolved)


# roll-ups


async def test_a_roll_up_is_the_same_on_both(gateways: Gateways, file: Path, tmp_path: Path) -> None:
    await migrate(url(file), gateways.url)
    await sign(gateways.url)
    back = tmp_path / "copy.db"
    await copying.copy_of(gateways.url, back, lambda done, total: None)
    before = time.time_ns()
    archives: tuple[list[bytes], list[bytes]] = ([], [])
    there = await rolled(gateways.url, before, archives[0])
    here = await compact(back, before, archives[1])
    assert there is not None
    assert here is not None
    assert (there.entries, there.up_to, there.sha256) == (here.entries, here.up_to, here.sha256)
    assert archives[0] == archives[1]
    stored, copied = await in_database(gateways.url), contents(back)
    for name in ("rolled", "rolled_window", "hold", "account", "window", "gap"):
        assert stored[name] == copied[name]
    entries, others = ([row for row in rows["entry"] if row[2] != "rollup"] for rows in (stored, copied))
    assert entries == others
    found = await asyncio.to_thread(fsck, PostgresSnapshot(gateways.url))
    assert (found.difference, found.rolled_up) == (None, there.entries)
    ledger = await gateways.open("o2")
    assert isinstance((await ledger.write([Settle("h2", 20), Reserve("h7", NAME, 2)]))[0], Resolved)
    assert await ledger.write([Refund("h1", 1, "r")]) == [Unknown("h1")]
    assert (await asyncio.to_thread(fsck, PostgresSnapshot(gateways.url))).difference is None


async def sign(url: str) -> None:
    opened = await open_postgres(url, durability="full", seconds=20, now=time.time_ns, new_id="", create=False)
    try:
        await take(opened, [SealKey(bytes(32))], AT_ONCE)
    finally:
        await opened.close()


async def rolled(url: str, before: int, lines: list[bytes]) -> RollUp | None:
    await sign(url)
    ledger = await rollable_at(url)
    try:
        return await roll_up(
            ledger,
            PostgresSnapshot(url),
            before=before,
            note="by test",
            archive=lines.append,
            progress=lambda done, total: None,
        )
    finally:
        await ledger.close()


async def test_it_waits_for_who_reads_the_journal_and_keeps_no_gateway_waiting(gateways: Gateways, file: Path) -> None:
    await migrate(url(file), gateways.url)
    ledger = await gateways.open("o2", seconds=10)
    async with asking(gateways.url) as reader:
        await reader.execute("BEGIN")
        await reader.fetch("SELECT n FROM entry")
        rolling = asyncio.create_task(rolled(gateways.url, time.time_ns(), []))
        for number in range(20):
            await ledger.write([Reserve(f"b{number}", NAME, 1), Settle(f"b{number}", 1)])
        assert not rolling.done()
        await reader.execute("COMMIT")
    assert await rolling is not None
    assert (await asyncio.to_thread(fsck, PostgresSnapshot(gateways.url))).difference is None


async def test_beside_gateways_that_write_refund_and_void(gateways: Gateways, file: Path) -> None:
    """Whatever comes first, no refund is left of a hold that is gone."""
    await migrate(url(file), gateways.url)
    ledgers = [await gateways.open(f"w{number}", seconds=20) for number in range(3)]
    accounts = purse("other 100000")
    stopping = asyncio.Event()

    async def work(number: int) -> int:
        done = 0
        while not stopping.is_set():
            hold = f"{number}-{done}"
            await ledgers[number].write([Reserve(hold, accounts, 5), Settle(hold, 4)])
            await ledgers[number].write([Refund(f"{number}-{max(0, done - 3)}", 1, "r"), Annul(f"{number}-0", "a")])
            done += 1
        return done

    tasks = [asyncio.create_task(work(number)) for number in range(3)]
    try:
        for _ in range(5):
            await asyncio.sleep(0.05)
            await rolled(gateways.url, time.time_ns(), [])
            found = await asyncio.to_thread(fsck, PostgresSnapshot(gateways.url))
            assert found.difference is None
    finally:
        stopping.set()
        await asyncio.gather(*tasks)
    found = await asyncio.to_thread(fsck, PostgresSnapshot(gateways.url))
    assert found.difference is None
    assert found.rolled_up > 20


async def test_the_export_of_a_database_is_that_of_a_file(gateways: Gateways, file: Path) -> None:
    def lines(snapshot: PostgresSnapshot | SqliteSnapshot, since: int | None) -> list[object]:
        return [line for _, line in export(snapshot, since=since, until=None, progress=lambda done, total: None)]

    with SqliteSnapshot(file) as snapshot:
        middle = next(snapshot.entries(7)).at
    wanted = [lines(SqliteSnapshot(file), since) for since in (None, middle, time.time_ns())]
    await migrate(url(file), gateways.url)
    there = PostgresSnapshot(gateways.url)
    found = [await asyncio.to_thread(lines, there, since) for since in (None, middle, time.time_ns())]
    assert found == wanted


@pytest.mark.slow
async def test_every_command_on_a_database(gateways: Gateways, tmp_path: Path) -> None:
    """Each as the console script, with the URL from the environment; what a file says, a database says."""
    config = gateway(tmp_path / "g")
    config.write_text(config.read_text().replace('url = "sqlite:///data/ledger.db"', 'url = "${LEDGER}"'))
    because = ("--reason", "r")

    async def say(*args: str) -> dict[str, Any]:
        status, out, err = await asyncio.to_thread(
            tolsey, *args, "-c", str(config), "--json", env={"LEDGER": gateways.url}
        )
        assert status == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    await say("mint", "--label", "team", "--budget", "100 USD")
    (team,) = (await say("trail"))["accounts"]
    chain = (Account(team["id"], "USD", None, "team", 100 * NANO),)
    ledger = await gateways.open("o2")
    await ledger.write([Reserve(hold, chain, 2 * NANO, f"GET /{hold}") for hold in ("h1", "h2", "h3")])
    await ledger.write([Settle("h2", 2 * NANO), Settle("h3", 2 * NANO, "unmetered: it broke")])
    (held,) = (await say("holds"))["holds"]
    assert (held["hold"], held["amount"], held["call"], held["owner"]) == ("h1", "2", "GET /h1", "o2")
    assert (await say("void", "h1", *because))["was"] == "open"
    assert (await say("void", "h3", *because))["was"] == "unmetered"
    assert (await say("refund", "h2", "--amount", "0.5 USD", *because))["returned"] == "0.5"
    assert (await say("grant", team["id"], "1 USD", *because))["left"] == "99.5"
    checked = await say("fsck")
    assert (checked["entries"], checked["open_holds"], checked["difference"]) == (10, 0, None)
    out = tmp_path / "journal.jsonl"
    assert (await say("export", "-o", str(out)))["entries"] == 10
    assert (await say("backup", str(tmp_path / "copy.db")))["entries"] == 10
    done = await say("compact", "--before", "2999-01-01", "--archive", str(tmp_path / "old.jsonl"))
    assert done["entries"] == 9
    assert (await say("fsck"))["rolled_up"] == 9
    (team,) = (await say("trail"))["accounts"]
    assert (team["spent"], team["calls"], team["granted"]) == ("1.5", 1, "1")
