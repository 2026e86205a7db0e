"""The docs site: the tutorials run as they are written, the reference is made from the code, links lead where the pages
are.
"""

import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from docs import assemble
from tests.ports import free_port
from tests.test_docs import ROOT, run, script
from tests.upstreams import Upstream
from tolsey.admin.metrics import METRICS
from tolsey.cli.main import COMMANDS
from tolsey.cli.output import TITLES
from tolsey.errors import STATUSES

pytestmark = pytest.mark.slow

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorials call curl")


def play(page: str, folder: Path) -> tuple[str, list[str]]:
    """What the commands of a page print, and what the upstream heard."""
    empty = folder / "empty"
    empty.mkdir()
    with closing(Upstream()) as upstream:
        status, said = run(script(page, free_port(), free_port(), upstream.port), empty)
        heard = [message.target for message in upstream.heard]
    assert status == 0, said
    return said, heard


@needs_curl
def test_the_token_gate(tmp_path: Path) -> None:
    said, heard = play("docs/tutorials/gate.md", tmp_path)
    assert '"code":"token_missing"' in said
    assert "\ntolsey-cost: 0.01 USD" in said
    assert re.findall(r"^(\d{3})$", said, re.MULTILINE) == ["200", "200", "402", "200"]
    assert "budget_exhausted" in said
    assert re.search(r"^my-team +0\.03 +0\.03 +0 +0 +USD +3 ", said, re.MULTILINE), said
    assert "everything adds up" in said
    assert len(heard) == 4


@needs_curl
def test_delegation(tmp_path: Path) -> None:
    said, heard = play("docs/tutorials/delegation.md", tmp_path)
    assert "caveat_refused" in said
    assert "not wider" in said
    assert re.findall(r"^(\d{3})$", said, re.MULTILINE) == ["200"] * 6 + ["402"]
    (refused,) = re.findall(r'^\{"type".*"budget_exhausted".*$', said, re.MULTILINE)
    assert '"task-47"' in refused
    assert re.search(r"^  task-47 +0\.06 +0\.06 +0 +0 +USD +6 ", said, re.MULTILINE), said
    assert len(heard) == 6


@needs_curl
def test_open_to_strangers(tmp_path: Path) -> None:
    said, heard = play("docs/tutorials/strangers.md", tmp_path)
    assert "payment_required" in said
    assert '"hundred"' in said
    assert re.search(r"^\S.* 100 +20 +0 +80 +sat +2 ", said, re.MULTILINE), said
    assert len(heard) == 2


# --- the site


def test_the_reference_has_all_that_the_code_has() -> None:
    cli, codes, metrics = assemble.cli(), assemble.codes(), assemble.metrics()
    assert [name for name in COMMANDS if f"\n## tolsey {name}\n" not in cli] == []
    assert cli.count("Examples:") == cli.count("```text")
    assert [code for code in (*STATUSES, *TITLES) if f"| `{code}` |" not in codes] == []
    assert [metric.name for metric in METRICS if f"| `{metric.name}` |" not in metrics] == []
    keys = assemble.config()
    assert keys.count("\n| `") == len(re.findall(r"^\| `\w+` \| .*? \| .*? \|", (ROOT / "docs/config.md").read_text(),
                                                 re.MULTILINE))  # fmt: skip


@pytest.mark.parametrize(
    ("place", "link", "turned"),
    [
        ("proofs.md", "[`a`](../proofs/model.py)", "[`a`](https://repository.example/proofs/model.py)"),
        ("runbooks/restore.md", "[a](../config.md#keys)", "[a](../config.md#keys)"),
        ("operating.md", "[a](../SECURITY.md)", "[a](project/security.md)"),
        ("project/security.md", "[a](docs/rules.md)", "[a](../rules.md)"),
        ("operating.md", "[a](#keys) [b](https://x.example/y)", "[a](#keys) [b](https://x.example/y)"),
    ],
)
def test_links_are_turned_to_where_pages_are(
    monkeypatch: pytest.MonkeyPatch, place: str, link: str, turned: str
) -> None:
    monkeypatch.setattr(assemble, "REPOSITORY", "https://repository.example")
    at_root = {where: name for name, where in assemble.AT_ROOT.items()}
    source = ROOT / at_root.get(place, f"docs/{place}")
    assert assemble.turned(link, source, place) == turned


def test_without_a_repository_to_look_at_what_leads_there_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "REPOSITORY", "")
    text = "[`a`](../proofs/model.py), [b](config.md)"
    assert assemble.turned(text, ROOT / "docs/proofs.md", "proofs.md") == "`a`, [b](config.md)"


def test_the_site_has_every_page(tmp_path: Path) -> None:
    assemble.main(tmp_path / "pages")
    found = {path.relative_to(tmp_path / "pages").as_posix() for path in (tmp_path / "pages").rglob("*.md")}
    assert {f"reference/{name}" for name in assemble.REFERENCE} <= found
    assert {place for _, place in assemble.pages()} <= found
