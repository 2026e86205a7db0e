"""Processes: started on a core, with a log, always stopped; and what they cost, read from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench import BenchError, Wrong
from bench.machine import pinned

PATIENCE = 20.0


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], *, core: int | Sequence[int], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The command, running on a core or several in a process group of its own; SIGTERM at the end, SIGKILL to what is
    left.
    """
    with log.open("ab") as out, pinned(*([core] if isinstance(core, int) else core)):
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        yield process
    except BaseException:
        stop(process)
        raise
    if not stop(process):
        raise Wrong(f"{Path(command[0]).name} did not end {PATIENCE:.0f} s after SIGTERM\n{tail(log)}")


def stop(process: subprocess.Popen[bytes]) -> bool:
    """Stop the process and all of its group. True if SIGTERM was enough."""
    process.terminate()
    try:
        process.wait(PATIENCE)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, what: str, *, seconds: float = PATIENCE
) -> float:
    """Poll until ready, and return how many milliseconds that took; a process that ended or is too slow is an error
    that shows the end of its log.
    """
    began = time.monotonic()
    deadline = began + seconds
    while not ready():
        if process.poll() is not None:
            raise BenchError(f"{what} ended at once with status {process.returncode}\n{tail(log)}")
        if time.monotonic() > deadline:
            raise BenchError(f"{what} was not ready after {seconds:.0f} s\n{tail(log)}")
        time.sleep(0.005)
    return (time.monotonic() - began) * 1000


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def tree(pid: int) -> list[int]:
    """The process and all that descend from it, itself first."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that the process and its live descendants have used."""
    ticks = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """Memory of one process in MB (10⁶ bytes) as /proc/PID/status has it: ``VmRSS`` now, ``VmHWM`` at its highest."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def written_bytes(pid: int) -> int:
    """Bytes that the process and its live descendants have caused to be written to disk; 0 where /proc does not say."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/io").read_text().splitlines():
                if line.startswith("write_bytes:"):
                    total += int(line.split()[1])
    return total
