"""No snippet on any page is without a test that looks at it, or a reason; and no page without a place on the site."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_docs import DOCS, PAGES, ROOT
from tolsey.config import problems

RUN = {
    "README.md": "tests/test_docs.py",
    "docs/admin.md": "tests/test_docs_admin.py",
    "docs/agents.md": "tests/test_docs_agents.py",
    "docs/observe.md": "tests/test_docs.py",
    "docs/runbooks/failover.md": "tests/test_runbooks.py",
    "docs/runbooks/key-compromise.md": "tests/test_runbooks.py",
    "docs/runbooks/ledger-full.md": "tests/test_runbooks.py",
    "docs/runbooks/restore.md": "tests/test_runbooks.py",
    "docs/tutorials/delegation.md": "tests/test_docs_site.py",
    "docs/tutorials/gate.md": "tests/test_docs_site.py",
    "docs/tutorials/strangers.md": "tests/test_docs_site.py",
}
"""Pages whose shell is run, and by what."""

CHECKED = {
    "console": "what stands behind a `$` is parsed by the command line in tests/test_docs.py",
    "http": "tests/test_docs.py compares it with an answer",
    "js": "tests/test_docs_agents.py runs it",
    "json": "tests/test_docs.py holds problem documents against the code",
    "python": "tests/test_docs.py, tests/test_docs_agents.py and tests/test_docs_mcp.py run it",
    "toml": "read below, and in tests/test_docs.py as a whole config",
}
"""Languages that a test looks at on every page."""

NOT_RUN = {
    ("CONTRIBUTING.md", "sh"): "they are the targets that CI runs",
    ("docs/approvals.md", "sh"): "tests/test_docs.py parses each; tests/test_approvals.py is the same story",
    ("docs/audit.md", "text"): "what it looks like; tests/test_audit.py has it for real",
    **{
        ("docs/beside.md", language): "tests/test_proxies.py runs the proxies with what stands there"
        for language in ("caddyfile", "haproxy", "lua", "nginx", "sh", "yaml")
    },
    ("docs/mcp.md", "sh"): "tests/test_docs.py parses it; tests/test_docs_mcp.py calls with a token like it",
    ("docs/metrics.md", "yaml"): "tests/test_deploy.py holds the alerts against a file that promtool checks",
    ("docs/observe.md", ""): "a header and a caveat",
    ("docs/operating.md", "text"): "a message; tests/test_lost_ledger.py has its words",
    ("docs/report.md", "sh"): "tests/test_docs.py parses each; they mail and need a week of calls",
}
"""The rest: page and language, and why nothing runs it."""


def fences() -> Iterator[tuple[str, str, str]]:
    """Page, language and text of every fenced block, also of those in lists."""
    for page in PAGES:
        text = page.read_text("utf-8")
        found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
        assert 2 * len(found) == len(re.findall(r"^ *```", text, re.MULTILINE)), page
        for _, language, block in found:
            yield page.relative_to(ROOT).as_posix(), language, block


def test_every_snippet_is_looked_at() -> None:
    left = {(page, language) for page, language, _ in fences() if language not in CHECKED}
    accounted = {(page, "sh") for page in RUN} | NOT_RUN.keys()
    assert left == accounted, "say in RUN or NOT_RUN what runs it, or why nothing does"


TOML = [(page, text) for page, language, text in fences() if language == "toml"]


@pytest.mark.parametrize(("page", "text"), TOML, ids=[f"{page}: {text[:20]!r}" for page, text in TOML])
def test_configs_are_toml_of_keys_that_are_known(page: str, text: str, tmp_path: Path) -> None:
    tomllib.loads(text)
    file = tmp_path / "tolsey.toml"
    file.write_text(text)
    assert [error for error in problems(file, {}) if "unknown key" in error.reason] == []


def test_every_page_has_its_place_on_the_site() -> None:
    placed = set(re.findall(r"([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)}
    pages -= {page for page in pages if page.startswith("decisions/")}
    assert pages - placed == set(), "name it in the nav of mkdocs.yml"
