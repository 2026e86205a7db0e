"""An MCP client over standard streams, for dialogues with `tolsey mcp` line by line."""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tests.cli import SCRIPT, environment

Json = dict[str, Any]
PROGRAM = (sys.executable, "-m", "tests.mcp_program")
SECONDS = 20


class Wrapped:
    """A running `tolsey mcp`, and what a client says to it and hears."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._said: list[bytes] = []
        for stream, keep in ((process.stdout, self._heard.put), (process.stderr, self._said.append)):
            assert stream is not None
            threading.Thread(target=self._drain, args=(stream, keep), daemon=True).start()

    def _drain(self, stream: IO[bytes], keep: Any) -> None:  # noqa: ANN401 - two kinds of list
        for line in stream:
            keep(line)

    def say(self, message: Json | bytes) -> None:
        """Send one message."""
        assert self.process.stdin is not None
        data = message if isinstance(message, bytes) else json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()

    def hear(self) -> Json:
        """The next message."""
        found: Json = json.loads(self._heard.get(timeout=SECONDS))
        assert found["jsonrpc"] == "2.0"
        return found

    def ask(self, identifier: object, method: str, **params: object) -> Json:
        """One request, and what comes next."""
        self.say({"id": identifier, "method": method, "params": params})
        return self.hear()

    def call(self, identifier: object, tool: str, **arguments: object) -> Json:
        """One call of a tool, and what comes next."""
        return self.ask(identifier, "tools/call", name=tool, arguments=arguments)

    def end(self) -> tuple[int, str]:
        """Send no more; the exit status, and what was said on standard error."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(SECONDS)
        return status, b"".join(self._said).decode()

    @property
    def complaints(self) -> str:
        """What was said on standard error so far."""
        return b"".join(self._said).decode()


def words(state: Path, *options: str, program: tuple[str, ...] = PROGRAM) -> list[str]:
    """A command line of `tolsey mcp`."""
    return ["mcp", "--state", str(state), *options, "--", *program]


@contextlib.contextmanager
def wrapped(state: Path, *options: str, program: tuple[str, ...] = PROGRAM, **env: str) -> Iterator[Wrapped]:
    """`tolsey mcp` in front of a program. It is gone afterwards."""
    process = subprocess.Popen(
        [SCRIPT, *words(state, *options, program=program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(env),
    )
    with process:
        try:
            yield Wrapped(process)
        finally:
            process.terminate()
            process.wait(SECONDS)
