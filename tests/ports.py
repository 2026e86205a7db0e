"""Ports for what is started later, and must still find them free then.

A port that the system chose is given again the moment its probe is closed: to a connection that leaves this machine,
to a listener on port 0. So these are below the range the system chooses from, each is given once, and the processes of
one run have a share each.
"""

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LOWEST: Final = 10_000
_CHOSEN_FROM: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_CHOSEN: Final = 32_768
"""Where the range of the system begins, unless it says otherwise (Linux, ip-sysctl.rst)."""


def free_port() -> int:
    """A port of the loopback address that nobody listens on, and that nobody else is given."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is left")


def _share() -> Iterator[int]:
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    shares = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    chosen = int(_CHOSEN_FROM.read_text().split()[0]) if _CHOSEN_FROM.exists() else _LOWEST_CHOSEN
    end = min(chosen, _LOWEST_CHOSEN) if chosen > 2 * _LOWEST else _LOWEST_CHOSEN
    ports = list(range(_LOWEST + share, end, shares))
    random.SystemRandom().shuffle(ports)
    return iter(ports)


_ports: Final = _share()
