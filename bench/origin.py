"""Behind every contestant: an upstream that answers at once and counts, and a policy service that always says yes."""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import BenchError
from bench.jobs import JOBS, SEARCH
from bench.machine import scratch
from bench.nginx import nginx
from bench.processes import wait_until
from tests.ports import free_port

PATH = SEARCH.path
BODY = SEARCH.answer

_MOST_RETURNED = 4000
"""The longest text that nginx takes in its configuration; a longer answer is a file."""

_HTTP = """
  server {{ listen 127.0.0.1:{port} backlog=4096; default_type application/json;
    {locations}
    location / {{ return 200 '{body}'; }} }}
  server {{ listen 127.0.0.1:{policy} backlog=4096; location / {{ return 200; }} }}
  server {{ listen 127.0.0.1:{counter}; location / {{ stub_status; }} }}
"""


@dataclass
class Origin:
    """The ports of upstream, policy service and counter, and the process that serves them."""

    port: int
    policy: int
    counter: int
    asked: int = 0
    pid: int = 0

    def seen(self) -> int:
        """How many requests came so far (to upstream and policy service together, questions to the counter not)."""
        self.asked += 1
        status, text = get(self.counter, "/")
        found = re.search(r"requests\s+\d+ \d+ (\d+)", text)
        if status != 200 or found is None:
            raise BenchError(f"the counter of the upstream answered {status}: {text}")
        return int(found[1]) - self.asked


@contextlib.contextmanager
def origin(core: int) -> Iterator[Origin]:
    """Upstream and policy service, running on a core."""
    it = Origin(free_port(), free_port(), free_port())
    with scratch() as folder:
        config = _HTTP.format(
            port=it.port, policy=it.policy, counter=it.counter, body=BODY, locations=_locations(folder)
        )
        with nginx(config, folder=folder, core=core) as (process, log):
            # A refused connection reaches nothing, so the readiness polls are not counted; the one that succeeds is.
            wait_until(lambda: answers(it.counter, "/"), process, log, "the upstream")
            it.asked += 1
            it.pid = process.pid
            yield it


def _locations(folder: Path) -> str:
    lines = []
    for job in JOBS:
        if len(job.answer) <= _MOST_RETURNED:
            does = f"return 200 '{job.answer}';"
        else:
            # Readable for the user that nginx takes for its workers, whoever starts it.
            (folder / job.name).write_text(job.answer)
            does = f"alias {folder / job.name};"
        lines.append(f"location = {job.path} {{ default_type {job.kind}; {does} }}")
    return "\n    ".join(lines)


def get(port: int, path: str, token: str | None = None) -> tuple[int, str]:
    """One GET to the loopback: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def answers(port: int, path: str, body: str | None = None) -> bool:
    """Whether a GET is answered with 200, and with this body if one is given."""
    try:
        status, text = get(port, path)
    except (OSError, http.client.HTTPException):
        return False
    return status == 200 and body in (None, text)
