"""What the docs say is so: their snippets run, their commands parse, their tables are complete."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from tests.aperture import EXPECTED
from tests.certificates import Authority
from tests.ports import free_port
from tests.upstreams import Upstream
from tolsey.admin.metrics import METRICS
from tolsey.cli.main import COMMANDS, app
from tolsey.cli.output import TITLES
from tolsey.config import Config, load, problems
from tolsey.errors import STATUSES, Refusal
from tolsey.gateway.problems import members
from tolsey.token.macaroon import Macaroon

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = (*sorted(ROOT.glob("*.md")), *sorted(page for page in DOCS.rglob("*.md") if ".venv" not in page.parts))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_HEREDOC = re.compile(r"<<'?(\w+)'?\n.*?^\1$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| (`.*) \|$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: where it stands, its language, its text."""

    page: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    """Every fenced block of the docs in one of these languages."""
    return [
        Block(page.relative_to(ROOT).as_posix(), language, text)
        for page in PAGES
        for language, text in _BLOCK.findall(page.read_text("utf-8"))
        if language in languages
    ]


def rows(page: str, section: str) -> list[list[str]]:
    """The cells of the table rows below a heading that begin with code, up to the next heading."""
    text = (DOCS / page).read_text("utf-8")
    _, found, rest = text.partition(f"\n## {section}\n")
    assert found, f"{page} has no section {section}"
    return [row.split(" | ") for row in _ROW.findall(rest.partition("\n## ")[0])]


def names(cell: str) -> list[str]:
    """What stands in backquotes in a cell."""
    return _CODE.findall(cell)


def commands(line: str) -> Iterator[list[str]]:
    """The arguments of every `tolsey` in a line of shell, also of those in `$(…)` and behind a pipe."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not re.fullmatch(r"[();<>|&]+", word):
            words.append(word)
            continue
        if words[:1] == ["tolsey"]:
            yield words[1:]
        words = []


def shell_lines(block: Block) -> list[str]:
    """What is typed in a block: everything in `sh`, what stands behind a `$` in `console`."""
    lines = _HEREDOC.sub("", block.text).splitlines()
    if block.language == "sh":
        return lines
    return [line.strip().removeprefix("$ ") for line in lines if line.strip().startswith("$ ")]


def fault(arguments: list[str]) -> str | None:
    """Why a command line would not be understood, or None. Nothing is run."""
    command: Any = get_command(app)
    context = command.make_context("tolsey", [], resilient_parsing=True)
    name, rest = "tolsey", list(arguments)
    while isinstance(command, TyperGroup):
        name = rest.pop(0) if rest else ""
        if name not in command.commands:
            return f"there is no command {name!r}"
        command = command.commands[name]
    try:
        command.make_context(name, rest, parent=context)
    except typer.TyperException as error:
        return error.format_message()
    except typer.Exit:
        pass
    return None


TYPED = [(block.page, line, words) for block in blocks("sh", "console") for line in shell_lines(block)
         for words in commands(line)]  # fmt: skip


def test_commands_are_found_and_checked() -> None:
    line = "export A=$(tolsey mint --label 'a b') && cat t | tolsey inspect - < t.txt  # tolsey nothing"
    assert list(commands(line)) == [["mint", "--label", "a b"], ["inspect", "-"]]
    assert fault(["mint", "--label", "x"]) is None
    assert fault(["keys", "rotate", "--kind", "admin"]) is None
    for wrong in (["mnt"], ["mint"], ["mint", "--lable", "x"], ["keys", "turn"], ["serve", "--port", "x"]):
        assert fault(wrong), wrong


@pytest.mark.parametrize(("page", "line", "words"), TYPED, ids=[f"{page}: {line}"[:60] for page, line, _ in TYPED])
def test_every_command_line_is_understood(page: str, line: str, words: list[str]) -> None:
    assert fault(words) is None, f"{page}: {line}"


def options_of(name: str) -> set[str]:
    """Every option of a command and of those below it."""
    command: Any = get_command(app)
    found = command.commands[name]
    below = [found.commands[each] for each in found.commands] if isinstance(found, TyperGroup) else []
    return {option for each in (found, *below) for param in each.params for option in param.opts} | {"--help"}


def test_commands_named_in_the_text_are_there() -> None:
    wrong = []
    for page in PAGES:
        for code in _CODE.findall(_BLOCK.sub("", page.read_text("utf-8"))):
            found = re.match(r"tolsey ([a-z]+)(.*)", code)
            if found is None:
                continue
            if found[1] not in COMMANDS:
                wrong.append(f"{page.name}: {code}")
            known = options_of(found[1])
            wrong += [f"{page.name}: {code}" for option in re.findall(r"--[a-z-]+", found[2]) if option not in known]
    assert not wrong


def test_every_command_is_in_the_docs() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    assert [name for name in COMMANDS if f"tolsey {name}" not in text] == []


# --- what runs


@pytest.fixture
def token() -> str:
    """A token as the README's quickstart mints it."""
    minted = Macaroon.mint(root_key=b"k", identifier=b"i")
    texts = ("label = team-research-q2 n", "scope = /api/v1/*", "expires = 2030-06-30", "budget = 10 USD")
    return minted.attenuate(*texts).to_text()


OFFLINE = [block for block in blocks("python") if block.page not in ("docs/agents.md", "docs/mcp.md")]
"""Those call a gateway: tests/test_docs_agents.py, tests/test_docs_mcp.py."""


@pytest.mark.parametrize("block", OFFLINE, ids=lambda block: block.page)
def test_python_snippets_run(block: Block, token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOLSEY_TOKEN", token)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.page, "exec"), {})


def script(page: str, port: int, admin: int, upstream: int) -> str:
    """A page's quickstart and what follows it, on free ports; as a person would, it waits for the gateway."""
    texts = [block.text for block in blocks("sh") if block.page == page and not block.text.startswith("make ")]
    on = {"8402": str(port), "9000": str(upstream)}
    text = re.sub(r"\b(?:8402|9000)\b", lambda found: on[found[0]], "\n".join(texts))
    assert text.count("tolsey serve &\n") == 1
    ports = f"sed 's/8402/{port}/; s/8403/{admin}/' tolsey.toml > new && mv new tolsey.toml\n"
    if "cat > tolsey.toml" in text:
        add = f"printf '[admin]\\nport = {admin}\\n' >> tolsey.toml\n"
        ports = f"{add}sed -i 's/^.server.$/&\\nport = {port}/' tolsey.toml\n"
    ready = f"until curl -sf http://127.0.0.1:{admin}/readyz; do kill -0 $! && sleep 0.05; done\n"
    text = text.replace("tolsey serve &\n", f"{ports}tolsey serve &\ntrap 'kill $!; wait' EXIT\n{ready}")
    return f"set -e\n{text}\necho; tolsey trail; tolsey fsck\n"


def run(text: str, folder: Path) -> tuple[int, str]:
    """Run a script in a process group of its own, of which nothing is left; its status and what it printed."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TOLSEY_")}
    ours["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ours['PATH']}"
    out = folder.with_suffix(".out")
    with out.open("wb") as file:
        shell = subprocess.Popen(
            ["sh", "-c", text], cwd=folder, env=ours, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status = shell.wait(timeout=150)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
    return status, out.read_text("utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's quickstart calls curl")
def test_the_quickstart_runs_as_it_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with closing(Upstream()) as upstream:
        status, said = run(script("README.md", free_port(), free_port(), upstream.port), folder)
        heard = [message.line for message in upstream.heard]
    assert status == 0, said
    assert heard == ["GET /api/v1/search HTTP/1.1"]
    answered = said.lower()
    headers = [text for block in blocks("http") if block.page == "README.md" for text in block.text.splitlines()]
    assert headers
    for header in headers:
        wanted = "tolsey-hold: " if header.startswith("tolsey-hold: ") else header.lower()
        assert f"\n{wanted}" in answered, said
    (shown,) = (json.loads(block.text) for block in blocks("json") if block.page == "README.md")
    # It ends without a new line: what the gateway logs at that moment comes right behind it.
    decode = json.JSONDecoder().raw_decode
    (refused,) = (decode(line)[0] for line in said.splitlines() if line.startswith('{"type":'))
    for document in (shown, refused):
        assert document["link"].pop("prefix_id")
    assert shown == refused
    assert re.search(r"^team-research-q2 +10 +0\.01 +0 +9\.99 +USD +1 ", said, re.MULTILINE), said
    assert "everything adds up" in said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the five minutes call curl")
def test_the_five_minutes_run_as_they_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with closing(Upstream()) as upstream:
        text = script("docs/observe.md", free_port(), free_port(), upstream.port)
        counted = "until tolsey report 2>&1 | grep token_missing; do sleep 0.1; done\n"
        status, said = run(text.replace("tolsey report ", f"{counted}tolsey report ", 1), folder)
    assert status == 0, said
    assert re.search(r"^user-agent curl/\S+ +no +1 +0 +0\.0% +0\.01 USD ", said, re.MULTILINE), said
    assert "tolsey mint --label user-agent-curl/" in said
    assert '-mode = "observe"\n+mode = "enforce"' in said


@pytest.mark.slow
def test_the_prices_shown_are_those_that_are_quoted(tmp_path: Path) -> None:
    (tmp_path / "tolsey.toml").write_text("".join(b.text for b in blocks("toml") if b.page == "docs/pricing.md"))
    shown = [block for block in blocks("console") if block.page == "docs/pricing.md"]
    assert len(shown) == 4
    for block in shown:
        lines = block.text.splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            _, said = run(lines[start].removeprefix("$ "), tmp_path)
            said = re.sub(r"of config [0-9a-f]{12}", f"of config {'0' * 12}", said)
            assert said.splitlines() == lines[start + 1 : end], lines[start]


def test_the_table_about_aperture_is_what_it_answers() -> None:
    """`make test-lightning` holds the same table against the real one."""
    page = (DOCS / "divergences.md").read_text("utf-8")
    for asked, answers in EXPECTED.items():
        assert f"\n| {asked} | {' | '.join(answers)} |\n" in page


# --- what is complete


def test_every_refusal_is_explained() -> None:
    found = {names(code)[0]: int(status) for code, status, *_ in rows("refusals.md", "Codes")}
    assert found == {code: status for code, (status, _) in STATUSES.items()}
    assert len(rows("refusals.md", "Codes")) == len(found)


def test_every_code_of_the_command_line_is_explained() -> None:
    found = [names(row[0])[0] for row in rows("refusals.md", "Codes of the command line")]
    assert sorted(found) == sorted(TITLES)


def test_every_metric_is_explained() -> None:
    table = rows("metrics.md", "Prometheus")
    found = [(names(name)[0], kind, tuple(names(labels))) for name, kind, labels, *_ in table]
    assert sorted(found) == sorted((metric.name, metric.kind, metric.labels) for metric in METRICS)


def test_every_member_of_a_refusal_is_explained() -> None:
    whole = Refusal("budget_exhausted", "d", "l", "p", "c", "USD", 1, 2, 3)
    assert {name for row in rows("refusals.md", "Members") for name in names(row[0])} == members(whole).keys()


@pytest.mark.parametrize("block", blocks("json"), ids=lambda block: f"{block.page}: {block.text[:30]!r}")
def test_documents_shown_are_as_they_are_made(block: Block) -> None:
    shown = json.loads(block.text)
    if "code" not in shown:
        return
    status, title = STATUSES[shown["code"]]
    assert (shown["status"], shown["title"]) == (status, title)
    assert shown["type"] == f"urn:tolsey:problem:{shown['code']}"
    order = list(members(Refusal("budget_exhausted", "d", "l", "p", "c", "USD", 1, 2, 3)))
    assert list(shown) == [name for name in order if name in shown]


SECTIONS = {
    "`[server]`": "[server]",
    "`[admin]`": "[admin]",
    "`[decide]`": "[decide]",
    "`[keys]`": "[keys]",
    "`[ledger]`": "[ledger]",
    "`[seal]`": "[seal]",
    "`[limits]`": "[limits]",
    "`[observe]`": "[observe]",
    "`[telemetry]`": "[telemetry]",
    "`[[upstream]]`": "[[upstream]]",
    "`[[route]]`": "[[route]]",
    "`[[model]]`": "[[model]]",
    "`[[mcp]]`": "[[mcp]]",
    "`[payment]`": "[payment]",
    "`[alerts]`": "[alerts]",
    "`[[oidc]]`": "[[oidc]]",
    "`[[mint_policy]]`": "[[mint_policy]]",
}
ENV = {
    "AUDIT_TOKEN": "k",
    "SEARCH_API_KEY": "k",
    "COLLECTOR_KEY": "k",
    "LND_INVOICE_MACAROON": "00",
    "ALERT_URL": "https://hooks.example/x",
    "OIDC_SECRET": "k",
    "ALERT_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
ALERTS = '[alerts]\nurl = "https://h.example"\nsecret = "${ALERT_SECRET}"\n'
UPSTREAM = '[[upstream]]\nname = "u"\nurl = "http://u.example"\n'
MODEL = '[[model]]\nname = "m"\ninput = "1 USD"\noutput = "1 USD"\n'
PAYMENT = '[payment]\nbackend = "fake"\noffer = [{ name = "o" }]\n'
OIDC = '[[oidc]]\nname = "o"\nissuer = "https://o.example"\naudience = "a"\n'
POLICY = '[[mint_policy]]\nname = "p"\nprovider = "o"\nclaims = { sub = "*" }\n'
BOUNDS = 'budget = "1 USD"\nscope = "/a"\nlifetime = "1h"\n'
MCP = '[[mcp]]\npath = "/mcp"\nserver = [{ upstream = "u" }]\n'
ROUTE = '[[route]]\npath = "/*"\nmethods = ["*"]\nupstream = "u"\n'


def known_keys(file: Path, header: str) -> set[str]:
    """The keys that the config takes in a section: an unknown one that is like none of them has them all named."""
    file.write_text(f"{header}\nqqqqqqqqqqqq = 1\n" if header else "qqqqqqqqqqqq = 1\n")
    (complaint,) = (str(error) for error in problems(file, {}) if "qqqqqqqqqqqq" in str(error))
    assert "; known are " in complaint
    return set(re.findall(r'"(\w+)"', complaint.partition("; known are ")[2]))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_the_config_is_explained(section: str, tmp_path: Path) -> None:
    found = [names(row[0])[0] for row in rows("config.md", section)]
    assert len(set(found)) == len(found)
    assert set(found) == known_keys(tmp_path / "tolsey.toml", SECTIONS[section])


def test_every_section_of_the_config_is_explained(tmp_path: Path) -> None:
    assert known_keys(tmp_path / "tolsey.toml", "") == {name.strip("`[]") for name in SECTIONS}


def the_config(file: Path, text: str) -> Config:
    file.write_text(text)
    found = load(file, ENV)
    return Config(**{name: getattr(found, name) for name in Config.__slots__} | {"generation": "", "source": b""})


@pytest.mark.parametrize("section", SECTIONS)
def test_the_defaults_are_as_explained(section: str, tmp_path: Path) -> None:
    file = tmp_path / "tolsey.toml"
    header = SECTIONS[section]
    alone = {
        "[[upstream]]": UPSTREAM,
        "[[route]]": UPSTREAM + ROUTE + 'price = "1 USD"\n',
        "[[model]]": MODEL,
        "[[mcp]]": UPSTREAM + MCP,
        "[payment]": PAYMENT,
        "[alerts]": ALERTS,
        "[[oidc]]": OIDC,
        "[[mint_policy]]": OIDC + POLICY + BOUNDS,
    }
    before = alone.get(header, f"{header}\n")
    without = the_config(file, before)
    for key, _, default, *_ in rows("config.md", section):
        if default.startswith("`"):
            assert the_config(file, f"{before}{names(key)[0]} = {names(default)[0]}\n") == without, key
        else:
            assert default.split()[0] in ("none", "required", "that"), key


def test_the_examples_of_the_config_are_one_that_works(tmp_path: Path) -> None:
    examples = [block.text for block in blocks("toml") if block.page == "docs/config.md"]
    file = tmp_path / "tolsey.toml"
    file.write_text("\n".join(examples))
    authority = Authority(tmp_path / "tls")
    for name in ("server", "client"):
        authority.certify(name)
    assert problems(file, ENV) == []
    assert load(file, ENV).warnings == ()
    assert len(examples) == len(SECTIONS)
    for section, example in zip(SECTIONS, examples, strict=True):
        assert example.startswith(SECTIONS[section])
        for row in rows("config.md", section):
            assert re.search(rf"^{names(row[0])[0]} = ", example, re.MULTILINE), f"{section}: no example of {row[0]}"
