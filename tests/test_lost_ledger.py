"""RULES.md L1 on the real process: a ledger that is lost, swapped or older than its keys never makes a budget fresh.

And two gateways on one ledger: the limit is one limit, and each outlives the other.
"""

import asyncio
import itertools
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import swarm
from tests.swarm import Answer, Gateway, Upstream
from tolsey import attenuate

pytestmark = pytest.mark.slow

REASON = "the disk died on Monday"


async def spend(gateway: Gateway, token: str, calls: int) -> list[int]:
    """Make calls one after the other; return their statuses."""
    async with swarm.Client(gateway.port) as client:
        return [(await client.call(token, f"{swarm.ITEM}{n}")).status for n in range(calls)]


def delete(gateway: Gateway) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{gateway.ledger}{suffix}").unlink(missing_ok=True)


def empty(gateway: Gateway) -> None:
    delete(gateway)
    gateway.ledger.touch(mode=0o600)


def swap(gateway: Gateway) -> None:
    """Another gateway's ledger, that has more entries than ours."""
    shutil.copy(gateway.file.parent / "other.db", gateway.ledger)


def put_back(gateway: Gateway) -> None:
    """The copy that was taken before the budget was spent."""
    shutil.copy(gateway.file.parent / "older.db", gateway.ledger)


def lose_the_mark(gateway: Gateway) -> None:
    gateway.keys.with_name("keys.mark").unlink()


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A gateway's folder and the token whose budget was spent there, with an older copy of its ledger beside it, and
    another gateway's.
    """
    folder = tmp_path_factory.mktemp("past")

    async def live(upstream: Upstream) -> str:
        gateway = swarm.lay_out(folder, upstream.port, workers=1)
        token = gateway.mint("label = team n1", "budget = 0.05 USD")
        async with swarm.serving(gateway):
            assert await spend(gateway, token, 1) == [200]
            await gateway.stop()
            shutil.copy(gateway.ledger, folder / "older.db")
            await gateway.start()
            assert await spend(gateway, token, 5) == [200] * 4 + [402]
            await gateway.stop()
        other = swarm.lay_out(tmp_path_factory.mktemp("other"), upstream.port, workers=1)
        async with swarm.serving(other):
            assert await spend(other, other.mint("label = other n1", "budget = 1 USD"), 30) == [200] * 30
            await other.stop()
        shutil.copy(other.ledger, folder / "other.db")
        return token

    with swarm.upstream(folder) as upstream:
        return folder, asyncio.run(live(upstream))


async def refused(gateway: Gateway) -> str:
    """Start it: it must end with exit 1 and never open its port. Returns what it said."""
    gateway.launch()
    status = await gateway.ended()
    assert status == 1, gateway.said()
    assert not swarm.answers(gateway.port)
    assert '"listening"' not in gateway.said()
    return gateway.said()


@pytest.mark.parametrize(
    ("lose", "message", "then"),
    [
        (delete, "the ledger is empty", 200),
        (empty, "these keys were used with ledger", 200),
        (swap, "these keys were used with ledger", 200),
        (put_back, "it is older than its keys", 200),
        (lose_the_mark, "is missing beside the keyring", 402),
    ],
)
async def test_a_lost_ledger_is_refused_until_that_is_accepted(
    lose: Callable[[Gateway], None], message: str, then: int, past: tuple[Path, str], tmp_path: Path
) -> None:
    """Once the loss was accepted, `then` is what the token's next call gets."""
    template, token = past
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    with swarm.upstream(tmp_path) as upstream:
        gateway = swarm.lay_out(tmp_path, upstream.port, workers=1)
        with swarm.ending(gateway):
            lose(gateway)
            for _ in range(2):
                said = await refused(gateway)
                assert message in said
                assert "every budget would be fresh again" in said
                assert "put the right ledger back, or start with `tolsey serve --accept-lost-spend REASON`" in said
            await gateway.start(accept_lost_spend=REASON)
            assert await spend(gateway, token, 1) == [then]
            await gateway.stop()
            accepted = [entry.note for entry in gateway.entries() if entry.kind == "accept"]
            assert len(accepted) == 1
            assert accepted[0].endswith(f"accepted: {REASON}")
            gateway.fsck()


async def test_once_accepted_is_enough(past: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(past[0], tmp_path, dirs_exist_ok=True)
    with swarm.upstream(tmp_path) as upstream:
        gateway = swarm.lay_out(tmp_path, upstream.port, workers=1)
        with swarm.ending(gateway):
            delete(gateway)
            await gateway.start(accept_lost_spend=REASON)
            await gateway.stop()
            await gateway.start()
            await gateway.stop()
            delete(gateway)
            assert "--accept-lost-spend" in await refused(gateway), "the new ledger is remembered in its turn"


async def test_a_wal_that_is_gone_is_a_lost_ledger(tmp_path: Path) -> None:
    with swarm.upstream(tmp_path) as upstream:
        gateway = swarm.lay_out(tmp_path, upstream.port, workers=1)
        with swarm.ending(gateway):
            await gateway.start()
            token = gateway.mint("label = team n1", "budget = 1 USD")
            assert await spend(gateway, token, 50) == [200] * 50
            mark = gateway.keys.with_name("keys.mark")
            await swarm.until(lambda: json.loads(mark.read_bytes())["entries"] == 100, "the mark follows")
            gateway.kill_group()
            gateway.ledger.with_name("ledger.db-wal").unlink()
            assert "--accept-lost-spend" in await refused(gateway)


@pytest.mark.parametrize("swapped", [put_back, swap, delete])
async def test_a_ledger_that_is_replaced_under_a_running_gateway(
    swapped: Callable[[Gateway], None], past: tuple[Path, str], tmp_path: Path
) -> None:
    """The open file is no longer what the next start would find: nothing is granted on either, also by new workers."""
    template, token = past
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    with swarm.upstream(tmp_path) as upstream:
        gateway = swarm.lay_out(tmp_path, upstream.port)
        async with swarm.serving(gateway):
            rich = gateway.mint("label = rich n1", "budget = 100 USD")
            assert await spend(gateway, rich, 1) == [200]
            seen = len(upstream.seen())
            delete(gateway)
            swapped(gateway)
            for one in (rich, token) * 4:
                assert (await swarm.one(gateway.port, one, swarm.ITEM)).status == 503
            for worker in gateway.workers():
                worker.kill()
            await swarm.until(lambda: gateway.said().count('"status": 1,') >= 2, "new workers do not start on it")
            assert not swarm.answers(gateway.port)
            assert len(upstream.seen()) == seen
            assert gateway.runs()
            gateway.kill_group()
            assert "--accept-lost-spend" in await refused(gateway)


class Race:
    """Clients of several gateways that spend one budget."""

    def __init__(self, tokens: list[str], milliseconds: int = 3) -> None:
        self.milliseconds = milliseconds
        self.statuses: Counter[int] = Counter()
        self.problems: list[dict[str, str]] = []
        self.over = False
        self._tokens = itertools.cycle(tokens)
        self._count = itertools.count()

    def following(self) -> tuple[str, str] | None:
        target = f"{swarm.ITEM}{next(self._count)}?ms={self.milliseconds}"
        return None if self.over else (next(self._tokens), target)

    def answered(self, _target: str, answer: Answer) -> None:
        assert answer.status in (0, 200, 402), answer
        self.statuses[answer.status] += 1
        if answer.status == 402:
            self.problems.append(json.loads(answer.body))
            self.over = self.problems[-1].get("spent") == self.problems[-1].get("limit")

    def run(self, gateway: Gateway, clients: int = 16) -> "asyncio.Task[None]":
        return asyncio.create_task(swarm.load(gateway.port, clients, self.following, self.answered))


async def test_two_gateways_on_one_ledger_keep_one_limit(tmp_path: Path) -> None:
    with swarm.upstream(tmp_path) as upstream:
        first = swarm.lay_out(tmp_path, upstream.port, name="first")
        second = swarm.lay_out(tmp_path, upstream.port, name="second")
        async with swarm.serving(first), swarm.serving(second):
            root = first.mint("label = team n1", "budget = 10 USD")
            race = Race([attenuate(root, label=f"worker-{n}", budget="9 USD") for n in range(20)])
            await asyncio.gather(race.run(first), race.run(second))
            assert race.statuses[200] == len(upstream.seen()) == 1000
            assert race.statuses.keys() == {200, 402}
            assert {problem["code"] for problem in race.problems} == {"budget_exhausted"}
            await first.stop()
            assert first.trail()[0].spent == first.trail()[0].limit
            reserves = {entry.owner for entry in first.entries() if entry.kind == "reserve"}
            assert len(reserves) == 4, "all four workers granted some"
            answer = await swarm.one(second.port, root, f"{swarm.ITEM}late")
            assert answer.status == 402, "the other one goes on"
            await second.stop()
            second.fsck()


async def outlive(victim: Gateway, survivor: Gateway, race: Race) -> None:
    """Kill one gateway under load: the other goes on, and ends the dead one's holds within two seconds."""
    before = race.statuses[200]
    await swarm.until(lambda: race.statuses[200] > before + 50, "calls are served")
    await swarm.until(survivor.open_holds, "a call is in flight")
    victim.kill_group()
    killed_at, before = time.time_ns(), race.statuses[200]
    await swarm.until(lambda: not survivor.open_holds(killed_at), "its holds are resolved", 2.0)
    await swarm.until(lambda: race.statuses[200] > before, "the other goes on", 2.0)
    assert survivor.runs()


async def test_each_of_two_gateways_survives_the_others_kill_9(tmp_path: Path) -> None:
    with swarm.upstream(tmp_path) as upstream:
        first = swarm.lay_out(tmp_path, upstream.port, name="first")
        second = swarm.lay_out(tmp_path, upstream.port, name="second")
        async with swarm.serving(first), swarm.serving(second):
            root = first.mint("label = team n1", "budget = 20 USD")
            race = Race([attenuate(root, label=f"worker-{n}") for n in range(20)], milliseconds=20)
            running = [race.run(first, 5), race.run(second, 5)]
            await outlive(first, second, race)
            await first.start()
            await outlive(second, first, race)
            await second.start()
            assert race.statuses[402] == 0
            race.milliseconds = 0
            await asyncio.gather(*running, race.run(first), race.run(second))
            await swarm.until(lambda: not first.open_holds(), "every hold is resolved")
            tree = first.trail()
            assert (tree[0].spent, tree[0].calls) == (tree[0].limit, 2000)
            assert sum(row.spent for row in tree[1:]) == tree[0].spent
            expired = sum(entry.kind == "expire" for entry in first.entries())
            assert expired
            assert 2000 - expired <= race.statuses[200] <= len(upstream.seen()) <= 2000
            await first.stop()
            await second.stop()
            first.fsck()
