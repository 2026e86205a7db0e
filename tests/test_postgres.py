"""The PostgreSQL ledger: groups, several gateways on one database, owners and their leases, and lost answers."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.books import until
from tests.ledgers import purse, say
from tests.postgres import Gateways, Server, add_up, asking, journal, rows
from tolsey.errors import LedgerRefused, LedgerUnavailable
from tolsey.ledger.events import Event, Expire, Granted, Kind, Open, Outcome, Reserve, Settle, Void
from tolsey.store import postgres_owners
from tolsey.store.book import Book
from tolsey.store.postgres import PostgresLedger
from tolsey.store.postgres_connection import connect
from tolsey.store.postgres_sql import WRITE
from tolsey.testing import SECOND

ROOT = purse("root 100")
TEAM = purse("root 100 / team 50")


@pytest.fixture
async def gateways(postgres: Server) -> AsyncIterator[Gateways]:
    found = Gateways(postgres.database())
    yield found
    await found.close()


def in_full(outcomes: list[Outcome]) -> list[str]:
    return [say(outcome) for outcome in outcomes]


async def stands(ledger: PostgresLedger) -> list[tuple[int, int]]:
    return [(balance.spent, balance.held) for balance in await ledger.balances(TEAM)]


async def test_a_group_is_one_transaction(gateways: Gateways) -> None:
    one, other = await gateways.open("o1"), await gateways.open("o2")
    events: list[Event] = [Reserve("h1", TEAM, 5), Reserve("h2", ROOT, 7), Settle("h1", 3)]
    assert in_full(await one.write(events)) == ["granted, 45 left", "granted, 88 left", "settle 3"]
    assert await stands(other) == [(3, 7), (3, 0)]
    assert await journal(gateways.url) == ["reserve h1 5", "reserve h2 7", "settle h1 3"]
    assert await add_up(gateways.url) == {"root": (3, 7), "team": (3, 0)}


async def test_holds_are_found_by_their_ids_however_few_there_were(gateways: Gateways) -> None:
    """The plan is made once for each connection. On a table that was just vacuumed with hardly a hold in it, walking
    through all holds for each line of a group looks cheap, and is not when hundreds are open.
    """
    await gateways.open("o1")
    async with asking(gateways.url) as db:
        await db.execute("VACUUM tolsey.hold")
    session = await connect(gateways.url, seconds=5)
    await session.db.execute(f"PREPARE group_of_events AS {WRITE}")
    plan = await session.db.fetch(f"EXPLAIN EXECUTE group_of_events ({', '.join(['NULL'] * 25)})")
    lines = [row[0] for row in plan]
    (at,) = [number for number, line in enumerate(lines) if "on hold" in line and "Scan" in line]
    assert "Index Cond: (id = ANY (($24)::text[]))" in lines[at + 1]
    await session.db.close()


@pytest.mark.parametrize(
    "note", ["", "NULL", ",", '{"a", b}', "back\\slash \\", 'GET /"x"', "tab\t, line\n", "größer 語"]
)
async def test_a_note_is_kept_as_it_is(gateways: Gateways, note: str) -> None:
    """Among others, as a group's come in one array that is written as text."""
    one = await gateways.open("o1")
    await one.write([Reserve("h1", TEAM, 1, "before"), Reserve("h2", TEAM, 1, note), Reserve("h3", TEAM, 1, "after")])
    async with asking(gateways.url) as db:
        rows = await db.fetch("SELECT hold, note FROM tolsey.entry WHERE kind = 'reserve' ORDER BY n")
    assert [tuple(row) for row in rows] == [("h1", "before"), ("h2", note), ("h3", "after")]
    await add_up(gateways.url)


async def test_each_gateway_sees_what_the_others_wrote(gateways: Gateways) -> None:
    one, other = await gateways.open("o1"), await gateways.open("o2")
    assert in_full(await one.write([Reserve("h1", TEAM, 20)])) == ["granted, 30 left"]
    assert in_full(await other.write([Reserve("h2", TEAM, 15)])) == ["granted, 15 left"]
    assert in_full(await one.write([Reserve("h3", TEAM, 16)])) == ["team is short: 0 spent, 35 held of 50"]
    assert in_full(await other.write([Settle("h1", 1)])) == ["settle 1"], "in another process than it was reserved in"
    assert in_full(await one.write([Settle("h1", 1), Void("h1")])) == ["settle 1", "late, after settle"]
    assert in_full(await one.write([Reserve("h1", TEAM, 20), Reserve("h1", TEAM, 9)])) == [
        "granted, 34 left",
        "conflict",
    ]
    assert await stands(one) == await stands(other) == [(1, 15), (1, 15)]
    await add_up(gateways.url)


async def test_a_repeated_reserve_that_would_be_refused_now_has_its_old_answer(gateways: Gateways) -> None:
    one, other = await gateways.open("o1"), await gateways.open("o2")
    await one.write([Reserve("h1", TEAM, 50)])
    assert in_full(await other.write([Reserve("h2", TEAM, 50), Reserve("h1", TEAM, 50)])) == [
        "team is short: 0 spent, 50 held of 50",
        "granted, 0 left",
    ]


async def test_an_account_that_two_gateways_open_at_once(gateways: Gateways) -> None:
    ledgers = [await gateways.open(f"o{n}") for n in range(4)]
    for number in range(12):
        purses = [purse(f"root{number} 100 / team{number} 50 / leaf{number}.{n} 20") for n in range(4)]
        groups = (
            ledger.write([Reserve(f"h{number}-{n}", purses[n], 10), Reserve(f"g{number}-{n}", purses[0], 5)])
            for n, ledger in enumerate(ledgers)
        )
        outcomes = [outcome for group in await asyncio.gather(*groups) for outcome in group]
        assert sum(isinstance(outcome, Granted) for outcome in outcomes) >= 5
    stored = await add_up(gateways.url)
    assert all(stored[f"team{n}"][1] <= 50 for n in range(12))


async def test_many_gateways_on_one_hot_root_spend_exactly_what_there_is(gateways: Gateways) -> None:
    """Each settles less than it holds, so that money comes back all the time; in the end all of it is spent."""
    accounts = purse("root 1000")

    async def spend(owner: str) -> int:
        ledger = await gateways.open(owner)
        book = Book(ledger, new_owner=lambda: f"{owner} again")
        granted = 0

        async def calls(lane: int) -> None:
            nonlocal granted
            amount, number = 3, 0
            while amount:
                number += 1
                hold = f"{owner}-{lane}-{number}"
                outcome = await book.reserve(Reserve(hold, accounts, amount))
                if isinstance(outcome, Granted):
                    granted += 1
                    book.resolve(Settle(hold, 1))
                else:
                    (root,) = await book.balances(accounts)
                    # While somebody holds something, that may come back; it is gone only when nothing is held.
                    amount -= root.held == 0

        await asyncio.gather(*map(calls, range(8)))
        assert await book.close(10) == 0
        return granted

    assert sum(await asyncio.gather(*(spend(f"o{n}") for n in range(4)))) == 1000
    assert await add_up(gateways.url) == {"root": (1000, 0)}


async def test_groups_that_meet_in_the_wrong_order_are_run_again(gateways: Gateways) -> None:
    """Rates and accounts that did not exist are locked only as they are written: such groups may deadlock."""
    ledgers = [await gateways.open(f"o{n}") for n in range(4)]
    wide = [purse(f"root - / leaf{n} -") for n in range(30)]

    async def write(ledger: PostgresLedger, number: int) -> None:
        order = wide[number % 7 :] + wide[: number % 7]
        events: list[Event] = [Reserve(f"{ledger.owner}-{number}-{a[-1].id}", a, 1) for a in order]
        assert all(isinstance(outcome, Granted) for outcome in await ledger.write(events))

    for number in range(4):
        await asyncio.gather(*(write(ledger, number) for ledger in ledgers))
    assert (await add_up(gateways.url))["root"] == (0, 4 * 4 * 30)


async def test_a_large_group(gateways: Gateways) -> None:
    one, other = await gateways.open("o1"), await gateways.open("o2")
    purses = [purse(f"root 2000 / leaf{n} 10") for n in range(150)]
    await one.write([Reserve(f"h{n}", accounts, 7) for n, accounts in enumerate(purses)])
    assert in_full(await other.write([Settle(f"h{n}", 6) for n in range(149)])) == ["settle 6"] * 149
    assert (await add_up(gateways.url))["root"] == (149 * 6, 7)


async def test_a_conflict_with_what_is_in_the_ledger(gateways: Gateways) -> None:
    one = await gateways.open("o1")
    await one.write([Open(ROOT[0], "minted")])
    assert in_full(await one.write([Reserve("h1", purse("root 99"), 1)])) == ["conflict"]


# --- owners


async def test_an_owner_that_closes_with_nothing_held_has_ended(gateways: Gateways) -> None:
    one, two = await gateways.open("o1"), await gateways.open("o2")
    await one.write([Reserve("h1", ROOT, 5), Settle("h1", 5)])
    await two.write([Reserve("h2", ROOT, 5)])
    await one.close()
    await two.close()
    found = await rows(gateways.url, "SELECT id, ended_at IS NOT NULL FROM owner WHERE n > 0 ORDER BY n")
    assert found == [("o1", True), ("o2", False)]
    assert await rows(gateways.url, "SELECT * FROM lease") == []


async def seen_long_ago(url: str) -> None:
    """Let the server have been up for longer than a lease, and have every lease lapse."""
    async with asking(url) as db:
        await db.execute("UPDATE server SET since = 0")
        await db.execute("UPDATE lease SET until = 0")


async def test_a_dead_owners_holds_are_expired_after_its_lease(gateways: Gateways) -> None:
    dead, keeper = await gateways.open("dead"), await gateways.open()
    await dead.write([Reserve("h1", TEAM, 5), Reserve("h2", ROOT, 7)])
    assert await keeper.expire() == 0, "its lease has not lapsed"
    await seen_long_ago(gateways.url)
    assert await keeper.expire() == 2
    assert await keeper.expire() == 0
    assert await add_up(gateways.url) == {"root": (12, 0), "team": (5, 0)}
    assert await journal(gateways.url) == ["reserve h1 5", "reserve h2 7", "expire h1 5", "expire h2 7"]


async def test_nobody_is_expired_within_a_lease_of_a_restart_or_a_promotion(gateways: Gateways) -> None:
    dead, keeper = await gateways.open("dead"), await gateways.open()
    await dead.write([Reserve("h1", ROOT, 5)])
    await keeper.expire()
    for change in ("timeline = '0000000A'", "started = started - interval '1 day'"):
        await seen_long_ago(gateways.url)
        async with asking(gateways.url) as db:
            await db.execute(f"UPDATE server SET {change}")
        assert await keeper.expire() == 0
        assert await keeper.expire() == 0
    await seen_long_ago(gateways.url)
    assert await keeper.expire() == 1


async def test_two_that_see_a_new_server_at_once_write_it_down_once(gateways: Gateways) -> None:
    keepers = [await gateways.open(f"o{n}") for n in range(2)]
    await keepers[0].expire()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%server%'"
    async with asking(gateways.url) as db, asking(gateways.url) as watching:
        await db.execute("UPDATE server SET timeline = '0000000A'")
        async with db.transaction():
            await db.execute("SELECT * FROM server FOR UPDATE")
            looks = [asyncio.create_task(keeper.expire()) for keeper in keepers]
            async with asyncio.timeout(10):
                while await watching.fetchval(waiting) < 2:
                    pass
        assert await asyncio.gather(*looks) == [0, 0]
        assert await db.fetchval("SELECT count(*) FROM server") == 1
    await seen_long_ago(gateways.url)
    assert [await keeper.expire() for keeper in keepers] == [0, 0]


async def test_a_server_that_was_written_down_twice_is_healed(gateways: Gateways) -> None:
    """As it could be up to version 8."""
    await (await gateways.open("o1")).close()
    async with asking(gateways.url) as db:
        await db.execute("ALTER TABLE server DROP COLUMN alone")
        await db.execute("INSERT INTO server VALUES (now(), '00000001', 0), (now(), '00000001', 1)")
        await db.execute("UPDATE ledger SET version = 8")
    again = await gateways.open("o2")
    assert await again.expire() == 0
    assert await rows(gateways.url, "SELECT count(*) FROM server") == [(1,)]


async def test_an_owner_wrongly_taken_for_dead_is_fenced_and_begins_anew(gateways: Gateways) -> None:
    one, keeper = await gateways.open("o1"), await gateways.open()
    await one.write([Reserve("h1", ROOT, 5)])
    await keeper.expire()
    await seen_long_ago(gateways.url)
    assert await keeper.expire() == 1
    with pytest.raises(LedgerUnavailable, match="taken for dead"):
        await one.write([Settle("h1", 3), Reserve("h2", ROOT, 1)])
    assert await journal(gateways.url) == ["reserve h1 5", "expire h1 5"], "nothing of the group is done"
    assert in_full(await one.write([Settle("h1", 3), Reserve("h2", ROOT, 1)])) == [
        "late, after expire",
        "granted, 94 left",
    ]
    assert [n for (n,) in await rows(gateways.url, "SELECT n FROM owner WHERE ended_at IS NULL")] == [one.owner]


async def test_through_a_book_a_fenced_owner_goes_on_and_its_settle_leaves_a_note(gateways: Gateways) -> None:
    one, keeper = await gateways.open("o1"), await gateways.open()
    book = Book(one, new_owner=lambda: "unused")
    await book.reserve(Reserve("h1", ROOT, 5))
    await keeper.expire()
    await seen_long_ago(gateways.url)
    await keeper.expire()
    book.resolve(Settle("h1", 3))
    await until(lambda: book.problem)
    await until(lambda: not book.problem)
    assert isinstance(await book.reserve(Reserve("h2", ROOT, 1)), Granted)
    book.resolve(Void("h2"))
    assert await book.close(5) == 0
    assert "late h1 3" in await journal(gateways.url)


async def test_a_lease_is_renewed(gateways: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_owners, "RENEW_SECONDS", 0.05)
    await gateways.open("o1")
    await seen_long_ago(gateways.url)
    for _ in range(100):
        ((until_,),) = await rows(gateways.url, "SELECT until FROM lease")
        if until_ > 0:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it was not renewed")


async def test_an_idle_owner_that_was_ended_begins_anew_before_its_next_group(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_owners, "RENEW_SECONDS", 0.05)
    one, keeper = await gateways.open("o1"), await gateways.open()
    before = one.owner
    async with asking(gateways.url) as db:
        await db.execute("UPDATE owner SET ended_at = 1 WHERE n = $1", before)
        await db.execute("DELETE FROM lease")
    await asyncio.sleep(0.2)
    assert in_full(await one.write([Reserve("h1", ROOT, 1)])) == ["granted, 99 left"]
    assert one.owner != before
    assert await keeper.expire() == 0


async def test_holds_beyond_their_time_are_expired_whoever_owns_them(gateways: Gateways) -> None:
    one, keeper = await gateways.open("o1"), await gateways.open()
    await one.write([Reserve("h1", ROOT, 5, until=one.time() - 1), Reserve("h2", ROOT, 5, until=one.time() + 10**12)])
    assert await keeper.expire() == 1
    assert in_full(await one.write([Settle("h1", 2), Settle("h2", 2)])) == ["late, after expire", "settle 2"]
    assert await journal(gateways.url) == [
        "reserve h1 5",
        "reserve h2 5",
        "expire h1 5",
        "late h1 2",
        "settle h2 2",
    ]


async def test_what_is_expired_by_two_keepers_at_once_is_expired_once(gateways: Gateways) -> None:
    dead = await gateways.open("dead")
    keepers = [await gateways.open() for _ in range(3)]
    await dead.write([Reserve(f"h{n}", ROOT, 1) for n in range(40)])
    await keepers[0].expire()
    await seen_long_ago(gateways.url)
    assert sum(await asyncio.gather(*(keeper.expire() for keeper in keepers))) == 40
    assert await add_up(gateways.url) == {"root": (40, 0)}


# --- what it is opened on


async def test_the_ledger_keeps_its_id_and_is_not_made_unasked(gateways: Gateways) -> None:
    with pytest.raises(LedgerRefused, match="there is no ledger"):
        await gateways.open(create=False)
    first = await gateways.open()
    assert (first.id, await first.entry_count()) == ("the-ledger", 0)
    await first.note(Kind.ACCEPT, "lost, see incident 12")
    assert (await gateways.open(create=False)).id == "the-ledger"
    assert await first.entry_count() == 1
    numbers = [await first.number_config(generation) for generation in ("a", "b", "a")]
    assert numbers[0] == numbers[2] != numbers[1]


async def test_many_open_an_empty_database_at_once(gateways: Gateways) -> None:
    ledgers = await asyncio.gather(*(gateways.open(f"o{n}") for n in range(8)))
    assert {ledger.id for ledger in ledgers} == {"the-ledger"}
    assert len({ledger.owner for ledger in ledgers}) == 8


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("UPDATE ledger SET version = 99", "another version of Tolsey"),
        ("UPDATE ledger SET moved_to = 'sqlite:///elsewhere'", "was moved to sqlite:///elsewhere"),
    ],
)
async def test_a_ledger_that_must_not_be_used(gateways: Gateways, change: str, text: str) -> None:
    await gateways.open()
    async with asking(gateways.url) as db:
        await db.execute(change)
    with pytest.raises(LedgerRefused, match=text):
        await gateways.open()


class Apart:
    """A clock that is apart from this machine's."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds

    def __call__(self) -> int:
        return time.time_ns() + round(self.seconds * SECOND)


async def test_a_clock_that_is_off(gateways: Gateways) -> None:
    clock = Apart()
    ledger = await gateways.open("o1", now=clock)
    for clock.seconds in (3, -3):
        with pytest.raises(LedgerUnavailable, match=r"clock.* 3\.0 s apart"):
            await gateways.open(now=clock)
        with pytest.raises(LedgerUnavailable, match=r"clock.* 3\.0 s apart"):
            await ledger.write([Reserve("h1", ROOT, 1)])
    clock.seconds = 1.5
    assert in_full(await ledger.write([Reserve("h1", ROOT, 1)])) == ["granted, 99 left"]
    assert abs(ledger.time() - time.time_ns()) < SECOND, "the database's time, whatever the clock here says"
    assert await journal(gateways.url) == ["reserve h1 1"]


async def test_a_password_shows_nowhere(postgres: Server) -> None:
    for url in (
        f"postgresql://tolsey:s3cret@127.0.0.1:{postgres.port}/nothing_there",
        "postgresql://tolsey:s3cret@127.0.0.1:1/x",
        "postgresql://tolsey:s3c/ret@127.0.0.1:notaport/x",
        "postgresql://tolsey:s3cret@[half/x",
    ):
        with pytest.raises(LedgerUnavailable) as caught:
            await Gateways(url).open(seconds=1)
        assert "s3c" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
        ledger = PostgresLedger(url, durability="full", seconds=1, now=lambda: 0)
        assert "s3c" not in repr(ledger)


async def test_expire_is_void_of_effect_on_nobodys_hold(gateways: Gateways) -> None:
    one = await gateways.open("o1")
    assert in_full(await one.write([Expire("nobody's")])) == ["unknown"]
    assert await journal(gateways.url) == []
