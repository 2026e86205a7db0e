"""What concurrent clients of a real gateway see is what some order of their calls explains.

First that the checker knows a wrong history from a right one, then the gateway: two workers, one and two accounts,
money that comes back.
"""

import asyncio
import json
import os
import random
import time
from decimal import Decimal
from pathlib import Path

import pytest

from tests import swarm
from tests.histories import Operation, Stand, granted, order_of, read, short
from tests.ports import free_port
from tests.swarm import PRICE_NANO, Answer
from tolsey import attenuate

SEED = int(os.environ.get("TOLSEY_SEED", "8402"))
LIMITS = {"root": 30, "child": 15}
BOTH = ("root", "child")


def line(text: str) -> Operation:
    """`0-3 child 10 -> 5` is a call on the child of 10 that was served, from instant 0 to 3, with 5 left.

    `10:4` settles at 4, `10:void` is voided; `-> root 20 10` is a refusal by root, 20 spent and 10 held;
    `child? 1 2 3` reads spent, held, calls.
    """
    when, name, *words = text.split()
    invoked, returned = map(float, when.split("-"))
    if name.endswith("?"):
        return Operation(invoked, returned, text, read({name[:-1]: Stand(*map(int, words))}))
    purse = ("root",) if name == "root" else BOTH
    amount, _, cost = words[0].partition(":")
    if len(words) == 3:
        costs = -1 if cost == "void" else int(cost or amount)
        fits = granted(LIMITS, purse, int(amount), cost=costs, left=int(words[2]))
    else:
        fits = short(LIMITS, purse, int(amount), words[2], int(words[3]), int(words[4]))
    return Operation(invoked, returned, text, fits)


def history(text: str) -> list[Operation]:
    return [line(words) for words in text.splitlines() if words.strip()]


RIGHT = {
    "one after the other": """
        0-1 child 10 -> 5
        2-3 child 10 -> child 10 0
        4-5 root 15 -> 5
        6-7 root 6 -> root 10 15
        8-9 root? 25 0 2
    """,
    "the second was first": """
        0-9 child 5 -> 0
        1-8 child 10 -> 5
    """,
    "a refusal before the money came back": """
        0-2 child 10:0 -> 5
        1-5 child 10 -> child 0 10
        3-4 child 10 -> 5
    """,
    "a settle long after its answer": """
        0-1 child 10:4 -> 5
        2-3 child? 0 10 0
        4-5 child? 4 0 1
        6-7 child 11 -> 0
    """,
    "a void counts no call": """
        0-1 root 30:void -> 0
        2-3 root 1 -> root 0 30
        4-5 root 30 -> 0
        6-7 root? 30 0 1
    """,
}

WRONG = {
    "the same money twice": """
        0-9 child 10 -> 5
        1-8 child 10 -> 5
    """,
    "a refusal for want of money that was there": """
        0-1 child 10 -> 5
        2-3 child 5 -> child 10 0
    """,
    "the wrong account is named": """
        0-1 root 20 -> 10
        2-3 child 16 -> child 0 0
    """,
    "an old balance after a new one": """
        0-1 child 10:4 -> 5
        2-3 child? 4 0 1
        4-5 child? 0 10 0
    """,
    "a read that misses what was answered before": """
        0-1 child 10 -> 5
        2-3 root? 0 0 0
    """,
    "the parent does not know": """
        0-1 child 10 -> 5
        2-3 root 10 -> 20
    """,
    "before it was asked for": """
        0-1 child 15 -> child 10 0
        2-3 child 10 -> 5
    """,
    "money that comes back twice": """
        0-1 child 10:0 -> 5
        2-3 child 10 -> 5
        4-5 child 10 -> 5
    """,
    "a settle that costs more than it said": """
        0-1 child 10:4 -> 5
        2-3 child? 5 0 1
    """,
    "a limit that is passed": """
        0-1 root 20 -> 10
        2-3 root 11 -> -1
    """,
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_history_that_some_order_explains(name: str) -> None:
    found = order_of(history(RIGHT[name]))
    assert found is not None
    assert len(found) == len(history(RIGHT[name]))


@pytest.mark.parametrize("name", WRONG)
def test_a_history_that_no_order_explains(name: str) -> None:
    assert order_of(history(WRONG[name])) is None


def nano(text: str) -> int:
    return int(Decimal(text) * 1_000_000_000)


class Clients:
    """Clients that write down what they asked for, when, and what they saw."""

    def __init__(self, port: int, token: str, child: str, limits: dict[str, int], chance: random.Random) -> None:
        self.history: list[Operation] = []
        self._port, self._tokens, self._limits, self._chance = port, {"root": token, "child": child}, limits, chance
        self._names: dict[str, str] = {}

    async def run(self, calls: int) -> None:
        async with swarm.Client(self._port) as client:
            for _ in range(calls):
                await self._one(client)

    async def _one(self, client: swarm.Client) -> None:
        chance = self._chance
        name = chance.choice(("root", "child", "child"))
        purse = ("root",) if name == "root" else BOTH
        reads = chance.random() < 0.25
        status = chance.choice((200, 500, 500, 502))
        target = f"{swarm.ITEM}x?status={status}&ms={chance.randrange(4)}"
        if reads or status == 502:
            target = "/.tolsey/balance" if reads else "/dead/x"
        invoked = time.monotonic()
        answer = await client.call(self._tokens[name], target)
        returned = time.monotonic()
        if reads:
            fits = read(dict(zip(purse, map(_stand, json.loads(answer.body)["accounts"]), strict=True)))
        elif answer.status == 402:
            problem = json.loads(answer.body)
            fits = short(
                self._limits, purse, PRICE_NANO, problem["link"]["label"], nano(problem["spent"]), nano(problem["held"])
            )
        elif status == 502:
            assert answer.status == status, answer
            fits = granted(self._limits, purse, PRICE_NANO, cost=-1)
        else:
            assert answer.status == status, answer
            cost = PRICE_NANO if status == 200 else 0
            fits = granted(self._limits, purse, PRICE_NANO, cost=cost, left=_left(answer))
        self.history.append(Operation(invoked, returned, f"{name} {target} -> {answer.status} {answer.body!r}", fits))


DEAD = """\
[[upstream]]
name = "dead"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/dead/*"
methods = ["GET"]
upstream = "dead"
price = "0.01 USD"
"""
"""A route to where nobody listens: its calls are surely not sent, and voided."""


def _stand(account: dict[str, str | int]) -> Stand:
    return Stand(nano(str(account["spent"])), nano(str(account["held"])), int(account["calls"]))


def _left(answer: Answer) -> int:
    return nano(answer.headers["tolsey-remaining"].split()[0])


@pytest.mark.parametrize("seed", [SEED])
async def test_what_clients_of_a_real_gateway_see_is_linearizable(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    refused = 0
    with swarm.upstream(tmp_path) as upstream:
        dead = DEAD.replace("<port>", str(free_port()))
        async with swarm.serving(swarm.lay_out(tmp_path, upstream.port, charge="success", more=dead)) as gateway:
            for number in range(8):
                calls = {"root": chance.randint(8, 20), "child": chance.randint(2, 8)}
                limits = {name: most * PRICE_NANO for name, most in calls.items()}
                root = gateway.mint(f"label = root n{number}", f"budget = {calls['root'] / 100:.2f} USD")
                child = attenuate(root, label="child", budget=f"{calls['child'] / 100:.2f} USD")
                clients = Clients(gateway.port, root, child, limits, chance)
                async with asyncio.TaskGroup() as group:
                    for _ in range(6):
                        group.create_task(clients.run(16))
                found = await asyncio.to_thread(order_of, clients.history)
                assert found is not None, "\n".join(op.what for op in clients.history)
                if number == 0:
                    over = time.monotonic()
                    untrue = Operation(over, over, "no call was made", read({"root": Stand()}))
                    assert order_of([*clients.history, untrue]) is None
                refused += sum("-> 402" in what for what in found)
            await gateway.stop()
            gateway.fsck()
            kinds = {entry.kind for entry in gateway.entries()}
    assert kinds == {"reserve", "settle", "void"}
    assert refused > 50, "money ran out, and came back"
