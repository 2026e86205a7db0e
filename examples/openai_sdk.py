"""A sub-agent with the OpenAI SDK and a hundredth of a dollar, for one model.

Needs TOLSEY_TOKEN, and OPENAI_BASE_URL, which is the gateway's URL and /v1.
"""

from openai import APIStatusError, OpenAI

from tolsey import Delegation
from tolsey.refusals import BudgetExhausted, CaveatRefused, raise_for_refusal


def ask(client: OpenAI, model: str, question: str, max_tokens: int) -> str:
    """One question. Raises the gateway's refusal in place of the SDK's general error."""
    try:
        answer = client.chat.completions.create(
            model=model, max_tokens=max_tokens, messages=[{"role": "user", "content": question}]
        )
    except APIStatusError as error:
        raise_for_refusal(error.response)
        raise
    return answer.choices[0].message.content or ""


parent = Delegation.from_environment()
with (
    parent.delegate("geographer", budget="0.01 USD", caveats=["model = gpt-4o-mini"]) as child,
    OpenAI(api_key=child.token) as client,
):
    print("geographer:", ask(client, "gpt-4o-mini", "What is the capital of France?", 100))
    try:
        ask(client, "gpt-5-pro", "What is the capital of France?", 100)
    except CaveatRefused as refused:
        print("refused:", refused.detail)
    try:
        ask(client, "gpt-4o-mini", "Tell me all about France.", 16_384)
    except BudgetExhausted as refused:
        print(f"refused: {refused.detail}; {refused.remaining} {refused.unit} are left")
