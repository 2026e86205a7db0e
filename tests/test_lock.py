"""The lock files hold versions and hashes, no addresses, and everything that the project and its examples ask for."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def locked(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text("utf-8")
    assert "://" not in text, f"{name} holds an address; write it with `make lock`"
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def test_the_lock_files_agree_with_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    runtime, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert runtime.items() <= dev.items()
    for wanted, got in (
        (project["project"]["dependencies"], runtime),
        (project["dependency-groups"]["dev"], dev),
    ):
        missing = {re.split(r"[<>=!~\[ ;]", line, maxsplit=1)[0] for line in wanted} - got.keys()
        assert not missing, f"not locked: {missing}; run `make lock`"


def test_the_lock_file_of_the_examples_agrees_with_them() -> None:
    wanted = set((ROOT / "examples/requirements.in").read_text("utf-8").split())
    assert {name.partition("[")[0] for name in wanted} <= locked("examples/requirements.lock").keys()
