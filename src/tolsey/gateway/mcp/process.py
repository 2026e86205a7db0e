"""A server that is a program: started with an environment of its own, spoken to over its standard streams."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from tolsey.gateway.destination import Broken, NotSent
from tolsey.gateway.mcp.relay import MAX_ANSWER

END_SECONDS: Final = 2.0
"""How long a program may take to end when its input has, and again when it is told to, before it is killed."""

MAX_COMPLAINT: Final = 2000
"""How much of a line on a program's standard error is kept, in characters."""

LEAST_SECRET: Final = 4
"""A shorter value is not looked for in what a program complains of: too many words would hold it."""

INHERITED: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE")
"""What a program that the gateway starts gets of the gateway's environment: nothing that could be a secret."""

_PIECE: Final = 65536
_TOKEN = re.compile(r"(?:tolsey_|Ag[EIJ]|MDA)[A-Za-z0-9_+/=-]{16,}", re.ASCII)


def environment(of: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that the gateway starts: what it needs to run, and what its config gives it."""
    return {**{name: of[name] for name in INHERITED if name in of}, **more}


class Process:
    """A program and its standard streams. `complain` gets each line that it writes on its standard error, without any
    of `secrets`, and without tokens.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        secrets: Sequence[str] = (),
        complain: Callable[[str], None],
    ) -> None:
        self._command = tuple(command)
        self._env = dict(env)
        self._secrets = sorted((s for s in secrets if len(s) >= LEAST_SECRET), key=len, reverse=True)
        self._complain = complain
        self._process: asyncio.subprocess.Process | None = None
        self._reading: list[asyncio.Task[None]] = []

    async def open(self, take: Callable[[bytes], None], over: Callable[[str], None]) -> None:
        """Start the program. Raises `NotSent`."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._env,
                # Of its own, so that what it starts in turn ends with it, and a terminal's Ctrl-C is not its to hear.
                start_new_session=True,
            )
        except OSError as error:
            raise NotSent(f"{self._command[0]} cannot be run: {error.strerror or error}") from None
        self._reading = [
            asyncio.create_task(self._listen(self._process, take, over)),
            asyncio.create_task(self._hear_complaints(self._process)),
        ]

    async def _listen(
        self, process: asyncio.subprocess.Process, take: Callable[[bytes], None], over: Callable[[str], None]
    ) -> None:
        try:
            async for line in _lines(process.stdout, MAX_ANSWER, cut=False):
                take(line)
        except ValueError:
            _signal(process.pid, signal.SIGTERM)
            over("sent a message that is too large")
            return
        try:
            async with asyncio.timeout(END_SECONDS):
                status = await process.wait()
        except TimeoutError:
            over("closed its output")
            return
        over(f"ended with status {status}")

    async def _hear_complaints(self, process: asyncio.subprocess.Process) -> None:
        async for line in _lines(process.stderr, _PIECE, cut=True):
            text = line.decode("utf-8", "replace").rstrip()
            for secret in self._secrets:
                text = text.replace(secret, "***")
            if text:
                # Cut only now, as half a secret would not be found.
                self._complain(_TOKEN.sub("***", text)[:MAX_COMPLAINT])

    async def write(self, message: bytes) -> None:
        """Send one message. Raises `Broken`."""
        pipe = None if self._process is None else self._process.stdin
        try:
            if pipe is None or pipe.is_closing():
                raise Broken("the server's input is closed")
            # A line break within a message is a blank there, as JSON has no other.
            pipe.write(message.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")
            await pipe.drain()
        except (OSError, RuntimeError):
            raise Broken("the server reads no more") from None

    async def close(self) -> None:
        """Close its input, then tell it to end, then kill it; and whatever it started."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                _signal(process.pid, number)
            try:
                async with asyncio.timeout(END_SECONDS):
                    await process.wait()
                    break
            except TimeoutError:
                continue
        # What it started may have stayed behind, in its group.
        _signal(process.pid, signal.SIGKILL)
        for task in self._reading:
            if task is not asyncio.current_task():
                with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                    await asyncio.wait_for(task, END_SECONDS)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def _lines(reader: asyncio.StreamReader | None, most: int, *, cut: bool) -> AsyncIterator[bytes]:
    """The lines of a stream. What is longer than `most` bytes is cut, or else raises ValueError."""
    kept: list[bytes] = []
    size = 0
    while reader is not None and (piece := await reader.read(_PIECE)):
        first, *rest = piece.split(b"\n")
        for number, part in enumerate((first, *rest)):
            if number:
                yield b"".join(kept)
                kept, size = [], 0
            if size + len(part) > most and not cut:
                raise ValueError("a line is too long")
            room = most - size
            if part and room > 0:
                kept.append(part[:room])
                size += len(kept[-1])
    if kept:
        yield b"".join(kept)
