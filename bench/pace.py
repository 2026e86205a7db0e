"""Latency at a fixed rate: calls begin when they are due, whether or not earlier ones were answered, and each is
measured from when it was due. A server that stalls is charged for every call that it kept waiting (no coordinated
omission). The clock is not the loop's, which uvloop gives in milliseconds.

It watches the clock, and whatever stands behind the server on the same core, an upstream, a database, must not wait for
that: it runs only when nobody else would (SCHED_IDLE, sched(7); see `machine.by_process`).

    python -m bench.pace PORT JOB RATE SECONDS     (further headers on standard input, a line each)
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import httptools
import uvloop

from bench import BenchError
from bench.jobs import JOBS, Job
from bench.load import Headers
from bench.machine import ROOT, pinned
from tolsey.ledger.rules import MAX_OPEN_HOLDS

MOST_CONNECTIONS = MAX_OPEN_HOLDS
"""More calls than this at once wait for a connection, and that counts as their latency. With more, what is late when
the machine stands still for a moment would be refused.
"""

SPIN = 0.0015
"""So many seconds before a call is due the clock is watched, since a timer wakes to the millisecond."""

PATIENCE = 10.0
"""How long after the last call is due answers are waited for, in seconds."""


@dataclass(frozen=True)
class Paced:
    """Calls a second that were due, how many there were, and how late their answers were (ms)."""

    rate: int
    calls: int
    failed: int
    p50_ms: float
    p99_ms: float
    p999_ms: float


def paced(port: int, job: Job, rate: int, *, seconds: int, core: int, headers: Headers = ()) -> Paced:
    """Measure in a process of its own, on a core."""
    command = [sys.executable, "-m", "bench.pace", str(port), job.name, str(rate), str(seconds)]
    with pinned(core):
        run = subprocess.run(
            command,
            check=False,
            input="\n".join(f"{name}: {value}" for name, value in headers),
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=seconds + 60,
        )
    if run.returncode != 0:
        raise BenchError(f"the paced load ended with status {run.returncode}: {run.stderr.strip()[-500:]}")
    return Paced(**json.loads(run.stdout))


class _Lane:
    """One keep-alive connection, for one call at a time."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._parser = httptools.HttpResponseParser(self)
        self._due = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._pacer.lost(self)

    def eof_received(self) -> None:
        pass

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._pacer.answered(self, self._due, self._parser.get_status_code())

    def send(self, request: bytes, due: float) -> None:
        self._due = due
        self.transport.write(request)


class Pacer:
    """Calls on one port at a fixed rate, with further headers, each a line."""

    def __init__(self, port: int, job: Job, headers: Sequence[str] = ()) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        body = (job.body or "").encode()
        lines = [f"{job.method} {job.path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
        lines += [*headers, *(f"{name}: {value}" for name, value in job.headers)]
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
        self._request = "\r\n".join([*lines, "", ""]).encode() + body
        self._lanes: list[_Lane] = []
        self._idle: list[_Lane] = []
        self._open = 0
        self._waiting: deque[float] = deque()
        self._late: list[float] = []
        self._refused = self._lost = 0

    async def connect(self) -> None:
        """One more idle connection."""
        self._open += 1
        lane = _Lane(self)
        self._lanes.append(lane)
        await self._loop.create_connection(lambda: cast("asyncio.Protocol", lane), "127.0.0.1", self._port)
        self._free(lane)

    def lost(self, lane: _Lane) -> None:
        """A connection is gone; a call on it failed, unless it was idle."""
        self._open -= 1
        if lane in self._idle:
            self._idle.remove(lane)
        else:
            self._lost += 1

    def answered(self, lane: _Lane, due: float, status: int) -> None:
        """A call is over."""
        self._late.append(time.perf_counter() - due)
        self._refused += status != 200
        self._free(lane)

    def _free(self, lane: _Lane) -> None:
        if self._waiting:
            lane.send(self._request, self._waiting.popleft())
        else:
            self._idle.append(lane)

    def _call(self, due: float) -> None:
        if self._idle:
            self._idle.pop().send(self._request, due)
            return
        self._waiting.append(due)
        if self._open < MOST_CONNECTIONS:
            self._loop.create_task(self.connect())

    async def run(self, rate: int, seconds: int) -> Paced:
        """So many calls, evenly spread over the time."""
        for _ in range(32):
            await self.connect()
        count = rate * seconds
        start = time.perf_counter() + 0.05
        for number in range(count):
            due = start + number / rate
            # One that is due already begins at once, as the one before it did not wait either.
            while (ahead := due - time.perf_counter()) > 0:  # noqa: ASYNC110 - the clock is watched, no event
                await asyncio.sleep(ahead - SPIN if ahead > SPIN else 0)
            self._call(due)
        until = time.perf_counter() + PATIENCE
        while len(self._late) + self._lost < count and time.perf_counter() < until:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.01)
        for lane in self._lanes:
            lane.transport.close()
        # Calls without an answer are as late as they were waited for at the least.
        late = sorted([*self._late, *[PATIENCE] * (count - len(self._late))])
        p50, p99, p999 = (late[min(len(late) - 1, int(len(late) * part))] * 1000 for part in (0.5, 0.99, 0.999))
        return Paced(rate, count, self._refused + count - len(self._late), p50, p99, p999)


async def _main(port: int, job: Job, rate: int, seconds: int) -> Paced:
    return await Pacer(port, job, sys.stdin.read().splitlines()).run(rate, seconds)


if __name__ == "__main__":
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    where, named, calls, long = sys.argv[1:]
    chosen = next(job for job in JOBS if job.name == named)
    print(json.dumps(uvloop.run(_main(int(where), chosen, int(calls), int(long))).__dict__))
