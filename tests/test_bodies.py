"""Bodies that are read before their calls are priced: how much of them is held at once."""

import asyncio
import json
from contextlib import suppress

import pytest

from tests.ends import Client, Message
from tests.gateways import Gateway, problem
from tests.upstreams import Upstream
from tolsey.gateway import upstream as upstreams
from tolsey.gateway.bodies import MAX_BODIES, Bodies
from tolsey.gateway.destination import Whole
from tolsey.gateway.upstream import WHOLE_BYTES

CONFIG = f"""
[server]
[[upstream]]
name = "llm"
url = "http://127.0.0.1:<port>"
timeout = 0.5
[[route]]
path = "/v1/*"
methods = ["POST"]
upstream = "llm"
llm = "openai"
max_body = {MAX_BODIES}
[[model]]
name = "own-*"
input = "1 USD"
output = "2 USD"
context = 100_000
max_output = 10_000
"""
BODY = json.dumps({"model": "own-1", "messages": [], "max_tokens": 10}).encode()


async def test_room_is_taken_in_turn() -> None:
    bodies, order = Bodies(10), []
    assert await bodies.take(4, 1) == 4

    async def take(size: int) -> None:
        order.append(await bodies.take(size, 60))

    async with asyncio.TaskGroup() as group:
        for size in (7, 1, 5):
            group.create_task(take(size))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == []
        bodies.give(4)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == [7, 1]
        bodies.give(8)
    assert order == [7, 1, 5]


def test_room_that_is_there_is_taken_at_once() -> None:
    bodies = Bodies(10)
    assert (bodies.try_take(11), bodies.try_take(10), bodies.try_take(1)) == (False, True, False)
    bodies.give(1)
    assert bodies.try_take(1)


async def test_nobody_takes_room_before_those_who_wait() -> None:
    bodies = Bodies(10)
    assert bodies.try_take(4)
    waiting = asyncio.create_task(bodies.take(7, 60))
    await asyncio.sleep(0)
    assert not bodies.try_take(1)
    bodies.give(4)
    assert await waiting == 7


async def test_one_that_is_too_large_is_held_alone() -> None:
    bodies = Bodies(10)
    assert await bodies.take(11, 1) == 10
    with pytest.raises(TimeoutError):
        await bodies.take(1, 0)
    bodies.give(10)
    assert await bodies.take(1, 0) == 1


async def test_who_gives_up_takes_nothing_and_lets_the_next_one_in() -> None:
    bodies = Bodies(10)
    await bodies.take(6, 1)
    large = asyncio.create_task(bodies.take(7, 60))
    await asyncio.sleep(0)
    small = asyncio.create_task(bodies.take(4, 60))
    await asyncio.sleep(0)
    large.cancel()
    with suppress(asyncio.CancelledError):
        await large
    assert await small == 4
    bodies.give(10)
    assert await bodies.take(10, 0) == 10


async def test_who_gives_up_as_its_turn_comes_gives_it_back() -> None:
    bodies = Bodies(10)
    await bodies.take(10, 1)
    waiting = asyncio.create_task(bodies.take(3, 60))
    await asyncio.sleep(0)
    bodies.give(10)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert await bodies.take(10, 0) == 10


def test_calls_wait_for_room_and_are_told_when_there_is_none(gateway: Gateway, upstream: Upstream) -> None:
    token, served = gateway.token(), 0
    with gateway.client() as hog:
        hog.ask("POST", "/v1/chat/completions", f"Content-Length: {MAX_BODIES}", token=gateway.token())
        hog.say(b"{")
        # Those that come before it has its room are served.
        while (answer := answer_beside(hog, gateway, token)).status == 200 and served < 500:
            served += 1
        assert (answer.status, problem(answer)["code"]) == (503, "overloaded")
        assert int(answer["retry-after"]) > 0
    assert [account["calls"] for account in gateway.accounts(token)] == [served]


def answer_beside(hog: Client, gateway: Gateway, token: str) -> Message:
    """The answer to a call while the body of another is still coming."""
    with gateway.client() as small:
        small.ask("POST", "/v1/chat/completions", token=token, body=BODY)
        while small.is_silent(0.05):
            hog.say(b" ")
        return small.answer()


def test_room_comes_back_when_the_call_is_over(gateway: Gateway, upstream: Upstream) -> None:
    token = gateway.token()
    upstream.answers["/v1/chat/completions"] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    for _ in range(3):
        with gateway.client() as hog:
            hog.ask("POST", "/v1/chat/completions", f"Content-Length: {MAX_BODIES}", token=token)
            hog.say(b"{")
        with gateway.client() as client:
            client.ask("POST", "/v1/chat/completions", token=token, body=BODY)
            assert client.answer().status == 200


def test_a_body_that_is_announced_too_large_is_not_waited_for(gateway: Gateway, upstream: Upstream) -> None:
    with gateway.client() as client:
        client.ask("POST", "/v1/chat/completions", f"Content-Length: {MAX_BODIES + 1}", token=gateway.token())
        assert problem(client.answer())["code"] == "body_too_large"


@pytest.mark.parametrize("size", [WHOLE_BYTES - 1, WHOLE_BYTES, WHOLE_BYTES + 1, 10 * WHOLE_BYTES])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_was_read_goes_on_as_it_came(
    gateway: Gateway, upstream: Upstream, size: int, chunked: bool
) -> None:
    """Up to `WHOLE_BYTES` it is written with the head; its size is known whether or not the client said it."""
    body = BODY.ljust(size)
    with gateway.client() as client:
        if chunked:
            client.ask("POST", "/v1/chat/completions", "Transfer-Encoding: chunked", token=gateway.token())
            for at in range(0, size, 50_000):
                piece = body[at : at + 50_000]
                client.say(b"%x\r\n%b\r\n" % (len(piece), piece))
            client.say(b"0\r\n\r\n")
        else:
            client.ask("POST", "/v1/chat/completions", token=gateway.token(), body=body)
        assert client.answer().status == 200
    seen = upstream.last()
    assert (seen.all("content-length"), seen.all("transfer-encoding")) == ([str(size)], [])
    assert seen.body == body


async def test_a_whole_body_is_one_piece() -> None:
    body = Whole(b"abc")
    assert [piece async for piece in body] == [b"abc"]
    assert [piece async for piece in body] == []


async def test_a_whole_body_is_written_with_its_head() -> None:
    """No task is made for it."""
    api = upstreams.Upstream("api", "http://127.0.0.1:9")
    exchange = api.request("POST", b"/x", [(b"content-length", b"3")], Whole(b"abc"))
    assert exchange._head == b"POST /x HTTP/1.1\r\nhost: 127.0.0.1:9\r\ncontent-length: 3\r\n\r\nabc"
    assert exchange._body is None
