"""The disk is waited for by the kernel, and by a thread where that does not do it."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import caio
import pytest

from tests.ledgers import Ledgers, journal, purse, say
from tests.reading import fsck
from tolsey.errors import CommitUnknown
from tolsey.ledger.events import Reserve, Settle
from tolsey.store.embedded import EmbeddedLedger
from tolsey.store.kernel_sync import KernelSync
from tolsey.store.sqlite_file import Durability

pytestmark = pytest.mark.skipif(caio.linux_aio is None, reason="the kernel is not Linux")

ROOT = purse("root 100")


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        yield ledgers


class Kernel:
    """A kernel that ends a sync when it is told to, with a number."""

    def __init__(self) -> None:
        self.fileno, self._other = os.pipe()
        self._under_way: list[Callable[[int], None]] = []

    def fdsync(self, _: int) -> SimpleNamespace:
        return SimpleNamespace(set_callback=self._under_way.append)

    def submit(self, _: object) -> int:
        return 1

    def end(self, result: int) -> None:
        self._under_way.pop()(result % (1 << 64))

    def close(self) -> None:
        os.close(self.fileno)
        os.close(self._other)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    found = Kernel()
    monkeypatch.setattr(caio.linux_aio, "Operation", found)
    monkeypatch.setattr(caio.linux_aio, "Context", lambda _: found)
    yield found
    found.close()


async def under_way(waiting: KernelSync) -> asyncio.Task[bool]:
    """A sync that the kernel has begun."""
    task = asyncio.create_task(waiting.sync(3))
    await asyncio.sleep(0)
    return task


def syncs() -> KernelSync:
    found = KernelSync.of(asyncio.get_running_loop())
    if found is None:
        pytest.skip("the kernel has no syncs to give here")
    return found


async def test_a_file(tmp_path: Path) -> None:
    kernel = syncs()
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x")
        for _ in range(3):
            assert await kernel.sync(file.fileno())
        many = await asyncio.gather(*(kernel.sync(file.fileno()) for _ in range(100)))
        assert many[0]
    kernel.close()


async def test_what_the_kernel_does_not_begin() -> None:
    kernel = syncs()
    reading, writing = os.pipe()
    assert not await kernel.sync(writing)
    os.close(writing)
    os.close(reading)
    assert not await kernel.sync(writing), "a descriptor that is closed"
    kernel.close()


async def test_a_sync_that_fails(kernel: Kernel) -> None:
    waiting = syncs()
    task = await under_way(waiting)
    kernel.end(-errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as found:
        await task
    assert found.value.errno == errno.EIO
    waiting.close()


async def test_one_that_ends_when_nobody_waits_any_more(kernel: Kernel) -> None:
    waiting = syncs()
    task = await under_way(waiting)
    task.cancel()
    await asyncio.wait({task})
    kernel.end(0)
    assert task.cancelled()
    waiting.close()


async def test_a_kernel_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise SystemError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with monkeypatch.context() as patch:
        patch.setattr(caio.linux_aio, "Context", refuse)
        assert KernelSync.of(asyncio.get_running_loop()) is None
    monkeypatch.setattr(caio, "variants", ())
    assert KernelSync.of(asyncio.get_running_loop()) is None


# --- the ledger over it


@pytest.mark.interpreted
@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_a_ledger_waits_for_the_kernel(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    asked: list[str] = []
    real = KernelSync.sync

    async def watch(self: KernelSync, descriptor: int) -> bool:
        asked.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        return await real(self, descriptor)

    monkeypatch.setattr(KernelSync, "sync", watch)
    file = ledgers.open("o1", durability=durability)
    file.threads.clear()
    ledger = EmbeddedLedger(file, timeout=5, now=ledgers.clock, syncs=syncs())
    assert [say(outcome) for outcome in await ledger.write([Reserve("h1", ROOT, 60)])] == ["granted, 40 left"]
    assert asked == (["ledger.db-wal"] if durability == "full" else [])
    assert "sync" not in file.threads
    await ledger.close()


@pytest.mark.interpreted
async def test_a_ledger_asks_a_thread_where_the_kernel_does_not_begin(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: KernelSync, descriptor: int) -> bool:
        return False

    monkeypatch.setattr(KernelSync, "sync", refuse)
    file = ledgers.open("o1", durability="full")
    file.threads.clear()
    ledger = EmbeddedLedger(file, timeout=5, now=ledgers.clock, syncs=syncs())
    await ledger.write([Reserve("h1", ROOT, 60)])
    assert len(file.threads["sync"] - {threading.get_ident()}) == 1
    await ledger.close()


@pytest.mark.interpreted
@pytest.mark.parametrize(("number", "full"), [(errno.EIO, False), (errno.ENOSPC, True)])
async def test_a_group_whose_sync_fails_is_in_doubt(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch, number: int, full: bool
) -> None:
    async def fail(self: KernelSync, descriptor: int) -> bool:
        raise OSError(number, os.strerror(number))

    ledger = EmbeddedLedger(ledgers.open("o1", durability="full"), timeout=5, now=ledgers.clock, syncs=syncs())
    with monkeypatch.context() as patch:
        patch.setattr(KernelSync, "sync", fail)
        with pytest.raises(CommitUnknown, match=f"cannot be synced: .*{os.strerror(number)}") as found:
            await ledger.write([Reserve("h1", ROOT, 60)])
    assert found.value.full == full
    again: list[int] = []
    real = os.pwrite

    def watch(fd: int, data: bytes, at: int) -> int:
        again.append(threading.get_ident())
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", watch)
    outcomes = await ledger.write([Reserve("h1", ROOT, 60), Settle("h1", 60)])
    assert len(again) == 1, "what the sync has not written is written again"
    assert again != [threading.get_ident()], "and not by the loop"
    await ledger.write([Reserve("h2", ROOT, 1)])
    assert len(again) == 1, "once"
    assert [say(outcome) for outcome in outcomes] == ["granted, 40 left", "settle 60"]
    assert journal(ledgers.path) == [("reserve", "h1", 60), ("settle", "h1", 60), ("reserve", "h2", 1)]
    await ledger.close()
    assert fsck(ledgers.path).difference is None
