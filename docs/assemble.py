"""Lays out the docs site for mkdocs: the pages of docs/, those at the root, and the reference made from the code.

`python docs/assemble.py FOLDER` writes Markdown into FOLDER, anew each time. What the code says is read from the code:
commands with their help, keys of the config, codes, metrics. Links that lead out of docs/ are turned to the page that
is in the site, or to the repository.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from tolsey.admin.metrics import METRICS
from tolsey.cli.main import COMMANDS, app
from tolsey.cli.output import TITLES
from tolsey.errors import STATUSES
from tolsey.refusals import BY_CODE

ROOT: Final = Path(__file__).resolve().parent.parent
REPOSITORY: Final = os.environ.get("TOLSEY_REPOSITORY", "").rstrip("/")
"""Where the files of the repository can be looked at, as `https://github.com/OWNER/NAME/blob/main`. Without it what
leads there is text.
"""

AT_ROOT: Final[Mapping[str, str]] = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
}
"""Pages at the root of the repository, and where they are in the site."""

WIDTH: Final = "100"
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")
_CONFIG_SECTION = re.compile(r"^## `(\[+[a-z_]+\]+)`\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_CONFIG_ROW = re.compile(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", re.MULTILINE)


def main(folder: Path) -> None:
    """Write the site's pages."""
    shutil.rmtree(folder, ignore_errors=True)
    for source, place in pages():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(turned(source.read_text("utf-8"), source, place), "utf-8")
    reference = folder / "reference"
    reference.mkdir()
    for name, text in REFERENCE.items():
        (reference / name).write_text(text(), "utf-8")


def pages() -> Iterator[tuple[Path, str]]:
    """Every page that somebody wrote, and its place in the site."""
    for name, place in AT_ROOT.items():
        yield ROOT / name, place
    docs = ROOT / "docs"
    for source in sorted(docs.rglob("*.md")):
        if ".venv" not in source.parts:
            yield source, source.relative_to(docs).as_posix()


def turned(text: str, source: Path, place: str) -> str:
    """The text of a page with its links as they are in the site."""
    here = Path(place).parent

    def turn(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        found = (source.parent / target).resolve()
        inside = found.relative_to(ROOT).as_posix()
        if inside.startswith("docs/") and found.suffix == ".md":
            inside = inside.removeprefix("docs/")
        elif inside in AT_ROOT:
            inside = AT_ROOT[inside]
        else:
            return f"[{text}]({REPOSITORY}/{inside}{anchor})" if REPOSITORY else text
        up = "../" * len(here.parts)
        return f"[{text}]({up}{inside}{anchor})"

    return _LINK.sub(turn, text)


def cli() -> str:
    """The help of every command."""
    whole: Any = get_command(app)
    parts = ["# Command line", "Made from `tolsey COMMAND --help`."]
    for name in COMMANDS:
        found = whole.commands[name]
        below = [[name, each] for each in found.commands] if isinstance(found, TyperGroup) else []
        for words in ([name], *below):
            parts += [f"{'#' * (len(words) + 1)} tolsey {' '.join(words)}", f"```text\n{help_of(words)}\n```"]
    return "\n\n".join(parts) + "\n"


def help_of(words: list[str]) -> str:
    """What a command says of itself, as in a terminal of a fixed width."""
    env = {"COLUMNS": WIDTH, "TERMINAL_WIDTH": WIDTH, "NO_COLOR": "1"}
    result = CliRunner(env=env).invoke(app, [*words, "--help"], prog_name="tolsey", catch_exceptions=False)
    return result.stdout.strip()


def config() -> str:
    """Every key of the config on one page. The tests hold the page of the config against the code."""
    text = (ROOT / "docs/config.md").read_text("utf-8")
    parts = ["# Keys of the config", "All of them, by section; [the config](../config.md) says what each means."]
    for section, body in _CONFIG_SECTION.findall(text):
        rows = "\n".join(f"| `{key}` | {kind} | {default} |" for key, kind, default in _CONFIG_ROW.findall(body))
        parts += [f"## `{section}`", f"| key | type | default |\n| --- | --- | --- |\n{rows}"]
    return "\n\n".join(parts) + "\n"


def codes() -> str:
    """Every code that a caller of the gateway or of the command line can meet."""
    rows = "\n".join(
        f"| `{code}` | {status} | {title} | `{BY_CODE[code].__name__}` |" for code, (status, title) in STATUSES.items()
    )
    own = "\n".join(f"| `{code}` | {title} |" for code, title in TITLES.items())
    return (
        "# Codes\n\nMade from the code; [refusals](../refusals.md) says what the caller can do.\n\n"
        "## Of the gateway\n\n| code | status | title | exception in `tolsey.refusals` |\n| --- | --- | --- | --- |\n"
        f"{rows}\n\n## Of the command line alone\n\n| code | title |\n| --- | --- |\n{own}\n"
    )


def metrics() -> str:
    """Every metric with its help."""
    rows = "\n".join(
        f"| `{m.name}` | {m.kind} | {', '.join(f'`{label}`' for label in m.labels) or 'none'} | {m.help} |"
        for m in METRICS
    )
    return (
        "# Metrics\n\nMade from the code; [metrics and traces](../metrics.md) says more of each.\n\n"
        f"| metric | kind | labels | help |\n| --- | --- | --- | --- |\n{rows}\n"
    )


REFERENCE: Final = {"cli.md": cli, "config.md": config, "codes.md": codes, "metrics.md": metrics}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
