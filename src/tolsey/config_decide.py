"""What in `tolsey.toml` is about deciding for another gateway, and how listeners are kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tolsey import config_lines as lines
from tolsey.config_lines import Key, Table, one_of, seconds, whole

_EVERY_HOST: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, never bound here

MAX_SECONDS: Final = 3600.0
"""The longest wait for a report, in seconds."""


@dataclass(frozen=True, slots=True)
class Decide:
    """The listener on which a proxy asks. Holds are settled at the decision, or, if `reported`, by a report that is
    waited for at most `timeout` seconds.
    """

    host: str
    port: int
    reported: bool
    timeout: float


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
    )
    table.done()
    for name, host, port in others:
        if same_listener(decide.host, decide.port, host, port):
            key: Key = ("decide", "port") if table.has("port") else ("decide",)
            table.problems.add(key, f"[{name}] listens on port {port}; only the proxy may ask here")
    return decide


def same_listener(host: str, port: int, other_host: str, other_port: int) -> bool:
    """Whether two listeners would meet on one port."""
    hosts = {"127.0.0.1" if name == "localhost" else name for name in (host, other_host)}
    return port == other_port and (len(hosts) == 1 or bool(hosts & _EVERY_HOST))
