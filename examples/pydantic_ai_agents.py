"""A sub-agent with Pydantic AI, which is asked until its budget is spent.

Needs TOLSEY_TOKEN, and OPENAI_BASE_URL, which is the gateway's URL and /v1.
"""

from openai import APIStatusError
from pydantic_ai import Agent, ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tolsey import Delegation
from tolsey.refusals import BudgetExhausted, raise_for_refusal

parent = Delegation.from_environment()
with parent.delegate("geographer", budget="0.00015 USD") as child:
    model = OpenAIChatModel("gpt-4o-mini", provider=OpenAIProvider(api_key=child.token))
    geographer = Agent(model, model_settings={"max_tokens": 50})
    try:
        while True:
            print("geographer:", geographer.run_sync("What is the capital of France?").output)
    except ModelHTTPError as error:
        try:
            if isinstance(error.__cause__, APIStatusError):
                raise_for_refusal(error.__cause__.response)
            raise
        except BudgetExhausted as refused:
            print(f"refused: {refused.detail}; it spent {refused.spent} of {refused.limit} {refused.unit}")
