"""Sending checkpoints outside as they are made, so that a rewritten history shows: file, webhook, standard output.

What could not be sent is tried again; each place gets them in order. What is not sent when the gateway ends is sent no
more: `tolsey audit checkpoint` and the ledger still have it, and the next one names its hash.
"""

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Final, Protocol

from tolsey.errors import TolseyError
from tolsey.store.webhooks import post

AGAIN_SECONDS: Final = (1.0, 60.0)
"""How long after a failure it is tried again: at first, and at most."""

MOST_WAITING: Final = 1000
"""How many checkpoints wait for one place; then the oldest is given up."""


class NotSent(TolseyError):
    """A place outside that did not take a checkpoint."""

    code: ClassVar[str] = "not_sent"


class Place(Protocol):
    """Where checkpoints go. `name` may be shown."""

    name: str

    def put(self, document: bytes) -> None:
        """Send one; it is there when this returns. Blocks. Raises `NotSent`."""


class FilePlace:
    """A file to which a line is appended, on disk afterwards. It is made for its owner alone."""

    def __init__(self, path: Path) -> None:
        self.name = os.fspath(path)

    def put(self, document: bytes) -> None:
        """Append one."""
        try:
            fd = os.open(self.name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "ab", buffering=0) as file:
                size = os.fstat(fd).st_size
                if file.write(document + b"\n") != len(document) + 1:
                    # A disk that is full: no half line stays.
                    os.ftruncate(fd, size)
                    raise NotSent(f"{self.name}: it was not written in full")
                os.fsync(fd)
        except OSError as error:
            raise NotSent(f"{self.name}: {error.strerror or error}") from None


class Stdout:
    """Standard output of the gateway, a line each."""

    name = "standard output"

    def put(self, document: bytes) -> None:
        """Print one."""
        try:
            sys.stdout.buffer.write(document + b"\n")
            sys.stdout.buffer.flush()
        except (OSError, ValueError) as error:
            raise NotSent(f"standard output: {error}") from None


class Webhook:
    """A URL (http or https) to which each is sent by POST as JSON; any status of 2xx is a yes. The URL, which may hold
    a secret, is shown to nobody.
    """

    name = "the webhook"

    def __init__(self, url: str) -> None:
        self._url = url

    def put(self, document: bytes) -> None:
        """Send one."""
        fault = post(self._url, {}, document)
        if fault is not None:
            raise NotSent(f"the webhook: {fault}")


class Outside:
    """All places of a gateway. `tell` is told what cannot be sent, when that changes. For one event loop."""

    def __init__(self, places: Sequence[Place], tell: Callable[[str], None]) -> None:
        self._lines = [_Line(place, tell) for place in places]

    def send(self, document: bytes) -> None:
        """Send a checkpoint everywhere, in the background."""
        for line in self._lines:
            line.add(document)

    async def close(self, seconds: float) -> None:
        """Wait so long at most until everything is sent, and give up the rest."""
        tasks = [line.task for line in self._lines if line.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


class _Line:
    """What waits for one place."""

    def __init__(self, place: Place, tell: Callable[[str], None]) -> None:
        self.task: asyncio.Task[None] | None = None
        self._place = place
        self._tell = tell
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._problem = ""

    def add(self, document: bytes) -> None:
        self._waiting.append(document)
        if self.task is None or self.task.done():
            self.task = asyncio.get_running_loop().create_task(self._run(), name="checkpoints outside")

    async def _run(self) -> None:
        pause, most = AGAIN_SECONDS
        while self._waiting:
            document = self._waiting[0]
            try:
                await asyncio.to_thread(self._place.put, document)
            except NotSent as error:
                if error.detail != self._problem:
                    self._tell(error.detail)
                self._problem = error.detail
                await asyncio.sleep(pause)
                pause = min(2 * pause, most)
                continue
            pause, self._problem = AGAIN_SECONDS[0], ""
            # Unless it was given up meanwhile, because too many waited.
            if self._waiting and self._waiting[0] is document:
                self._waiting.popleft()
