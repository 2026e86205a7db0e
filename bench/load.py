"""The load: wrk, one thread, 64 keep-alive connections, on a core of its own choice; its figures as values."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import BenchError, install
from bench.jobs import Job
from bench.machine import pinned

Headers = Sequence[tuple[str, str]]

CONNECTIONS = 64
PATIENCE = 20
"""A call that takes longer has failed, in seconds."""

# Only `done` and the request's parts: wrk then builds the request once, so the script costs nothing during the load.
# wrk gives microseconds.
_DONE = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nBENCH {"calls": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "failed": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw. ``failed`` counts broken connections, time-outs and statuses from 400."""

    calls: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int

    @property
    def rate(self) -> float:
        """Calls answered a second."""
        return self.calls / self.seconds


def wrk(port: int, job: Job, *, seconds: int, core: int, folder: Path, headers: Headers = ()) -> Load:
    """Load one server for so many seconds. The credential goes into a private file: argv is readable by everybody."""
    script = folder / "load.lua"
    script.touch(mode=0o600)
    lines = [f"wrk.headers['{name}'] = '{value}'" for name, value in (*headers, *job.headers)]
    if job.body is not None:
        lines += [f"wrk.method = '{job.method}'", f"wrk.body = [==[{job.body}]==]"]
        lines.append("wrk.headers['Content-Type'] = 'application/json'")
    script.write_text("\n".join([*lines, _DONE]))
    command = [str(install.need("wrk")), "--threads", "1", "--connections", str(CONNECTIONS)]
    command += [
        "--timeout",
        f"{PATIENCE}s",
        "--duration",
        f"{seconds}s",
        "--latency",
        "--script",
        str(script),
        f"http://127.0.0.1:{port}{job.path}",
    ]
    with pinned(core):
        run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds + 30)
    line = next((line for line in run.stdout.splitlines() if line.startswith("BENCH ")), None)
    if line is None:
        raise BenchError(f"wrk gave no figures: {run.stderr.strip() or run.stdout.strip()}")
    return Load(**json.loads(line.removeprefix("BENCH ")))
