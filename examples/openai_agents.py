"""An orchestrator with the OpenAI Agents SDK: its tool is a sub-agent, which calls with a token of its own.

Needs TOLSEY_TOKEN, and OPENAI_BASE_URL, which is the gateway's URL and /v1.
"""

import asyncio

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

from tolsey import Delegation

# Traces go to OpenAI with the API key, which is a token of ours.
set_tracing_disabled(True)

parent = Delegation.from_environment()


def model(holder: Delegation) -> OpenAIChatCompletionsModel:
    """A model that is paid from this token."""
    return OpenAIChatCompletionsModel("gpt-4o-mini", AsyncOpenAI(api_key=holder.token))


@function_tool
async def research(topic: str) -> str:
    """Find out about a topic."""
    with parent.delegate("researcher", budget="0.02 USD") as child:
        researcher = Agent(name="researcher", model=model(child), model_settings=ModelSettings(max_tokens=200))
        done = await Runner.run(researcher, f"What is {topic} known for?")
        return f"researcher on {topic}: {done.final_output}"


async def main() -> None:
    """The orchestrator's own questions are paid from its parent's token, under a label."""
    with parent.delegate("orchestrator") as mine:
        orchestrator = Agent(
            name="orchestrator",
            model=model(mine),
            model_settings=ModelSettings(max_tokens=200, tool_choice="required"),
            tools=[research],
            tool_use_behavior="stop_on_first_tool",
        )
        done = await Runner.run(orchestrator, "Have somebody find out about Paris.")
        print(done.final_output)


asyncio.run(main())
