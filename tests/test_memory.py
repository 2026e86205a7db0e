"""A worker's memory does not grow with the number of tokens that it has seen, genuine or not."""

import itertools
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import swarm
from tests.swarm import Answer, Gateway
from tolsey import Macaroon, attenuate

TOKENS = 20_000
CLIENTS = 32
MOST_BYTES = 120_000_000
MOST_GROWTH = 25_000_000
"""Between the first half of the tokens and the second, when every cache has been full once."""


def workers_of(gateway: Gateway) -> Iterator[str]:
    """Tokens four Links deep, a thousand under each subtask. Each has accounts, chains and prefixes of its own."""
    team = gateway.mint("label = team n1", "scope = /api/v1/*", "expires = 2099-12-31", "budget = 100000 USD")
    department = attenuate(team, label="department", budget="50000 USD")
    for n in itertools.count():
        subtask = attenuate(department, label=f"subtask-{n}", budget="5000 USD", scope="/api/v1/*")
        for m in range(1000):
            yield attenuate(subtask, label=f"worker-{m}", budget="1 USD", expires="2099-06-30")


async def present(gateway: Gateway, tokens: Iterator[str]) -> Counter[int]:
    """Present each token, one call each; return how many answers had which status."""
    statuses: Counter[int] = Counter()

    def following() -> tuple[str, str] | None:
        token = next(tokens, None)
        return None if token is None else (token, f"{swarm.ITEM}1")

    def answered(_target: str, answer: Answer) -> None:
        statuses[answer.status] += 1

    await swarm.load(gateway.port, CLIENTS, following, answered)
    return statuses


def twice(tokens: Iterator[str], how_many: int) -> Iterator[str]:
    """A prefix is remembered when it is seen for the second time."""
    for token in itertools.islice(tokens, how_many):
        yield token
        yield token


def forgeries(token: str, how_many: int) -> Iterator[str]:
    """The token with caveats that nobody signed for."""
    macaroon = Macaroon.deserialize(token)
    for n in range(how_many):
        longer = macaroon.attenuate(f"label = forged {n}")
        yield Macaroon(longer.location, longer.identifier, longer.caveats, secrets.token_bytes(32)).to_text()


@pytest.mark.slow
async def test_twenty_thousand_tokens_through_one_worker(tmp_path: Path) -> None:
    half = TOKENS // 2
    with swarm.upstream(tmp_path) as upstream:
        gateway = swarm.lay_out(tmp_path, upstream.port, workers=1, durability="normal")
        async with swarm.serving(gateway):
            (worker,) = gateway.workers()
            tokens = workers_of(gateway)
            rss = [resident(worker)]
            for _ in range(2):
                assert await present(gateway, twice(tokens, half)) == {200: 2 * half}
                rss.append(resident(worker))
            assert await present(gateway, forgeries(next(tokens), half)) == {401: half}
            rss.append(resident(worker))
            assert max(rss) < MOST_BYTES, rss
            assert rss[2] - rss[1] < MOST_GROWTH, rss
            assert rss[3] - rss[2] < MOST_GROWTH, rss
            assert gateway.workers() == [worker], "it was one and the same all the time"
            assert len(gateway.trail()) == TOKENS + TOKENS // 1000 + 2
            await gateway.stop()
            gateway.fsck()


def resident(process: psutil.Process) -> int:
    """Its resident memory, in bytes."""
    return int(process.memory_info().rss)
