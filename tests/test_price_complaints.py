"""What users of other gateways complain of (reference/peers.md, C1 to C13), as far as it is about prices and metering.

Each test has the complaint's number in its name.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.ends import Message
from tests.gateways import Gateway, child_of, problem, until
from tests.upstreams import Upstream

CONFIG = """
[server]
[[upstream]]
name = "llm"
url = "http://127.0.0.1:<port>"
timeout = 5
[[route]]
path = "/v1/messages"
methods = ["POST"]
upstream = "llm"
llm = "anthropic"
[[route]]
path = "/v1/*"
methods = ["GET", "POST"]
upstream = "llm"
llm = "openai"
[[route.rule]]
methods = ["GET"]
path = "/v1/models"
price = "0 USD"
[[route]]
path = "/v1/talk/*"
methods = ["POST"]
upstream = "llm"
llm = "openai"
[[model]]
name = "own-*"
input = "1 USD"
output = "2 USD"
cache_write = "1.25 USD"
context = 100_000
max_output = 10_000
"""
CHAT, TALK = "/v1/chat/completions", "/v1/talk/chat/completions"
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}
COST = "0.00002"


def body(**more: object) -> bytes:
    return json.dumps(
        {"model": "own-1", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1000} | more
    ).encode()


def ok(document: dict[str, Any]) -> bytes:
    data = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)


def ask(gateway: Gateway, token: str, path: str = CHAT, **more: object) -> Message:
    return gateway.ask("POST", path, "Content-Type: application/json", token=token, body=body(**more))


def spent(gateway: Gateway, token: str) -> str:
    account = gateway.accounts(token)[-1]
    assert account["held"] == "0"
    return str(account["spent"])


def test_c1_a_reserve_leaves_no_phantom_behind(gateway: Gateway, upstream: Upstream) -> None:
    """Refused, failed, cut and served calls: what is spent in the end is what they cost, and nothing is held."""
    token = gateway.token(budget="1 USD")
    upstream.answers[CHAT] = ok({"usage": USAGE})
    for _ in range(20):
        assert ask(gateway, token).status == 200
        assert ask(gateway, token, model="unheard-of").status == 422
        assert ask(gateway, token, max_tokens=0).status == 400
    upstream.answers[CHAT] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"
    for _ in range(20):
        assert ask(gateway, token).status == 429
    assert spent(gateway, token) == "0.0004"


def test_c5_no_other_path_to_the_provider_goes_uncounted(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    usage = {"input_tokens": 10, "output_tokens": 5}
    upstream.answers["/v1/responses"] = ok({"usage": usage})
    upstream.answers["/v1/messages"] = ok({"type": "message", "usage": usage})
    upstream.answers["/v1/embeddings"] = ok({"usage": {"prompt_tokens": 20}})
    for number, path in enumerate(("/v1/responses", "/v1/messages", "/v1/embeddings"), 1):
        assert ask(gateway, token, path).status == 200
        assert spent(gateway, token) == f"{number * 2 / 100_000:.5f}".rstrip("0")
    for path in ("/v1/batches", "/v1/completions", "/v1/images/generations", "/v1/files", "/v1/chat/completions/x"):
        with upstream.hears_nothing():
            assert problem(ask(gateway, token, path))["code"] == "unpriceable"
    with upstream.hears_nothing():
        assert gateway.ask("GET", CHAT, token=token).status == 422
    assert gateway.ask("GET", "/v1/models", token=token).status == 200


def test_c6_every_level_pays_and_the_narrowest_refuses(gateway: Gateway, upstream: Upstream) -> None:
    """A budget of exactly the worst case is enough, one nano-unit less is not."""
    upstream.answers[CHAT] = ok({"usage": USAGE})
    team = gateway.token()
    enough = child_of(team, "label = enough n", "budget = 1 USD")
    quote = ask(gateway, enough)["tolsey-quote"]
    nano = round(float(quote.split()[0]) * 10**9)
    exact = child_of(team, "label = exact n", f"budget = 0.{nano:09d} USD")
    short = child_of(team, "label = short n", f"budget = 0.{nano - 1:09d} USD")
    assert ask(gateway, exact).status == 200
    refused = problem(ask(gateway, short))
    assert (refused["code"], refused["link"]["label"]) == ("budget_exhausted", "short")
    assert [spent(gateway, token) for token in (team, enough, exact)] == ["0.00004", COST, COST]


def test_c8_a_client_that_cuts_a_stream_does_not_go_free(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    with gateway.client() as client:
        client.ask("POST", TALK, "Content-Type: application/json", token=token, body=body(stream=True))
        talk = upstream.hear()
        talk.body()
        event = 'data: {"choices": [{"delta": {"content": "' + "x" * 99 + '"}}]}\n\n'
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        talk.say(head, f"{len(event):x}\r\n{event}\r\n")
        assert client.head().status == 200
        client.chunk()
    until(lambda: gateway.balance(token)[0]["held"] == "0", "the cut call is settled")
    talk.close()
    cost = float(spent(gateway, token))
    assert 100 * 2e-6 < cost < 100 * 2e-6 + 200 * 1.25e-6


def test_c8_a_usage_of_zero_is_not_replaced_by_an_estimate(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    upstream.answers[CHAT] = ok({"usage": {"prompt_tokens": 0, "completion_tokens": 0}})
    assert ask(gateway, token).status == 200
    assert spent(gateway, token) == "0.000000001", "nothing was used, and nothing is free"


def test_c9_a_model_without_a_price_is_not_unlimited(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    for model in ("unheard-of", "gpt-99", "own", "OWN-1", "m" * 256, "m" * 10_240, ""):
        with upstream.hears_nothing():
            assert ask(gateway, token, model=model).status in (400, 422)
    assert gateway.balance(token)[0]["calls"] == 0


def test_c9_what_is_written_to_a_cache_is_not_free(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    details = {"cached_tokens": 0, "cache_write_tokens": 8}
    upstream.answers[CHAT] = ok({"usage": USAGE | {"prompt_tokens_details": details}})
    assert ask(gateway, token).status == 200
    assert spent(gateway, token) == "0.000022"


def test_c10_an_id_of_the_provider_s_is_no_key_of_ours(gateway: Gateway, upstream: Upstream) -> None:
    """The same id in every answer, and one that the caller chose: each call has its own entry."""
    token = gateway.token()
    upstream.answers[CHAT] = ok({"id": "chatcmpl-213", "usage": USAGE})
    headers = ("Content-Type: application/json", "X-Call-Id: same", "X-Request-Id: same")
    answers = [gateway.ask("POST", CHAT, *headers, token=token, body=body()) for _ in range(5)]
    upstream.answers[CHAT] = ok({"id": None, "usage": USAGE})
    answers += [gateway.ask("POST", CHAT, *headers, token=token, body=body()) for _ in range(5)]
    assert len({answer["tolsey-hold"] for answer in answers}) == 10
    assert spent(gateway, token) == "0.0002"
    assert gateway.balance(token)[0]["calls"] == 10


def test_c12_a_fallback_does_not_escape_the_budget(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    for key in ("models", "fallbacks", "fallback_models"):
        with upstream.hears_nothing():
            assert problem(ask(gateway, token, CHAT, **{key: ["gpt-5-pro"]}))["code"] == "request_invalid"
    narrow = child_of(token, "label = narrow n", "model = own-*")
    for twice in (b'{"model": "own-1", "model": "gpt-5-pro"}', b'{"model": "own-1", "Model": "gpt-5-pro"}'):
        with upstream.hears_nothing():
            assert gateway.ask("POST", CHAT, token=narrow, body=twice).status == 400
    with upstream.hears_nothing():
        refused = problem(ask(gateway, narrow, model="gpt-4o"))
    assert (refused["code"], refused["caveat"]) == ("caveat_refused", "model = own-*")


def test_c12_a_failed_call_is_not_tried_again(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    upstream.answers[CHAT] = b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}"
    before = len(upstream.heard)
    assert ask(gateway, token).status == 500
    assert len(upstream.heard) == before + 1
    assert spent(gateway, token) == "0"


def test_c13_a_refusal_says_which_budget_and_how_much_was_asked(gateway: Gateway, upstream: Upstream) -> None:
    token = child_of(gateway.token(), "label = worker n", "budget = 0.000001 USD")
    refused = problem(ask(gateway, token))
    assert (refused["status"], refused["code"], refused["link"]["label"]) == (402, "budget_exhausted", "worker")
    assert (refused["unit"], refused["limit"], refused["remaining"]) == ("USD", "0.000001", "0.000001")
    assert "cannot pay 0.00" in refused["detail"]
    assert gateway.ask("GET", "/v1/models", token=token).status == 200, "what is free is not blocked with it"


def test_c2_calls_at_once_never_spend_more_than_there_is(gateway: Gateway, upstream: Upstream) -> None:
    upstream.answers[CHAT] = ok({"usage": {"prompt_tokens": 100_000, "completion_tokens": 1000}})
    token = gateway.token(budget="0.02 USD")
    with ThreadPoolExecutor(16) as threads:
        statuses = list(threads.map(lambda _: ask(gateway, token).status, range(40)))
    assert set(statuses) == {200, 402}
    assert float(spent(gateway, token)) <= 0.02
