"""`init`, `check` and `keys`, and what every command has: help, JSON, one plain message when it fails, and silence."""

import json
import os
import pty
import pwd
import re
import shlex
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.cli import ROUTES, SCRIPT, answer, environment, gateway, invoke, refusal, tolsey
from tests.reading import entries
from tolsey.cli.main import COMMANDS
from tolsey.cli.template import TEMPLATE
from tolsey.errors import KeyringError
from tolsey.store.keyring import Keyring
from tolsey.token.chain import ADMIN, CAPABILITY
from tolsey.token.macaroon import Macaroon, verify

MINT = ("mint", "--label", "a", "--budget", "1 USD")
ENV = {"SEARCH_API_KEY": "sk-sesame"}
GROUPS = {
    "keys": ("list", "rotate", "drop"),
    "audit": ("verify", "key", "checkpoint", "rotate", "prove", "check"),
    "alerts": ("list", "retry", "test"),
}
LEAVES = [(name,) for name in COMMANDS if name not in GROUPS] + [
    (group, name) for group, names in GROUPS.items() for name in names
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return gateway(tmp_path / "g")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def secrets_of(config: Path) -> list[str]:
    return [key["secret"] for key in json.loads((config.parent / "data/keys").read_bytes())["keys"]]


# init


def test_init_makes_a_gateway_and_prints_the_admin_token_once(tmp_path: Path) -> None:
    status, out, err = tolsey("init", "new/gateway", cwd=tmp_path)
    directory = tmp_path / "new/gateway"
    assert status == 0
    assert sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*")) == [
        "data",
        "data/keys",
        "data/keys.lock",
        "tolsey.toml",
    ]
    assert (mode(directory / "data"), mode(directory / "data/keys")) == (0o700, 0o600)
    assert (directory / "tolsey.toml").read_text() == TEMPLATE
    token = out.removesuffix("\n")
    macaroon = Macaroon.deserialize(token)
    key_id, secret = Keyring.open(directory / "data/keys").current(ADMIN)
    verify(macaroon, secret)
    assert re.fullmatch(rf"tolsey-admin:1:{key_id}:[A-Za-z0-9_-]{{22}}:1", macaroon.identifier.decode())
    assert [str(caveat).rpartition(" ")[0] for caveat in macaroon.caveats] == ["label = admin"]
    assert token not in err
    assert all(token.encode() not in path.read_bytes() for path in directory.rglob("*") if path.is_file())
    assert "tolsey serve" in err
    assert tolsey("check", cwd=directory)[:2] == (0, "tolsey.toml: no errors\n")


def test_init_here_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = answer("init")
    token = found.pop("admin_token")
    assert token.startswith("tolsey_")
    assert found == {
        "directory": str(tmp_path),
        "config": str(tmp_path / "tolsey.toml"),
        "keys": str(tmp_path / "data/keys"),
    }


@pytest.mark.parametrize(
    ("name", "code", "detail"),
    [
        ("tolsey.toml", "directory_refused", "already"),
        (".git", "directory_refused", "not empty"),
        ("data", "directory_refused", "not empty"),
    ],
)
def test_init_refuses_a_directory_that_is_not_empty(tmp_path: Path, name: str, code: str, detail: str) -> None:
    (tmp_path / name).write_text("x")
    found = refusal("init", str(tmp_path))
    assert (found["code"], detail in found["detail"]) == (code, True)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "x"


@pytest.mark.parametrize("below", ["", "/below"])
def test_init_where_a_file_stands(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("x")
    found = refusal("init", f"{tmp_path}/file{below}")
    assert found["code"] == "file_unusable"
    assert f"{tmp_path}/file" in found["detail"]


def test_init_takes_back_what_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> Keyring:
        raise KeyringError(f"{path}: No space left on device")

    monkeypatch.setattr(Keyring, "create", fail)
    assert refusal("init", str(tmp_path))["code"] == "keyring_invalid"
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    answer("init", str(tmp_path))


# check


def test_check_finds_nothing_wrong(config: Path) -> None:
    answer("mint", "-c", str(config), "--label", "a", "--budget", "1 USD")
    found = answer("check", "-c", str(config), env=ENV)
    assert (found["config"], found["errors"], found["warnings"]) == (str(config), [], [])
    assert all("WAL-reset" in note for note in found["notes"])
    assert invoke("check", env=ENV | {"TOLSEY_CONFIG": str(config)})[:2] == (0, f"{config}: no errors\n")


def test_check_names_file_line_and_key_of_every_error(config: Path) -> None:
    config.write_text("[server]\nprot = 1\nport = 0\n" + ROUTES)
    status, out, err = invoke("check", "-c", str(config), "--json")
    assert status == 1
    errors = json.loads(out)["errors"]
    assert [(e["line"], e["key"]) for e in errors] == [
        (2, "server.prot"),
        (3, "server.port"),
        (8, "upstream[0].headers.Authorization"),
    ]
    assert all(e["file"] == str(config) and e["code"] == "config_invalid" for e in errors)
    assert json.loads(err) == errors[0]
    status, out, err = invoke("check", "-c", str(config))
    assert (status, out) == (1, "")
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert [line.split(": ")[:3] for line in lines] == [["error", f"{config}:{e['line']}", e["key"]] for e in errors]


def test_check_warns_of_a_route_that_never_matches(config: Path) -> None:
    config.write_text(config.read_text() + ROUTES[ROUTES.index("[[route]]") :])
    found = answer("check", "-c", str(config), env=ENV)
    assert len(found["warnings"]) == 3
    status, out, err = invoke("check", "-c", str(config), env=ENV)
    assert (status, out) == (0, f"{config}: no errors\n")
    assert err.count("warning: ") == 3


def spoil(config: Path, how: str) -> None:
    data = config.parent / "data"
    match how:
        case "no keyring":
            (data / "keys").unlink()
        case "open keyring":
            (data / "keys").chmod(0o640)
        case "no ledger":
            (data / "ledger.db").unlink()
        case "empty ledger":
            (data / "ledger.db").write_bytes(b"")
        case "damaged ledger":
            (data / "ledger.db").write_bytes(b"x" * 8192)
        case "no mark":
            (data / "keys.mark").unlink()


@pytest.mark.parametrize(
    ("how", "code", "detail"),
    [
        ("no keyring", "keyring_invalid", "No such file"),
        ("open keyring", "keyring_invalid", "chmod 600"),
        ("no ledger", "ledger_refused", "empty"),
        ("empty ledger", "ledger_refused", "empty"),
        ("damaged ledger", "ledger_unavailable", "not a database"),
        ("no mark", "ledger_refused", "mark"),
    ],
)
def test_check_looks_at_the_keyring_and_the_ledger(config: Path, how: str, code: str, detail: str) -> None:
    answer("mint", "-c", str(config), "--label", "a", "--budget", "1 USD")
    spoil(config, how)
    before = {path: path.read_bytes() for path in config.parent.rglob("*") if path.is_file()}
    found = refusal("check", "-c", str(config), env=ENV)
    assert (found["code"], detail in found["detail"]) == (code, True), found
    assert all(path.read_bytes() == was for path, was in before.items())


@pytest.mark.parametrize("command", [("check",), ("serve",), MINT, ("trail",), ("fsck",), ("keys", "list")])
def test_a_config_that_is_not_there(tmp_path: Path, command: tuple[str, ...]) -> None:
    found = refusal(*command, "-c", f"{tmp_path}/x")
    assert (found["code"], found["file"], found["line"]) == ("config_invalid", f"{tmp_path}/x", None)
    assert "tolsey init" in found["detail"]


@pytest.mark.parametrize("command", [MINT, ("trail",), ("fsck",), ("keys", "list"), ("keys", "rotate")])
def test_only_what_calls_upstreams_needs_their_secrets(config: Path, command: tuple[str, ...]) -> None:
    answer(*MINT, "-c", str(config))
    answer(*command, "-c", str(config))
    assert "SEARCH_API_KEY" in refusal("check", "-c", str(config))["detail"]
    assert "SEARCH_API_KEY" in refusal("serve", "-c", str(config))["detail"]


# keys


def test_keys_rotate_and_drop(config: Path) -> None:
    c = ("-c", str(config))
    first = answer(*MINT, *c)["token"]
    (old, old_admin) = (key["id"] for key in answer("keys", "list", *c)["keys"])
    rotated = answer("keys", "rotate", *c, "--reason", "a laptop was lost")
    assert (rotated["kind"], rotated["before"], rotated["noted"]) == ("capability", old, True)
    new = rotated["id"]
    assert answer("keys", "list", *c)["keys"] == [
        {"id": old, "kind": "capability", "current": False},
        {"id": new, "kind": "capability", "current": True},
        {"id": old_admin, "kind": "admin", "current": True},
    ]
    second = answer(*MINT, *c)["token"]
    assert answer("verify", first, *c)["key_id"] == old
    assert answer("verify", second, *c)["key_id"] == new
    assert answer("keys", "drop", old, *c) == {"id": old, "kind": "capability", "dropped": True, "noted": True}
    me = pwd.getpwuid(os.getuid()).pw_name
    assert [entry.note for entry in entries(config.parent / "data/ledger.db") if entry.kind == "keys"] == [
        f"capability key {new} added by {me}: a laptop was lost",
        f"capability key {old} dropped by {me}",
    ]
    assert refusal("verify", first, *c)["code"] == "token_forged"
    assert answer("verify", second, *c)["verified"]


def test_a_dropped_key_is_written_down_first(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    c = ("-c", str(config))
    answer(*MINT, *c)
    old = answer("keys", "list", *c)["keys"][0]["id"]

    def said() -> list[str]:
        return [entry.note for entry in entries(config.parent / "data/ledger.db") if entry.kind == "keys"]

    refusal("keys", "drop", old, *c)
    assert said() == [], "the current key is not dropped"
    answer("keys", "rotate", *c)

    def fail(self: Keyring, key_id: str) -> None:
        raise KeyringError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Keyring, "drop", fail)
        assert refusal("keys", "drop", old, *c)["detail"] == "the disk is gone"
    assert said()[-1].startswith(f"capability key {old} dropped")
    assert old in [key["id"] for key in answer("keys", "list", *c)["keys"]]


def test_keys_are_changed_also_where_the_ledger_cannot_say_so(config: Path) -> None:
    c = ("-c", str(config))
    assert answer("keys", "rotate", *c)["noted"] is False, "there is no ledger yet"
    answer(*MINT, *c)
    (config.parent / "data/ledger.db").write_bytes(b"noise" * 1000)
    old = answer("keys", "list", *c)["keys"][0]["id"]
    status, out, err = invoke("keys", "drop", old, *c, "--json")
    assert (status, json.loads(out)["noted"]) == (0, False)
    assert "no entry says so, as the ledger cannot be written" in err
    assert old not in [key["id"] for key in answer("keys", "list", *c)["keys"]]


@pytest.mark.parametrize("reason", ["x" * 501, "two\nlines", "\x1b[2J"])
def test_a_reason_is_one_short_line(config: Path, reason: str) -> None:
    status, _, err = invoke("keys", "rotate", "-c", str(config), "--reason", reason)
    assert (status, "one line of at most 500 characters" in err) == (2, True)
    assert len(answer("keys", "list", "-c", str(config))["keys"]) == 2


def test_what_keys_say_to_people(config: Path) -> None:
    c = ("-c", str(config))
    old = answer("keys", "list", *c)["keys"][0]["id"]
    status, out, err = invoke("keys", "rotate", *c)
    assert (status, f"`tolsey keys drop {old}`" in err) == (0, True)
    status, out, _ = invoke("keys", "list", *c)
    assert [line.split()[1:] for line in out.splitlines()] == [
        ["kind", "use"],
        ["capability", "verifies", "until", "dropped"],
        ["capability", "current"],
        ["admin", "current"],
    ]
    status, out, _ = invoke("keys", "drop", old, *c)
    assert out.startswith(f"dropped {old}: every token, and every token attenuated from one,")


def test_a_new_admin_key_comes_with_a_token(config: Path) -> None:
    status, out, _ = invoke("keys", "rotate", "--kind", "admin", "-c", str(config))
    keyring = Keyring.open(config.parent / "data/keys")
    verify(Macaroon.deserialize(out.strip()), keyring.current(ADMIN)[1])
    assert (status, len(keyring.key_ids(ADMIN)), len(keyring.key_ids(CAPABILITY))) == (0, 2, 1)


def test_keys_that_cannot_be_dropped(config: Path) -> None:
    current = answer("keys", "list", "-c", str(config))["keys"][0]["id"]
    for key_id, detail in ((current, "rotate first"), ("nope", "no key called")):
        found = refusal("keys", "drop", key_id, "-c", str(config))
        assert (found["code"], detail in found["detail"]) == ("keyring_invalid", True)
    assert refusal("keys", "rotate", "--kind", "other", "-c", str(config), status=2)["code"] == "usage"


# every command


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_every_command_has_help_with_examples_and_json(command: tuple[str, ...]) -> None:
    status, out, _ = invoke(*command, "--help")
    assert status == 0
    assert "--json" in out
    examples = out.split("Examples:\n")[1].splitlines()
    assert examples
    for example in examples:
        assert f"tolsey {' '.join(command)}" in example
        for word in shlex.split(example.replace("$(", " ").replace(")", " ")):
            assert not word.startswith("--") or f" {word} " in out, word


def test_the_summaries_fit_on_their_lines() -> None:
    _, out, _ = invoke("--help")
    summaries = out.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in summaries] == list(COMMANDS)
    assert not [line for line in summaries if line.endswith("...")]


@pytest.mark.parametrize("args", [(), *((group,) for group in GROUPS)])
def test_without_a_command_there_is_help_and_status_2(args: tuple[str, ...]) -> None:
    status, out, err = invoke(*args)
    assert (status, out) == (2, "")
    assert "Commands:" in err


def test_a_command_that_is_misspelt() -> None:
    found = refusal("attenute", status=2)
    assert found["detail"] == "No such command 'attenute'. Did you mean 'attenuate'?"


def test_the_version() -> None:
    status, out, _ = tolsey("--version")
    assert status == 0
    assert re.fullmatch(r"tolsey \d+\.\d+\.\d+\n", out)


def test_no_key_is_ever_shown(config: Path) -> None:
    said = ""
    c = ("-c", str(config))
    for args in (MINT, ("keys", "rotate"), ("keys", "list"), ("trail",), ("fsck",), ("check",), ("keys", "drop", "x")):
        for json_mode in ((), ("--json",)):
            _, out, err = invoke(*args, *c, *json_mode, env=ENV)
            said += out + err
    (config.parent / "data/keys").write_text((config.parent / "data/keys").read_text() + "}")
    said += invoke("keys", "list", *c)[2]
    hidden = [*(re.findall(r'"secret":"([^"]+)"', (config.parent / "data/keys").read_text())), "sk-sesame"]
    assert len(hidden) > 3
    assert not [secret for secret in hidden if secret in said]


# the process


def on_a_terminal(*args: str, env: dict[str, str] | None = None, stdin: bool = False) -> tuple[int, bytes]:
    """Run the program with its output, or its input too, on a terminal; SIGINT once it reads."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [SCRIPT, *args],
        stdin=theirs if stdin else subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment(env),
        start_new_session=True,
    )
    os.close(theirs)
    got = b""
    try:
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:
                break
            got += more
            if stdin and b"Ctrl-D" in got:
                process.send_signal(signal.SIGINT)
                stdin = False
            if not more:
                break
    finally:
        os.close(ours)
        status = process.wait(20)
    return status, got


def test_colours_and_frames_on_a_terminal_alone(config: Path) -> None:
    keys = ("keys", "list", "-c", str(config))
    assert "\x1b" not in "".join(map(str, tolsey(*keys)))
    status, got = on_a_terminal(*keys, env={"TERM": "xterm"})
    assert (status, b"\xe2\x94\x80" in got, b"\x1b[1m" in got) == (0, True, True)
    status, got = on_a_terminal("keys", "drop", "x", "-c", str(config), env={"TERM": "xterm"})
    assert (status, got.startswith(b"\x1b[31merror:\x1b[0m ")) == (1, True)
    status, got = on_a_terminal("keys", "drop", "x", "-c", str(config), env={"TERM": "xterm", "NO_COLOR": "1"})
    assert (status, got.startswith(b"error: ")) == (1, True)


def test_ctrl_c_is_quiet() -> None:
    status, got = on_a_terminal("inspect", "-", stdin=True)
    assert status == 130
    assert got.splitlines() == [b"reading a token from the terminal; end it with Enter and Ctrl-D"]


def test_a_reader_that_goes_away_is_no_error(config: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        command = [str(SCRIPT), "keys", "list", "-c", str(config)]
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, env=environment(), timeout=20, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_closed_streams_do_not_fall_to_the_ledger(config: Path) -> None:
    command = f"exec {SCRIPT} mint --label a --budget '1 USD' -c {config} <&- >&- 2>&-"
    subprocess.run(["sh", "-c", command], env=environment(), timeout=20, check=True)
    found = answer("fsck", "-c", str(config))
    assert (found["accounts"], found["entries"], found["difference"]) == (1, 1, None)
