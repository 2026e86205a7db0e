"""Dialogues with a Book: to ask, to hold a commit back, and to hear the answers in the words of the tables."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.ledgers import DEADLINE_SECONDS, Ledgers, purse, say
from tolsey.errors import LedgerUnavailable
from tolsey.ledger.events import Reserve, Void
from tolsey.store.book import Book
from tolsey.store.embedded import EmbeddedLedger
from tolsey.testing import FaultyLedger
from tolsey.token.chain import Account

ROOT = purse("root 100")
TEAM = purse("root 100 / team 50")


def book_on(ledgers: Ledgers, ledger: FaultyLedger, timeout: float = 5) -> Book:
    """A Book whose next owners are o2, o3, …"""
    numbers = itertools.count(2)
    embedded = EmbeddedLedger(ledger, timeout=timeout, now=ledgers.clock)
    return Book(embedded, new_owner=lambda: f"o{next(numbers)}")


async def until(condition: Callable[[], Any]) -> None:
    """Wait until something is so, with a deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@asynccontextmanager
async def waiting_commit(ledger: FaultyLedger, book: Book) -> AsyncIterator[None]:
    """Inside, a group with nothing but a void of nobody's hold is being committed; whatever comes waits for it."""
    with ledger.stalled():
        book.resolve(Void("nobody's"))
        await until(lambda: ledger.waiting)
        yield


def later(*reserves: Reserve, book: Book) -> list[asyncio.Task[Any]]:
    """Ask for each in a task of its own."""
    return [asyncio.create_task(book.reserve(reserve)) for reserve in reserves]


async def texts(tasks: list[asyncio.Task[Any]]) -> list[str]:
    """What came of each of them."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return [say(outcome) for outcome in await asyncio.gather(*tasks)]


async def granted(book: Book, reserve: Reserve) -> str:
    """Reserve, and have it granted."""
    (text,) = await texts(later(reserve, book=book))
    assert text.startswith("granted")
    return text


async def where(book: Book, accounts: tuple[Account, ...] = ROOT) -> list[tuple[int, int]]:
    """(spent, held) of each account."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return [(balance.spent, balance.held) for balance in await book.balances(accounts)]


async def unavailable(tasks: list[asyncio.Task[Any]]) -> list[str]:
    """What each of the tasks that must fail says."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, LedgerUnavailable) for error in found), found
    return [str(error) for error in found]


class Ticks:
    """A task beside: as long as it ticks, the loop is free."""

    async def __aenter__(self) -> "Ticks":
        self.count = 0
        self._task = asyncio.create_task(self._tick())
        return self

    async def _tick(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0.001)

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
