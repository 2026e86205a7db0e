"""`tolsey demo`: the article's story on this machine, with real processes, real HTTP and a real ledger.

A small priced upstream and a gateway are started in a directory of their own and taken away at the end. Every command
that is shown is run.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from tolsey import Macaroon
from tolsey.errors import TolseyError

READY_SECONDS: Final = 15.0
PRICE: Final = "2.50 USD"

CONFIG: Final = """\
[server]
port = {port}
[admin]
port = {admin}
[[upstream]]
name = "papers"
url = "http://127.0.0.1:{upstream}"
[[route]]
path = "/api/v1/search"
methods = ["GET"]
upstream = "papers"
price = "{price}"
[[route]]
path = "/api/v1/*"
methods = ["GET"]
upstream = "papers"
price = "0.10 USD"
"""


class _Papers(BaseHTTPRequestHandler):
    """The upstream: answers every search with one paper."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"path": self.path, "papers": ["Macaroons: Cookies with Contextual Caveats"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: the gateway's log is the one that matters here."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


class Demo:
    """The stage: a directory, an upstream, a gateway, and a console to tell the story on."""

    def __init__(self, directory: Path, console: Console) -> None:
        self.directory = directory
        self.console = console
        self._admin, self.port = _free_port(), _free_port()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the upstream and the gateway; stop both at the end."""
        upstream = _Server(("127.0.0.1", 0), _Papers)
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        self.tolsey("init", str(self.directory), "--json", quiet=True)
        config = CONFIG.format(port=self.port, admin=self._admin, upstream=upstream.server_port, price=PRICE)
        (self.directory / "tolsey.toml").write_text(config, encoding="utf-8")
        with (self.directory / "gateway.log").open("wb") as log:
            gateway = subprocess.Popen(  # noqa: S603 - our own program
                [*_TOLSEY, "serve", "-c", "tolsey.toml"], cwd=self.directory, stdout=log, stderr=log
            )
            try:
                self._wait_until_ready(gateway)
                yield
            finally:
                gateway.send_signal(signal.SIGTERM)
                gateway.wait(timeout=READY_SECONDS)
                upstream.shutdown()
                upstream.server_close()

    def _wait_until_ready(self, gateway: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until and gateway.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}/readyz", timeout=1):
                    return
            except OSError:
                time.sleep(0.05)
        raise TolseyError(f"the gateway did not start: {(self.directory / 'gateway.log').read_text('utf-8')[-500:]}")

    def tolsey(self, *arguments: str, stdin: str = "", quiet: bool = False) -> dict[str, Any]:
        """Run the command line as a user would, show it, and return what it printed as JSON."""
        if not quiet:
            shown = [argument for argument in arguments if argument != "--json"]
            self.console.print(f"  [bold]$ tolsey {shlex.join(shown)}[/bold]", highlight=False)
        done = subprocess.run(  # noqa: S603 - our own program
            [*_TOLSEY, *arguments], cwd=self.directory, input=stdin, capture_output=True, text=True, check=False
        )
        found: dict[str, Any] = json.loads(done.stdout or done.stderr or "{}")
        return found

    def call(self, token: str, target: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Make one real call; return status, headers and body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{target}", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http
                return answer.status, dict(answer.headers), json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, dict(refused.headers), json.load(refused)

    def show(self, who: str, target: str, answer: tuple[int, dict[str, str], dict[str, Any]]) -> None:
        """Tell one call and its answer."""
        status, headers, body = answer
        headers = {name.lower(): value for name, value in headers.items()}
        if status == 200:
            money = f"cost {headers['tolsey-cost']}, {headers['tolsey-remaining']} left"
            self.console.print(f"  {who}: GET {target} → [green]200[/green] {money}", highlight=False)
        else:
            self.console.print(
                f"  {who}: GET {target} → [red]{status} {body['code']}[/red] {body['detail']}", highlight=False
            )

    def say(self, text: str) -> None:
        """Tell what comes next."""
        self.console.print(f"\n[bold cyan]{text}[/bold cyan]", highlight=False)


_TOLSEY: Final = (sys.executable, "-m", "tolsey.cli.main")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(console: Console) -> dict[str, Any]:
    """Tell the whole story on `console`; return what happened, for `--json`."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tolsey-demo-") as name:
        demo = Demo(Path(name), console)
        demo.say("A priced upstream and a gateway in front of it")
        with demo.running():
            console.print(f"  http://127.0.0.1:{demo.port}   /api/v1/search costs {PRICE} a call", highlight=False)
            happened = _story(demo)
        demo.say("The gateway has stopped; its journal is recomputed")
        happened["fsck"] = checked = demo.tolsey("fsck", "--json")
        if checked.get("difference") is not None or "code" in checked:
            raise TolseyError(f"fsck found a difference: {checked}")
        console.print("  every balance is what its entries add up to", highlight=False)
    happened["seconds"] = round(time.monotonic() - began, 1)
    console.print(
        f"\nThat took {happened['seconds']} s. README.md has the ten lines for your own API.\n", highlight=False
    )
    return happened


def _story(demo: Demo) -> dict[str, Any]:
    now = datetime.now(UTC)
    quarter = (now + timedelta(days=90)).strftime("%Y-%m-%d")
    week = (now + timedelta(days=7)).strftime("%Y-%m-%d")
    tonight = (now + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")

    demo.say("1. The admin mints a root token for a team")
    team = demo.tolsey("mint", "--label", "team-research-q2", "--budget", "10000 USD", "--scope", "/api/v1/*",
                       "--expires", quarter, "--json")["token"]  # fmt: skip
    demo.say("2. Each holder hands on a narrower one, offline: no key, no config, no network")
    subtask = demo.tolsey("attenuate", "-", "--label", "research-subtask-47", "--budget", "500 USD", "--scope",
                          "/api/v1/search", "--expires", week, "--json", stdin=team)["token"]  # fmt: skip
    worker_scope = "/api/v1/search?source=arxiv"
    worker = demo.tolsey("attenuate", "-", "--label", "search-worker-12", "--budget", "50 USD", "--scope",
                         worker_scope, "--expires", tonight, "--json", stdin=subtask)["token"]  # fmt: skip
    sibling = demo.tolsey("attenuate", "-", "--label", "search-worker-13", "--budget", "50 USD", "--scope",
                          worker_scope, "--json", stdin=subtask)["token"]  # fmt: skip

    demo.say("3. Real calls: each is held against every budget above it, forwarded, settled")
    arxiv = "/api/v1/search?source=arxiv"
    demo.show("search-worker-12", arxiv, demo.call(worker, arxiv))
    demo.show("research-subtask-47", "/api/v1/search?source=ndss", demo.call(subtask, "/api/v1/search?source=ndss"))
    demo.show("team-research-q2", "/api/v1/papers", demo.call(team, "/api/v1/papers"))

    demo.say("4. What the gateway refuses")
    refused = {
        "scope": _refusal(demo, "search-worker-12", worker, "/api/v1/search?source=pubmed"),
        "expired": _refusal(demo, "a child that has expired", _expired(demo, worker), arxiv),
        "widened": _widen(demo, worker, arxiv),
    }

    demo.say("5. The worker's budget runs dry; its sibling goes on")
    served = 1
    while (answer := demo.call(worker, arxiv))[0] == 200:
        served += 1
    console = demo.console
    console.print(f"  search-worker-12: {served} calls served, then", highlight=False)
    demo.show("search-worker-12", arxiv, answer)
    refused["dry"] = answer[2]["code"]
    demo.show("search-worker-13", arxiv, demo.call(sibling, arxiv))

    demo.say("6. Where the money went")
    trail = demo.tolsey("trail", "--json")
    done = subprocess.run(  # noqa: S603 - our own program
        [*_TOLSEY, "trail"],
        cwd=demo.directory,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FORCE_COLOR": "1"} if console.is_terminal else None,
    )
    console.out(done.stdout, end="", highlight=False)
    return {"served": served, "refused": refused, **trail}


def _refusal(demo: Demo, who: str, token: str, target: str) -> str:
    answer = demo.call(token, target)
    demo.show(who, target, answer)
    code: str = answer[2]["code"]
    return code


def _expired(demo: Demo, token: str) -> str:
    past = (datetime.now(UTC) - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    child: str = demo.tolsey("attenuate", "-", "--label", "late", "--expires", past, "--json", stdin=token)["token"]
    return child


def _widen(demo: Demo, token: str, target: str) -> str:
    """Try to widen: with our own tool, which refuses to write it, and with the bytes of any macaroon library."""
    refused = demo.tolsey("attenuate", "-", "--label", "greedy", "--budget", "5000 USD", "--json", stdin=token)
    demo.console.print(f"  → [red]{refused['code']}[/red] {refused['detail']}", highlight=False)
    forced = Macaroon.deserialize(token).attenuate("scope = /api/v1/*", "budget = 5000 USD").to_text()
    return _refusal(demo, "the same, appended by force", forced, target.replace("arxiv", "pubmed"))
