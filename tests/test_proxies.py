"""Real proxies that ask before they forward, with the configuration that docs/beside.md prints.

Each is one of the gateways that people have: what it grants, what it refuses, what its clients cannot forge, what it
never passes on, and what is charged by what it logs.
"""

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bench import install
from tests import swarm
from tests.ends import Client, Message
from tests.gateways import Gateway, problem, serving, until
from tests.ports import free_port
from tests.upstreams import Upstream

pytestmark = pytest.mark.proxies

PAGE = (swarm.ROOT / "docs" / "beside.md").read_text("utf-8")
BODY = b"x" * 250_000

CONFIG = """
[server]
trusted_proxies = ["127.0.0.1"]
[decide]
port = <decide>
grpc_port = <grpc>
settle = "<settle>"
timeout = 20
[[upstream]]
name = "api"
url = "http://127.0.0.1:<origin>"
[[route]]
path = "/api/*"
methods = ["GET", "HEAD", "POST"]
upstream = "api"
price = "0.01 USD"
[[route]]
path = "/dear"
methods = ["GET"]
upstream = "api"
price = "5 USD"
[[route]]
path = "/bytes/*"
methods = ["GET"]
upstream = "api"
price = "0 USD"
price_per_response_mb = "1 USD"
[[route]]
path = "/time/*"
methods = ["GET"]
upstream = "api"
price = "0 USD"
price_per_second = "0.01 USD"
[[route]]
path = "/open/*"
methods = ["GET"]
upstream = "api"
mode = "public"
"""


def printed(section: str, language: str, which: int = 0) -> str:
    """The block in this language in a section of the page; `which` counts where there are several."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[which])


@dataclass
class Beside:
    """A gateway that decides, a proxy that asks it, and the API behind."""

    name: str
    gateway: Gateway
    origin: Upstream
    port: int
    ports: dict[int, int]

    def ask(self, method: str, target: str, *headers: str, token: str | None = None, body: bytes = b"") -> Message:
        """One request to the proxy."""
        with Client(self.port) as client:
            client.ask(method, target, *headers, "Connection: close", token=token, body=body)
            return client.answer(to_head=method == "HEAD")

    def hold(self, answer: Message) -> str:
        """The hold of the call that was answered last; Traefik tells it to the upstream alone."""
        return self.origin.last()["tolsey-hold"] if self.name == "traefik" else answer["tolsey-hold"]

    def cost(self, answer: Message, token: str) -> str:
        """What a call came to, as its holder reads it through the proxy, once it is settled."""
        found: dict[str, Any] = {"state": "open"}
        hold = self.hold(answer)

        def settled() -> bool:
            found.update(json.loads(self.ask("GET", f"/.tolsey/holds/{hold}", token=token).body))
            return str(found["state"]) != "open"

        until(settled, "the hold is settled")
        return str(found["cost"])


Start = Callable[[Path, Callable[[str], str]], list[str]]


def nginx(folder: Path, ported: Callable[[str], str]) -> list[str]:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    rest = f"daemon off; master_process off; pid {folder}/pid; error_log stderr warn; events {{}} http {{ {paths}\n"
    (folder / "nginx.conf").write_text(f"{rest}{ported(printed('nginx', 'nginx'))}}}\n")
    return [str(install.need("nginx")), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def haproxy(folder: Path, ported: Callable[[str], str]) -> list[str]:
    script = folder / "tolsey.lua"
    script.write_text(ported(printed("HAProxy", "lua")))
    config = ported(printed("HAProxy", "haproxy")).replace("/etc/haproxy/tolsey.lua", str(script))
    (folder / "haproxy.cfg").write_text(config)
    return [str(install.need("haproxy")), "-db", "-f", str(folder / "haproxy.cfg")]


def caddy(folder: Path, ported: Callable[[str], str]) -> list[str]:
    alone = "{\n\tadmin off\n\tpersist_config off\n}\n"
    (folder / "Caddyfile").write_text(alone + ported(printed("Caddy", "caddyfile")))
    return [str(install.need("caddy")), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


_ENVOY = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")


def envoy(folder: Path, ported: Callable[[str], str]) -> list[str]:
    (folder / "envoy.yaml").write_text(ported(printed("Envoy", "yaml")))
    return [str(install.need("envoy")), "-c", str(folder / "envoy.yaml"), *_ENVOY]


def envoy_grpc(folder: Path, ported: Callable[[str], str]) -> list[str]:
    (folder / "envoy.yaml").write_text(ported(printed("Envoy over gRPC", "yaml")))
    return [str(install.need("envoy")), "-c", str(folder / "envoy.yaml"), *_ENVOY]


def traefik(folder: Path, ported: Callable[[str], str]) -> list[str]:
    static, dynamic = folder / "traefik.yml", folder / "tolsey.yml"
    alone = "\nglobal: { checkNewVersion: false, sendAnonymousUsage: false }\n"
    static.write_text(ported(printed("Traefik", "yaml")).replace("/etc/traefik/tolsey.yml", str(dynamic)) + alone)
    dynamic.write_text(ported(printed("Traefik", "yaml", 1)))
    return [str(install.need("traefik")), f"--configFile={static}"]


PROXIES: dict[str, Start] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "caddy": caddy,
    "envoy": envoy,
    "envoy-grpc": envoy_grpc,
    "traefik": traefik,
}

LOGS = ("nginx", "haproxy", "caddy", "envoy-grpc")
"""Those whose log reaches Tolsey: over UDP, or over gRPC."""

SAYING = ("nginx", "envoy-grpc")
"""Those that say that nothing was sent."""


def routes(port: int) -> bool:
    """Whether a proxy listens there and has its routes: Traefik reads them when it listens already."""
    if not swarm.answers(port):
        return False
    with Client(port) as client:
        client.ask("GET", "/.tolsey/", "Connection: close")
        return client.answer().body != b"404 page not found\n"


@contextlib.contextmanager
def asking(name: str, folder: Path, ports: dict[int, int]) -> Iterator[None]:
    """The proxy runs, with these ports in place of those on the page."""

    def ported(text: str) -> str:
        return re.sub(r"\b(8080|8402|8404|8405|9000)\b", lambda found: str(ports[int(found[0])]), text)

    log = folder / "proxy.log"
    homes = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(folder))
    with log.open("wb") as out:
        process = subprocess.Popen(
            PROXIES[name](folder, ported), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **homes}
        )
    try:
        until(lambda: routes(ports[8080]) or process.poll() is not None, f"{name} listens", 20)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module", params=PROXIES)
def beside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    folder = tmp_path_factory.mktemp(request.param)
    port, decide, grpc = free_port(), free_port(), free_port()
    with (
        Upstream() as origin,
        serving(
            folder,
            CONFIG,
            decide=decide,
            grpc=grpc,
            origin=origin.port,
            settle="reported" if request.param in LOGS else "reserved",
        ) as gateway,
    ):
        ports = {8080: port, 8402: gateway.port, 8404: decide, 8405: grpc, 9000: origin.port}
        with asking(request.param, folder, ports):
            yield Beside(request.param, gateway, origin, port, ports)


def test_a_granted_call_is_forwarded_as_it_is_and_without_its_token(beside: Beside) -> None:
    token = beside.gateway.token()
    target = "/api/v1/search?source=arxiv&q=a%20b&q=%2Fc"
    left = []
    for header in (f"Authorization: Bearer {token}", f"X-Api-Key: {token}"):
        answer = beside.ask("POST", target, header, "X-Mine: 1", body=BODY)
        assert (answer.status, answer.body) == (200, b"{}")
        heard = beside.origin.last()
        assert (heard.line, heard.body, heard["x-mine"]) == (f"POST {target} HTTP/1.1", BODY, "1")
        assert "authorization" not in heard
        assert "x-api-key" not in heard
        assert token.encode() not in heard.head
        assert heard["tolsey-hold"] == beside.hold(answer)
        assert beside.cost(answer, token) == "0.01"
        left += answer.all("tolsey-remaining")
    assert left == ([] if beside.name == "traefik" else ["9.99 USD", "9.98 USD"])
    beside.gateway.stands(token, spent="0.02", calls=2)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_every_method_is_asked_for_as_itself(beside: Beside, method: str) -> None:
    token = beside.gateway.token(f"method = {method}")
    assert beside.ask(method, "/api/a", token=token).status == 200
    assert beside.origin.last().line == f"{method} /api/a HTTP/1.1"
    other = "POST" if method != "POST" else "GET"
    assert beside.ask(other, "/api/a", token=token).status == 403


def test_what_is_refused_reaches_nobody_and_says_why(beside: Beside) -> None:
    gateway = beside.gateway
    poor, elsewhere = gateway.token(budget="0.005 USD"), gateway.token("scope = /other/*")
    quick = gateway.token("rate = 1/hour")
    assert beside.ask("GET", "/api/a", token=quick).status == 200
    cases = [
        ("GET", "/api/a", None, 401, "token_missing"),
        ("GET", "/api/a", "tolsey_x", 401, "token_malformed"),
        ("GET", "/api/a", poor, 402, "budget_exhausted"),
        ("GET", "/api/a", elsewhere, 403, "caveat_refused"),
        ("GET", "/none", poor, 404, "route_missing"),
        ("DELETE", "/api/a", poor, 405, "method_not_allowed"),
        ("GET", "/api/a", quick, 429, "rate_limited"),
    ]
    with beside.origin.hears_nothing():
        for method, target, token, status, code in cases:
            answer = beside.ask(method, target, token=token)
            document = json.loads(answer.body)
            assert (answer.status, document["code"]) == (status, code)
            assert answer["content-type"] == "application/problem+json"
            assert document == problem(gateway.ask(method, target, token=token))
            assert ("www-authenticate" in answer) == (status == 401)
            assert ("retry-after" in answer) == (status == 429)


def test_what_was_asked_about_is_what_is_forwarded(beside: Beside) -> None:
    """No header of a client's, and no spelling of a path, has one call priced and another served."""
    token = beside.gateway.token()
    targets = ("X-Original-URI", "X-Original-URL", "X-Forwarded-Uri", "X-Rewrite-URL", "X-Envoy-Original-Path")
    forged = [f"{name}: /api/cheap" for name in targets]
    forged += ["X-Original-Method: GET", "X-Forwarded-Method: GET"]
    answer = beside.ask("GET", "/dear", *forged, token=token)
    assert (answer.status, beside.origin.last().target) == (200, "/dear")
    assert beside.cost(answer, token) == "5"
    for target in ("/api/../dear", "/api/%2e%2e/dear", "//dear", "/api/..;/dear", "/dear#/api/a", "/api\\..\\dear"):
        before = len(beside.origin.heard)
        refused = beside.ask("GET", target, token=token)
        served = [message.target for message in beside.origin.heard[before:]]
        assert served in ([], ["/api/..;/dear"]), (target, refused.status)
    assert beside.gateway.balance(token)[0]["spent"] in ("5", "5.01")


def test_the_address_is_the_one_that_the_proxy_saw(beside: Beside) -> None:
    near, far = beside.gateway.token("peer = 127.0.0.2"), beside.gateway.token("peer = 192.0.2.7")
    found = []
    for token in (near, far):
        with Client(beside.port, source="127.0.0.2") as client:
            client.ask("GET", "/api/a", "X-Forwarded-For: 192.0.2.7", "Connection: close", token=token)
            found.append(client.answer().status)
    assert found == [200, 403]


def test_a_hold_of_a_clients_own_making_goes_nowhere(beside: Beside) -> None:
    token = beside.gateway.token()
    first = beside.hold(beside.ask("GET", "/api/a", token=token))
    second = beside.hold(beside.ask("GET", "/api/b", f"Tolsey-Hold: {first}", token=token))
    assert beside.origin.last().all("tolsey-hold") == [second]
    assert second != first
    beside.ask("GET", "/open/a", f"Tolsey-Hold: {first}")
    assert beside.origin.last().all("tolsey-hold") in ([], [""])


def test_a_hold_of_a_clients_own_making_settles_nothing(beside: Beside) -> None:
    """Calls that are refused or public are logged too, with whatever their client says."""
    if beside.name not in LOGS:
        pytest.skip("no log is sent")
    token = beside.gateway.token()
    with Client(beside.port) as client:
        client.ask("GET", "/time/talk", "Connection: close", token=token)
        talk = beside.origin.hear()
        hold = beside.origin.last()["tolsey-hold"]
        for target, status in (("/none", 404), ("/time/a", 401), ("/open/a", 200)):
            assert beside.ask("GET", target, f"Tolsey-Hold: {hold}").status == status
        time.sleep(0.3)
        talk.answers()
        answer = client.answer()
    assert answer["tolsey-hold"] == hold
    assert float(beside.cost(answer, token)) >= 0.003


def test_bytes_are_charged_by_what_the_proxy_logs(beside: Beside) -> None:
    if beside.name not in LOGS:
        pytest.skip("no log is sent")
    token = beside.gateway.token()
    beside.origin.answers["/bytes/a"] = b"HTTP/1.1 200 OK\r\nContent-Length: 250000\r\n\r\n" + BODY
    answer = beside.ask("GET", "/bytes/a", token=token)
    assert (answer.status, len(answer.body), answer["tolsey-quote"]) == (200, 250_000, "1 USD")
    cost = float(beside.cost(answer, token))
    assert 0.25 <= cost < 0.251
    assert cost == 0.25 or beside.name == "haproxy"


def test_time_is_charged_by_what_the_proxy_logs(beside: Beside) -> None:
    if beside.name not in LOGS:
        pytest.skip("no log is sent")
    token = beside.gateway.token()
    began = time.monotonic()
    with Client(beside.port) as client:
        client.ask("GET", "/time/talk", "Connection: close", token=token)
        talk = beside.origin.hear()
        time.sleep(0.3)
        talk.answers()
        answer = client.answer()
    took = time.monotonic() - began
    # Proxies write whole milliseconds, and their clocks stand still while they work.
    assert 0.00298 <= float(beside.cost(answer, token)) <= 0.01 * (took + 0.002)


def test_an_answer_that_streams_comes_piece_by_piece(beside: Beside) -> None:
    with Client(beside.port) as client:
        client.ask("GET", "/api/talk", "Connection: close", token=beside.gateway.token())
        talk = beside.origin.hear()
        talk.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n")
        talk.say("Transfer-Encoding: chunked\r\n\r\n6\r\none\r\n\n\r\n")
        assert client.head().status == 200
        assert client.chunk() == b"one\r\n\n"
        talk.say("3\r\ntwo\r\n0\r\n\r\n")
        assert client.chunk() == b"two"
        talk.over()


def test_a_call_that_cannot_be_sent_costs_nothing_where_the_proxy_says_so(tmp_path: Path, beside: Beside) -> None:
    if beside.name not in SAYING:
        pytest.skip("this proxy does not say so")
    ports = {**beside.ports, 8080: free_port(), 9000: free_port()}
    token = beside.gateway.token()
    with asking(beside.name, tmp_path, ports):
        answer = replace(beside, port=ports[8080]).ask("GET", "/api/a", token=token)
        assert answer.status in (502, 503)
        assert beside.cost(answer, token) == "0"
    beside.gateway.stands(token, spent="0", calls=0)


def test_nothing_is_served_while_nobody_decides(tmp_path: Path, beside: Beside) -> None:
    ports = {**dict.fromkeys(beside.ports, free_port()), 8080: free_port(), 9000: beside.origin.port}
    with asking(beside.name, tmp_path, ports), beside.origin.hears_nothing():
        answer = replace(beside, port=ports[8080]).ask("GET", "/api/a", token=beside.gateway.token())
        assert answer.status in (500, 502, 503)
