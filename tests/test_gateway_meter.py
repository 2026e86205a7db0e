"""A call that is charged by the time it takes: held ahead, extended while it runs, cut when the money ends."""

import contextlib
import json
import time

import pytest

from tests.ends import Broken
from tests.gateways import Gateway, child_of, until
from tests.upstreams import OK, Upstream

CONFIG = """
[server]
[[upstream]]
name = "one"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/second/*"
methods = ["GET"]
upstream = "one"
price = "0.5 USD"
price_per_second = "0.01 USD"
[[route]]
path = "/short/*"
methods = ["GET"]
upstream = "one"
price = "0.01 USD"
timeout = 0.5
[[route]]
path = "/brief/*"
methods = ["GET"]
upstream = "one"
price = "0.01 USD"
max_duration = 0.7
"""
STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_ten_seconds_are_held_and_what_was_used_is_charged(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    with gateway.client() as client:
        client.ask("GET", "/second/talk", token=token)
        talk = upstream.hear()
        assert [account["held"] for account in gateway.balance(token)] == ["0.6"]
        talk.answers(OK)
        answer = client.answer()
    assert (answer["tolsey-quote"], "tolsey-cost" in answer) == ("0.6 USD", False)
    hold = json.loads(gateway.ask("GET", f"/.tolsey/holds/{answer['tolsey-hold']}", token=token).body)
    assert (hold["state"], hold["quote"]) == ("settle", "0.6")
    assert 0.5 < float(hold["cost"]) < 0.6
    assert gateway.line_of(answer["tolsey-hold"])["cost"] == f"{hold['cost']} USD"


@pytest.mark.slow
def test_a_stream_is_extended_while_its_budget_lasts_and_then_cut(gateway: Gateway, upstream: Upstream) -> None:
    rich = gateway.token()
    poor = child_of(rich, "label = poor n", "budget = 0.65 USD")
    capped = child_of(rich, "label = capped n", "max-price = 0.6 USD")
    with gateway.client() as one, gateway.client() as two, gateway.client() as three:
        talks = []
        for client, token in ((one, rich), (two, poor), (three, capped)):
            client.ask("GET", "/second/talk", token=token)
            talks.append(upstream.hear())
            talks[-1].say(STREAM, "1\r\na\r\n")
            assert client.head().status == 200
            assert client.chunk() == b"a"
        began = time.monotonic()
        until(lambda: gateway.balance(poor)[0]["held"] == "1.9", "the rich one is extended, the others are not")
        for client, talk in ((two, talks[1]), (three, talks[2])):
            with pytest.raises(Broken):
                client.chunk()
            assert talk.is_left()
            talk.close()
        assert 8 < time.monotonic() - began < 15
        talks[0].say("1\r\nb\r\n0\r\n\r\n")
        talks[0].over()
        assert (one.chunk(), one.chunk()) == (b"b", b"")
    root, child = gateway.accounts(poor)
    assert child["spent"] == "0.6", "all that was held, and never more than that"
    assert 1.79 < float(root["spent"]) < 1.9
    kinds = [entry.kind for entry in gateway.entries()]
    assert kinds.count("extend") == 1


def test_a_route_says_how_much_silence_it_bears(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    with gateway.client() as client:
        client.ask("GET", "/short/talk", token=token)
        talk = upstream.hear()
        assert client.answer().status == 504
        talk.close()


def test_a_route_says_how_long_a_call_may_take(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    with gateway.client() as client:
        client.ask("GET", "/brief/talk", token=token)
        talk = upstream.hear()
        talk.say(STREAM)
        assert client.head().status == 200
        began = time.monotonic()
        with contextlib.suppress(Broken, OSError):
            while time.monotonic() - began < 5:
                talk.say("1\r\na\r\n")
                assert client.chunk() == b"a"
                time.sleep(0.05)
        assert 0.5 < time.monotonic() - began < 3
        talk.close()
    gateway.stands(token, spent="0.01", calls=1)
