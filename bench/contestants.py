"""Who runs: each contestant is a name, what it needs, and a way to have it running on one core before the upstream."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from bench.gateway import gateway
from bench.ground import Ground, Server
from bench.peers import caddy, envoy, nginx_proxy


@dataclass(frozen=True)
class Contestant:
    """One row of the table. ``tool`` is what it runs: a version is shown for each."""

    name: str
    title: str
    tool: str
    start: Callable[[Ground], AbstractContextManager[Server]]


CONTESTANTS = (
    Contestant("nginx", "nginx, plain proxy", "nginx", nginx_proxy),
    Contestant("caddy", "Caddy, plain proxy", "caddy", caddy),
    Contestant("caddy-auth", "Caddy + forward_auth", "caddy", partial(caddy, auth=True)),
    Contestant("envoy", "Envoy, plain proxy", "envoy", envoy),
    Contestant("envoy-authz", "Envoy + ext_authz", "envoy", partial(envoy, auth=True)),
    Contestant("tolsey", "Tolsey, durability full", "tolsey", gateway),
    Contestant("tolsey-normal", "Tolsey, durability normal", "tolsey", partial(gateway, durability="normal")),
)
NAMES = tuple(one.name for one in CONTESTANTS)
