"""The gateway inside an application, under real servers with several processes: what it serves, refuses and charges."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from tests import gateways, swarm
from tests.ends import Client
from tests.gateways import problem, until
from tests.ports import free_port
from tolsey.asgi import Receive, Scope, Send, Tolsey, price
from tolsey.errors import ConfigError
from tolsey.store.keyring import Keyring

CONFIG = """
[[upstream]]
name = "here"
url = "http://127.0.0.1:1"
[[route]]
path = "/cheap"
methods = ["GET"]
upstream = "here"
price = "0.001 USD"
[[route]]
path = "/openapi.json"
methods = ["GET"]
upstream = "here"
mode = "public"
[[route]]
path = "/search"
methods = ["GET"]
upstream = "here"
mode = "public"
"""
SERVERS = {
    "uvicorn": ["-m", "uvicorn", "tests.hosted:app", "--log-level", "warning", "--port"],
    "granian": ["-m", "granian", "--interface", "asgi", "--log-level", "warning", "tests.hosted:app", "--port"],
}


class Hosted(gateways.Gateway):
    """An application with a gateway in it: the same questions, of another process."""

    server: str
    processes: int

    def log(self) -> list[str]:
        """What the application wrote down."""
        file = self.file.with_name("app.log")
        return file.read_text().splitlines() if file.exists() else []

    def begin(self) -> None:
        with open(self.err, "ab") as err:
            self._from = err.tell()
            self.process = subprocess.Popen(
                [sys.executable, *SERVERS[self.server], str(self.port), "--workers", str(self.processes)],
                cwd=swarm.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
                env={**os.environ, "HOSTED_CONFIG": str(self.file), "HOSTED_LOG": str(self.file.with_name("app.log"))},
                start_new_session=True,
            )
        until(lambda: self.log().count("up") == self.processes or not self.runs(), "the application is up", 30)
        until(lambda: swarm.answers(self.port) or not self.runs(), "the server listens", 20)
        assert self.runs(), self.said()


def hosted(folder: Path, server: str, processes: int = 1) -> Hosted:
    keys = folder / "data/keys"
    keys.parent.mkdir(mode=0o700)
    Keyring.create(keys)
    file = folder / "tolsey.toml"
    file.write_text(CONFIG)
    found = Hosted(file, free_port(), 0, folder / "data/ledger.db", keys)
    found.server, found.processes = server, processes
    return found


@contextlib.contextmanager
def hosting(folder: Path, server: str, processes: int = 1) -> Iterator[Hosted]:
    app = hosted(folder, server, processes)
    with swarm.ending(app):
        app.begin()
        yield app
        assert app.process is not None
        app.process.terminate()
        app.ends()
        assert app.log().count("down") == processes
        assert app.fsck().open_holds == 0


@pytest.fixture(scope="module", params=SERVERS)
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    with hosting(tmp_path_factory.mktemp(request.param), request.param) as running:
        yield running


def test_an_endpoint_is_charged_what_its_decorator_says(app: Hosted) -> None:
    """Before what the file says of its path: there it is public."""
    token = app.token()
    answer = app.ask("GET", "/search?q=a%20b", "X-Mine: 1", "X-Forwarded-For: 192.0.2.7", token=token)
    assert (answer.status, answer["tolsey-cost"], answer["tolsey-remaining"]) == (200, "0.01 USD", "9.99 USD")
    seen = json.loads(answer.body)
    headers = dict(seen["headers"])
    assert (seen["q"], headers["host"], headers["x-mine"]) == ("a b", "gateway.test", "1")
    assert [value for name, value in seen["headers"] if name == "x-forwarded-for"] == ["192.0.2.7"]
    assert token not in answer.body.decode()
    assert "authorization" not in headers
    app.stands(token, spent="0.01", calls=1)


@pytest.mark.parametrize(
    ("target", "spent"),
    [
        ("/v1/items/7", "0.02"),
        ("/v1/files/a/b.txt", "0.03"),
        ("/below/deep", "0.04"),
        ("/cheap", "0.001"),
        ("/told", "0.125"),
        ("/away", "0.01"),
        ("/teapot", "0.01"),
        ("/bytes/250000", "0.25"),
    ],
)
def test_routers_mounts_and_the_file_have_prices(app: Hosted, target: str, spent: str) -> None:
    token = app.token()
    answer = app.ask("GET", target, token=token)
    assert answer.status == {"/away": 307, "/teapot": 418}.get(target, 200)
    assert answer.all("tolsey-cost") in ([], [f"{spent} USD"])
    app.stands(token, spent=spent, calls=1)


def test_a_body_is_charged_by_its_size_and_arrives_whole(app: Hosted) -> None:
    token = app.token()
    assert json.loads(app.ask("POST", "/echo", token=token, body=b"x" * 300_000).body) == {"bytes": 300_000}
    app.stands(token, spent="0.3", calls=1)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/unpriced", 404),
        ("GET", "/docs", 404),
        ("POST", "/search", 405),
        ("GET", "/v1/items/7/more", 404),
        ("GET", "/v1/files/", 404),
        ("GET", "/v1/%69tems/7", 400),
        ("GET", "/v1/../unpriced", 400),
        ("GET", "//unpriced", 400),
    ],
)
def test_what_has_no_price_is_not_there(app: Hosted, method: str, target: str, status: int) -> None:
    assert problem(app.ask(method, target, token=app.token()))["status"] == status
    assert "unpriced" not in app.log()


def test_refusals_are_those_of_a_gateway(app: Hosted) -> None:
    assert app.ask("GET", "/search").status == 401
    assert problem(app.ask("GET", "/search", token=app.token(budget="0.005 USD")))["code"] == "budget_exhausted"
    assert problem(app.ask("GET", "/search", token=app.token("scope = /cheap")))["code"] == "caveat_refused"
    assert app.ask("GET", "/openapi.json").status == 200


def test_a_key_is_paid_for_once(app: Hosted) -> None:
    token = app.token()
    first, second = (app.ask("GET", "/v1/items/7", "Idempotency-Key: k", token=token) for _ in range(2))
    assert (first.body, second.body, second["tolsey-replayed"]) == (b'{"item":"7"}', b'{"item":"7"}', "true")
    app.stands(token, spent="0.02", calls=1)


def test_an_endpoint_that_fails_answers_as_it_would_alone(app: Hosted) -> None:
    token = app.token()
    answer = app.ask("GET", "/fails", token=token)
    assert (answer.status, answer.body) == (500, b"Internal Server Error")
    app.stands(token, spent="0.01", calls=1)


def test_an_answer_that_breaks_off_is_seen_to(app: Hosted) -> None:
    token = app.token()
    with Client(app.port) as client:
        client.ask("GET", "/breaks", token=token)
        assert client.head().status == 200
        assert b"\r\n0\r\n\r\n" not in client.rest()
    app.stands(token, spent="0.01", calls=1)


def test_a_stream_whose_client_leaves_is_charged_for_its_time_and_ends(app: Hosted) -> None:
    token = app.token()
    with Client(app.port) as client:
        client.ask("GET", "/events", token=token)
        assert client.head()["tolsey-quote"] == "0.1 USD"
        assert client.chunk().startswith(b"data: 0\n\n")
        assert client.chunk()
    until(lambda: "the stream ended" in app.log(), "the application hears of it")
    (account,) = app.accounts(token)
    assert 0 < float(account["spent"]) < 0.1
    assert account["calls"] == 1


def test_a_handler_runs_on_though_its_client_left(app: Hosted) -> None:
    """As it would without the middleware: half of a change may not be what a client that leaves makes of it."""
    token = app.token()
    with Client(app.port) as client:
        client.ask("GET", "/slow", token=token)
        until(lambda: "slow began" in app.log(), "the handler runs")
    until(lambda: "slow ended" in app.log(), "the handler ran to its end")
    app.stands(token, spent="0.01", calls=1)


def test_what_runs_after_the_answer_does(app: Hosted) -> None:
    token = app.token()
    assert app.ask("GET", "/later", token=token).status == 200
    app.stands(token, spent="0.01", calls=1)
    until(lambda: "the task ran" in app.log(), "the task ran")


def test_websockets_are_refused(app: Hosted) -> None:
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    answer = app.ask("GET", "/socket", *upgrade, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", token=app.token())
    assert answer.status in (403, 404, 400)
    assert "socket" not in app.log()


@pytest.mark.parametrize("server", SERVERS)
def test_one_budget_holds_for_all_processes(server: str, tmp_path: Path) -> None:
    with hosting(tmp_path, server, processes=3) as app:
        token = app.token(budget="0.1 USD")
        served = [app.ask("GET", "/v1/items/7", token=token).status for _ in range(10)]
        assert served == [200] * 5 + [402] * 5
        app.stands(token, spent="0.1", calls=5)


@pytest.mark.slow
def test_what_a_killed_process_held_is_settled_by_the_next(tmp_path: Path) -> None:
    app = hosted(tmp_path, "uvicorn")
    with swarm.ending(app):
        app.begin()
        token = app.token()
        with Client(app.port) as client:
            client.ask("GET", "/events", token=token)
            client.head()
            app.kill_group()
        (tmp_path / "app.log").unlink()
        app.begin()
        app.stands(token, spent="0.1", calls=1)


@pytest.mark.parametrize("server", SERVERS)
def test_an_application_that_cannot_open_its_ledger_does_not_start(server: str, tmp_path: Path) -> None:
    app = hosted(tmp_path, server)
    app.file.write_text("[ledgr]\n")
    with swarm.ending(app), pytest.raises(AssertionError):
        app.begin()
    assert 'did you mean "ledger"' in app.err.read_text()
    assert "up" not in app.log()


async def test_nothing_is_served_before_the_lifespan(tmp_path: Path) -> None:
    said: list[MutableMapping[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("the application was called")

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "headers": []}
    await Tolsey(app, tmp_path / "none.toml")(scope, receive, send)
    assert said[0]["status"] == 503
    assert b"lifespan" in said[1]["body"]


@pytest.mark.parametrize(
    ("amount", "parts", "message"),
    [
        ("0.01", {}, "price"),
        (None, {}, "says no price"),
        ("0.01 USD", {"per_second": "1 USD"}, "per_second"),
        ("0.01 USD", {"price_per_second": "1 sat"}, "write both in one"),
    ],
)
def test_a_wrong_price_is_an_error_where_it_stands(amount: str | None, parts: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        price(amount, **parts)
