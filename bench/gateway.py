"""Tolsey as a contestant: as a user runs it, by its command line alone, with its defaults and one worker.

That includes its log line for each call, which goes to a file; the peers write no access log.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench import BenchError, Missing, Wrong
from bench.ground import Audit, Ground, Server
from bench.jobs import PRICE, SEARCH
from bench.load import CONNECTIONS
from bench.machine import pinned, scratch
from bench.origin import PATH, answers, get
from bench.processes import running, wait_until
from tests.ports import free_port
from tests.postgres import Server as Postgres

EXPIRES = "2099-12-31"
SCOPE = "/api/v1/* /v1/* /mcp"
# A call whose client hangs up after it was paid for and before it reached the upstream is charged and never seen.
# Each run of wrk ends by hanging up on the calls that are under way: at most one a connection.
HUNG_UP = CONNECTIONS

_CONFIG = """
[server]
port = {port}
mode = "{mode}"

[admin]
port = {admin}

[ledger]
{ledger}
durability = "{durability}"

[[upstream]]
name = "search"
url = "http://127.0.0.1:{origin}"

[[route]]
path = "/api/v1/*"
methods = ["GET", "POST"]
upstream = "search"
price = "{price} USD"

[[route]]
path = "/v1/chat/completions"
methods = ["POST"]
upstream = "search"
llm = "openai"

[[upstream]]
name = "library"
url = "http://127.0.0.1:{origin}/mcp"

[[mcp]]
path = "/mcp"
server = [{{ upstream = "library" }}]
tool = [{{ name = "find", price = "{price} USD" }}]

[[model]]
name = "bench-1"
input = "60 USD"
output = "80 USD"
context = 8_000
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


def prepare(
    folder: Path, upstream: int, durability: str, *, mode: str = "enforce", postgresql: str | None = None
) -> Place:
    """A fresh gateway in a folder, with one upstream and a priced route for each job."""
    tolsey("init", folder)
    place = Place(folder / "tolsey.toml", free_port(), free_port())
    place.config.write_text(
        _CONFIG.format(
            port=place.port,
            admin=place.admin,
            durability=durability,
            origin=upstream,
            price=PRICE,
            mode=mode,
            ledger=f'url = "{postgresql}"' if postgresql else "",
        )
    )
    return place


def mint(place: Place) -> str:
    """The root token."""
    words = ["--label", "root", "--budget", "10000000 USD", "--scope", SCOPE, "--expires", EXPIRES]
    return _token(tolsey("mint", "-c", place.config, *words, "--json"))


def attenuate(token: str, label: str, budget: str, scope: str = SCOPE) -> str:
    """One level further down, offline."""
    words = ["--label", label, "--budget", budget, "--scope", scope, "--expires", EXPIRES, "--json"]
    return _token(tolsey("attenuate", "-", *words, stdin=token))


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The headers of a call with this token."""
    return (("Authorization", f"Bearer {token}"),)


def deepen(token: str, depth: int) -> str:
    """A token that is so many levels deep, counted from a root token, each level with a budget of its own."""
    for level in range(1, depth):
        token = attenuate(token, f"level-{level}", f"{1_000_000 - level} USD")
    return token


def _token(output: str) -> str:
    document: dict[str, Any] = json.loads(output)
    return str(document["token"])


@contextlib.contextmanager
def serving(place: Place, core: int | Sequence[int], log: Path, workers: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """The gateway, ready, with so many workers on a core or several; SIGTERM at the end."""
    with _serving(place, core, log, workers) as (process, _):
        yield process


@contextlib.contextmanager
def _serving(
    place: Place, core: int | Sequence[int], log: Path, workers: int = 1
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    words: list[str | Path] = [command(), "serve", "-c", place.config, "--port", str(place.port)]
    words += ["--workers", str(workers)]
    with running(words, core=core, log=log) as process:
        yield process, wait_until(lambda: answers(place.admin, "/readyz"), process, log, "tolsey serve")


def audit(place: Place, seen: int, *, runs_of_wrk: int, llm_runs_of_wrk: int = 0) -> Audit:
    """Hold the ledger of a stopped gateway against what the upstream saw. Raises Wrong on any difference."""
    tolsey("fsck", "-c", place.config)
    root = json.loads(tolsey("trail", "-c", place.config, "--json"))["accounts"][0]
    found = Audit(calls=int(root["calls"]), spent=root["spent"], held=root["held"], seen=seen)
    if root["parent"] is not None or found.held != "0":
        raise Wrong(f"the root account has open holds after the gateway ended: {root}")
    # An LLM call that was cut off is charged all that it held, which is more, but not twice as much.
    over = Decimal(found.spent) - found.calls * PRICE
    if not 0 <= over <= llm_runs_of_wrk * HUNG_UP * PRICE:
        raise Wrong(f"{found.calls} calls at {PRICE} are not {found.spent}")
    if not 0 <= found.calls - seen <= runs_of_wrk * HUNG_UP:
        raise Wrong(f"the ledger has {found.calls} calls, the upstream saw {seen}")
    return found


class Laws:
    """Both laws, tried while others load the gateway: a child that may call one path and can pay for `PAYS` calls."""

    PAYS = 5

    def __init__(self, token: str) -> None:
        self._token = attenuate(token, "probe", f"{self.PAYS * PRICE} USD", SEARCH.path)

    def check(self, port: int) -> None:
        """Raises Wrong if it could do more, or less."""
        outside, _ = get(port, "/api/v1/events", self._token)
        if outside != 403:
            raise Wrong(f"a call outside the scope of a child was answered {outside}")
        found = [get(port, SEARCH.path, self._token)[0] for _ in range(self.PAYS + 3)]
        if found != [200] * self.PAYS + [402] * 3:
            raise Wrong(f"a child that can pay for {self.PAYS} calls was answered {found}")


@contextlib.contextmanager
def gateway(
    ground: Ground, *, durability: str = "full", depth: int = 4, mode: str = "enforce", postgresql: bool = False
) -> Iterator[Server]:
    """Tolsey before the upstream. After it has ended its ledger is held against what the upstream saw."""
    with scratch() as folder, _database(ground.places.load) if postgresql else contextlib.nullcontext(None) as url:
        place = prepare(folder / "gateway", ground.origin.port, durability, mode=mode, postgresql=url)
        root = mint(place)
        token = deepen(root, depth)
        laws = Laws(root) if mode == "enforce" else None
        before = ground.origin.seen()
        with _serving(place, ground.places.server, folder / "tolsey.log") as (process, cold):
            status, text = get(place.port, PATH, token)
            if status != 200:
                raise BenchError(f"tolsey answered {status}: {text}")
            server = Server(place.port, process, bearer(token), cold, None if laws is None else laws.check)
            yield server
        if mode == "enforce":
            server.audit = audit(
                place,
                ground.origin.seen() - before,
                runs_of_wrk=server.runs_of_wrk,
                llm_runs_of_wrk=server.llm_runs_of_wrk,
            )


@contextlib.contextmanager
def _database(core: int) -> Iterator[str]:
    """A PostgreSQL server as durable as a real one, on the core of the load, as it would be on another machine."""
    with scratch() as folder, pinned(core):
        server = Postgres(folder)
        server.settings = {"fsync": "on", "full_page_writes": "on", "max_connections": "40"}
        server.make()
        server.start()
        try:
            yield server.database()
        finally:
            server.kill()
