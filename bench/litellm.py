"""LiteLLM's proxy, one worker, with a master key and no database: it then knows no budgets.

Budgets need its database, and that needs Prisma's engines, which no package registry has.
"""

from __future__ import annotations

import contextlib
import http.client
import secrets
from collections.abc import Iterator
from pathlib import Path

from bench import BenchError, install
from bench.gateway import bearer
from bench.ground import Ground, Server
from bench.jobs import CHAT
from bench.machine import scratch
from bench.origin import answers
from bench.processes import running, wait_until
from tests.ports import free_port

_CONFIG = """
model_list:
  - model_name: bench-1
    litellm_params:
      model: openai/bench-1
      api_base: http://127.0.0.1:{origin}/v1
      api_key: none
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""

STARTS_SECONDS = 120.0


@contextlib.contextmanager
def litellm(ground: Ground) -> Iterator[Server]:
    """LiteLLM before the upstream, for LLM calls alone."""
    port, key = free_port(), f"sk-{secrets.token_hex(16)}"
    with scratch() as folder:
        config, log = folder / "config.yaml", folder / "litellm.log"
        config.write_text(_CONFIG.format(origin=ground.origin.port))
        binary = install.need("litellm")
        command: list[str | Path] = [binary, "--config", config, "--host", "127.0.0.1", "--port", str(port)]
        env = {"LITELLM_MASTER_KEY": key, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with running(command, core=ground.places.server, log=log, env=env) as process:
            ready = lambda: answers(port, "/health/liveliness")  # noqa: E731 - a line of its own would say no more
            cold = wait_until(ready, process, log, "LiteLLM", seconds=STARTS_SECONDS)
            _call(port, key)
            # What a load leaves behind that hangs up on it would keep it busy for seconds.
            yield Server(port, process, bearer(key), cold, is_warm=True)


def _call(port: int, key: str) -> None:
    """One call: the first takes seconds, for what is imported with it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STARTS_SECONDS)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request(CHAT.method, CHAT.path, CHAT.body, headers)
        if (status := connection.getresponse().status) != 200:
            raise BenchError(f"LiteLLM answered {status}")
    finally:
        connection.close()
