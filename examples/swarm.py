"""Fifty sub-agents on three levels, which may together spend what their root may and no more.

Five leads have three managers each, and those two workers each. What they were given adds up to far more than the root
has: a budget is a limit and sets nothing aside. So they race, and the gateway decides call by call.

Needs TOLSEY_TOKEN, and TOLSEY_GATEWAY, which is the gateway's URL.
"""

import asyncio
import os
from collections import Counter

import httpx

import tolsey.httpx
from tolsey import Delegation
from tolsey.refusals import BudgetExhausted, raise_for_refusal

GATEWAY = os.environ["TOLSEY_GATEWAY"]
CALLS = 4

served: Counter[str] = Counter()
refused_by: Counter[str] = Counter()
agents: list[str] = []


async def work(me: Delegation, name: str) -> None:
    """Make some calls; stop when a budget above is spent."""
    agents.append(name)
    async with httpx.AsyncClient(auth=tolsey.httpx.Auth(me, GATEWAY), timeout=30) as client:
        for number in range(CALLS):
            try:
                raise_for_refusal(await client.get(f"{GATEWAY}/api/v1/search", params={"q": f"{name} {number}"}))
            except BudgetExhausted as refused:
                refused_by[refused.label or "the root"] += 1
                return
            served[name.partition("-")[0]] += 1


async def lead(root: Delegation, number: int) -> None:
    """Give three managers a share, and work."""
    with root.delegate(f"lead-{number}", budget="0.30 USD", scope="/api/v1/search") as me:
        await asyncio.gather(work(me, f"lead-{number}"), *(manager(me, f"{number}.{n}") for n in range(3)))


async def manager(above: Delegation, number: str) -> None:
    """Give two workers a share, and work."""
    with above.delegate(f"manager-{number}", budget="0.08 USD") as me:
        await asyncio.gather(work(me, f"manager-{number}"), *(worker(me, f"{number}.{n}") for n in range(2)))


async def worker(above: Delegation, number: str) -> None:
    """Work, for three calls at most."""
    with above.delegate(f"worker-{number}", budget="0.03 USD", caveats=["depth = 0"]) as me:
        await work(me, f"worker-{number}")


async def main() -> None:
    """Let them all go at once."""
    root = Delegation.from_environment()
    await asyncio.gather(*(lead(root, number) for number in range(5)))
    print(f"{len(agents)} sub-agents, {served.total()} calls served: {dict(sorted(served.items()))}")
    print(f"stopped by the budget of: {dict(sorted(refused_by.items()))}")


asyncio.run(main())
