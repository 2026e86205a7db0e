"""What a test is given to listen on later is not given to anybody else meanwhile."""

import os
import subprocess
import sys

from tests.ports import free_port
from tests.swarm import ROOT

MANY = "from tests.ports import free_port; print(*(free_port() for _ in range(2000)))"


def given(share: int) -> set[int]:
    environment = {**os.environ, "PYTEST_XDIST_WORKER": f"gw{share}", "PYTEST_XDIST_WORKER_COUNT": "2"}
    said = subprocess.run([sys.executable, "-c", MANY], cwd=ROOT, env=environment, capture_output=True, check=True)
    return {int(port) for port in said.stdout.split()}


def test_the_processes_of_one_run_have_a_share_each() -> None:
    first, second = given(0), given(1)
    assert len(first) == len(second) == 2000, "each is given once"
    assert not first & second


def test_the_system_does_not_choose_it() -> None:
    port = free_port()
    assert 10_000 <= port < 32_768
