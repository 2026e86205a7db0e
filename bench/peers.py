"""The peers: nginx, Caddy and Envoy as reverse proxies, single-threaded; Caddy and Envoy also with a policy service.

Each has its defaults, except that access logs are off and that upstream connections are kept for every client.
They are called without a token, which spares them the larger header that Tolsey has to read.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import install
from bench.ground import Ground, Server
from bench.load import CONNECTIONS
from bench.machine import scratch
from bench.nginx import nginx
from bench.origin import BODY, PATH, answers
from bench.processes import running, wait_until
from tests.ports import free_port

_NGINX = """
  upstream origin {{ server 127.0.0.1:{origin}; keepalive {connections}; keepalive_requests 1000000000; }}
  upstream policy {{ server 127.0.0.1:{policy}; keepalive {connections}; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    {auth}
    location / {{ {ask} proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
"""

_AUTH_REQUEST = """location = /check {{ internal; proxy_pass http://policy; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_pass_request_body off; proxy_set_header Content-Length ""; }}"""

_CADDY = """
{{
  admin off
  auto_https off
  persist_config off
  log {{
    level WARN
  }}
}}
:{port} {{
  bind 127.0.0.1
  {auth}
  reverse_proxy 127.0.0.1:{origin} {{
    transport http {{
      keepalive_idle_conns_per_host {connections}
    }}
  }}
}}
"""

_FORWARD_AUTH = """forward_auth 127.0.0.1:{policy} {{
    uri /check
    transport http {{
      keepalive_idle_conns_per_host {connections}
    }}
  }}"""


@contextlib.contextmanager
def direct(ground: Ground) -> Iterator[Server]:
    """Nothing between load and upstream: what latency is added to."""
    yield Server(ground.origin.port, None)


@contextlib.contextmanager
def nginx_proxy(ground: Ground, *, auth: bool = False) -> Iterator[Server]:
    """nginx, plain (the practical limit) or with ``auth_request``."""
    port = free_port()
    config = _NGINX.format(
        port=port,
        origin=ground.origin.port,
        policy=ground.origin.policy,
        connections=CONNECTIONS,
        auth=_AUTH_REQUEST.format() if auth else "",
        ask="auth_request /check;" if auth else "",
    )
    with scratch() as folder, nginx(config, folder=folder, core=ground.places.server) as (process, log):
        cold = wait_until(lambda: answers(port, PATH, BODY), process, log, "nginx")
        yield Server(port, process, cold_ms=cold)


@contextlib.contextmanager
def caddy(ground: Ground, *, auth: bool = False) -> Iterator[Server]:
    """Caddy on one thread, plain or with ``forward_auth``."""
    port = free_port()
    check = _FORWARD_AUTH.format(policy=ground.origin.policy, connections=CONNECTIONS) if auth else ""
    with scratch() as folder:
        config, log = folder / "Caddyfile", folder / "caddy.log"
        config.write_text(_CADDY.format(port=port, origin=ground.origin.port, auth=check, connections=CONNECTIONS))
        command: list[str | Path] = [install.need("caddy"), "run", "--config", config, "--adapter", "caddyfile"]
        env = {"GOMAXPROCS": "1", "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        with running(command, core=ground.places.server, log=log, env=env) as process:
            cold = wait_until(lambda: answers(port, PATH, BODY), process, log, "Caddy")
            yield Server(port, process, cold_ms=cold)


@contextlib.contextmanager
def envoy(ground: Ground, *, auth: bool = False) -> Iterator[Server]:
    """Envoy on one worker thread, plain or with ``ext_authz``."""
    port = free_port()
    with scratch() as folder:
        config, log = folder / "envoy.json", folder / "envoy.log"
        config.write_text(json.dumps(_envoy(port, ground, auth)))
        command: list[str | Path] = [install.need("envoy"), "-c", config, "--concurrency", "1", "--disable-hot-restart"]
        command += ["--log-level", "warning"]
        with running(command, core=ground.places.server, log=log) as process:
            cold = wait_until(lambda: answers(port, PATH, BODY), process, log, "Envoy")
            yield Server(port, process, cold_ms=cold)


def _envoy(port: int, ground: Ground, auth: bool) -> dict[str, Any]:
    """Envoy's static configuration."""
    router = {"name": "envoy.filters.http.router", "typed_config": _typed("filters.http.router.v3.Router")}
    ask = {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": _typed("filters.http.ext_authz.v3.ExtAuthz")
        | {"http_service": {"server_uri": {"uri": "http://policy", "cluster": "policy", "timeout": "1s"}}},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "origin"}}
    manager = _typed("filters.network.http_connection_manager.v3.HttpConnectionManager") | {
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [ask, router] if auth else [router],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "bench", "address": _address(port), "filter_chains": [{"filters": filters}]}
    clusters = [_cluster("origin", ground.origin.port), _cluster("policy", ground.origin.policy)]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _typed(name: str) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}"}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment}
