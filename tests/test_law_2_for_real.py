"""Law 2 for real: two workers, 64 clients, 50 tokens that the gateway has never seen, and one budget above them all.

Whoever asks, in whatever order, the upstream sees exactly as many calls as the root can pay for; and nobody is refused
while there is money that nobody holds.
"""

import itertools
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests import swarm
from tests.swarm import Answer, Gateway, Upstream
from tolsey import attenuate

CLIENTS = 64
CALLS = 1000
PAST_THE_EDGE = 300
"""How many refusals the clients collect before they stop asking."""


class Crowd:
    """What the clients ask for, taking the tokens in turn, and what they are told."""

    def __init__(self, tokens: list[str], *, query: str = "") -> None:
        self.statuses: Counter[int] = Counter()
        self.refusals: list[dict[str, Any]] = []
        self.asked = 0
        self._tokens = itertools.cycle(tokens)
        self._query = query

    def following(self) -> tuple[str, str]:
        self.asked += 1
        return next(self._tokens), f"{swarm.ITEM}{self.asked}{self._query}"

    def answered(self, _target: str, answer: Answer) -> None:
        assert answer.status in (200, 402, 500), answer
        self.statuses[answer.status] += 1
        if answer.status == 402:
            self.refusals.append(json.loads(answer.body))

    async def ask(self, gateway: Gateway, *, times: int | None = None, refusals: int | None = None) -> None:
        """Ask so many times, or until so many refusals came."""
        most = None if times is None else self.asked + times

        def following() -> tuple[str, str] | None:
            over = self.asked == most if refusals is None else len(self.refusals) >= refusals
            return None if over else self.following()

        await swarm.load(gateway.port, CLIENTS, following, self.answered)


def family(gateway: Gateway, *, budget: str = "1 USD") -> tuple[str, list[str]]:
    """A root that can pay for 1,000 calls, and 50 children whose budgets together are five times that."""
    root = gateway.mint("label = team n1", "scope = /api/v1/*", "budget = 10 USD")
    return root, [attenuate(root, label=f"worker-{n}", budget=budget) for n in range(50)]


def assert_root_refused(refusal: dict[str, Any]) -> None:
    """It is for want of money, it is the root's, and all that is not spent is held by calls in flight."""
    assert refusal["code"] == "budget_exhausted"
    assert refusal["link"]["label"] == "team"
    assert refusal["limit"] == "10"
    assert Decimal(refusal["spent"]) + Decimal(refusal["held"]) == 10
    assert refusal["remaining"] == "0"


async def assert_all_is_spent(gateway: Gateway, upstream: Upstream) -> None:
    """The tree: the root spent its limit, its children spent the same, and the journal says so too."""
    await swarm.until(lambda: not gateway.open_holds(), "every hold is resolved")
    root, *children = gateway.trail()
    assert (root.label, root.parent, root.spent, root.held, root.calls) == ("team", None, root.limit, 0, CALLS)
    assert root.limit == CALLS * swarm.PRICE_NANO
    assert len(children) == 50
    assert {child.parent for child in children} == {root.id}
    assert sum(child.spent for child in children) == root.spent
    assert sum(child.calls for child in children) == CALLS
    assert [child.held for child in children] == [0] * 50
    gateway.fsck()
    settled = [entry for entry in gateway.entries() if entry.kind == "settle" and entry.amount]
    assert len(settled) == CALLS
    served = upstream.seen()
    assert len(set(served)) == len(served)


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_the_upstream_sees_exactly_what_the_root_can_pay_for(durability: str, tmp_path: Path) -> None:
    with swarm.upstream(tmp_path) as upstream:
        async with swarm.serving(swarm.lay_out(tmp_path, upstream.port, durability=durability)) as gateway:
            _, children = family(gateway)
            crowd = Crowd(children)
            await crowd.ask(gateway, refusals=PAST_THE_EDGE)
            assert crowd.statuses.keys() == {200, 402}
            assert crowd.statuses[200] == CALLS
            assert len(upstream.seen()) == CALLS
            for refusal in crowd.refusals:
                assert_root_refused(refusal)
            await assert_all_is_spent(gateway, upstream)
            owners = {entry.owner for entry in gateway.entries() if entry.kind == "reserve"}
            assert len(owners) == 2, "both workers granted some"
            await gateway.stop()
            gateway.fsck()


async def test_the_last_call_is_granted_when_nobody_else_asks(tmp_path: Path) -> None:
    with swarm.upstream(tmp_path) as upstream:
        async with swarm.serving(swarm.lay_out(tmp_path, upstream.port)) as gateway:
            _, children = family(gateway)
            crowd = Crowd(children)
            await crowd.ask(gateway, times=CALLS - 1)
            assert crowd.statuses == {200: CALLS - 1}
            last = await swarm.one(gateway.port, *crowd.following())
            assert (last.status, last.headers["tolsey-remaining"]) == (200, "0 USD")
            beyond = await swarm.one(gateway.port, *crowd.following())
            assert beyond.status == 402
            assert_root_refused(json.loads(beyond.body))
            assert len(upstream.seen()) == CALLS
            await assert_all_is_spent(gateway, upstream)


async def test_money_that_comes_back_is_spent_again(tmp_path: Path) -> None:
    """Where a failed call costs nothing, what it held is there for the next one: in the end all of it is spent."""
    with swarm.upstream(tmp_path) as upstream:
        async with swarm.serving(swarm.lay_out(tmp_path, upstream.port, charge="success")) as gateway:
            _, children = family(gateway)
            failing = Crowd(children, query="?status=500&ms=5")
            paying = Crowd(children, query="?ms=2")
            both = itertools.cycle([failing, paying])

            def following() -> tuple[str, str] | None:
                over = any(refusal["spent"] == "10" for refusal in paying.refusals)
                return None if over else next(both).following()

            await swarm.load(gateway.port, CLIENTS, following, paying.answered)
            assert paying.statuses[200] == CALLS
            assert paying.statuses[500] > CALLS // 2
            for refusal in paying.refusals:
                assert_root_refused(refusal)
            assert sum("status=500" not in head for head in upstream.heads()) == CALLS
            await swarm.until(lambda: not gateway.open_holds(), "every hold is resolved")
            root, *rest = gateway.trail()
            assert (root.spent, root.held) == (root.limit, 0)
            assert sum(child.spent for child in rest) == root.spent
            gateway.fsck()


async def test_a_child_runs_dry_and_its_siblings_go_on(tmp_path: Path) -> None:
    with swarm.upstream(tmp_path) as upstream:
        async with swarm.serving(swarm.lay_out(tmp_path, upstream.port)) as gateway:
            root, siblings = family(gateway)
            poor = attenuate(root, label="poor", budget="0.2 USD")
            dry = Crowd([poor])
            await dry.ask(gateway, refusals=PAST_THE_EDGE)
            assert dry.statuses[200] == 20
            for refusal in dry.refusals:
                assert (refusal["code"], refusal["link"]["label"]) == ("budget_exhausted", "poor")
                assert (refusal["limit"], refusal["remaining"]) == ("0.2", "0")
            others = Crowd(siblings)
            await others.ask(gateway, times=200)
            assert others.statuses == {200: 200}
            assert len(upstream.seen()) == 220
            await swarm.until(lambda: not gateway.open_holds(), "every hold is resolved")
            spent = {row.label: row.spent for row in gateway.trail()}
            assert spent["team"] == 220 * swarm.PRICE_NANO
            assert spent["poor"] == 20 * swarm.PRICE_NANO
            gateway.fsck()
