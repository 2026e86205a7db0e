"""A gateway from its start to its end: what it refuses to start with, what it takes up while it runs, how it stops."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import swarm
from tests.ends import Client
from tests.gateways import Gateway, lay_out, problem, serving, until
from tests.upstreams import Upstream
from tolsey.store.keyring import Keyring
from tolsey.token.chain import CAPABILITY

CONFIG = """
[server]
workers = <workers>
[[upstream]]
name = "plain"
url = "http://127.0.0.1:<port>"
[[route]]
path = "/x/*"
methods = ["GET"]
upstream = "plain"
price = "0.01 USD"
"""


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that goes on running, for what needs no start and no end."""
    with serving(tmp_path_factory.mktemp("life"), CONFIG, port=upstream.port, workers=2) as running:
        yield running


@pytest.fixture
def fresh(upstream: Upstream, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that was not started yet."""
    found = lay_out(tmp_path, CONFIG, port=upstream.port, workers=1)
    with swarm.ending(found):
        yield found


def spent(gateway: Gateway) -> list[tuple[int, int, int]]:
    """What each account of the ledger stands at, in nano-units."""
    return [(row.spent, row.held, row.calls) for row in gateway.trail()]


# --- the end


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_call_under_way_is_finished(fresh: Gateway, upstream: Upstream, how: signal.Signals) -> None:
    fresh.begin()
    assert fresh.process is not None
    token = fresh.token()
    with fresh.client() as idle, fresh.client() as half, fresh.client() as slow, fresh.client() as stream:
        idle.ask("GET", "/x/a", token=token)
        assert idle.answer().status == 200
        half.say("GET /x/never HTTP/1.1\r\nHost: x\r\n")
        slow.ask("GET", "/x/talk/slow", token=token)
        slow_talk = upstream.hear()
        stream.ask("GET", "/x/talk/stream", token=token)
        stream_talk = upstream.hear()
        stream_talk.say("HTTP/1.1 200 OK\r\n\r\none")
        stream.head()
        assert stream.chunk() == b"one"

        fresh.process.send_signal(how)
        until(lambda: not swarm.answers(fresh.port), "no new connection is taken")
        assert idle.is_left(2)
        assert half.is_left(2)
        assert slow.is_silent(0.3)
        assert fresh.runs()

        slow_talk.answers()
        answer = slow.answer()
        assert (answer.status, answer["connection"], answer["tolsey-cost"]) == (200, "close", "0.01 USD")
        assert slow.is_left(2)
        stream_talk.say(" two")
        stream_talk.close()
        assert stream.chunk() == b" two"
        assert stream.chunk() == b""

    assert fresh.ends() == 0, fresh.said()
    assert spent(fresh) == [(30_000_000, 0, 3)]
    assert fresh.fsck().open_holds == 0
    assert '"level": "error"' not in fresh.said()
    assert "Traceback" not in fresh.said()


def test_a_gateway_that_is_idle_ends_at_once_and_starts_again(fresh: Gateway) -> None:
    token = ""
    for number in range(2):
        fresh.begin()
        assert fresh.process is not None
        token = token or fresh.token()
        assert fresh.ask("GET", "/x/a", token=token).status == 200
        fresh.process.terminate()
        began = time.monotonic()
        assert fresh.ends() == 0, fresh.said()
        assert time.monotonic() - began < 3
        assert spent(fresh) == [(10_000_000 * (number + 1), 0, number + 1)]


# --- the start


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('price = "0.01 USD"', 'price = "0.01 USD"\nprize = "x"'), "tolsey.toml:13: route[0].prize: unknown key"),
        (('price = "0.01 USD"', 'price = "cheap"'), "tolsey.toml:12: route[0].price: "),
        (('upstream = "plain"', 'upstream = "plane"'), "tolsey.toml:11: route[0].upstream: "),
        (("[[route]]", "[[route"), "tolsey.toml:8: is not TOML"),
        (
            ('name = "plain"', 'name = "plain"\nheaders = { A = "${NOT_SET}" }'),
            "tolsey.toml:7: upstream[0].headers.A: ",
        ),
    ],
)
def test_a_config_that_is_wrong_never_half_starts(fresh: Gateway, change: tuple[str, str], complaint: str) -> None:
    fresh.file.write_text(fresh.file.read_text().replace(*change))
    fresh.launch()
    assert fresh.process is not None
    while fresh.process.poll() is None:
        assert not swarm.answers(fresh.port)
        assert not swarm.answers(fresh.admin_port)
    assert fresh.ends() == 1
    assert complaint in fresh.said()
    assert "Traceback" not in fresh.said()
    assert not fresh.ledger.exists()


@pytest.mark.slow
@pytest.mark.parametrize("which", ["port", "admin_port"])
def test_a_port_that_is_taken(fresh: Gateway, which: str) -> None:
    port: int = getattr(fresh, which)
    with socket.create_server(("127.0.0.1", port)) as stranger:
        fresh.launch()
        assert fresh.ends() == 1
        assert f"cannot listen on 127.0.0.1:{port}" in fresh.said()
        assert "Traceback" not in fresh.said()
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.accept()
    other = fresh.admin_port if which == "port" else fresh.port
    assert not swarm.answers(other)


# --- while it runs


def cost(gateway: Gateway, target: str = "/x/a") -> str | int:
    """What a call costs now, or the status of its refusal."""
    answer = gateway.ask("GET", target, token=gateway.token())
    return answer["tolsey-cost"] if answer.status == 200 else answer.status


def test_a_changed_config_is_taken_up(gateway: Gateway, upstream: Upstream) -> None:
    """After SIGHUP, or within a second of the file's change; a call under way keeps the price that it began with."""
    before = gateway.file.read_text()
    token = gateway.token()
    with gateway.client() as client:
        client.ask("GET", "/x/talk", token=token)
        talk = upstream.hear()

        gateway.reload(before.replace("0.01 USD", "0.02 USD").replace("/x/*", "/*"))
        # Both workers: the kernel shares the connections out.
        until(lambda: {cost(gateway) for _ in range(20)} == {"0.02 USD"}, "every worker has the new price")
        assert cost(gateway, "/y") == "0.02 USD"
        talk.answers()
        assert client.answer()["tolsey-cost"] == "0.01 USD"
        client.ask("GET", "/x/a", token=token)
        assert client.answer()["tolsey-cost"] == "0.02 USD"
    gateway.stands(token, spent="0.03", calls=2)

    gateway.file.write_text(before)
    took = until(lambda: {cost(gateway) for _ in range(20)} == {"0.01 USD"}, "every worker has the old price")
    assert took < 3
    assert cost(gateway, "/y") == 404


def test_a_wrong_new_config_leaves_the_old_one_running_and_says_so(gateway: Gateway) -> None:
    before = gateway.file.read_text()
    for wrong, complaint in (
        (before.replace("price =", "prize = 1\nprice ="), "route[0].prize: unknown key"),
        (before.replace("[[route]]", "[[route"), "is not TOML"),
    ):
        gateway.reload(wrong)
        said = gateway.said().splitlines()[-1]
        assert "the new config is refused; the old one goes on" in said
        assert f"{gateway.file}:" in said
        assert complaint in said
        assert cost(gateway) == "0.01 USD"
        assert gateway.ask("GET", "/readyz", admin=True).status == 200
    gateway.reload(before.replace("workers = 2", "workers = 3"))
    assert "a change in [server] takes a restart; the old config goes on" in gateway.said().splitlines()[-1]
    assert cost(gateway) == "0.01 USD"

    gateway.reload(before.replace("0.01 USD", "cheap"))
    died = gateway.workers()[0]
    died.kill()
    until(lambda: died not in gateway.workers() and len(gateway.workers()) == 2, "another worker is started")
    until(lambda: gateway.ask("GET", "/readyz", admin=True).status == 200, "it is ready, with the old config")
    assert {cost(gateway) for _ in range(20)} == {"0.01 USD"}

    gateway.file.unlink()
    until(lambda: "cannot be read" in gateway.said(), "the gateway misses its config")
    assert cost(gateway) == "0.01 USD"
    gateway.reload(before)
    assert cost(gateway) == "0.01 USD"


def test_keys_that_are_rotated_and_dropped_count_within_about_a_second(gateway: Gateway) -> None:
    keyring = Keyring.open(gateway.keys)
    first = gateway.token()

    def statuses(token: str) -> set[int]:
        return {gateway.ask("GET", "/x/a", token=token).status for _ in range(10)}

    assert statuses(first) == {200}
    (old,) = keyring.key_ids(CAPABILITY)
    keyring.rotate(CAPABILITY)
    second = gateway.token()
    assert until(lambda: statuses(second) == {200}, "the new key is known") < 2.5
    assert statuses(first) == {200}
    keyring.drop(old)
    assert until(lambda: statuses(first) == {401}, "the old key is forgotten") < 2.5
    assert problem(gateway.ask("GET", "/x/a", token=first))["code"] == "token_forged"
    assert statuses(second) == {200}


def test_a_listener_for_each_worker(gateway: Gateway) -> None:
    assert len(gateway.workers()) == 2
    clients = [Client(gateway.port) for _ in range(64)]
    token = gateway.token()
    for client in clients:
        client.ask("GET", "/x/a", token=token)
    assert [client.answer().status for client in clients] == [200] * 64
    for client in clients:
        client.close()
    gateway.stands(token, spent="0.64", calls=64)
