"""Two gateways before one upstream, of which only one has a fast path, and all that is told of a call on each."""

import collections
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests import swarm
from tests.fast_paths import Actor, Script, Seen, copy_keys, counted, request
from tests.gateways import Gateway, lay_out, until
from tolsey.gateway.native import OFF

_CONFIG: Final = """
[server]
[ledger]
durability = "normal"
[[upstream]]
name = "plain"
url = "http://127.0.0.1:<port>"
[[upstream]]
name = "other"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/then"
methods = ["*"]
upstream = "other"
price = "0.01 USD"
"""


@dataclass(frozen=True)
class Told:
    """What became of one call: what its client saw, its line in the log, and its entries in the ledger after the first,
    which makes the hold.
    """

    seen: Seen
    line: dict[str, Any]
    entries: list[tuple[str, int, str]]

    @property
    def refused(self) -> bool:
        """Whether it was answered with the gateway's own words on an answer that is none."""
        return self.seen.status == 502 and b"upstream_failed" in self.seen.body

    def but_for_words(self) -> "Told":
        """The same without the words of a refusal, which say why the upstream failed."""
        if not self.refused and self.seen.end == "whole":
            return self
        headers = tuple(header for header in self.seen.headers if header[0] != "content-length" or not self.refused)
        seen = replace(self.seen, headers=headers, body=b"" if self.refused else self.seen.body)
        return Told(seen, {**self.line, "note": ""}, [(kind, amount, "") for kind, amount, _ in self.entries])


class Pair:
    """Two gateways with one config, the same keys and a ledger each, before one upstream: `fast`, and `plain`, which
    has no compiled wire. `calls` is how many calls each was asked for, by the route's path.
    """

    def __init__(self, fast: Gateway, plain: Gateway, actor: Actor) -> None:
        self.fast, self.plain, self.actor = fast, plain, actor
        self.token = fast.mint("label = team n", "budget = 1000 USD")
        self.calls = collections.Counter[str]()
        self._then = request("GET", "/then", fast.mint("label = team n", "budget = 1000 USD"))

    def ask(self, script: Script, asked: bytes, route: str | None = None) -> tuple[Seen, Seen]:
        """What the clients of both see of the upstream's answer; without a `route` its path is that of the call."""
        self.actor.script = script
        self.calls[route or asked.split(b" ")[1].decode()] += 1
        return self.actor.look(self.fast, asked, self._then), self.actor.look(self.plain, asked, self._then)

    def told(self, pairs: list[tuple[Seen, Seen]]) -> list[tuple[Told, Told]]:
        """The same with what logs and ledgers say."""
        fast, plain = _told(self.fast, [each for each, _ in pairs]), _told(self.plain, [each for _, each in pairs])
        return list(zip(fast, plain, strict=True))


def assert_same(pair: Pair) -> None:
    """All calls took the way that they should have, and in the end both gateways stand the same."""
    assert any(pair.calls.values())
    for route, count in pair.calls.items():
        assert counted(pair.fast, route, count) == count
        assert counted(pair.plain, route, count) == 0
    assert pair.fast.accounts(pair.token) == pair.plain.accounts(pair.token)
    for gateway in (pair.fast, pair.plain):
        assert gateway.fsck().open_holds == 0
        assert "Traceback" not in gateway.said()


def _told(gateway: Gateway, all_seen: list[Seen]) -> list[Told]:
    holds = {seen.hold for seen in all_seen if seen.hold}
    until(lambda: gateway.open_holds() == 0, "all is settled")
    lines: dict[str, dict[str, Any]] = {}

    def logged() -> bool:
        found = [json.loads(line) for line in gateway.out.read_text().splitlines() if line.endswith("}")]
        lines.update({line["hold"]: line for line in found if line["event"] == "call"})
        return holds <= lines.keys()

    until(logged, "all calls are in the log")
    entries: dict[str, list[tuple[str, int, str]]] = {}
    for entry in gateway.entries():
        if entry.hold is not None:
            entries.setdefault(entry.hold, []).append((entry.kind, entry.amount, entry.note))
    kept = ("method", "path", "upstream", "status", "cost", "note", "trace")
    return [
        Told(
            replace(seen, headers=tuple(_timeless(name, value) for name, value in seen.headers)),
            {name: lines[seen.hold][name] for name in kept} if seen.hold else {},
            entries.get(seen.hold, []),
        )
        for seen in all_seen
    ]


def _timeless(name: str, value: str) -> tuple[str, str]:
    """A header without what is another one in every call."""
    return name, "" if name in ("date", "tolsey-hold", "tolsey-remaining") else value


@contextlib.contextmanager
def playing(fast_folder: Path, plain_folder: Path, config: str) -> Iterator[Pair]:
    """A pair with the routes of this config, to the upstream `plain`."""
    with Actor() as actor, contextlib.ExitStack() as running:
        fast = lay_out(fast_folder, _CONFIG + config, port=actor.port)
        copy_keys(fast.keys, plain_folder)
        plain = lay_out(plain_folder, _CONFIG + config, port=actor.port)
        plain.env[OFF] = "1"
        running.enter_context(swarm.ending(fast, plain))
        fast.begin()
        plain.begin()
        found = Pair(fast, plain, actor)
        # What goes by way of the server once: before that no refusal has a date (tests/test_fast_path_calls.py).
        assert fast.balance(found.token) == plain.balance(found.token)
        yield found
