"""HTTP clients that nobody here wrote, unchanged: what they send arrives, what they get is what the upstream said."""

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import aiohttp
import httpx
import pytest
import requests

from tests.gateways import Gateway
from tests.upstreams import Upstream

CONFIG = """
[server]
[[upstream]]
name = "one"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/*"
methods = ["GET", "POST"]
upstream = "one"
price = "0.01 USD"
"""
LARGE = bytes(range(256)) * 2000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"


class Got(NamedTuple):
    """Of an answer."""

    status: int
    cost: str | None
    body: bytes


def by_curl(method: str, url: str, token: str, body: bytes) -> Got:
    """It reads the header from standard input, so that the token is not among the arguments, and the body from one."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl")
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        command = [curl, "-sS", "-i", "-K", "-", "-X", method, url]
        command += ["--data-binary", f"@{file.name}"] if body else []
        config = f'header = "Authorization: Bearer {token}"\n'.encode()
        done = subprocess.run(command, input=config, capture_output=True, check=True, timeout=30)
    *_, head, rest = done.stdout.split(b"\r\n\r\n", 2 if done.stdout.startswith(b"HTTP/1.1 100") else 1)
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Got(int(lines[0].split()[1]), headers.get("tolsey-cost"), rest)


def by_httpx(method: str, url: str, token: str, body: bytes) -> Got:
    answer = httpx.request(method, url, headers={"Authorization": f"Bearer {token}"}, content=body or None)
    return Got(answer.status_code, answer.headers.get("tolsey-cost"), answer.content)


def by_aiohttp(method: str, url: str, token: str, body: bytes) -> Got:
    async def fetch() -> Got:
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
            session.request(method, url, data=body or None) as answer,
        ):
            return Got(answer.status, answer.headers.get("tolsey-cost"), await answer.read())

    return asyncio.run(fetch())


def by_requests(method: str, url: str, token: str, body: bytes) -> Got:
    answer = requests.request(method, url, headers={"X-Api-Key": token}, data=body or None, timeout=30)
    return Got(answer.status_code, answer.headers.get("tolsey-cost"), answer.content)


Fetch = Callable[[str, str, str, bytes], Got]


@pytest.mark.parametrize("fetch", [by_curl, by_httpx, by_aiohttp, by_requests])
def test_a_client_that_others_wrote(gateway: Gateway, upstream: Upstream, fetch: Fetch) -> None:
    token = gateway.token(budget="0.03 USD")
    base = f"http://127.0.0.1:{gateway.port}"
    assert fetch("GET", f"{base}/search?q=a%20b&q=c", token, b"") == Got(200, "0.01 USD", b"{}")
    assert upstream.last().line == "GET /search?q=a%20b&q=c HTTP/1.1"
    assert token not in str(upstream.last())

    assert fetch("POST", f"{base}/upload", token, LARGE) == Got(200, "0.01 USD", b"{}")
    assert upstream.last().body == LARGE

    upstream.answers["/chunks"] = CHUNKED
    assert fetch("GET", f"{base}/chunks", token, b"") == Got(200, "0.01 USD", b"abcdefg")

    refused = fetch("GET", f"{base}/search", token, b"")
    assert (refused.status, refused.cost) == (402, None)
    assert json.loads(refused.body)["code"] == "budget_exhausted"
    gateway.stands(token, spent="0.03", calls=3)
