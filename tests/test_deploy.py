"""`deploy/`: each file is looked at by the tool that it is for, or by the nearest thing that runs without a cluster.

No container is built or run here. What the containers' scripts do is done in a folder; proxies and Prometheus are the
real ones, before a real gateway.
"""

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.cli import SCRIPT, environment, tolsey
from tests.ends import Client
from tests.gateways import Gateway, child_of, serving, until
from tests.ports import free_port
from tests.swarm import answers
from tests.upstreams import Upstream
from tolsey.admin.metrics import METRICS
from tolsey.config import problems
from tolsey.store.keyring import Keyring

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
TOOLS = DEPLOY / ".venv/bin"
DASHBOARD = DEPLOY / "grafana/dashboards/tolsey.json"
RULES = DEPLOY / "prometheus/tolsey.rules.yml"
KUBERNETES = DEPLOY / "kubernetes"

CONFIG = """
[server]
trusted_proxies = ["127.0.0.1"]
[[upstream]]
name = "u"
url = "http://127.0.0.1:<port>"
[[upstream]]
name = "gone"
url = "http://127.0.0.1:<closed>"
[[route]]
path = "/gone"
methods = ["GET"]
upstream = "gone"
price = "0.01 USD"
[[route]]
path = "/*"
methods = ["GET"]
upstream = "u"
price = "0.01 USD"
"""

real = pytest.mark.deploy


def program(name: str) -> str:
    """Where a program of the system is. Skips the test where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path, cwd: Path = DEPLOY) -> str:
    """Run a tool that must have nothing to say against it."""
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def running(*command: str | Path, cwd: Path, port: int) -> Iterator[None]:
    """A server that takes connections on `port`, until the block ends."""
    with open(cwd / "said", "wb") as said:
        process = subprocess.Popen([*map(str, command)], cwd=cwd, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
    try:
        until(lambda: answers(port) or process.poll() is not None, f"{command[0]} listens")
        assert process.poll() is None, (cwd / "said").read_text()
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("g"), CONFIG, port=upstream.port, closed=free_port()) as found:
        yield found


# --- what stands in the files


@pytest.mark.parametrize("file", [DEPLOY / "tolsey.toml", KUBERNETES / "tolsey.toml"], ids=["compose", "kubernetes"])
def test_the_configs_are_right(file: Path) -> None:
    assert problems(file, {"LEDGER_URL": "postgresql://tolsey:sesame@postgres/tolsey"}) == []


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    named = {name for expr in expressions() for name in re.findall(r"\btolsey_\w+", expr)}
    kinds = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",), "info": ("",)}
    known = {f"{metric.name}{end}": metric for metric in METRICS for end in kinds[metric.kind]}
    assert named <= known.keys()
    assert {known[name].name for name in named} == {metric.name for metric in METRICS}


def test_the_dashboard_groups_by_labels_that_are_there() -> None:
    labels = {label for metric in METRICS for label in metric.labels} | {"le", "instance"}
    for expr in expressions():
        for found in re.findall(r"\bby \(([^)]*)\)", expr):
            assert {label.strip() for label in found.split(",")} <= labels, expr


def test_panels_have_their_own_numbers_and_places() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


def test_the_alarms_name_metrics_that_are_there() -> None:
    named = set(re.findall(r"\btolsey_[a-z_]+", RULES.read_text("utf-8")))
    assert named <= {end for metric in METRICS for end in (metric.name, f"{metric.name}_bucket")}


def test_the_alarms_in_the_docs_are_in_the_file() -> None:
    text = (ROOT / "docs/metrics.md").read_text("utf-8")
    shown = re.findall(r"alert: (\w+)\n\s+expr: (.*)", text)
    assert shown
    assert set(shown) <= set(re.findall(r"alert: (\w+)\n\s+expr: (.*)", RULES.read_text("utf-8")))


def test_runbooks_that_alarms_name_are_there() -> None:
    named = re.findall(r"runbook: (\S+)", RULES.read_text("utf-8"))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_nothing_has_a_password() -> None:
    for file in DEPLOY.rglob("*.y*ml"):
        for name, value in re.findall(r"^ *(\w*(?:PASSWORD|SECRET)): *(.*)$", file.read_text("utf-8"), re.MULTILINE):
            assert re.fullmatch(r"\$\{\w+:\?\}", value), f"{file.name}: {name}"


# --- what the containers' scripts do


def test_the_script_that_makes_the_keys_makes_them_once(tmp_path: Path) -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    (script,) = re.findall(r"command:\n      - \|\n((?:        .*\n)+)", text)
    path = f"{SCRIPT.parent}:{environment()['PATH']}"
    keys = tmp_path / "keys"
    for _ in range(2):
        before = keys.read_bytes() if keys.exists() else None
        done = subprocess.run(
            ["sh", "-ec", script], cwd=tmp_path, env=environment({"PATH": path}), capture_output=True, check=True
        )
        assert b"tolsey_" not in done.stdout + done.stderr
        assert [entry.name for entry in tmp_path.iterdir()] == ["keys"]
        assert before in (None, keys.read_bytes())
    assert Keyring.open(keys).ledger is None


def test_a_gateway_keeps_its_mark_when_its_keys_are_copied_anew(upstream: Upstream, tmp_path: Path) -> None:
    text = (KUBERNETES / "statefulset.yaml").read_text("utf-8")
    (script,) = re.findall(r"args:\n            - \|\n((?: {14}.*\n)+)", text)
    state, secret = tmp_path / "g/data", tmp_path / "secret"
    secret.mkdir()
    (tmp_path / "g").mkdir()
    state.mkdir(mode=0o700)
    Keyring.create(secret / "keys")
    (secret / "keys").chmod(0o440)
    script = script.replace("/var/lib/tolsey", str(state)).replace("/keys/keys", str(secret / "keys"))
    for round_ in range(2):
        subprocess.run(["sh", "-ec", script], check=True)
        with serving(tmp_path / "g", CONFIG, port=upstream.port, closed=free_port()) as gateway:
            token = gateway.token()
            assert gateway.ask("GET", f"/{round_}", token=token).status == 200
    subprocess.run(["sh", "-ec", script], check=True)
    for file in state.glob("ledger.db*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    status, _, err = tolsey("mint", "--label", "a", "--budget", "1 USD", cwd=tmp_path / "g")
    assert (status, "the mark is of ledger" in err) == (1, True), err


# --- what the real tools say


@real
def test_the_container_file() -> None:
    run(TOOLS / "hadolint", "--failure-threshold", "info", "Containerfile")


@real
def test_the_compose_file() -> None:
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


@real
def test_the_manifests(tmp_path: Path) -> None:
    files = [file for file in KUBERNETES.glob("*.yaml") if file.name != "kustomization.yaml"]
    assert {file.name for file in files} == set(
        re.findall(r"^  - (\w+\.yaml)$", (KUBERNETES / "kustomization.yaml").read_text("utf-8"), re.MULTILINE)
    )
    run(TOOLS / "kubernetes-validate", "--strict", *files)
    if shutil.which("kubectl") is not None:
        whole = tmp_path / "whole.yaml"
        whole.write_text(run("kubectl", "kustomize", KUBERNETES))
        run(TOOLS / "kubernetes-validate", "--strict", whole)


@real
def test_the_yaml() -> None:
    run(
        TOOLS / "yamllint",
        "--strict",
        "-c",
        "yamllint.yaml",
        *sorted(file for file in DEPLOY.glob("[!.]*/**/*.y*ml")),
        "compose.yaml",
    )


@real
def test_the_unit(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    unit = tmp_path / "tolsey.service"
    unit.write_text((DEPLOY / "systemd/tolsey.service").read_text().replace("/opt/tolsey/bin/tolsey", str(SCRIPT)))
    run(analyze, "verify", "--recursive-errors=no", unit)
    # 2.0 of 10; systemd calls up to 2.0 "OK", and most services of a distribution have 9.
    run(analyze, "security", "--offline=yes", "--threshold=20", unit)


@real
def test_prometheus_takes_its_files(tmp_path: Path) -> None:
    run(program("promtool"), "check", "config", DEPLOY / "prometheus/prometheus.yml")


class Prometheus:
    """A server that scrapes a gateway every second."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """The data of an answer of its API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answered:
            found: dict[str, Any] = json.load(answered)["data"]
        return found

    def is_ready(self) -> bool:
        """Whether it takes queries."""
        try:
            return "result" in self.get("query", query="1")
        except OSError:
            return False

    def value(self, expr: str) -> list[Any]:
        """The series of an instant."""
        found: list[Any] = self.get("query", query=expr)["result"]
        return found


@contextmanager
def prometheus(gateway: Gateway, folder: Path) -> Iterator[Prometheus]:
    config = (DEPLOY / "prometheus/prometheus.yml").read_text().replace("15s", "1s")
    found = config.index("    # Each gateway")
    static = f"    static_configs:\n      - targets: ['127.0.0.1:{gateway.admin_port}']\n"
    (folder / "prometheus.yml").write_text(config[:found] + static)
    shutil.copy(RULES, folder)
    port = free_port()
    words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/db"]
    with running(program("prometheus"), *words, f"--web.listen-address=127.0.0.1:{port}", cwd=folder, port=port):
        yield Prometheus(port)


@real
def test_every_panel_and_alarm_works_on_a_gateway_that_is_used(gateway: Gateway, tmp_path: Path) -> None:
    token = gateway.token()
    with prometheus(gateway, tmp_path) as server:
        until(server.is_ready, "Prometheus is ready")
        until(lambda: server.value("tolsey_workers_ready"), "the first scrape")
        for round_ in range(1, 4):
            assert gateway.ask("GET", "/x", token=token).status == 200
            assert gateway.ask("GET", "/gone", token=token).status == 502
            assert gateway.ask("GET", "/x", token=child_of(token, "method = PUT")).status == 403
            until(partial(server.value, f"sum(tolsey_calls_total) >= {3 * round_}"), "they are counted")
        until(lambda: server.value("sum(rate(tolsey_ledger_commit_seconds_count[10s])) > 0"), "two scrapes")
        for expr in expressions():
            asked = expr.replace("$__rate_interval", "30s").replace("$job", "tolsey").replace("$instance", ".+")
            assert server.value(asked) or "tolsey_llm_tokens" in expr, expr
        rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
        assert len(rules) == RULES.read_text().count("- alert:")
        until(lambda: all(r["health"] == "ok" for g in server.get("rules")["groups"] for r in g["rules"]), "evaluated")
        assert [alert["labels"]["alertname"] for alert in server.get("alerts")["alerts"]] == []


def call_through(port: int, authority: Authority, gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token("peer = 127.0.0.2/32")
    with Client(port, tls=authority.known) as client:
        client.ask("GET", "/a%20b?q=%2F", "X-Forwarded-For: 127.0.0.2", token=token)
        # What a client says of its address, the proxy does not pass on.
        assert client.answer().status == 403
        client.ask("GET", "/a%20b?q=%2F", token=gateway.token())
        answered = client.answer()
        assert (answered.status, answered["tolsey-cost"]) == (200, "0.01 USD")
        assert upstream.last().target == "/a%20b?q=%2F"


@real
def test_nginx_in_front(gateway: Gateway, upstream: Upstream, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    authority.certify("server")
    port = free_port()
    site = (DEPLOY / "nginx/tolsey.conf").read_text()
    site = site.replace("443", f"127.0.0.1:{port}").replace("8402", str(gateway.port))
    site = site.replace("/etc/nginx/tls", f"{tmp_path}/tls")
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n"
        f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n{site}\n}}\n"
    )
    with running(program("nginx"), "-c", tmp_path / "nginx.conf", "-e", "stderr", cwd=tmp_path, port=port):
        call_through(port, authority, gateway, upstream)


@real
def test_caddy_in_front(gateway: Gateway, upstream: Upstream, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    authority.certify("server")
    port = free_port()
    site = (DEPLOY / "caddy/Caddyfile").read_text()
    run(TOOLS / "caddy", "fmt", "--diff", "caddy/Caddyfile")
    own = f"https://:{port} {{\n\tbind 127.0.0.1\n\ttls {tmp_path}/tls/server.pem {tmp_path}/tls/server.key"
    site = site.replace("gateway.example {", own).replace("8402", str(gateway.port))
    (tmp_path / "Caddyfile").write_text(
        f"{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {tmp_path}/storage\n}}\n{site}"
    )
    with running(TOOLS / "caddy", "run", "--config", tmp_path / "Caddyfile", cwd=tmp_path, port=port):
        call_through(port, authority, gateway, upstream)
