"""A real gateway for tests that are dialogues: a client says, the upstream sees, it answers, the ledger stands."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import swarm
from tests.ends import Client, Message
from tests.ports import free_port
from tolsey.store.keyring import Keyring
from tolsey.token.macaroon import Macaroon


class Gateway(swarm.Gateway):
    """One gateway, its config file and what a client can ask of it."""

    def begin(self) -> None:
        """Start, and wait until calls are taken."""
        self.launch()
        until(lambda: '"event": "listening"' in self.said() or not self.runs(), "the gateway listens", 20)
        assert self.runs(), self.said()

    def ends(self, seconds: float = 20) -> int:
        """Wait until the gateway has ended; its exit status."""
        assert self.process is not None
        status = self.process.wait(seconds)
        self.process = None
        return status

    def reload(self, config: str) -> None:
        """Give the gateway another config, and wait until it has said what becomes of it."""
        assert self.process is not None
        before = self.said().count("config")
        self.file.write_text(config)
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.said().count("config") > before, "the gateway read its config")

    def token(self, *caveats: str, budget: str | None = "10 USD") -> str:
        """A root token with a budget that is its own."""
        return self.mint("label = team n", *caveats, *([] if budget is None else [f"budget = {budget}"]))

    def client(self) -> Client:
        """A new connection."""
        return Client(self.port)

    def ask(
        self, method: str, target: str, *headers: str, token: str | None = None, body: bytes = b"", admin: bool = False
    ) -> Message:
        """One request on a connection of its own, and its answer."""
        with Client(self.admin_port if admin else self.port) as client:
            client.ask(method, target, *headers, "Connection: close", token=token, body=body)
            return client.answer(to_head=method == "HEAD")

    def accounts(self, token: str) -> list[dict[str, Any]]:
        """What the holder of a token reads of its accounts, root first, once nothing is held any more."""
        for _ in range(200):
            if all(account["held"] == "0" for account in self.balance(token)):
                break
            time.sleep(0.01)
        return self.balance(token)

    def line_of(self, hold: str) -> dict[str, Any]:
        """The line in the log of the call with this hold."""
        until(lambda: hold in self.out.read_text(), "the call is in the log")
        (line,) = [line for line in self.out.read_text().splitlines() if hold in line]
        found: dict[str, Any] = json.loads(line)
        return found

    def balance(self, token: str) -> list[dict[str, Any]]:
        """What the holder of a token reads of its accounts at this moment."""
        answer = self.ask("GET", "/.tolsey/balance", token=token)
        assert answer.status == 200, answer
        found: list[dict[str, Any]] = json.loads(answer.body)["accounts"]
        return found

    def stands(self, token: str, *, spent: str, held: str = "0", calls: int) -> None:
        """Assert how every account of the token stands, once nothing but `held` is held."""
        wanted = {(spent, held, calls)}
        found: set[tuple[str, str, int]] = set()
        for _ in range(200):
            found = {(a["spent"], a["held"], a["calls"]) for a in self.balance(token)}
            if found == wanted:
                return
            if all(a[1] == "0" for a in found) and held == "0":
                break
            time.sleep(0.01)
        assert found == wanted


def until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> float:
    """Wait for a condition and return how long that took; fail after `seconds`."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - began


def child_of(token: str, *caveats: str) -> str:
    """The token with more caveats."""
    return Macaroon.deserialize(token).attenuate(*caveats).to_text()


def problem(answer: Message) -> dict[str, Any]:
    """The problem document of a refusal."""
    assert answer["content-type"] == "application/problem+json"
    assert answer["cache-control"] == "no-store"
    document: dict[str, Any] = json.loads(answer.body)
    assert document["status"] == answer.status
    assert document["type"] == f"urn:tolsey:problem:{document['code']}"
    assert document["title"]
    assert document["detail"]
    return document


def lay_out(folder: Path, config: str, **values: object) -> Gateway:
    """Write a config with the ports put in, and a keyring; return the gateway, not yet started.

    `[server]` and `[admin]` begin with their ports; `{name}` in the config is replaced by a value.
    """
    keys = folder / "data" / "keys"
    if not keys.exists():
        keys.parent.mkdir(mode=0o700)
        Keyring.create(keys)
    port, admin_port = free_port(), free_port()
    file = folder / "tolsey.toml"
    for name, value in values.items():
        config = config.replace(f"<{name}>", str(value))
    config = config.replace("[server]\n", f"[server]\nport = {port}\n", 1)
    file.write_text(f"{config}\n[admin]\nport = {admin_port}\n")
    return Gateway(file, port, admin_port, folder / "data/ledger.db", keys)


@contextlib.contextmanager
def serving(folder: Path, config: str, **values: object) -> Iterator[Gateway]:
    """A gateway that takes calls. At the end it must drain, exit with 0 and leave a ledger that adds up."""
    gateway = lay_out(folder, config, **values)
    with swarm.ending(gateway):
        gateway.begin()
        yield gateway
        assert gateway.process is not None
        gateway.process.terminate()
        assert gateway.ends() == 0, gateway.said()
        checked = gateway.fsck()
        assert checked.open_holds == 0
