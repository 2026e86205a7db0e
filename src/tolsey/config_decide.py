"""What in `tolsey.toml` is about deciding for another gateway, and how listeners are kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from tolsey import config_lines as lines
from tolsey.config_lines import Key, Table, one_of, seconds, whole

_EVERY_HOST: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, never bound here

MAX_SECONDS: Final = 3600.0
"""The longest wait for a report, in seconds."""


@dataclass(frozen=True, slots=True)
class Decide:
    """The listener on which a proxy asks. Holds are settled at the decision, or, if `reported`, by a report that is
    waited for at most `timeout` seconds. On `grpc_port`, unless it is None, Envoy asks over gRPC.
    """

    host: str
    port: int
    reported: bool
    timeout: float
    grpc_port: int | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        """All ports on which it is asked."""
        return (self.port,) if self.grpc_port is None else (self.port, self.grpc_port)


def read_decide(document: Table, others: Sequence[tuple[str, str, int]]) -> Decide | None:
    """Read the section; without it nobody asks. `others` are the listeners that there are: name, host and port."""
    if not document.has("decide"):
        return None
    table = document.table("decide")
    decide = Decide(
        host=table.read("host", lines.host, "127.0.0.1"),
        port=table.read("port", whole(1, 65535), 8404),
        reported=table.read("settle", one_of("reserved", "reported"), "reserved") == "reported",
        timeout=table.read("timeout", seconds(MAX_SECONDS), 60.0),
        grpc_port=table.read("grpc_port", whole(1, 65535), None),
    )
    table.done()
    for name, host, port in others:
        if same_listener(decide.host, decide.port, host, port):
            key: Key = ("decide", "port") if table.has("port") else ("decide",)
            table.problems.add(key, f"[{name}] listens on port {port}; only the proxy may ask here")
    if decide.grpc_port is not None:
        for name, host, port in (*others, ("decide", decide.host, decide.port)):
            if same_listener(decide.host, decide.grpc_port, host, port):
                table.problems.add(("decide", "grpc_port"), f"[{name}] listens on port {port}")
        if not _has_grpc():
            table.problems.add(("decide", "grpc_port"), "needs grpcio and protobuf: pip install 'tolsey[grpc]'")
    return decide


def _has_grpc() -> bool:
    """Whether what Envoy is spoken to with is installed; it is imported by workers alone."""
    try:
        return find_spec("grpc") is not None and find_spec("google.protobuf") is not None
    except ModuleNotFoundError:
        return False


def same_listener(host: str, port: int, other_host: str, other_port: int) -> bool:
    """Whether two listeners would meet on one port."""
    hosts = {"127.0.0.1" if name == "localhost" else name for name in (host, other_host)}
    return port == other_port and (len(hosts) == 1 or bool(hosts & _EVERY_HOST))
