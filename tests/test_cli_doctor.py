"""`tolsey doctor`: each thing that can be wrong with a machine is found, named and answered with what to do."""

import json
import resource
import socket
import sqlite3
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.cli import answer, gateway, invoke, refusal
from tests.ports import free_port
from tests.postgres import Server
from tolsey.cli import checkups
from tolsey.gateway import native
from tolsey.gateway.native import LIBRARY, OFF
from tolsey.ledger import rules
from tolsey.store import postgres_health, sqlite_file

UPSTREAM = '[[upstream]]\nname = "api"\nurl = "{}"\n'

Findings = Callable[[], dict[str, list[tuple[str, str]]]]
"""Asks the doctor: (state, detail) of every finding, by what it is about. Each but the good ones has advice."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A gateway without routes."""
    return gateway(tmp_path / "g", "")


@pytest.fixture
def examined(config: Path) -> Findings:
    def ask() -> dict[str, list[tuple[str, str]]]:
        status, out, _ = invoke("doctor", "-c", str(config), "--json")
        document = json.loads(out)
        assert document["config"] == str(config)
        found: dict[str, list[tuple[str, str]]] = {}
        for each in document["findings"]:
            assert bool(each["advice"]) == (each["state"] != "ok"), each
            found.setdefault(each["check"], []).append((each["state"], each["detail"]))
        assert status == int(any(state == "error" for rows in found.values() for state, _ in rows))
        return found

    return ask


def only(found: dict[str, list[tuple[str, str]]], check: str) -> tuple[str, str]:
    (one,) = found[check]
    return one


def test_a_gateway_that_is_well(config: Path, examined: Findings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        config.write_text(config.read_text() + UPSTREAM.format(f"http://127.0.0.1:{upstream.getsockname()[1]}"))
        before = sorted(path.name for path in config.parent.rglob("*"))
        found = examined()
    assert sorted(path.name for path in config.parent.rglob("*")) == before
    assert found.keys() == {"config", "python", "sqlite", "files", "clock", "open files", "disk", "fsync", "ledger",
                            "upstream", "fast path", "compiled"}  # fmt: skip
    for check in ("config", "python", "files", "ledger", "upstream"):
        assert only(found, check)[0] == "ok"


def test_the_table(config: Path) -> None:
    status, out, err = invoke("doctor", "-c", str(config))
    assert status == 0, out + err
    heads, *lines = out.splitlines()
    assert heads.split("  ")[0] == "part"
    assert [line.split()[:2] for line in lines if line.startswith("upstream")] == [["upstream", "note"]]


def test_an_error_is_one_for_scripts_too(config: Path) -> None:
    config.write_text(config.read_text() + UPSTREAM.format(f"http://127.0.0.1:{free_port()}"))
    found = refusal("doctor", "-c", str(config))
    assert found["code"] == "doctor_errors"
    assert found["detail"].startswith("1 of ")
    assert invoke("doctor", "-c", str(config))[2] == f"error: {found['detail']}\n"


def test_a_config_that_is_wrong(config: Path, examined: Findings) -> None:
    config.write_text("[server]\nprot = 1\n[ledger]\ndurability = 3\n")
    found = examined()
    assert found.keys() == {"config"}
    assert [detail.split(": ")[1] for _, detail in found["config"]] == ["server.prot", "ledger.durability"]


# --- upstreams


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("http://127.0.0.1:<closed>", "Connection refused"),
        ("http://nowhere.invalid", "nowhere.invalid: the upstream cannot be reached: "),
    ],
)
def test_an_upstream_that_cannot_be_reached(config: Path, examined: Findings, url: str, detail: str) -> None:
    config.write_text(config.read_text() + UPSTREAM.format(url.replace("<closed>", str(free_port()))))
    state, said = only(examined(), "upstream")
    assert (state, detail in said) == ("error", True), said


# --- programs


def test_programs_that_are_mcp_servers(config: Path, examined: Findings, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    server = tmp_path / "bin" / "notes-server"
    server.touch(mode=0o755)
    config.write_text(
        config.read_text()
        + '[[mcp]]\npath = "/mcp"\nserver = [\n'
        + '  { name = "files", command = ["no-such-server"], prefix = "files_" },\n'
        + f'  {{ name = "notes", command = ["notes-server"], env = {{ PATH = "{server.parent}" }}, prefix = "n_" }},\n'
        + f'  {{ name = "data", command = ["{server}.old"], prefix = "d_" }},\n'
        + ']\ntool = [{ name = "n_find", price = "1 USD" }]\n'
    )
    found = examined()
    assert found["program"] == [
        ("error", "files: no-such-server cannot be run by this user"),
        ("ok", f"notes: {server}"),
        ("error", f"data: {server}.old cannot be run by this user"),
    ]
    assert "upstream" not in found


# --- files


@pytest.mark.parametrize(
    ("path", "mode", "state", "about"),
    [
        ("tolsey.toml", 0o664, "error", "can be written to by others (mode 0664)"),
        ("data/ledger.db", 0o666, "error", "can be written to by others (mode 0666)"),
        ("data", 0o730, "error", "can be written to by others (mode 0730)"),
        ("data", 0o755, "warning", "open to every user"),
    ],
)
def test_who_may_write(config: Path, examined: Findings, path: str, mode: int, state: str, about: str) -> None:
    answer("mint", "-c", str(config), "--label", "a", "--budget", "1 USD")
    (config.parent / path).chmod(mode)
    found = only(examined(), "files")
    assert (found[0], about in found[1]) == (state, True), found


def test_a_keyring_that_others_can_read(config: Path, examined: Findings) -> None:
    (config.parent / "data/keys").chmod(0o644)
    state, said = only(examined(), "ledger")
    assert (state, "chmod 600" in said) == ("error", True)


# --- the ledger and its disk


def test_a_ledger_that_is_gone(config: Path, examined: Findings) -> None:
    answer("mint", "-c", str(config), "--label", "a", "--budget", "1 USD")
    (config.parent / "data/ledger.db").unlink()
    assert only(examined(), "ledger")[0] == "error"


def test_a_clock_that_is_behind_the_ledger(config: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    answer("mint", "-c", str(config), "--label", "a", "--budget", "1 USD")
    monkeypatch.setattr("tolsey.cli.checkups.time.time_ns", lambda: 10**18)
    assert ("error", True) in [(state, "behind the ledger's last entry" in said) for state, said in examined()["clock"]]


@pytest.mark.parametrize(("answer", "state"), [(0, "ok"), (5, "warning"), (-1, "note")])
def test_what_the_kernel_says_of_the_clock(
    config: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch, answer: int, state: str
) -> None:
    class Library:
        adjtimex = staticmethod(lambda timex: answer)

    monkeypatch.setattr("tolsey.cli.checkups.ctypes.CDLL", lambda name, **options: Library)
    assert only(examined(), "clock")[0] == state


@pytest.mark.parametrize(("durability", "state"), [("full", "warning"), ("normal", "ok")])
def test_a_slow_disk(
    config: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch, durability: str, state: str
) -> None:
    config.write_text(config.read_text().replace('"full"', f'"{durability}"'))
    slow: Iterator[float] = iter(n / 100 for n in range(1000))
    monkeypatch.setattr("tolsey.store.disk.time.perf_counter", lambda: next(slow) * 1.5)
    found, said = only(examined(), "fsync")
    assert (found, said.startswith("15.00 ms in the middle, 15.00 ms at most")) == (state, True), said


@pytest.mark.parametrize(
    ("kind", "about"), [("tmpfs", "a restart loses the ledger"), ("overlay", "a container's own layer")]
)
def test_a_ledger_that_would_not_stay(
    config: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch, kind: str, about: str
) -> None:
    mounts = f"1 0 0:1 / / rw - {kind} none rw\n"
    monkeypatch.setattr(sqlite_file, "open", lambda path, **options: StringIO(mounts), raising=False)
    assert ("warning", True) in [(state, about in said) for state, said in examined()["disk"]]


def test_a_network_file_system(config: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = "1 0 0:1 / / rw - nfs4 none rw\n"
    monkeypatch.setattr(sqlite_file, "open", lambda path, **options: StringIO(mounts), raising=False)
    state, said = only(examined(), "ledger")
    assert (state, "network file system" in said) == ("error", True)


def test_little_room(config: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = checkups.LOW_DISK - 1

    monkeypatch.setattr("tolsey.cli.checkups.shutil.disk_usage", lambda path: Usage)
    assert only(examined(), "disk")[0] == "warning"


def test_no_data_directory(config: Path, examined: Findings) -> None:
    config.write_text(config.read_text().replace("sqlite:///data", "sqlite:///other"))
    found = examined()
    assert only(found, "disk") == ("error", f"{config.parent / 'other'} is not there")
    assert "fsync" not in found


# --- the machine


@pytest.mark.parametrize(
    ("soft", "hard", "state"),
    [
        (checkups.FEW_FILES, 10_000, "ok"),
        (checkups.FEW_FILES - 1, 10_000, "warning"),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, "ok"),
        (256, resource.RLIM_INFINITY, "warning"),
    ],
)
def test_open_files(
    config: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, state: str
) -> None:
    monkeypatch.setattr("tolsey.cli.checkups.resource.getrlimit", lambda which: (soft, hard))
    assert only(examined(), "open files")[0] == state


@pytest.mark.parametrize(
    ("version", "state"),
    [((3, 36, 0), "error"), ((3, 37, 0), "note"), ((3, 51, 2), "note"), ((3, 51, 3), "ok")],
)
def test_versions_of_sqlite(
    config: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], state: str
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    assert only(examined(), "sqlite")[0] == state


# --- the fast path


def test_a_wire_that_was_compiled(config: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    if not LIBRARY.exists():
        pytest.skip("the wire was not compiled here")
    assert only(examined(), "fast path") == ("ok", "the compiled wire is there")
    monkeypatch.setenv(OFF, "1")
    state, detail = only(examined(), "fast path")
    assert (state, detail.partition(":")[0]) == ("note", f"{OFF} is set")


def test_a_wire_that_was_not_compiled_or_is_for_another_machine(
    config: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "_wire.so")
    state, detail = only(examined(), "fast path")
    assert (state, detail.partition(":")[0]) == ("note", "the wire was not compiled")
    (tmp_path / "_wire.so").write_bytes(b"not a library")
    state, detail = only(examined(), "fast path")
    assert (state, detail.partition(":")[0]) == ("warning", "the compiled wire cannot be used")


def test_modules_that_are_compiled_and_those_that_are_not(
    config: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "__file__", "/lib/tolsey/ledger/rules.py")
    state, detail = only(examined(), "compiled")
    assert (state, detail.partition(":")[0]) == ("note", "the modules are not compiled")
    monkeypatch.setattr(rules, "__file__", "/lib/tolsey/ledger/rules.cpython-311-x86_64-linux-gnu.so")
    assert only(examined(), "compiled") == ("ok", "what a call runs through is compiled")


# --- PostgreSQL


@pytest.fixture
def on_postgres(config: Path, postgres: Server) -> Path:
    config.write_text(f'[ledger]\nurl = "{postgres.database()}"\n')
    return config


def of_postgres(examined: Findings) -> list[tuple[str, str]]:
    found: dict[str, Any] = examined()
    assert found.keys().isdisjoint({"sqlite", "disk", "fsync"})
    return [*found["postgresql"], *found["clock"]]


def test_a_database_that_is_well(on_postgres: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkups, "SLOW_ANSWER", 60.0)
    (state, said), *_ = of_postgres(examined)
    assert (state, "answers in" in said) == ("ok", True)
    assert len(examined()["postgresql"]) == 1


@pytest.mark.parametrize(
    ("constant", "value", "about"),
    [
        ("SLOW_ANSWER", -1.0, "answers in"),
        ("SKEW_SECONDS", -1.0, "the database's clock is 0.0 s off this machine's"),
    ],
)
def test_a_database_that_is_far(
    on_postgres: Path, examined: Findings, monkeypatch: pytest.MonkeyPatch, constant: str, value: float, about: str
) -> None:
    monkeypatch.setattr(checkups, constant, value)
    assert [about in said for state, said in of_postgres(examined) if state == "warning"].count(True) == 1


def test_a_database_without_connections_left(on_postgres: Path, examined: Findings) -> None:
    on_postgres.write_text(on_postgres.read_text() + "[server]\nworkers = 30\n")
    state, said = of_postgres(examined)[1]
    assert (state, said.endswith("connections are left on the server; this gateway takes 61")) == ("warning", True)


def test_a_database_that_is_not_there(on_postgres: Path, examined: Findings) -> None:
    on_postgres.write_text('[ledger]\nurl = "postgresql://tolsey:sesame@127.0.0.1:1/x"\n')
    found = examined()
    assert only(found, "ledger") == ("error", "the database cannot be reached: Connection refused")
    assert "sesame" not in str(found)


def test_a_database_over_a_network_in_the_clear(
    on_postgres: Path, examined: Findings, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the server says of a client on another machine cannot be had from this one.
    far = postgres_health._FACTS.replace("inet_client_addr() = inet_server_addr()", "false")
    monkeypatch.setattr(postgres_health, "_FACTS", far)
    assert [said for _, said in of_postgres(examined) if "in the clear" in said]
