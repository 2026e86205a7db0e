"""The JavaScript module in js/: its own tests, over the vectors that hold for Python too, and its type declarations."""

import json
import subprocess
from pathlib import Path

from tests.foreign import node

JS = Path(__file__).resolve().parent.parent / "js"


def run(*words: str) -> None:
    """Run node in js/; fail with all that it said."""
    done = subprocess.run([node(JS), *words], cwd=JS, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_module_keeps_the_vectors() -> None:
    run("--test")


def test_the_type_declarations_are_what_the_module_has() -> None:
    words = json.loads((JS / "package.json").read_text("utf-8"))["scripts"]["types"].split()
    assert words[0] == "tsc"
    run("node_modules/typescript/bin/tsc", *words[1:])


def test_the_lock_file_names_no_registry() -> None:
    assert "://" not in (JS / "package-lock.json").read_text("utf-8")
