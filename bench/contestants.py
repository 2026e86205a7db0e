"""Who runs: each contestant is a name, what it needs, and a way to have it running on one core before the upstream."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from bench.aperture import aperture
from bench.gateway import gateway
from bench.ground import Ground, Server
from bench.jobs import CHAT, JOBS, SEARCH, Job
from bench.litellm import litellm
from bench.peers import caddy, direct, envoy, nginx_proxy


@dataclass(frozen=True)
class Contestant:
    """One row of the table. ``tool`` is what it runs: a version is shown for each. ``jobs`` are those that it does, and
    with ``paced`` it is also called at fixed rates.
    """

    name: str
    title: str
    tool: str
    start: Callable[[Ground], AbstractContextManager[Server]]
    jobs: tuple[Job, ...] = JOBS
    paced: bool = True


DIRECT = "direct"
OURS = "tolsey"
"""The contestant that the others are held against, and what all of ours run."""

_FIRST = (SEARCH,)
CONTESTANTS = (
    Contestant(DIRECT, "the upstream itself", "nginx", direct, ()),
    Contestant("nginx", "nginx", "nginx", nginx_proxy),
    Contestant("nginx-auth", "nginx + auth_request", "nginx", partial(nginx_proxy, auth=True)),
    Contestant("envoy", "Envoy", "envoy", envoy),
    Contestant("envoy-authz", "Envoy + ext_authz", "envoy", partial(envoy, auth=True)),
    Contestant("caddy", "Caddy", "caddy", caddy),
    Contestant("caddy-auth", "Caddy + forward_auth", "caddy", partial(caddy, auth=True)),
    Contestant("aperture", "Aperture, valid L402", "aperture", aperture),
    Contestant("litellm", "LiteLLM, no budgets", "litellm", litellm, (CHAT,), False),
    Contestant(OURS, "Tolsey", OURS, gateway),
    Contestant("tolsey-normal", "Tolsey, durability normal", OURS, partial(gateway, durability="normal"), _FIRST),
    Contestant("tolsey-1", "Tolsey, chain of 1", OURS, partial(gateway, depth=1), _FIRST),
    Contestant("tolsey-16", "Tolsey, chain of 16", OURS, partial(gateway, depth=16), _FIRST),
    Contestant("tolsey-observe", "Tolsey, observing", OURS, partial(gateway, mode="observe"), _FIRST),
    Contestant("tolsey-postgres", "Tolsey, PostgreSQL", OURS, partial(gateway, postgresql=True), _FIRST),
)
NAMES = tuple(one.name for one in CONTESTANTS)
