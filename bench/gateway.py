"""Tolsey as a contestant: as a user runs it, by its command line alone, with its defaults and one worker.

That includes its log line for each call, which goes to a file; the peers write no access log.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench import BenchError, Missing, Wrong
from bench.ground import Audit, Ground, Server
from bench.load import CONNECTIONS
from bench.machine import free_port, scratch
from bench.origin import PATH, answers, get
from bench.processes import running, wait_until

PRICE = Decimal("0.01")
EXPIRES = "2099-12-31"
# A call whose client hangs up after it was paid for and before it reached the upstream is charged and never seen.
# Each run of wrk ends by hanging up on the calls that are under way: at most one a connection.
HUNG_UP = CONNECTIONS

_CONFIG = """
[server]
port = {port}

[admin]
port = {admin}

[ledger]
durability = "{durability}"

[[upstream]]
name = "search"
url = "http://127.0.0.1:{origin}"

[[route]]
path = "{path}"
methods = ["GET"]
upstream = "search"
price = "{price} USD"
"""


@dataclass(frozen=True)
class Place:
    """A gateway's folder: its config file and its two ports."""

    config: Path
    port: int
    admin: int


def command() -> Path:
    """The ``tolsey`` command of the environment that runs the bench."""
    found = Path(sys.executable).with_name("tolsey")
    if not found.exists():
        raise Missing("no `tolsey` command beside this Python; run `make setup`, then .venv/bin/python -m bench")
    return found


def tolsey(*words: str | Path, stdin: str | None = None) -> str:
    """Run the command line; its output. A failure shows what it wrote to standard error."""
    line = [str(command()), *map(str, words)]
    run = subprocess.run(line, check=False, input=stdin or "", capture_output=True, text=True, timeout=600)
    if run.returncode != 0:
        raise Wrong(f"tolsey {words[0]} ended with status {run.returncode}: {run.stderr.strip()}")
    return run.stdout


def prepare(folder: Path, upstream: int, durability: str) -> Place:
    """A fresh gateway in a folder, with one upstream and one priced route."""
    tolsey("init", folder)
    place = Place(folder / "tolsey.toml", free_port(), free_port())
    place.config.write_text(
        _CONFIG.format(
            port=place.port, admin=place.admin, durability=durability, origin=upstream, path=PATH, price=PRICE
        )
    )
    return place


def mint(place: Place) -> str:
    """The root token."""
    words = ["--label", "root", "--budget", "10000000 USD", "--scope", "/api/v1/*", "--expires", EXPIRES, "--json"]
    return _token(tolsey("mint", "-c", place.config, *words))


def attenuate(token: str, label: str, budget: str) -> str:
    """One level further down, offline."""
    words = ["--label", label, "--budget", budget, "--scope", PATH, "--expires", EXPIRES, "--json"]
    return _token(tolsey("attenuate", "-", *words, stdin=token))


def chain_of_four(place: Place) -> str:
    """A token four levels deep, each with a budget of its own."""
    token = mint(place)
    for level, budget in enumerate(("1000000 USD", "500000 USD", "100000 USD"), start=1):
        token = attenuate(token, f"level-{level}", budget)
    return token


def _token(output: str) -> str:
    document: dict[str, Any] = json.loads(output)
    return str(document["token"])


@contextlib.contextmanager
def serving(place: Place, core: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The gateway, ready, with one worker on one core; SIGTERM at the end."""
    words: list[str | Path] = [command(), "serve", "-c", place.config, "--port", str(place.port), "--workers", "1"]
    with running(words, core=core, log=log) as process:
        wait_until(lambda: answers(place.admin, "/readyz"), process, log, "tolsey serve")
        yield process


def audit(place: Place, seen: int, *, runs_of_wrk: int) -> Audit:
    """Hold the ledger of a stopped gateway against what the upstream saw. Raises Wrong on any difference."""
    tolsey("fsck", "-c", place.config)
    root = json.loads(tolsey("trail", "-c", place.config, "--json"))["accounts"][0]
    found = Audit(calls=int(root["calls"]), spent=root["spent"], held=root["held"], seen=seen)
    if root["parent"] is not None or found.held != "0":
        raise Wrong(f"the root account has open holds after the gateway ended: {root}")
    if found.calls * PRICE != Decimal(found.spent):
        raise Wrong(f"{found.calls} calls at {PRICE} are not {found.spent}")
    if not 0 <= found.calls - seen <= runs_of_wrk * HUNG_UP:
        raise Wrong(f"the ledger has {found.calls} calls, the upstream saw {seen}")
    return found


@contextlib.contextmanager
def gateway(ground: Ground, *, durability: str = "full", runs_of_wrk: int = 2) -> Iterator[Server]:
    """Tolsey before the upstream. After it has ended its ledger is held against what the upstream saw."""
    with scratch() as folder:
        place = prepare(folder / "gateway", ground.origin.port, durability)
        token = chain_of_four(place)
        before = ground.origin.seen()
        with serving(place, ground.places.server, folder / "tolsey.log") as process:
            status, text = get(place.port, PATH, token)
            if status != 200:
                raise BenchError(f"tolsey answered {status}: {text}")
            server = Server(place.port, process, token)
            yield server
        server.audit = audit(place, ground.origin.seen() - before, runs_of_wrk=runs_of_wrk)
