"""`tolsey trail` beside a gateway: refusals at each level, what it is asked for, and `--follow`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import swarm
from tests.cli import tolsey
from tests.swarm import Client, Gateway, until
from tolsey import attenuate

ITEM = f"{swarm.ITEM}1"


def read(gateway: Gateway, *words: str) -> dict[str, Any]:
    """The accounts by label, as `--json` has them."""
    status, out, err = tolsey("trail", *words, "-c", os.fspath(gateway.file), "--json")
    assert status == 0, err
    return {row["label"]: row for row in json.loads(out)["accounts"]}


async def test_each_level_has_its_refusals_and_who_follows_sees_them(tmp_path: Path) -> None:
    with swarm.upstream(tmp_path) as upstream:
        gateway = swarm.lay_out(tmp_path, upstream.port, workers=2)
        token = gateway.mint("label = team n1", "budget = 0.03 USD")
        child = str(attenuate(token, label="worker", budget="0.01 USD"))
        narrow = str(attenuate(child, label="narrow", scope="/elsewhere"))
        async with swarm.serving(gateway), Client(gateway.port) as client:
            assert [(await client.call(each, ITEM)).status for each in (child, child, narrow)] == [200, 402, 403]
            follower = Follower(gateway)
            await until(lambda: "team" in follower.lines(), "it shows what is there")
            statuses = [(await client.call(token, f"{swarm.ITEM}{n}")).status for n in range(2, 6)]
            assert statuses == [200, 200, 402, 402]
            await until(lambda: read(gateway)["team"]["refusals"] == {"budget_exhausted": 2}, "they are counted")
            assert read(gateway)["worker"]["refusals"] == {"budget_exhausted": 1}
            assert "narrow" not in read(gateway), "it was never charged"
            await until(lambda: follower.last("team").get("refusals") == {"budget_exhausted": 2}, "it is followed")
            assert follower.last("team")["spent"] == "0.03"
            assert follower.ends() == 0


class Follower:
    """`tolsey trail --follow --json` in a process of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self._out = gateway.file.with_name("followed")
        with open(self._out, "wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tolsey.cli.main", "trail", "-f", "--json", "-c", os.fspath(gateway.file)],
                stdout=out,
            )

    def lines(self) -> str:
        return self._out.read_text()

    def last(self, label: str) -> dict[str, Any]:
        """The last line about a level."""
        whole = [json.loads(line) for line in self.lines().splitlines(keepends=True) if line.endswith("\n")]
        return next((row for row in reversed(whole) if row["label"] == label), {})

    def ends(self) -> int:
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(10)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--since", "yesterday"], 1, "'yesterday' is no time"),
        (["--follow", "--until", "1h"], 2, "choose one"),
        (["--label", "nobody"], 0, "no account is like that"),
        (["--unit", "EUR"], 0, "no account is like that"),
        (["--until", "2001-01-01"], 0, "no account is like that"),
        (["ab" * 16], 1, "no account has the prefix id"),
    ],
)
def test_what_is_asked_for(words: list[str], status: int, said: str, some_trail: Callable[[], Gateway]) -> None:
    found, out, err = tolsey("trail", *words, "-c", os.fspath(some_trail().file))
    assert (found, out) == (status, "")
    assert said in err


@pytest.fixture
def some_trail(tmp_path: Path) -> Callable[[], Gateway]:
    gateway = swarm.lay_out(tmp_path, 9, workers=1)
    status, _, err = tolsey("mint", "--label", "team", "--budget", "1 USD", "-c", os.fspath(gateway.file))
    assert status == 0, err
    return lambda: gateway


def test_the_long_table_says_who_and_when(some_trail: Callable[[], Gateway]) -> None:
    status, out, _ = tolsey("trail", "--long", "--label", "t*m", "-c", os.fspath(some_trail().file))
    assert status == 0
    heads, row = out.splitlines()
    assert [word for word in ("opened by", "first seen", "last seen") if word not in heads] == []
    assert "minted by" in row
