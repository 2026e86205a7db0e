"""Every script of examples/ runs as an agent author would run it, and the ledger says what it says.

They run in an environment of their own, without anything that the gateway needs, against a local gateway and local
providers. `make test-examples` makes the environment.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateways import Gateway, serving
from tests.providers import CONFIG, KEY, TEXT, Provider
from tests.upstreams import Upstream

pytestmark = pytest.mark.examples

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PYTHON = EXAMPLES / ".venv" / "bin" / "python"
SAID = "".join(TEXT)
SEARCH = """
[[upstream]]
name = "search"
url = "http://127.0.0.1:<search>"
[[route]]
path = "/api/v1/search"
methods = ["GET"]
upstream = "search"
price = "0.01 USD"
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    running = Provider()
    yield running
    running.close()


@pytest.fixture(scope="module")
def gateway(provider: Provider, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = CONFIG + SEARCH
    folder = tmp_path_factory.mktemp("examples")
    with serving(folder, config, port=provider.port, key=KEY, search=upstream.port) as running:
        yield running


@pytest.fixture
def token(gateway: Gateway, provider: Provider) -> Iterator[str]:
    """A root token with one dollar; no token ever reaches a provider."""
    yield gateway.token(budget="1 USD")
    assert not any("tolsey_" in str(heard) for heard in provider.heard)


def run(name: str, gateway: Gateway, token: str) -> str:
    """What a script says. Its environment is as small as can be."""
    assert PYTHON.exists(), "the examples' environment is missing: make test-examples"
    base = f"http://127.0.0.1:{gateway.port}"
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(EXAMPLES.parent / "src"),
        "TOLSEY_TOKEN": token,
        "TOLSEY_GATEWAY": base,
        "OPENAI_BASE_URL": f"{base}/v1",
        "ANTHROPIC_BASE_URL": base,
    }
    done = subprocess.run([PYTHON, EXAMPLES / name], env=env, capture_output=True, text=True, check=False, timeout=60)
    sys.stdout.write(f"{name}:\n{done.stdout}")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def tree(gateway: Gateway, token: str) -> list[Any]:
    """The accounts of a root token and of all below it, once nothing is held."""
    (root,) = gateway.accounts(token)
    rows = gateway.trail()
    below = {root["id"]}
    for row in rows:
        if row.parent in below:
            below.add(row.id)
    return [row for row in rows if row.id in below]


def spent(gateway: Gateway, token: str) -> dict[str | None, int]:
    """What each Link of the tree spent, in nano-units, by its label."""
    return {row.label: row.spent for row in tree(gateway, token)}


def test_every_example_is_run() -> None:
    tested = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text("utf-8")))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_openai(gateway: Gateway, token: str) -> None:
    said = run("openai_sdk.py", gateway, token).splitlines()
    assert said[0] == f"geographer: {SAID}"
    assert said[1] == "refused: the model 'gpt-5-pro' is not allowed"
    assert re.fullmatch(r"refused: geographer cannot pay [0-9.]+ USD; 0\.00\d+ USD are left", said[2])
    found = spent(gateway, token)
    assert found["geographer"] == found["team"] > 0


def test_anthropic(gateway: Gateway, token: str) -> None:
    said = run("anthropic_sdk.py", gateway, token).splitlines()
    assert said[0] == f"brief: {SAID}"
    assert re.fullmatch(r"refused: long-winded cannot pay [0-9.]+ USD; its limit is 0\.01 USD", said[1])
    found = spent(gateway, token)
    assert found["brief"] == found["team"] > 0
    assert "long-winded" not in found, "what was refused has no account"


def test_openai_agents(gateway: Gateway, token: str) -> None:
    assert run("openai_agents.py", gateway, token) == f"researcher on Paris: {SAID}\n"
    found = spent(gateway, token)
    assert found["orchestrator"] + found["researcher"] == found["team"]
    assert min(found.values()) > 0


def test_pydantic_ai(gateway: Gateway, token: str) -> None:
    *answers, refused = run("pydantic_ai_agents.py", gateway, token).splitlines()
    assert answers
    assert set(answers) == {f"geographer: {SAID}"}
    assert re.match(r"refused: geographer cannot pay [0-9.]+ USD; it spent 0\.0000\d+ of 0\.00015 USD", refused)
    assert 0 < spent(gateway, token)["geographer"] < 150_000


def test_a_swarm_of_fifty(gateway: Gateway) -> None:
    """The parent's budget holds: what they were given is more, and all of the parent's is spent and nothing else."""
    token = gateway.token(budget="1.25 USD")
    said = run("swarm.py", gateway, token)
    assert said.startswith("50 sub-agents, 125 calls served: {'lead': ")
    rows = tree(gateway, token)
    root = rows[0]
    assert (root.limit, root.spent, root.held, root.calls) == (1_250_000_000, 1_250_000_000, 0, 125)
    sums: dict[str | None, int] = {}
    for row in rows[1:]:
        assert row.limit is not None
        assert row.spent <= row.limit
        sums[row.parent] = sums.get(row.parent, 0) + row.spent
    assert all(sums.get(row.id, 0) <= row.spent for row in rows)
    depth = {root.id: 0}
    for row in rows[1:]:
        depth[row.id] = depth[str(row.parent)] + 1
    assert max(depth.values()) == 3
    assert gateway.fsck().open_holds == 0
