"""`tolsey exec` as a person runs it: the program gets a narrower token, and all else is its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import SCRIPT, environment, refusal, tolsey
from tests.tokens import mint
from tolsey import inspect

TOKEN = mint("label = team n", "budget = 10 USD").to_text()
HOLDER = {"TOLSEY_TOKEN": TOKEN}
PYTHON = (sys.executable, "-c")


def test_the_program_gets_a_narrower_token_and_never_the_wider_one() -> None:
    program = "import os, sys; print(os.environ['TOLSEY_TOKEN']); print(open('/proc/self/environ').read(), sys.argv)"
    options = ("--label", "job", "--budget", "5 USD", "--scope", "/a", "--caveat", "method = GET")
    status, out, err = tolsey("exec", *options, "--", *PYTHON, program, "--json", "--", "x", env=HOLDER)
    token, rest = out.split("\n", 1)
    found = inspect(token)
    assert (status, err) == (0, "")
    assert (found.links[-1].label, found.budgets, found.scope, found.method) == ("job", ("5 USD",), ("/a",), ("GET",))
    assert TOKEN not in rest
    assert rest.endswith("['-c', '--json', '--', 'x']\n")


def test_the_token_is_in_no_command_line(tmp_path: Path) -> None:
    program = f"print(open('/proc/self/cmdline').read()); print(open('/proc/{os.getpid()}/cmdline').read())"
    _, out, _ = tolsey("exec", "--label", "job", "--", *PYTHON, program, env=HOLDER)
    assert "tolsey_" not in out


def test_options_end_at_the_program() -> None:
    assert tolsey("exec", "--label", "job", "echo", "--label", "other", env=HOLDER)[:2] == (0, "--label other\n")


def test_standard_input_is_the_programs() -> None:
    assert tolsey("exec", "--label", "job", "--", "cat", stdin="a line", env=HOLDER)[:2] == (0, "a line")


@pytest.mark.parametrize("status", [0, 1, 77])
def test_the_exit_status_is_the_programs(status: int) -> None:
    assert tolsey("exec", "--label", "job", "--", "sh", "-c", f"exit {status}", env=HOLDER) == (status, "", "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_signals_reach_the_program(name: str) -> None:
    """It is the same process, so that also one that nobody can catch reaches it."""
    command: list[str | Path] = [SCRIPT, "exec", "--label", "job", "--", "sh", "-c", "echo ready; exec sleep 30"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(HOLDER)) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.Signals[name])
        assert running.wait(10) == -signal.Signals[name]


def test_a_program_that_writes_to_a_closed_pipe_ends() -> None:
    """What Python ignores for itself, the program does not find ignored."""
    ignored = int(
        tolsey("exec", "--label", "job", "--", "grep", "SigIgn", "/proc/self/status", env=HOLDER)[1].split()[1], 16
    )
    assert not ignored >> (signal.SIGPIPE - 1) & 1
    assert not ignored >> (signal.SIGXFSZ - 1) & 1


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("/no/such/program",), 127, "file_unusable"),
        (("no-such-program",), 127, "file_unusable"),
        (("/",), 126, "file_unusable"),
        ((TOKEN,), 127, "file_unusable"),
        (("",), 2, "usage"),
        ((), 2, "usage"),
    ],
)
def test_a_program_that_cannot_be_run(words: tuple[str, ...], status: int, code: str) -> None:
    found, out, err = tolsey("exec", "--json", "--label", "job", "--", *words, env=HOLDER)
    assert (found, out) == (status, "")
    document = json.loads(err)
    assert document["code"] == code
    assert TOKEN not in err


@pytest.mark.parametrize(
    ("options", "env", "status", "code"),
    [
        (("--label", "job"), {}, 1, "token_missing"),
        (("--label", "job"), {"TOLSEY_TOKEN": "x"}, 1, "token_malformed"),
        (("--label", "job", "--budget", "11 USD"), HOLDER, 1, "caveat_wider"),
        (("--label", "job", "--budget", "5"), HOLDER, 1, "caveat_invalid"),
        ((), HOLDER, 2, "usage"),
    ],
)
def test_without_a_narrower_token_nothing_is_run(
    options: tuple[str, ...], env: dict[str, str], status: int, code: str
) -> None:
    assert refusal("exec", "--json", *options, "--", "echo", "ran", env=env, status=status)["code"] == code
    found, out, err = tolsey("exec", *options, "--", "echo", "--json", "ran", env=env)
    assert (found, out) == (status, "")
    assert err.startswith("error: "), "--json behind -- is the program's"
