"""Dialogues with the Book: what it is asked, what goes to the ledger in which group, what it answers."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from random import Random

import pytest

from tests.books import ROOT, TEAM, Ticks, book_on, granted, later, texts, unavailable, until, waiting_commit, where
from tests.ledgers import Child, Ledgers, journal, open_holds, purse, say, stands
from tests.reading import fsck
from tests.simulation_loop import Loop
from tolsey.ledger.books import Balance
from tolsey.ledger.events import Granted, Reserve, Settle, Void
from tolsey.store.book import RESOLVE_SECONDS, ROUNDS, ROUNDS_SECONDS, Book
from tolsey.store.owners import Turn
from tolsey.store.reports import Checked
from tolsey.store.sqlite_file import Durability
from tolsey.testing import FaultyLedger
from tolsey.token.chain import Account

pytestmark = pytest.mark.usefixtures("quick")


async def test_a_call_from_reserve_to_settle(ledgers: Ledgers, ledger: FaultyLedger, book: Book) -> None:
    assert await granted(book, Reserve("h1", TEAM, 20)) == "granted, 30 left"
    assert journal(ledgers.path) == [("reserve", "h1", 20)], "on disk when it is granted"
    book.resolve(Settle("h1", 5))
    assert await where(book, TEAM) == [(5, 0), (5, 0)]
    assert say(await book.reserve(Reserve("h2", TEAM, 46))) == "team is short: 5 spent, 0 held of 50"
    assert say(await book.reserve(Reserve("h3", TEAM, 0))) == "conflict"
    assert book.problem is None
    assert len(ledger.committed) == 4


def test_a_resolution_waits_for_the_next_reserve(ledgers: Ledgers) -> None:
    """As long as any: with a group of its own each would keep the reserves behind it waiting."""
    ledger = ledgers.open("o1", durability="normal")
    times: list[float] = []

    async def calls() -> None:
        book = book_on(ledgers, ledger)
        before = len(ledger.committed)
        for n in range(20):
            await book.reserve(Reserve(f"h{n}", ROOT, 1))
            await asyncio.sleep(RESOLVE_SECONDS / 5)
            book.resolve(Settle(f"h{n}", 1))
            await asyncio.sleep(RESOLVE_SECONDS / 5)
        assert len(ledger.committed) - before == 20, "each reserve with the settle before it"
        since = asyncio.get_running_loop().time()
        while len(ledger.committed) - before == 20:  # noqa: ASYNC110 - the loop is simulated, and nobody waits
            await asyncio.sleep(RESOLVE_SECONDS / 50)
        times.append(asyncio.get_running_loop().time() - since)

    Loop(Random(1)).run(calls())
    assert times[0] == pytest.approx(RESOLVE_SECONDS * 4 / 5, abs=RESOLVE_SECONDS / 25), "and the last alone, in time"


async def test_a_lone_reserve_waits_for_no_timer(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    def timer(*_: object, **__: object) -> asyncio.TimerHandle:
        raise AssertionError("a timer was set")

    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_at", timer)
        patch.setattr(loop, "call_later", timer)
        assert isinstance(await book.reserve(Reserve("h1", ROOT, 1)), Granted)


async def test_what_waits_is_one_group(ledger: FaultyLedger, book: Book) -> None:
    async with waiting_commit(ledger, book):
        tasks = later(*(Reserve(f"h{n}", ROOT, 1) for n in range(150)), book=book)
        await asyncio.sleep(0)
    assert (
        await texts(tasks)
        == [f"granted, {99 - n} left" for n in range(100)] + ["root is short: 0 spent, 100 held of 100"] * 50
    )
    assert [len(group) for group in ledger.committed] == [1, 150]


async def test_who_was_told_goes_on_before_the_next_group(ledger: FaultyLedger, book: Book) -> None:
    first, rounds = await first_of_two_groups(ledger, book, each_round=lambda: None)
    assert rounds == [first] * ROUNDS + [first + 1]


async def test_rounds_that_take_long_are_fewer(ledger: FaultyLedger, book: Book) -> None:
    first, rounds = await first_of_two_groups(ledger, book, each_round=lambda: time.sleep(ROUNDS_SECONDS / 2))
    assert rounds[0] == first
    assert rounds[3:] == [first + 1] * (ROUNDS - 2)


async def first_of_two_groups(
    ledger: FaultyLedger, book: Book, each_round: Callable[[], None]
) -> tuple[int, list[int]]:
    """How many groups there are when a call is told of its own while another one waits, and how many in each round of
    the loop from then on.
    """
    rounds: list[int] = []

    async def call() -> None:
        await book.reserve(Reserve("h1", ROOT, 1))
        for _ in range(ROUNDS + 1):
            each_round()
            rounds.append(len(ledger.committed))
            await asyncio.sleep(0)

    with ledger.stalled():
        told = asyncio.create_task(call())
        await until(lambda: ledger.waiting)
        waits = later(Reserve("h2", ROOT, 1), book=book)
        await asyncio.sleep(0)
    before = len(ledger.committed)
    await told
    assert await texts(waits) == ["granted, 98 left"]
    return before, rounds


async def test_who_calls_between_two_groups_is_of_the_next(ledger: FaultyLedger, book: Book) -> None:
    async def call_twice() -> str:
        await book.reserve(Reserve("h1", ROOT, 1))
        for _ in range(ROUNDS - 1):
            await asyncio.sleep(0)
        return say(await book.reserve(Reserve("h3", ROOT, 1)))

    with ledger.stalled():
        twice = asyncio.create_task(call_twice())
        await until(lambda: ledger.waiting)
        waits = later(Reserve("h2", ROOT, 1), book=book)
        await asyncio.sleep(0)
    assert [await twice, *await texts(waits)] == ["granted, 97 left", "granted, 98 left"]
    assert [len(group) for group in ledger.committed] == [1, 2]


async def test_resolutions_come_first_so_that_their_money_is_there(ledger: FaultyLedger, book: Book) -> None:
    await granted(book, Reserve("h1", ROOT, 100))
    async with waiting_commit(ledger, book):
        tasks = later(Reserve("h2", ROOT, 90), book=book)
        await asyncio.sleep(0)
        book.resolve(Settle("h1", 10))
    assert await texts(tasks) == ["granted, 0 left"]
    assert ledger.committed[-1] == (Settle("h1", 10), Reserve("h2", ROOT, 90))


async def test_balances_see_everything_that_was_handed_over_before(ledger: FaultyLedger, book: Book) -> None:
    for n in range(20):
        await granted(book, Reserve(f"h{n}", ROOT, 3))
        book.resolve(Settle(f"h{n}", 1) if n % 2 else Void(f"h{n}"))
        (balance,) = await book.balances(ROOT)
        assert (balance.spent, balance.held) == ((n + 1) // 2, 0)
    async with waiting_commit(ledger, book):
        tasks = later(Reserve("h20", ROOT, 5), book=book)
        await asyncio.sleep(0)
        read = asyncio.create_task(book.balances(TEAM))
        await asyncio.sleep(0)
    assert [(b.spent, b.held) for b in await read] == [(10, 5), (0, 0)]
    assert await texts(tasks) == ["granted, 85 left"]


async def test_a_caller_that_goes_away_before_its_group_is_not_asked_for(ledger: FaultyLedger, book: Book) -> None:
    async with waiting_commit(ledger, book):
        gone, stays = later(Reserve("h1", ROOT, 60), Reserve("h2", ROOT, 60), book=book)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
    assert await texts([stays]) == ["granted, 40 left"]
    assert ledger.committed[-1] == (Reserve("h2", ROOT, 60),)


async def test_a_caller_that_goes_away_during_the_commit_is_voided(
    ledgers: Ledgers, ledger: FaultyLedger, book: Book
) -> None:
    with ledger.stalled():
        gone, stays = later(Reserve("h1", ROOT, 60), Reserve("h2", ROOT, 30), book=book)
        await until(lambda: ledger.waiting)
        gone.cancel()
        await asyncio.sleep(0)
    assert await texts([stays]) == ["granted, 10 left"]
    assert await where(book) == [(0, 30)]
    assert journal(ledgers.path)[-1] == ("void", "h1", 0)
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_caller_that_goes_away_with_the_outcome_on_its_way_is_voided(
    ledger: FaultyLedger, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancellation comes after the outcome was set and before the caller ran."""
    gone, stays = later(Reserve("h1", ROOT, 60), Reserve("h2", ROOT, 30), book=book)

    def cancel_first(accounts: Sequence[Account], now: int) -> list[Balance]:
        gone.cancel()
        return FaultyLedger.balances(ledger, accounts, now)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "balances", cancel_first)
        await asyncio.sleep(0)
        assert await where(book) == [(0, 90)], "read in the group that grants"
    assert await texts([stays]) == ["granted, 10 left"]
    assert gone.cancelled()
    assert await where(book) == [(0, 30)]
    assert isinstance(ledger.committed[-1][0], Void)


async def test_a_turn_that_is_not_to_be_had_makes_reserves_unavailable_and_blocks_nothing(
    ledgers: Ledgers, ledger: FaultyLedger
) -> None:
    """RULES.md M12, with another process that sits on the turn."""
    book = book_on(ledgers, ledger, timeout=0.2)
    await granted(book, Reserve("h1", ROOT, 10))
    with Child(ledgers.path, "other", "turn") as other:
        assert await asyncio.to_thread(other.line) == "ready"
        async with Ticks() as ticks:
            book.resolve(Settle("h1", 7))
            assert await unavailable(later(Reserve("h2", ROOT, 1), book=book)) == ["the ledger was not free for 0.2 s"]
            assert await unavailable(later(Reserve("h3", ROOT, 1), book=book)) == ["the ledger was not free for 0.2 s"]
            assert ticks.count > 20
        other.tell()
        await asyncio.to_thread(other.wait)
    await granted(book, Reserve("h4", ROOT, 1))
    assert await where(book) == [(7, 1)]
    assert {line.hold for line in journal(ledgers.path)} == {"h1", "h4"}
    assert await book.close(5) == 0


async def test_a_turn_that_comes_late_is_still_in_time(ledgers: Ledgers, ledger: FaultyLedger, book: Book) -> None:
    turn = Turn(ledgers.path)
    turn.take()
    async with Ticks() as ticks:
        tasks = later(Reserve("h1", ROOT, 10), book=book)
        await until(lambda: ticks.count > 20)
        assert not tasks[0].done()
        turn.give()
        assert await texts(tasks) == ["granted, 90 left"]
    assert turn.try_take(), "the Book gives the turn back when it has nothing to write"
    turn.close()


async def test_a_turn_that_comes_soon_is_asked_for_again_by_the_loop(
    ledgers: Ledgers, ledger: FaultyLedger, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(self: Turn) -> None:
        raise AssertionError("a thread waited for it")

    turn = Turn(ledgers.path)
    turn.take()
    with monkeypatch.context() as patch:
        patch.setattr(Turn, "take", take)
        tasks = later(Reserve("h1", ROOT, 10), book=book)
        for _ in range(4):
            await asyncio.sleep(0)
        turn.give()
        assert await texts(tasks) == ["granted, 90 left"]
    turn.close()


async def test_a_slow_commit_blocks_nothing(ledger: FaultyLedger, book: Book) -> None:
    async with Ticks() as ticks, waiting_commit(ledger, book):
        before = ticks.count
        await until(lambda: ticks.count > before + 20)


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_the_loop_writes_only_what_needs_no_disk(ledgers: Ledgers, durability: Durability) -> None:
    ledger = ledgers.open("o7", durability=durability)
    book = book_on(ledgers, ledger)
    await granted(book, Reserve("h1", ROOT, 10))
    assert ledger.threads["commit"] == {threading.get_ident()}
    elsewhere = ledger.threads["sync"] - {threading.get_ident()}
    assert bool(elsewhere) == (durability == "full")
    await book.close(5)


async def test_closing_writes_what_waits_and_grants_no_more(ledgers: Ledgers, ledger: FaultyLedger) -> None:
    book = book_on(ledgers, ledger)
    for n in range(5):
        await granted(book, Reserve(f"h{n}", ROOT, 10))
    async with waiting_commit(ledger, book):
        for n in range(5):
            book.resolve(Settle(f"h{n}", 2))
        closing = asyncio.create_task(book.close(5))
        await asyncio.sleep(0)
        assert await unavailable(later(Reserve("h9", ROOT, 1), book=book)) == ["the gateway is stopping"]
    assert await closing == 0
    assert fsck(ledgers.path) == Checked(accounts=1, entries=10, open_holds=0, difference=None, logs=1, unsigned=10)
    assert ledgers.open("o9").expire(ledgers.clock()) == 0


async def test_closing_tries_again_while_there_is_time(ledgers: Ledgers, ledger: FaultyLedger) -> None:
    book = book_on(ledgers, ledger)
    await granted(book, Reserve("h1", ROOT, 10))
    ledger.fail("commit", times=4)
    book.resolve(Settle("h1", 2))
    assert await book.close(5) == 0
    assert journal(ledgers.path)[-1] == ("settle", "h1", 2)


async def test_what_closing_cannot_write_is_counted_and_found_by_others(ledgers: Ledgers, ledger: FaultyLedger) -> None:
    book = book_on(ledgers, ledger)
    await granted(book, Reserve("h1", ROOT, 10))
    await granted(book, Reserve("h2", ROOT, 10))
    ledger.fail("commit", times=1_000_000)
    book.resolve(Settle("h1", 2))
    book.resolve(Settle("h2", 2))
    assert await book.close(0.1) == 2
    watcher = ledgers.open("watcher")
    assert watcher.expire(ledgers.clock()) == 2
    assert stands(watcher, ROOT) == [(20, 0)]


async def test_closing_does_not_wait_for_a_turn_that_never_comes(ledgers: Ledgers, ledger: FaultyLedger) -> None:
    book = book_on(ledgers, ledger)
    await granted(book, Reserve("h1", ROOT, 10))
    turn = Turn(ledgers.path)
    turn.take()
    book.resolve(Settle("h1", 2))
    async with Ticks() as ticks:
        assert await book.close(0.1) == 1
        assert ticks.count > 10
    turn.give()
    turn.close()
    watcher = ledgers.open("watcher")
    await until(lambda: watcher.expire(ledgers.clock()) == 1)


async def test_closing_during_a_commit_leaves_the_ledger_whole(ledgers: Ledgers, ledger: FaultyLedger) -> None:
    book = book_on(ledgers, ledger)
    await granted(book, Reserve("h1", ROOT, 10))
    with ledger.stalled():
        book.resolve(Settle("h1", 2))
        await until(lambda: ledger.waiting)
        assert await book.close(0.05) == 1
    watcher = ledgers.open("watcher")
    await until(lambda: watcher.expire(ledgers.clock()) or not open_holds(ledgers.path))
    assert stands(watcher, ROOT) in ([(2, 0)], [(10, 0)])
    assert fsck(ledgers.path).difference is None


async def test_two_books_share_the_money(ledgers: Ledgers) -> None:
    """Two workers on one file, with many callers each. Everything is spent, and nothing beyond."""
    books = [book_on(ledgers, ledgers.open(f"worker {n}", durability="normal")) for n in range(2)]
    accounts = purse("root 400 / team 300 / worker -")

    async def caller(name: str, book: Book) -> int:
        for number in itertools.count():
            hold = f"{name}-{number}"
            if not isinstance(await book.reserve(Reserve(hold, accounts, 1)), Granted):
                return number
            await asyncio.sleep(0)
            book.resolve(Settle(hold, 1))
        raise AssertionError

    spent = await asyncio.gather(*(caller(f"{b}-{n}", book) for b, book in enumerate(books) for n in range(20)))
    assert sum(spent) == 300
    for book in books:
        assert await book.close(5) == 0
    assert fsck(ledgers.path).difference is None
    assert open_holds(ledgers.path) == set()
