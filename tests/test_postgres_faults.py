"""The PostgreSQL ledger when the network and the server fail: lost answers, hanging servers, poolers in between."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import asyncpg
import pytest

from tests.books import until
from tests.ledgers import purse, say
from tests.postgres import Gateways, Server, add_up, asking, journal, rows, server
from tests.proxy import Fate, Proxy
from tolsey.errors import CommitUnknown, LedgerRefused, LedgerUnavailable
from tolsey.ledger.events import Event, Granted, Outcome, Reserve, Settle, Void
from tolsey.store.book import Book

ROOT = purse("root 100")
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
async def proxy(postgres: Server) -> AsyncIterator[Proxy]:
    async with Proxy(postgres.port) as found:
        yield found


@pytest.fixture
async def gateways(postgres: Server, proxy: Proxy) -> AsyncIterator[Gateways]:
    """Ledgers that are connected by way of the proxy; `gateways.url` is the direct way."""
    found = Gateways(postgres.database())
    found.through = postgres.url("postgres", proxy.port)
    yield found
    await found.close()


def in_full(outcomes: list[Outcome]) -> list[str]:
    return [say(outcome) for outcome in outcomes]


@pytest.mark.parametrize(
    ("fate", "again", "entries"),
    [
        ("lose the answer", ["void 0", "settle 5"], ["reserve h1 10", "reserve h2 20", "settle h1 5", "void h2 0"]),
        ("lose the commit", ["unknown", "settle 5"], ["reserve h1 10", "settle h1 5"]),
        ("hold the commit", ["unknown", "settle 5"], ["reserve h1 10", "settle h1 5"]),
    ],
)
async def test_a_commit_whose_answer_is_lost(
    gateways: Gateways, proxy: Proxy, fate: Fate, again: list[str], entries: list[str]
) -> None:
    """What the Book does then: it voids the reserves and sends the settles again. Both ways that is right, and a commit
    that arrives afterwards finds its backend gone.
    """
    ledger = await gateways.open("o1", url=gateways.through)
    await ledger.write([Reserve("h1", ROOT, 10)])
    proxy.fate = fate
    with pytest.raises(CommitUnknown):
        await ledger.write([Settle("h1", 5), Reserve("h2", ROOT, 20)])
    assert in_full(await ledger.write([Void("h2"), Settle("h1", 5)])) == again
    proxy.let_go()
    await asyncio.sleep(0.1 if proxy.held else 0)
    assert sorted(await journal(gateways.url)) == entries
    assert await add_up(gateways.url) == {"root": (5, 0)}


async def test_through_a_book_a_lost_answer_charges_nobody(gateways: Gateways, proxy: Proxy) -> None:
    ledger = await gateways.open("o1", url=gateways.through)
    book = Book(ledger, new_owner=lambda: "unused")
    await book.reserve(Reserve("h1", ROOT, 10))
    fates: tuple[Fate, ...] = ("lose the answer", "lose the commit", "hold the commit")
    for number, fate in enumerate(fates, start=2):
        proxy.fate = fate
        with pytest.raises(LedgerUnavailable):
            await book.reserve(Reserve(f"h{number}", ROOT, 10))
        await until(lambda: book.problem is None)
        assert isinstance(await book.reserve(Reserve(f"again{number}", ROOT, 10)), Granted)
        book.resolve(Settle(f"again{number}", 1))
    book.resolve(Settle("h1", 1))
    assert await book.close(5) == 0
    proxy.let_go()
    assert await add_up(gateways.url) == {"root": (4, 0)}


async def test_the_old_backend_is_waited_for_where_it_cannot_be_ended(gateways: Gateways, proxy: Proxy) -> None:
    """As on a server that gives no right to end it: its own timeout ends it, and until then nothing is written."""
    ledger = await gateways.open("o1", url=gateways.through, seconds=1)
    proxy.fate = "hold the commit"
    with pytest.raises(CommitUnknown):
        await ledger.write([Reserve("h1", ROOT, 10)])
    assert ledger._doubt is not None
    ledger._doubt = replace(ledger._doubt, pid=0)
    outcomes: list[Outcome] = []
    while not outcomes:
        try:
            outcomes = await ledger.write([Void("h1")])
        except LedgerUnavailable:
            assert await journal(gateways.url) == []
    assert in_full(outcomes) == ["unknown"]


async def test_connections_that_break_and_come_back(gateways: Gateways, proxy: Proxy) -> None:
    ledger = await gateways.open("o1", url=gateways.through)
    await ledger.write([Reserve("h1", ROOT, 10)])
    proxy.cut()
    outcomes: list[Outcome] = []
    while not outcomes:
        with suppress(LedgerUnavailable):
            outcomes = await ledger.write([Settle("h1", 3)])
    assert in_full(outcomes) == ["settle 3"]
    assert await add_up(gateways.url) == {"root": (3, 0)}


async def test_a_server_that_hangs_is_given_up_in_time(gateways: Gateways, proxy: Proxy) -> None:
    ledger = await gateways.open("o1", url=gateways.through, seconds=0.5)
    proxy.freeze()
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable, match="in time"):
            await ledger.write([Reserve("h1", ROOT, 10)])
        assert time.monotonic() - began < 5
    with pytest.raises(LedgerUnavailable):
        await gateways.open(url=gateways.through, seconds=0.2)
    proxy.thaw()
    assert in_full(await ledger.write([Reserve("h2", ROOT, 10)])) == ["granted, 90 left"]
    assert await add_up(gateways.url) == {"root": (0, 10)}


async def test_a_gateway_that_stops_in_the_middle_of_a_group_stops_the_others_only_for_a_while(
    gateways: Gateways, proxy: Proxy
) -> None:
    stuck, other = await gateways.open("o1", url=gateways.through, seconds=1), await gateways.open("o2", seconds=1)
    await other.write([Reserve("h1", ROOT, 1)])
    proxy.fate = "hold the commit"
    with pytest.raises(CommitUnknown):
        await stuck.write([Reserve("h2", ROOT, 1)])
    outcomes: list[Outcome] = []
    while not outcomes:
        with suppress(LedgerUnavailable):
            outcomes = await other.write([Settle("h1", 1)])
    assert in_full(outcomes) == ["settle 1"]


async def test_a_pooler_is_refused(gateways: Gateways, proxy: Proxy) -> None:
    proxy.forges = True
    with pytest.raises(LedgerRefused, match="pools connections"):
        await gateways.open(url=gateways.through)


async def test_a_server_that_is_full(gateways: Gateways) -> None:
    ledger = await gateways.open("o1")
    async with asking(gateways.url) as db:
        await db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tolsey'")
        fillers = []
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                fillers.append(await asyncpg.connect(gateways.url))
        for _ in range(2):
            with pytest.raises(LedgerUnavailable):
                await ledger.write([Reserve("h1", ROOT, 10)])
        for filler in fillers:
            filler.terminate()
    while True:
        try:
            assert in_full(await ledger.write([Reserve("h2", ROOT, 10)])) == ["granted, 90 left"]
            break
        except LedgerUnavailable:
            await asyncio.sleep(0.05)


async def test_a_warning_beside_a_commit_is_a_commit_in_doubt() -> None:
    """A standby that must confirm and is not there: PostgreSQL gives up waiting, and says so beside its COMMIT."""
    with server() as running:
        found = Gateways(running.database())
        ledger = await found.open("o1", seconds=0.5)
        other = await found.open("o2")
        running.psql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        running.psql("SELECT pg_reload_conf()")
        await asyncio.sleep(0.2)
        with pytest.raises(CommitUnknown, match=r"in time|standby"):
            await ledger.write([Reserve("h1", ROOT, 10)])
        assert other._session is not None
        pid = other._session.pid
        waiting = asyncio.create_task(other.write([Reserve("h2", purse("other 100"), 10)]))
        waits = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'"
        while await asyncio.to_thread(running.psql, waits) != "1":
            assert not waiting.done()
        running.psql(f"SELECT pg_cancel_backend({pid})")
        with pytest.raises(CommitUnknown, match="standby"):
            await waiting
        running.psql("ALTER SYSTEM RESET synchronous_standby_names")
        running.psql("SELECT pg_reload_conf()")
        await asyncio.sleep(0.2)
        assert in_full(await other.write([Void("h2"), Void("h1")])) == ["void 0", "void 0"]
        assert await add_up(found.url) == {"root": (0, 0), "other": (0, 0)}
        await found.close()


async def test_a_server_that_is_stopped_and_started_again() -> None:
    with server() as running:
        found = Gateways(running.database())
        ledger = await found.open("o1", seconds=2)
        book = Book(ledger, new_owner=lambda: "unused")
        assert isinstance(await book.reserve(Reserve("h1", ROOT, 10)), Granted)
        running.stop()
        with pytest.raises(LedgerUnavailable):
            await book.reserve(Reserve("h2", ROOT, 10))
        book.resolve(Settle("h1", 4))
        assert book.problem
        running.start()
        await until(lambda: book.problem is None)
        assert isinstance(await book.reserve(Reserve("h3", ROOT, 10)), Granted)
        book.resolve(Void("h3"))
        assert await book.close(5) == 0
        assert await add_up(found.url) == {"root": (4, 0)}
        await found.close()


async def test_a_machine_that_hangs(postgres: Server) -> None:
    """Every process of the server is stopped: a reserve is refused in time, and goes on when the server does."""
    found = Gateways(postgres.database())
    ledger = await found.open("o1", seconds=0.5)
    book = Book(ledger, new_owner=lambda: "unused")
    assert isinstance(await book.reserve(Reserve("h1", ROOT, 10)), Granted)
    postgres.signal_all(signal.SIGSTOP)
    try:
        book.resolve(Settle("h1", 4))
        with pytest.raises(LedgerUnavailable):
            await book.reserve(Reserve("h2", ROOT, 10))
    finally:
        postgres.signal_all(signal.SIGCONT)
    await until(lambda: book.problem is None)
    assert await book.close(5) == 0
    assert (await add_up(found.url))["root"][0] == 4
    await found.close()


async def test_a_ledger_that_lost_entries_is_refused(gateways: Gateways, proxy: Proxy) -> None:
    """As when a standby is promoted that had not received them: every budget would be fresh again by as much."""
    ledger = await gateways.open("o1", url=gateways.through)
    for number in range(3):
        await ledger.write([Reserve(f"h{number}", ROOT, 1), Void(f"h{number}")])
    async with asking(gateways.url) as db:
        await db.execute("DELETE FROM entry WHERE n > 2")
    proxy.cut()
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            await ledger.write([Reserve("h9", ROOT, 1)])
    with pytest.raises(LedgerUnavailable, match="lost what was spent"):
        await ledger.write([Reserve("h9", ROOT, 1)])


async def test_a_serialization_failure_is_run_again(gateways: Gateways) -> None:
    """Another engine behind PostgreSQL's protocol, or a setting, may make a COMMIT fail to be tried again."""
    ledger = await gateways.open("o1")
    async with asking(gateways.url) as db:
        await db.execute(
            "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$"
            " BEGIN IF nextval('odds_seq') < 3 THEN RAISE serialization_failure; END IF; RETURN NULL; END $$;"
            " CREATE SEQUENCE odds_seq; CREATE CONSTRAINT TRIGGER odds AFTER INSERT ON entry DEFERRABLE INITIALLY"
            " DEFERRED FOR EACH ROW EXECUTE FUNCTION fails()"
        )
    events: list[Event] = [Reserve("h1", ROOT, 10)]
    assert in_full(await ledger.write(events)) == ["granted, 90 left"]
    assert await rows(gateways.url, "SELECT last_value FROM odds_seq") == [(3,)]
    assert await journal(gateways.url) == ["reserve h1 10"]
