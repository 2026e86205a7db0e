"""Two real Lightning nodes with a real channel between them, on a chain of their own: lnd over btcd, on loopback.

Both are built from the Go modules that `tests/lightning` names, once, into a cache outside of the repository. No test
but those marked `lightning` needs them.
"""

import base64
import contextlib
import hashlib
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from tests.clients import LNBITS
from tests.ports import free_port

SOURCE: Final = Path(__file__).with_name("lightning")
PROGRAMS: Final = {
    "aperture": "github.com/lightninglabs/aperture/cmd/aperture",
    "btcd": "github.com/btcsuite/btcd",
    "lnd": "github.com/lightningnetwork/lnd/cmd/lnd",
}
BUILD_SECONDS: Final = 1800
WAIT_SECONDS: Final = 120.0
MATURE_BLOCKS: Final = 450
"""Enough for coins to be spent, and for segregated witness to be in force on a new chain."""

_T = TypeVar("_T")


def build() -> Path:
    """The folder with the programs, built if they are not there. Takes minutes on a fresh machine."""
    if shutil.which("go") is None:
        raise RuntimeError("the Lightning tests build lnd, btcd and aperture: install Go 1.26 or later")
    digest = hashlib.sha256((SOURCE / "go.mod").read_bytes() + (SOURCE / "go.sum").read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "tolsey" / f"lightning-{digest}"
    if not all((folder / name).exists() for name in PROGRAMS):
        sys.stderr.write(f"lightning: building lnd, btcd and aperture into {folder} (once, some minutes) ...\n")
        folder.mkdir(parents=True, exist_ok=True)
        command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{folder}/", *PROGRAMS.values()]
        env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
        subprocess.run(command, cwd=SOURCE, env=env, check=True, timeout=BUILD_SECONDS)
    return folder


def wait(what: str, look: Callable[[], _T | None]) -> _T:
    """Ask until there is an answer that counts; what goes wrong meanwhile is the start of a program."""
    began = time.monotonic()
    last: object = None
    while time.monotonic() - began < WAIT_SECONDS:
        try:
            found = look()
        except (httpx.HTTPError, OSError, KeyError, RuntimeError) as error:
            last, found = error, None
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {WAIT_SECONDS} s: {what} ({last})")


class Program:
    """A process that is ended with the rig."""

    def __init__(self, log: Path, *command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self._log = open(log, "ab")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            command,
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )

    def lives(self) -> bool:
        """True; a program that ended by itself fails the test."""
        assert self.process.poll() is None, f"a program ended: see {self._log.name}"
        return True

    def stop(self) -> None:
        """End it, and what it has started."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()


class Chain:
    """btcd on a regression test network of its own."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self.rpc, self._listen = free_port(), free_port()
        self._btcd = os.fspath(programs / "btcd")
        folder.mkdir()
        (folder / "btcd.conf").touch()
        self._program = self._start()

    @property
    def certificate(self) -> Path:
        """What its RPC is trusted by."""
        return self.folder / "rpc.cert"

    def _start(self, *more: str) -> Program:
        program = Program(
            self.folder / "log",
            *(self._btcd, "--regtest", "--txindex", "--nodnsseed", "--rpcuser=rig", "--rpcpass=rig"),
            *(f"--datadir={self.folder}/data", f"--logdir={self.folder}/logs", f"--configfile={self.folder}/btcd.conf"),
            *(f"--rpccert={self.certificate}", f"--rpckey={self.folder}/rpc.key"),
            *(f"--listen=127.0.0.1:{self._listen}", f"--rpclisten=127.0.0.1:{self.rpc}"),
            *more,
        )
        wait("btcd answers", lambda: program.lives() and self.ask("getblockcount") is not None)
        return program

    def ask(self, method: str, *params: object) -> object:
        """One call of its RPC."""
        context = ssl.create_default_context(cafile=self.certificate)
        with httpx.Client(verify=context, auth=("rig", "rig"), trust_env=False, timeout=60) as client:
            body = {"jsonrpc": "1.0", "id": 1, "method": method, "params": params}
            answer = client.post(f"https://127.0.0.1:{self.rpc}", json=body).json()
        if answer.get("error"):
            raise RuntimeError(str(answer["error"]))
        found: object = answer["result"]
        return found

    def pay_miner(self, address: str) -> None:
        """Start anew, so that new blocks pay this address."""
        self._program.stop()
        self._program = self._start(f"--miningaddr={address}")

    def mine(self, blocks: int) -> None:
        """Make blocks."""
        self.ask("generate", blocks)

    def stop(self) -> None:
        """End it."""
        self._program.stop()


class Lnd:
    """One lnd with a wallet of its own; without `tls` for clients that cannot be told to trust a certificate."""

    def __init__(self, programs: Path, folder: Path, chain: Chain, *, tls: bool) -> None:
        self.folder, self._tls = folder, tls
        self.rest, self.listen, self.rpc = free_port(), free_port(), free_port()
        self._command = (
            *(os.fspath(programs / "lnd"), f"--lnddir={folder}", "--noseedbackup", "--debuglevel=warn"),
            *(
                "--bitcoin.active",
                "--bitcoin.regtest",
                "--bitcoin.node=btcd",
                "--btcd.rpcuser=rig",
                "--btcd.rpcpass=rig",
            ),
            *(f"--btcd.rpchost=127.0.0.1:{chain.rpc}", f"--btcd.rpccert={chain.certificate}"),
            *(f"--listen=127.0.0.1:{self.listen}", f"--rpclisten=127.0.0.1:{self.rpc}"),
            *(f"--restlisten=127.0.0.1:{self.rest}", "--nobootstrap", "--trickledelay=50"),
            *(() if tls else ("--no-rest-tls",)),
        )
        folder.mkdir()
        self.start()

    def start(self) -> None:
        """Start, also again."""
        self._program = Program(self.folder / "log", *self._command)
        wait("lnd answers", lambda: self._program.lives() and self.ask("GET", "/v1/getinfo").get("identity_pubkey"))

    def stop(self) -> None:
        """End it."""
        self._program.stop()

    @property
    def url(self) -> str:
        """Its REST interface."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.rest}"

    @property
    def certificate(self) -> Path:
        """What that is trusted by."""
        return self.folder / "tls.cert"

    def macaroon(self, name: str) -> str:
        """One of its credentials, in hex: `admin`, `invoice`."""
        return (self.folder / f"data/chain/bitcoin/regtest/{name}.macaroon").read_bytes().hex()

    def ask(self, method: str, path: str, **body: object) -> dict[str, Any]:
        """One call of its REST interface, as its owner."""
        context = ssl.create_default_context(cafile=self.certificate)
        headers = {"Grpc-Metadata-Macaroon": self.macaroon("admin")}
        with httpx.Client(verify=context, headers=headers, trust_env=False, timeout=60) as client:
            answer = client.request(method, self.url + path, json=body or None)
        found: dict[str, Any] = answer.json()
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: {answer.status_code} {found}")
        return found


class LnBits:
    """LNbits in front of an lnd."""

    def __init__(self, folder: Path, node: Lnd) -> None:
        environment = LNBITS.environment()
        self.url = f"http://127.0.0.1:{free_port()}"
        folder.mkdir()
        (packages,) = environment.glob("lib/python*/site-packages")
        self._program = Program(
            folder / "log",
            *(os.fspath(environment / "bin/lnbits"), "--host", "127.0.0.1", "--port", self.url.rpartition(":")[2]),
            # It looks for its static files where it stands.
            cwd=packages,
            env={
                "LNBITS_BACKEND_WALLET_CLASS": "LndRestWallet",
                "LND_REST_ENDPOINT": node.url,
                "LND_REST_CERT": os.fspath(node.certificate),
                "LND_REST_MACAROON": node.macaroon("admin"),
                "LNBITS_DATA_FOLDER": os.fspath(folder),
                "LNBITS_ADMIN_UI": "true",
            },
        )
        self._ask = httpx.Client(base_url=self.url, trust_env=False, timeout=60)
        first = {"username": "owner", "password": "in-a-test", "password_repeat": "in-a-test"}
        found = wait("LNbits answers", lambda: self._program.lives() and self._first(first))
        self._ask.headers["Authorization"] = f"Bearer {found}"

    def _first(self, owner: Mapping[str, str]) -> str | None:
        answer = self._ask.put("/api/v1/auth/first_install", json=owner)
        return str(answer.json()["access_token"]) if answer.status_code == 200 else None

    def wallet(self, name: str) -> tuple[str, str]:
        """A new wallet: its invoice key and its admin key."""
        found = self._ask.post("/api/v1/account", json={"name": name}).json()
        return found["inkey"], found["adminkey"]

    def stop(self) -> None:
        """End it."""
        self._ask.close()
        self._program.stop()


@dataclass(frozen=True)
class Rig:
    """`payer` has a channel to `seller`, in which it can pay."""

    chain: Chain
    payer: Lnd
    seller: Lnd


@contextlib.contextmanager
def lightning(folder: Path) -> Iterator[Rig]:
    """The whole rig, with an open channel."""
    programs = build()
    with contextlib.ExitStack() as stack:
        chain = Chain(programs, folder / "chain")
        stack.callback(chain.stop)
        payer = Lnd(programs, folder / "payer", chain, tls=False)
        stack.callback(payer.stop)
        seller = Lnd(programs, folder / "seller", chain, tls=True)
        stack.callback(seller.stop)
        rig = Rig(chain, payer, seller)
        open_channel(rig)
        yield rig


def open_channel(rig: Rig) -> None:
    """Earn coins, and put some of them into a channel from payer to seller."""
    chain, payer, seller = rig.chain, rig.payer, rig.seller
    chain.pay_miner(payer.ask("GET", "/v1/newaddress?type=0")["address"])
    chain.mine(MATURE_BLOCKS)
    for node in (payer, seller):
        wait("lnd follows the chain", lambda node=node: node.ask("GET", "/v1/getinfo")["synced_to_chain"])  # type: ignore[misc]  # a default keeps it
    wait("the payer has coins", lambda: int(payer.ask("GET", "/v1/balance/blockchain")["confirmed_balance"]) > 10**7)
    key = seller.ask("GET", "/v1/getinfo")["identity_pubkey"]
    address = {"pubkey": key, "host": f"127.0.0.1:{seller.listen}"}
    wait("the nodes are connected", lambda: payer.ask("POST", "/v1/peers", addr=address, perm=True) is not None)
    pubkey = base64.b64encode(bytes.fromhex(key)).decode("ascii")
    wait(
        "the channel is funded",
        lambda: payer.ask("POST", "/v1/channels", node_pubkey=pubkey, local_funding_amount="2000000", sat_per_vbyte=2),
    )
    wait("the funding is seen", lambda: chain.ask("getrawmempool"))
    chain.mine(6)
    for node in (payer, seller):
        wait("the channel is open", lambda node=node: node.ask("GET", "/v1/channels?active_only=true")["channels"])  # type: ignore[misc]  # a default keeps it
    # A channel that is open may still be taking its first steps.
    invoice = seller.ask("POST", "/v1/invoices", value="1000")["payment_request"]
    wait(
        "a payment goes through",
        lambda: payer.ask("POST", "/v1/channels/transactions", payment_request=invoice)["payment_preimage"],
    )


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
