"""The Book when the ledger fails: nobody hangs, nothing is lost, nothing that was granted is undone."""

import asyncio
import threading
from typing import Literal

import pytest

from tests.books import ROOT, granted, later, texts, unavailable, until, waiting_commit, where
from tests.ledgers import Ledgers, journal, owner_file
from tolsey.errors import LedgerFull, LedgerUnavailable
from tolsey.ledger.events import Reserve, Settle, Void
from tolsey.store import ballast
from tolsey.store.book import Book
from tolsey.testing import FaultyLedger

pytestmark = pytest.mark.usefixtures("quick")


async def test_a_failed_commit_fails_its_reserves_and_their_ids_are_voided(
    ledgers: Ledgers, ledger: FaultyLedger, book: Book
) -> None:
    fates: list[tuple[Literal["commit", "sync"], bool]] = [("commit", False), ("commit", True), ("sync", False)]
    for what, lost in fates:
        ledger.fail(what, lost=lost)
        tasks = later(Reserve(f"h {what} {lost}", ROOT, 60), Reserve(f"i {what} {lost}", ROOT, 60), book=book)
        assert await unavailable(tasks) == [f"{what} failed, as told"] * 2
        assert await where(book) == [(0, 0)]
    assert [line for line in journal(ledgers.path) if line.hold] == [
        ("reserve", "h commit True", 60),
        ("void", "h commit True", 0),
        ("reserve", "h sync False", 60),
        ("void", "h sync False", 0),
    ]
    assert await granted(book, Reserve("again", ROOT, 100)) == "granted, 0 left"


async def test_while_it_fails_it_says_why(ledger: FaultyLedger, book: Book) -> None:
    ledger.fail("commit", times=3)
    assert await unavailable(later(Reserve("h1", ROOT, 1), book=book)) == ["commit failed, as told"]
    assert book.problem == "commit failed, as told"
    await until(lambda: book.problem is None)
    await granted(book, Reserve("h2", ROOT, 1))


@pytest.mark.parametrize("lost", [False, True], ids=["failed", "answer lost"])
async def test_a_settle_is_tried_until_it_is_written(ledger: FaultyLedger, book: Book, lost: bool) -> None:
    await granted(book, Reserve("h1", ROOT, 60))
    ledger.fail("commit", times=5, lost=lost)
    book.resolve(Settle("h1", 45))
    await until(lambda: len(ledger.staged) == 7 and book.problem is None)
    assert await where(book) == [(45, 0)]
    assert len([line for line in journal(ledger.path) if line.kind == "settle"]) == 1


async def test_what_is_held_and_what_failed_is_counted(ledger: FaultyLedger, book: Book) -> None:
    await granted(book, Reserve("h1", ROOT, 10))
    await granted(book, Reserve("h2", ROOT, 10))
    assert (book.holds, book.failed) == ({"h1", "h2"}, 0)
    ledger.fail("commit", times=2)
    book.resolve(Settle("h1", 10))
    book.resolve(Void("h2"))
    assert book.holds == {"h1", "h2"}
    await until(lambda: not book.holds)
    assert (book.failed, book.fenced) == (2, 0)


async def test_a_group_that_cannot_be_staged_fails_alone(ledgers: Ledgers, ledger: FaultyLedger, book: Book) -> None:
    await granted(book, Reserve("h1", ROOT, 60))
    ledger.fail("stage")
    async with waiting_commit(ledger, book):
        book.resolve(Settle("h1", 10))
    ledger.fail("stage")
    assert await unavailable(later(Reserve("h2", ROOT, 60), book=book)) == ["stage failed, as told"]
    assert await granted(book, Reserve("h3", ROOT, 90)) == "granted, 0 left"
    assert [line.hold for line in journal(ledgers.path)] == ["h1", "h1", "h3"]


async def test_an_error_that_nobody_foresaw_is_an_error_of_that_group(ledger: FaultyLedger, book: Book) -> None:
    """A bug or a damaged file may raise anything. No caller hangs, no settle is lost, and the next group runs."""
    await granted(book, Reserve("h1", ROOT, 60))
    ledger.fail("stage", TypeError("a text where a number was expected"))
    tasks = later(Reserve("h2", ROOT, 1), book=book)
    await asyncio.sleep(0)
    book.resolve(Settle("h1", 20))
    await unavailable(tasks)
    ledger.fail("commit", RuntimeError("nobody knows"))
    await unavailable(later(Reserve("h3", ROOT, 1), book=book))
    ledger.fail("balances", KeyError("n"))
    with pytest.raises(LedgerUnavailable):
        await book.balances(ROOT)
    assert await where(book) == [(20, 0)]


async def test_balances_that_cannot_be_read_undo_nothing(ledger: FaultyLedger, book: Book) -> None:
    """The group before them is on disk and answered: its holds must not be voided under calls that are on their way."""
    ledger.fail("balances")
    async with waiting_commit(ledger, book):
        tasks = later(Reserve("h1", ROOT, 60), book=book)
        read = asyncio.create_task(book.balances(ROOT))
        await asyncio.sleep(0)
    assert await texts(tasks) == ["granted, 40 left"]
    with pytest.raises(LedgerUnavailable, match="balances failed"):
        await read
    assert await where(book) == [(0, 60)]
    book.resolve(Settle("h1", 60))
    assert await where(book) == [(60, 0)]


async def test_a_late_settle_draws_a_new_owner(ledgers: Ledgers, ledger: FaultyLedger, book: Book) -> None:
    """RULES.md L3: somebody took this owner for dead. Its settle is a note, and it goes on under another name."""
    watcher = ledgers.open("watcher")
    await granted(book, Reserve("h1", ROOT, 10))
    owner_file(ledgers.path, "o1").unlink()
    assert watcher.expire(ledgers.clock()) == 1
    book.resolve(Settle("h1", 3))
    await until(lambda: ledger.owner_id == "o2")
    await granted(book, Reserve("h2", ROOT, 10))
    assert watcher.expire(ledgers.clock()) == 0
    book.resolve(Settle("h2", 3))
    assert await where(book) == [(13, 0)]
    assert [line.kind for line in journal(ledgers.path)] == ["reserve", "expire", "late", "reserve", "settle"]
    assert (ledger.owner_id, book.fenced) == ("o2", 1)


async def test_a_hold_beyond_its_time_does_not_end_its_owner(
    ledgers: Ledgers, ledger: FaultyLedger, book: Book
) -> None:
    """Its other calls go on under the same name, and are settled at what they cost."""
    overdue = Reserve("overdue", ROOT, 10, until=ledgers.clock() + 1)
    await granted(book, overdue)
    await granted(book, Reserve("running", ROOT, 10))
    ledgers.clock.advance(1)
    watcher = ledgers.open("o9")
    assert watcher.expire(ledgers.clock()) == 1
    book.resolve(Settle("overdue", 1))
    await book.balances(ROOT)
    await granted(book, Reserve("next", ROOT, 10))
    assert ledger.owner_id == "o1"
    book.resolve(Settle("running", 1))
    book.resolve(Settle("next", 1))
    (balance,) = await book.balances(ROOT)
    assert (balance.spent, balance.held) == (12, 0)


async def test_several_late_settles_draw_one_new_owner(ledgers: Ledgers, ledger: FaultyLedger, book: Book) -> None:
    """Each that comes late belongs to the old name. The new one lives, and what it holds is not to be expired."""
    watcher = ledgers.open("watcher")
    for n in range(3):
        await granted(book, Reserve(f"old{n}", ROOT, 10))
    owner_file(ledgers.path, "o1").unlink()
    assert watcher.expire(ledgers.clock()) == 3
    for n in range(3):
        book.resolve(Settle(f"old{n}", 3))
        await until(lambda: ledger.owner_id == "o2")
        await granted(book, Reserve(f"new{n}", ROOT, 10))
        assert watcher.expire(ledgers.clock()) == 0
    assert ledger.owner_id == "o2"
    for n in range(3):
        book.resolve(Settle(f"new{n}", 3))
    assert await where(book) == [(39, 0)]


async def test_a_new_owner_that_cannot_be_registered_undoes_nothing_and_is_tried_again(
    ledgers: Ledgers, ledger: FaultyLedger, book: Book
) -> None:
    watcher = ledgers.open("watcher")
    await granted(book, Reserve("h1", ROOT, 10))
    owner_file(ledgers.path, "o1").unlink()
    watcher.expire(ledgers.clock())
    ledger.fail("register", times=2)
    async with waiting_commit(ledger, book):
        book.resolve(Settle("h1", 3))
        tasks = later(Reserve("h2", ROOT, 10), book=book)
        await asyncio.sleep(0)
    assert await texts(tasks) == ["granted, 80 left"]
    await until(lambda: ledger.owner_id not in ("", "o1"))
    (balance,) = await book.balances(ROOT)
    assert "void" not in {line.kind for line in journal(ledgers.path)}
    assert (balance.spent, balance.held) == (10, 10)


async def test_a_new_owner_is_never_waited_for_in_the_loop(ledgers: Ledgers, ledger: FaultyLedger, book: Book) -> None:
    watcher = ledgers.open("watcher")
    await granted(book, Reserve("h1", ROOT, 10))
    ledger.threads.clear()
    owner_file(ledgers.path, "o1").unlink()
    watcher.expire(ledgers.clock())
    book.resolve(Settle("h1", 3))
    await until(lambda: ledger.owner_id == "o2")
    assert threading.get_ident() not in ledger.threads["register"]


async def test_on_a_full_disk_grants_stop_settles_go_on_and_room_is_noticed(
    ledgers: Ledgers, ledger: FaultyLedger, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RULES.md L8, with a disk that is only said to be full; a real one is in test_sqlite_disk."""
    room = False
    monkeypatch.setattr(ballast, "keep", lambda path: room)
    kept = ledgers.path.with_name("ledger.db.ballast")
    assert kept.exists()
    await granted(book, Reserve("h1", ROOT, 10))
    ledger.fail("commit", LedgerFull("the disk is full"))
    assert await unavailable(later(Reserve("h2", ROOT, 10), book=book)) == ["the disk is full"]
    assert not kept.exists()
    book.resolve(Settle("h1", 7))
    assert await where(book) == [(7, 0)]
    assert await unavailable(later(Reserve("h3", ROOT, 10), book=book)) == ["the ledger's disk is full"]
    assert book.problem is not None
    room = True
    await until(lambda: book.problem is None)
    await granted(book, Reserve("h4", ROOT, 10))


@pytest.mark.usefixtures("quick")
async def test_a_book_whose_ledger_failed_asks_again_by_itself(ledger: FaultyLedger, book: Book) -> None:
    """Nobody calls a gateway that is not ready, so it must find out alone that it is again."""
    ledger.fail("stage", times=4)
    await unavailable(later(Reserve("h1", ROOT, 10), book=book))
    assert book.problem is not None
    await until(lambda: book.problem is None)
    assert len(ledger.staged) == 1
