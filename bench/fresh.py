"""What it costs to verify sub-tokens that nobody has seen before, under a parent that is known: their new links, or
the whole chain. The verifier alone, without sockets and ledger.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tolsey import Macaroon, attenuate
from tolsey.token.chain import CAPABILITY, write_identifier
from tolsey.token.macaroon import derive_key
from tolsey.token.verifier import Verifier

DEPTHS = (1, 4, 16)
"""How many links a parent has."""

ROUNDS = 3
_SAMPLE = 10
"""One in so many is verified under a parent that is not known."""

MOST_RATIO = 1.3
"""How many times the least deep parent's the cost under the deepest may be, when both are known."""

_KEY = hashlib.sha256(b"bench").digest()


@dataclass(frozen=True)
class Fresh:
    """Processor time to verify one sub-token, in µs: under a parent that is known, and under one that is not."""

    depth: int
    tokens: int
    known_us: float
    unknown_us: float


def measure(count: int) -> list[Fresh]:
    """So many sub-tokens under a parent of each depth, the depths taking turns; the median of the rounds."""
    swarms = {depth: _swarm(depth, count) for depth in DEPTHS}
    found: dict[int, list[tuple[float, float]]] = {depth: [] for depth in DEPTHS}
    for _ in range(ROUNDS):
        for depth, (parent, children) in swarms.items():
            found[depth].append((_each_us(children, known=parent), _each_us(children[::_SAMPLE], known=None)))
    return [
        Fresh(depth, count, median(k for k, _ in times), median(u for _, u in times)) for depth, times in found.items()
    ]


def ratio(found: Sequence[Fresh]) -> float:
    """The cost under the deepest parent to that under the least deep, when both are known."""
    return found[-1].known_us / found[0].known_us


def _swarm(depth: int, count: int) -> tuple[str, list[str]]:
    """A parent with so many links, and children of one link each."""
    identifier = write_identifier(CAPABILITY, "bench", "A" * 22, 2)
    root = Macaroon.mint(root_key=_KEY, identifier=identifier)
    parent = root.attenuate("label = root n", "budget = 1000 USD").to_text()
    for level in range(1, depth):
        parent = attenuate(parent, label=f"level-{level}", budget="100 USD", scope="/api/v1/*")
    return parent, [attenuate(parent, label=f"worker-{number}", budget="1 USD") for number in range(count)]


def _each_us(children: Sequence[str], *, known: str | None) -> float:
    """Processor time to verify each, once."""
    verifier = Verifier(CAPABILITY, lambda _: derive_key(_KEY))
    if known is not None:
        # What is verified is remembered on its second sight.
        for _ in range(2):
            verifier.verify(known)
    began = time.process_time()
    for child in children:
        if known is None:
            verifier.memory.forget()
        verifier.verify(child)
    return (time.process_time() - began) / len(children) * 1e6
