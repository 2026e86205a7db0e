"""How fast the disk below a ledger is. Leaves nothing behind. Errors are `OSError`."""

import os
import tempfile
import time
from pathlib import Path
from typing import Final

SYNCS: Final = 64
"""How many times is measured at most."""

MOST_SECONDS: Final = 2.0
"""How long measuring may go on, beyond the sync that is under way."""

PAGE: Final = bytes(4096)


def sync_times(directory: Path) -> list[float]:
    """The seconds that it took each time to append a page to a file here and have it on disk, as a commit does; sorted.
    Never empty.
    """
    found: list[float] = []
    with tempfile.TemporaryFile(dir=directory, prefix=".tolsey-sync-", buffering=0) as file:
        end = time.monotonic() + MOST_SECONDS
        while len(found) < SYNCS and (not found or time.monotonic() < end):
            began = time.perf_counter()
            file.write(PAGE)
            os.fdatasync(file.fileno())
            found.append(time.perf_counter() - began)
    return sorted(found)
