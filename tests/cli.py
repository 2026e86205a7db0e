"""The command line in tests: in this process where only the answer matters, else as the real console script."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from tolsey.cli.main import app

SCRIPT = Path(sys.executable).with_name("tolsey")
"""The console script of the environment that the tests run in."""

ROUTES = """
[[upstream]]
name = "search"
url = "http://127.0.0.1:9000"
headers = { Authorization = "Bearer ${SEARCH_API_KEY}" }
[[route]]
path = "/api/v1/search"
methods = ["GET"]
upstream = "search"
price = "0.01 USD"
[[route]]
path = "/api/v1/free"
methods = ["GET"]
upstream = "search"
price = "0 USD"
[[route]]
path = "/open"
methods = ["GET"]
upstream = "search"
mode = "public"
"""

Outcome = tuple[int, str, str]
"""Exit status, standard output, standard error."""


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would steer the program, and with `env`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("TOLSEY_", "SEARCH_"))}
    return ours | {"COLUMNS": "100"} | dict(env or {})


def tolsey(
    *args: str, stdin: str | bytes = "", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Outcome:
    """Run the console script."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [SCRIPT, *args], input=data, capture_output=True, cwd=cwd, env=environment(env), timeout=30, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def invoke(*args: str, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> Outcome:
    """Run a command in this process. What is not an exit is an error of the test's own."""
    clean = {"TOLSEY_TOKEN": None, "TOLSEY_CONFIG": None, "SEARCH_API_KEY": None}
    result = CliRunner(env=clean | dict(env or {})).invoke(app, list(args), input=stdin, catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def answer(*args: str, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON document of a command that succeeds."""
    status, out, err = invoke(*args, "--json", stdin=stdin, env=env)
    assert (status, err) == (0, ""), err
    found: dict[str, Any] = json.loads(out)
    return found


def refusal(
    *args: str, stdin: str | bytes = "", env: Mapping[str, str] | None = None, status: int = 1
) -> dict[str, Any]:
    """The JSON document on standard error of a command that fails with `status`."""
    found, _, err = invoke(*args, "--json", stdin=stdin, env=env)
    assert found == status, err
    document: dict[str, Any] = json.loads(err)
    assert document["type"] == f"urn:tolsey:problem:{document['code']}"
    assert document["title"]
    assert document["detail"]
    return document


def gateway(directory: Path, routes: str = ROUTES) -> Path:
    """Make a gateway with `routes`; its config."""
    answer("init", str(directory))
    config = directory / "tolsey.toml"
    config.write_text(config.read_text() + routes)
    return config
