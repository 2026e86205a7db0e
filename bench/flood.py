"""What strangers without a token or money cost a gateway that sells: unpaid challenges, and refusals beyond them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import Wrong, gateway
from bench.client import response
from bench.load import CONNECTIONS
from bench.machine import Cores, pinned, scratch
from bench.memory import largest
from bench.origin import PATH, origin
from bench.processes import cpu_seconds, memory_mb

_PAYMENT = """
[payment]
backend = "fake"
offers = ["purse"]
challenges = "{challenges}"

[payment.rates]
USD = "1600 sat"

[[payment.offer]]
name = "purse"
price = "1000 sat"
budget = "0.5 USD"
"""


@dataclass(frozen=True)
class Flood:
    """What so many calls without a token were answered, and what they cost: processor time of the gateway for each
    (µs), and how much the memory of its worker (MB) and its ledger's files (bytes) grew.
    """

    what: str
    answers: dict[int, int]
    cpu_us: float
    grown_mb: float
    ledger_bytes: int


def measure(places: Cores, count: int) -> list[Flood]:
    """Once with every challenge granted, once with the limits that are the default, by as many addresses as calls."""
    return [
        _measure(places, count, "each gets a challenge", "1000000/minute"),
        _measure(places, count, "10 a minute for each address, 200 for all", "10/minute"),
    ]


def _measure(places: Cores, count: int, what: str, challenges: str) -> Flood:
    with pinned(places.load), origin(places.load) as upstream, scratch() as folder:
        place = gateway.prepare(folder / "gateway", upstream.port, "full")
        text = place.config.read_text().replace("[server]\n", '[server]\ntrusted_proxies = ["127.0.0.1"]\n')
        place.config.write_text(text + _PAYMENT.format(challenges=challenges))
        with gateway.serving(place, places.server, folder / "tolsey.log") as process:
            asyncio.run(flood(place.port, _addresses(200), connections=CONNECTIONS))
            cpu, memory, size = cpu_seconds(process.pid), memory_mb(largest(process.pid)), _size(place)
            answers = asyncio.run(flood(place.port, _addresses(count), connections=CONNECTIONS))
            used = cpu_seconds(process.pid) - cpu
            grown, written = memory_mb(largest(process.pid)) - memory, _size(place) - size
        gateway.tolsey("fsck", "-c", place.config)
    if answers.keys() - {402, 429} or answers.total() != count:
        raise Wrong(f"strangers were answered {dict(answers)}")
    return Flood(what, dict(sorted(answers.items())), used / count * 1e6, grown, written)


def _size(place: gateway.Place) -> int:
    return sum(file.stat().st_size for file in Path(place.config.parent, "data").glob("ledger.db*") if file.is_file())


def _addresses(count: int) -> Iterator[str]:
    """A header for each call, each of another address."""
    for number in range(count):
        yield f"X-Forwarded-For: 10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


async def flood(port: int, headers: Iterable[str], *, connections: int) -> Counter[int]:
    """One GET with each header, over so many connections; the statuses."""
    remaining = iter(headers)
    found: Counter[int] = Counter()

    async def call() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            for header in remaining:
                writer.write(f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{header}\r\n\r\n".encode())
                status, _ = await response(reader)
                found[status] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(call())
    return found
