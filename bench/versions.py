"""Which versions ran."""

from __future__ import annotations

import contextlib
import platform
import re
import subprocess
from importlib import metadata

from bench import install


def version(tool: str) -> str:
    """The version of a tool, as it tells it itself."""
    return _tolsey() if tool == "tolsey" else _binary(tool)


def _tolsey() -> str:
    parts = []
    for name in ("tolsey", "uvloop", "httptools"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            parts.append(f"{name} {metadata.version(name)}")
    return ", ".join([*parts, f"Python {platform.python_version()}"])


def _binary(tool: str) -> str:
    words = {"nginx": ["-v"], "wrk": ["-v"], "caddy": ["version"], "envoy": ["--version"], "litellm": ["--version"]}[
        tool
    ]
    run = subprocess.run([str(install.need(tool)), *words], check=False, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+(\.\d+)?", run.stdout + run.stderr)
    return f"{tool} {found[0]}" if found else f"{tool}, version unknown"
