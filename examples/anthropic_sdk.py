"""Two sub-agents with the Anthropic SDK, at the same time, each with a budget of its own.

Needs TOLSEY_TOKEN, and ANTHROPIC_BASE_URL, which is the gateway's URL.
"""

import asyncio

from anthropic import APIStatusError, AsyncAnthropic

from tolsey import Delegation
from tolsey.refusals import BudgetExhausted, raise_for_refusal


async def sub_agent(parent: Delegation, label: str, budget: str, max_tokens: int) -> None:
    """Ask one question, streamed."""
    with parent.delegate(label, budget=budget) as child:
        async with AsyncAnthropic(api_key=child.token, max_retries=0) as client:
            try:
                async with client.messages.stream(
                    model="claude-haiku-4-5",
                    max_tokens=max_tokens,
                    messages=[{"role": "user", "content": "What is the capital of France?"}],
                ) as stream:
                    print(f"{label}: {await stream.get_final_text()}")
            except APIStatusError as error:
                raise_for_refusal(error.response)
                raise


async def main() -> None:
    """One can pay for its question; the other's might cost more than it has."""
    parent = Delegation.from_environment()
    done = await asyncio.gather(
        sub_agent(parent, "brief", "0.01 USD", 100),
        sub_agent(parent, "long-winded", "0.01 USD", 8_000),
        return_exceptions=True,
    )
    for outcome in done:
        if isinstance(outcome, BudgetExhausted):
            print(f"refused: {outcome.detail}; its limit is {outcome.limit} {outcome.unit}")
        elif outcome is not None:
            raise outcome


asyncio.run(main())
