"""The page for agent authors: everything on it runs, as it is written, against a gateway."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.foreign import node
from tests.gateways import Gateway, serving
from tests.providers import CONFIG, KEY, Provider
from tests.test_docs import Block, blocks, names, rows
from tests.upstreams import Upstream
from tolsey.refusals import BY_CODE

PAGE = "docs/agents.md"
JS = Path(__file__).resolve().parent.parent / "js"
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
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    provider = Provider()
    values = {"port": provider.port, "key": KEY, "search": upstream.port}
    with serving(tmp_path_factory.mktemp("agents"), CONFIG + SEARCH, **values) as running:
        yield running
    provider.close()


def text_of(block: Block, gateway: Gateway) -> str:
    assert "8402" in block.text or "tolsey" in block.text
    return block.text.replace("8402", str(gateway.port))


def on_page(language: str) -> list[Block]:
    return [block for block in blocks(language) if block.page == PAGE]


WORKER = next(block for block in on_page("python") if block.text.startswith("# worker.py\n"))


def play(command: str | list[str], folder: Path, token: str) -> None:
    """Run a command as the agent whose token it is."""
    env = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "TOLSEY_TOKEN": token}
    done = subprocess.run(
        command, shell=isinstance(command, str), cwd=folder, env=env, capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("block", [*on_page("python"), *on_page("sh"), *on_page("js")], ids=lambda b: b.text[:30])
def test_every_snippet_makes_its_call(block: Block, gateway: Gateway, tmp_path: Path) -> None:
    token = gateway.token(budget="100 USD")
    (tmp_path / "worker.py").write_text(text_of(WORKER, gateway))
    text = text_of(block, gateway)
    if block.language == "js":
        play([node(JS), "--input-type=module", "--eval", text], JS, token)
    elif block.language == "sh":
        play(text, tmp_path, token)
    else:
        play([sys.executable, "-c", text], tmp_path, token)
    (team,) = gateway.accounts(token)
    assert team["calls"] == 1
    if block != WORKER:
        (child,) = [row for row in gateway.trail() if row.parent == team["id"]]
        assert (child.label, child.limit) in {("search-worker", 50 * 10**9), ("geographer", 50 * 10**9)}


def test_every_exception_is_explained() -> None:
    found = {names(code)[0]: names(name)[0] for name, code, _ in rows("agents.md", "Refusals")}
    assert found == {code: kind.__name__ for code, kind in BY_CODE.items()}
    assert list(found) == list(BY_CODE)
