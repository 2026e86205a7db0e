"""Simulations without end: `python -m tests.soak [FIRST_SEED]`, for TOLSEY_SOAK_MINUTES (10), on every core.

Each failure is told as it comes; `TOLSEY_SEED=n pytest tests/test_simulation.py` plays it again.
"""

import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count

from tests.simulation import simulate

CHUNK = 50
"""Seeds in one piece of work."""


def some(first: int) -> list[tuple[int, str]]:
    """Simulate the seeds of one piece; return those that failed, and how."""
    failed = []
    for seed in range(first, first + CHUNK):
        try:
            simulate(seed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told and the next seed is tried
            failed.append((seed, f"{type(error).__name__}: {error}"))
    return failed


def main(first: int, minutes: float) -> int:
    """Run, and tell; the exit status."""
    until = time.monotonic() + 60 * minutes
    following = count(first, CHUNK)
    cores = os.cpu_count() or 1
    tried = failed = 0
    with ProcessPoolExecutor(cores) as pool:
        running: set[Future[list[tuple[int, str]]]] = set()
        while running or time.monotonic() < until:
            while len(running) < 2 * cores and time.monotonic() < until:
                running.add(pool.submit(some, next(following)))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for piece in done:
                tried += CHUNK
                for seed, error in piece.result():
                    failed += 1
                    sys.stdout.write(f"TOLSEY_SEED={seed}: {error}\n")
                    sys.stdout.flush()
    sys.stdout.write(f"{tried} seeds from {first} on, {failed} failed\n")
    return int(failed > 0)


if __name__ == "__main__":
    chosen = int(sys.argv[1]) if sys.argv[1:] else time.time_ns() // 1_000_000
    sys.exit(main(chosen, float(os.environ.get("TOLSEY_SOAK_MINUTES", "10"))))
