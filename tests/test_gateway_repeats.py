"""Idempotency keys on a real socket: one charge for one key, whatever the client repeats."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.ends import Message
from tests.gateways import Gateway, child_of, problem
from tests.upstreams import OK, Upstream

CONFIG = """
[server]
workers = 2
[[upstream]]
name = "one"
url = "http://127.0.0.1:<port>"
[[upstream]]
name = "dead"
url = "http://127.0.0.1:1"
[[route]]
path = "/dead/*"
methods = ["*"]
upstream = "dead"
price = "0.01 USD"
[[route]]
path = "/free/*"
methods = ["*"]
upstream = "one"
price = "0 USD"
[[route]]
path = "/failing/*"
methods = ["*"]
upstream = "one"
price = "0.01 USD"
charge = "success"
[[route]]
path = "/*"
methods = ["*"]
upstream = "one"
price = "0.01 USD"
max_body = 100000
"""
KEY = 'Idempotency-Key: "8e03978e-40d5-43dd-bc93-6894a57f9324"'
CREATED = b"HTTP/1.1 201 Created\r\nContent-Type: text/plain\r\nX-Order: 7\r\nContent-Length: 5\r\n\r\norder"


@pytest.fixture
def token(gateway: Gateway) -> str:
    return gateway.token()


def ask(gateway: Gateway, method: str, target: str, token: str, body: bytes = b"") -> Message:
    """A call under `KEY` whose hold is settled, so that the other worker knows what came of it."""
    answer = gateway.ask(method, target, KEY, token=token, body=body)
    assert all(account["held"] == "0" for account in gateway.accounts(token))
    return answer


def test_a_repeat_gets_what_the_first_got_and_is_not_charged_again(
    gateway: Gateway, upstream: Upstream, token: str
) -> None:
    upstream.answers["/orders?a=1"] = CREATED
    first = ask(gateway, "POST", "/orders?a=1", token, b"book")
    assert (first.status, first.body, "tolsey-replayed" in first) == (201, b"order", False)

    with upstream.hears_nothing():
        again = ask(gateway, "POST", "/orders?a=1", token, b"book")

    assert (again.status, again.body, again["x-order"], again["tolsey-replayed"]) == (201, b"order", "7", "true")
    assert (again["tolsey-hold"], again["tolsey-cost"]) == (first["tolsey-hold"], "0.01 USD")
    gateway.stands(token, spent="0.01", calls=1)


def test_the_key_goes_on_to_the_upstream(gateway: Gateway, upstream: Upstream, token: str) -> None:
    gateway.ask("POST", "/x", "Idempotency-Key: plain-text", token=token, body=b"a")
    assert upstream.last()["idempotency-key"] == "plain-text"


def test_a_repeat_while_the_first_is_running_is_busy(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("POST", "/talk", KEY, token=token, body=b"book")
        talk = upstream.hear()
        talk.body()
        answer = gateway.ask("POST", "/talk", KEY, token=token, body=b"book")
        assert (answer.status, problem(answer)["code"]) == (409, "idempotency_busy")
        assert "still running" in problem(answer)["detail"]
        assert answer["retry-after"] == "1"
        talk.answers(CREATED)
        first = client.answer()
    gateway.stands(token, spent="0.01", calls=1)
    assert gateway.ask("POST", "/talk", KEY, token=token, body=b"book").body == first.body
    gateway.stands(token, spent="0.01", calls=1)


@pytest.mark.parametrize(
    ("method", "target", "headers", "body"),
    [
        ("PUT", "/orders", (), b"book"),
        ("POST", "/other", (), b"book"),
        ("POST", "/orders?a=2", (), b"book"),
        ("POST", "/orders", ("Content-Type: text/plain",), b"book"),
        ("POST", "/orders", (), b"boot"),
        ("POST", "/orders", (), b""),
        ("POST", "/orders", (), b"x" * 200_000),
    ],
    ids=["method", "path", "query", "content type", "body", "no body", "too large a body"],
)
def test_the_same_key_with_another_request(
    gateway: Gateway, upstream: Upstream, token: str, method: str, target: str, headers: tuple[str, ...], body: bytes
) -> None:
    assert ask(gateway, "POST", "/orders", token, b"book").status == 200
    with upstream.hears_nothing():
        answer = gateway.ask(method, target, KEY, *headers, token=token, body=body)
    if len(body) > 100_000:
        assert (answer.status, problem(answer)["code"]) == (413, "body_too_large")
    else:
        assert (answer.status, problem(answer)["code"]) == (422, "idempotency_mismatch")
    gateway.stands(token, spent="0.01", calls=1)


def test_fifty_at_once_reach_the_upstream_once(gateway: Gateway, upstream: Upstream, token: str) -> None:
    before = len(upstream.heard)

    def call(_: int) -> int:
        return gateway.ask("POST", "/once", KEY, token=token, body=b"book").status

    with ThreadPoolExecutor(50) as pool:
        statuses = sorted(pool.map(call, range(50)))

    assert len(upstream.heard) == before + 1
    assert set(statuses) <= {200, 409}
    assert 200 in statuses
    gateway.stands(token, spent="0.01", calls=1)


def test_a_key_belongs_to_the_link_that_sent_it(gateway: Gateway, upstream: Upstream, token: str) -> None:
    one, two = (child_of(token, f"label = {name} n", "budget = 1 USD") for name in ("one", "two"))
    before = len(upstream.heard)
    for sender in (one, two, one, child_of(one, "method = POST")):
        assert ask(gateway, "POST", "/mine", sender, b"a").status == 200
    assert len(upstream.heard) == before + 2


def test_a_call_that_was_surely_not_served_frees_its_key(gateway: Gateway, token: str) -> None:
    for _ in range(2):
        answer = gateway.ask("POST", "/dead/x", KEY, token=token, body=b"a")
        assert (answer.status, problem(answer)["code"]) == (502, "upstream_failed")
        gateway.stands(token, spent="0", calls=0)


def test_a_call_whose_outcome_is_not_known_is_not_made_again(gateway: Gateway, upstream: Upstream, token: str) -> None:
    with gateway.client() as client:
        client.ask("POST", "/talk/lost", KEY, token=token, body=b"a")
        talk = upstream.hear()
        talk.body()
        talk.close()
        assert client.answer().status == 502
    gateway.stands(token, spent="0.01", calls=1)
    with upstream.hears_nothing():
        answer = gateway.ask("POST", "/talk/lost", KEY, token=token, body=b"a")
    document = problem(answer)
    assert (answer.status, document["code"]) == (409, "idempotency_busy")
    hold = re.search(r"hold (\S+),", document["detail"])
    assert hold is not None
    state = json.loads(gateway.ask("GET", f"/.tolsey/holds/{hold[1]}", token=token).body)
    assert (state["state"], state["cost"]) == ("settle", "0.01")


@pytest.mark.parametrize(("size", "status"), [(65536, 200), (65537, 409)])
def test_an_answer_is_kept_up_to_64_kib(
    gateway: Gateway, upstream: Upstream, token: str, size: int, status: int
) -> None:
    body = b"x" * size
    upstream.answers[f"/large/{size}"] = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body)
    assert ask(gateway, "POST", f"/large/{size}", token).body == body
    again = gateway.ask("POST", f"/large/{size}", KEY, token=token)
    assert again.status == status
    if status == 200:
        assert again.body == body
    gateway.stands(token, spent="0.01", calls=1)


def test_a_streamed_answer_is_kept_too(gateway: Gateway, upstream: Upstream, token: str) -> None:
    upstream.answers["/chunks"] = OK.replace(b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n") + (
        b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    for replayed in (False, True):
        answer = ask(gateway, "POST", "/chunks", token)
        assert (answer.status, answer.body, "tolsey-replayed" in answer) == (200, b"abcde", replayed)


def test_a_failure_is_an_outcome_too(gateway: Gateway, upstream: Upstream, token: str) -> None:
    upstream.answers["/failing/x"] = OK.replace(b"200 OK", b"503 Busy")
    for replayed in (False, True):
        answer = ask(gateway, "POST", "/failing/x", token)
        assert (answer.status, answer["tolsey-cost"], "tolsey-replayed" in answer) == (503, "0 USD", replayed)
    gateway.stands(token, spent="0", calls=1)


@pytest.mark.parametrize(
    "header",
    [
        "Idempotency-Key:",
        'Idempotency-Key: ""',
        "Idempotency-Key: " + "k" * 256,
        'Idempotency-Key: "a"b"',
        "Idempotency-Key: \xe9",
    ],
    ids=["empty", "empty string", "too long", "a quote inside", "not ASCII"],
)
def test_a_bad_key(gateway: Gateway, upstream: Upstream, token: str, header: str) -> None:
    with upstream.hears_nothing():
        answer = gateway.ask("POST", "/x", header, token=token)
    assert (answer.status, problem(answer)["code"]) == (400, "request_invalid")


def test_two_keys(gateway: Gateway, token: str) -> None:
    answer = gateway.ask("POST", "/x", "Idempotency-Key: a", "Idempotency-Key: a", token=token)
    assert (answer.status, problem(answer)["code"]) == (400, "request_invalid")


def test_a_free_call_holds_nothing_so_its_key_only_goes_on(gateway: Gateway, upstream: Upstream, token: str) -> None:
    before = len(upstream.heard)
    for _ in range(2):
        assert gateway.ask("POST", "/free/x", KEY, token=token).status == 200
    assert len(upstream.heard) == before + 2


def test_a_head_of_a_kept_get(gateway: Gateway, upstream: Upstream, token: str) -> None:
    upstream.answers["/got"] = OK
    for _ in range(2):
        assert ask(gateway, "HEAD", "/got", token).body == b""


def test_a_hold_is_shown_to_those_it_was_charged_to(gateway: Gateway, token: str) -> None:
    child = child_of(token, "label = child n", "budget = 1 USD")
    hold = gateway.ask("GET", "/seen", token=child)["tolsey-hold"]
    gateway.stands(child, spent="0.01", calls=1)
    for holder in (child, token):
        state = json.loads(gateway.ask("GET", f"/.tolsey/holds/{hold}", token=holder).body)
        assert (state["hold"], state["state"], state["unit"], state["cost"]) == (hold, "settle", "USD", "0.01")
    for stranger in (gateway.token(), child_of(token, "label = sister n", "budget = 1 USD")):
        answer = gateway.ask("GET", f"/.tolsey/holds/{hold}", token=stranger)
        assert (answer.status, problem(answer)["code"]) == (404, "route_missing")
    assert gateway.ask("GET", f"/.tolsey/holds/{hold}").status == 401
