"""The machine: which cores there are, what else runs on them, how slow its disk is."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).absolute().parent.parent
CACHE = ROOT / ".bench"
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")


@dataclass(frozen=True)
class Cores:
    """Where things run: the server under test alone on one core, upstream and load generator on another. Two workers
    have `workers`, which are others than the load's if there are three.
    """

    server: int
    load: int
    available: int
    workers: tuple[int, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether there is only one core, so that server and load stand in each other's way."""
        return self.server == self.load


def cores() -> Cores:
    """The first cores that this process may use (the same one twice if there is only one)."""
    usable = sorted(os.sched_getaffinity(0))
    workers = (usable[0], usable[min(2, len(usable) - 1)])
    return Cores(server=usable[0], load=usable[min(1, len(usable) - 1)], available=len(usable), workers=workers)


@contextlib.contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Whatever is started inside runs on these cores: children inherit the affinity of the thread that starts them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def by_process() -> Iterator[bool]:
    """Have the kernel divide a core among processes, and not among sessions first (autogroup, sched(7)): there nothing
    that one process says of itself counts against those of other sessions, and who is woken waits for a tick of the
    clock, milliseconds. Whether it does so now; only root may ask for it.
    """
    before = AUTOGROUP.read_text().strip() if AUTOGROUP.exists() else "0"
    if before == "0":
        yield True
        return
    try:
        AUTOGROUP.write_text("0")
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        AUTOGROUP.write_text(before)


def cache() -> Path:
    """The cache directory of the bench under the repository's root; it keeps itself out of git."""
    CACHE.mkdir(exist_ok=True)
    ignore = CACHE / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    return CACHE


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A fresh directory, removed afterwards. On the disk of the repository: /tmp may be memory, where fsync is free."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache(), ignore_cleanup_errors=True) as name:
        yield Path(name)


def fsync_ms(repeats: int = 50) -> float:
    """The median time of writing 4 KiB and syncing it, where the ledgers of the bench lie."""
    times = []
    with scratch() as folder, (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(repeats):
            start = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return median(times) * 1000


def describe(places: Cores) -> dict[str, str | int | float]:
    """What a reader of the figures must know of the machine."""
    return {
        "cores": places.available,
        "server_core": places.server,
        "load_core": places.load,
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "fsync_ms": round(fsync_ms(), 3),
    }
