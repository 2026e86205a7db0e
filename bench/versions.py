"""Which versions ran."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from importlib import metadata

from bench import install
from tests.lightning_rig import SOURCE
from tolsey.cli.checkups import is_compiled
from tolsey.gateway.native import LIBRARY, OFF


def version(tool: str) -> str:
    """The version of a tool, as it tells it itself."""
    if tool == "aperture":
        return _aperture()
    return _tolsey() if tool == "tolsey" else _binary(tool)


def _tolsey() -> str:
    parts = []
    for name in ("tolsey", "uvloop", "httptools"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            parts.append(f"{name} {metadata.version(name)}")
    wire = f"{'without' if os.environ.get(OFF) or not LIBRARY.exists() else 'with'} the compiled wire"
    how = "compiled" if is_compiled() else "not compiled (`make bench` compiles it)"
    return ", ".join([*parts, f"Python {platform.python_version()}", wire, how])


def _aperture() -> str:
    """The module's: what is built of a module tells another version."""
    found = re.search(r"lightninglabs/aperture v(\S+)", (SOURCE / "go.mod").read_text())
    return f"aperture {found[1]}" if found else "aperture, version unknown"


def _binary(tool: str) -> str:
    words = {"nginx": ["-v"], "wrk": ["-v"], "caddy": ["version"], "envoy": ["--version"], "litellm": ["--version"]}[
        tool
    ]
    run = subprocess.run([str(install.need(tool)), *words], check=False, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+(\.\d+)?", run.stdout + run.stderr)
    return f"{tool} {found[0]}" if found else f"{tool}, version unknown"
