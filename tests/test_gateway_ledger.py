"""A ledger that is away for a while: nothing is served uncounted, and everything is right once it is back."""

import fcntl
import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.gateways import Gateway, problem, until
from tests.upstreams import Upstream

CONFIG = """
[server]
[ledger]
timeout = 0.5
[[upstream]]
name = "patient"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/patient/*"
methods = ["*"]
upstream = "patient"
price = "0.01 USD"
[[route]]
path = "/free/*"
methods = ["*"]
upstream = "patient"
price = "0 USD"
[[route]]
path = "/open/*"
methods = ["*"]
upstream = "patient"
mode = "public"
"""


@pytest.fixture
def token(gateway: Gateway) -> str:
    return gateway.token()


@pytest.fixture
def turn(gateway: Gateway) -> Iterator[Callable[[bool], None]]:
    """Takes the turn to write away from the gateway (True), or gives it back."""
    with open(f"{gateway.ledger}.turn", "rb+") as file:
        yield lambda take: fcntl.flock(file, fcntl.LOCK_EX if take else fcntl.LOCK_UN)


def test_a_ledger_that_is_not_available_serves_nothing_uncounted(
    gateway: Gateway, upstream: Upstream, token: str, turn: Callable[[bool], None]
) -> None:
    turn(True)
    with upstream.hears_nothing():
        began = time.monotonic()
        answer = gateway.ask("GET", "/patient/x", token=token)
        assert 0.4 < time.monotonic() - began < 2
        assert (answer.status, problem(answer)["code"]) == (503, "ledger_unavailable")
        assert answer["retry-after"] == "1"
        until(lambda: gateway.ask("GET", "/readyz", admin=True).status == 503, "the gateway is not ready")
        assert gateway.ask("GET", "/healthz", admin=True).status == 200
        assert json.loads(gateway.ask("GET", "/readyz", admin=True).body)["problems"]
        assert gateway.ask("GET", "/patient/x", token=token[:-4] + "AAAA").status == 401
        assert gateway.ask("GET", "/patient/x", token=gateway.token("scope = /b")).status == 403
    assert gateway.ask("GET", "/free/x", token=token).status == 200
    assert gateway.ask("GET", "/open/x").status == 200
    balance = gateway.ask("GET", "/.tolsey/balance", token=token)
    assert (balance.status, problem(balance)["code"], balance["retry-after"]) == (503, "ledger_unavailable", "1")
    turn(False)

    assert gateway.ask("GET", "/patient/x", token=token).status == 200
    until(lambda: gateway.ask("GET", "/readyz", admin=True).status == 200, "the gateway is ready")
    gateway.stands(token, spent="0.01", calls=1)


def test_a_ledger_that_is_late_is_waited_for(
    gateway: Gateway, upstream: Upstream, token: str, turn: Callable[[bool], None]
) -> None:
    turn(True)
    with gateway.client() as client:
        client.ask("GET", "/patient/x", token=token)
        with upstream.hears_nothing():
            assert client.is_silent(0.2)
        turn(False)
        assert client.answer().status == 200
    gateway.stands(token, spent="0.01", calls=1)


def test_a_client_that_leaves_while_the_ledger_is_waited_for(
    gateway: Gateway, upstream: Upstream, token: str, turn: Callable[[bool], None]
) -> None:
    turn(True)
    with upstream.hears_nothing():
        client = gateway.client()
        client.ask("GET", "/patient/x", token=token)
        assert client.is_silent(0.2)
        client.close()
        time.sleep(0.1)
        turn(False)
        gateway.stands(token, spent="0", calls=0)


def test_what_is_served_while_the_ledger_is_away_is_settled_afterwards(
    gateway: Gateway, upstream: Upstream, token: str, turn: Callable[[bool], None]
) -> None:
    with gateway.client() as client:
        client.ask("GET", "/patient/talk", token=token)
        talk = upstream.hear()
        turn(True)
        talk.answers()
        assert client.answer().status == 200
        time.sleep(0.7)
        turn(False)
    gateway.stands(token, spent="0.01", calls=1)
