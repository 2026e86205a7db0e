"""The fast path on routes that observe, against the passage: whoever calls, with whatever token, and whatever the
upstream answers, the client sees the same, and the same is written down.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import pytest

from tests.fast_paths import CHUNKED, HEAD, OK, Script, needs_wire
from tests.gateways import Gateway, child_of, until
from tests.pairs import Pair, assert_same, playing
from tolsey.ledger.tallies import TallyKey
from tolsey.store.sqlite_snapshot import SqliteSnapshot
from tolsey.store.tallies import tallies
from tolsey.store.trails import TrailRow

pytestmark = needs_wire

ROUTE: Final = """
[[route]]
path = "/{name}"
methods = ["*"]
upstream = "plain"
mode = "observe"
{more}
"""
PRICES: Final = {
    "flat": 'price = "0.01 USD"',
    "free": 'price = "0 USD"',
    "lenient": 'price = "0.01 USD"\ncharge = "success"',
    "reported": 'reported = { header = "X-Cost", each = "0.5 USD" }\nat_most = "2 USD"',
}
CONFIG: Final = "".join(ROUTE.format(name=name, more=more) for name, more in PRICES.items())
ANSWERS: Final = {
    "a length": Script((OK,), "keep"),
    "chunks": Script((CHUNKED, b"2\r\n{}\r\n0\r\n\r\n")),
    "what it costs": Script((b"HTTP/1.1 200 OK\r\nX-Cost: 3\r\nContent-Length: 2\r\n\r\n{}",)),
    "not found": Script((b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",)),
    "a failure": Script((b"HTTP/1.1 500 No\r\nX-Cost: 1\r\nContent-Length: 2\r\n\r\n{}",)),
    "a head that is cut": Script((HEAD,)),
    "a body that is cut": Script((HEAD + b"Content-Length: 5\r\n\r\n{}",)),
    "nothing": Script((b"",)),
    "a reset": Script((HEAD + b"Content-Length: 5\r\n\r\n{}",), "reset"),
}


def without_token(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: gateway.test", *headers, "", ""]).encode()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with playing(tmp_path_factory.mktemp("fast"), tmp_path_factory.mktemp("plain"), CONFIG) as found:
        yield found


@pytest.fixture(scope="module")
def callers(pair: Pair) -> dict[str, tuple[str, ...]]:
    """What each caller shows."""
    root = pair.token
    tokens = {
        "a token": root,
        "a poor one": child_of(root, "label = poor n", "budget = 0.025 USD"),
        "one for elsewhere": child_of(root, "label = elsewhere n", "scope = /elsewhere"),
        "one for less": child_of(root, "label = less n", "max-price = 0.001 USD"),
        "one with a count": child_of(root, "label = few n", "calls = 2"),
        "one without a budget": pair.fast.mint("label = none n", "budget = 5 sat"),
        "a forged one": root[:-4] + ("AAAA" if root[-4:] != "AAAA" else "BBBB"),
        "one of theirs": "sk-of-the-upstream",
    }
    return {
        **{name: (f"Authorization: Bearer {token}",) for name, token in tokens.items()},
        "two": (f"Authorization: Bearer {root}", f"X-Api-Key: {tokens['a poor one']}"),
        "nothing": (),
        "a name": ("User-Agent: curl/8.0",),
        "a key": ("X-Api-Key: theirs",),
    }


@pytest.fixture(scope="module")
def asked(callers: dict[str, tuple[str, ...]]) -> list[tuple[str, str, str]]:
    """Every caller on every route, and every answer to two of them: (route, caller, answer)."""
    return [
        *itertools.product(PRICES, callers, ["a length"]),
        *itertools.product(PRICES, ["a token", "nothing"], ANSWERS),
    ]


@dataclass(frozen=True)
class Written:
    """What the ledger says of observed calls: one by one, by kinds (the key, calls, errors, cost, the dearest, held),
    and by accounts.
    """

    entries: list[tuple[int, str]]
    kinds: list[tuple[TallyKey, int, int, int, int, int]]
    accounts: list[TrailRow]


def written(gateway: Gateway) -> Written:
    """That of a gateway."""
    entries = [(entry.amount, entry.note) for entry in gateway.entries() if entry.kind == "observe"]
    with SqliteSnapshot(gateway.ledger) as snapshot:
        kinds = [
            (key, each.calls, each.errors, each.cost, each.dearest, each.held)
            for _, key, each in tallies(snapshot, 0, 2**40)
            if key.mode == "observe"
        ]
    accounts = [replace(row, opened_at=0, seen_at=None) for row in gateway.trail()]
    return Written(entries, sorted(kinds), accounts)


def logged(gateway: Gateway) -> list[dict[str, object]]:
    """The same of the log."""
    lines = [json.loads(line) for line in gateway.out.read_text().splitlines() if line.endswith("}")]
    kept = ("method", "path", "upstream", "status", "cost", "note")
    return [{name: line.get(name) for name in kept} for line in lines if line["event"] == "call"]


def test_all_is_the_same_both_ways(
    pair: Pair, callers: dict[str, tuple[str, ...]], asked: list[tuple[str, str, str]]
) -> None:
    for route, caller, answer in asked:
        script = ANSWERS[answer]
        fast, plain = pair.ask(script, without_token(f"/{route}", *callers[caller]))
        assert (fast.line, fast.end, fast.body) == (plain.line, plain.end, plain.body), (route, caller, answer)
        assert [each for each in fast.headers if each[0] != "date"] == [
            each for each in plain.headers if each[0] != "date"
        ], (route, caller, answer)

    def all_written() -> bool:
        return all(sum(kind[1] for kind in written(each).kinds) == len(asked) for each in (pair.fast, pair.plain))

    until(all_written, "all calls are tallied", 20)
    assert written(pair.fast) == written(pair.plain)
    assert logged(pair.fast) == logged(pair.plain)
    assert_same(pair)
