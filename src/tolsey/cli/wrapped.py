"""What `tolsey mcp` runs: a gateway for one client and one server, and where it keeps its budgets."""

import asyncio
import fcntl
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from tolsey.cli import logs
from tolsey.cli.assemble import open_ledger, sessions_of
from tolsey.cli.front import MAX_MESSAGE, PATH, Front
from tolsey.cli.ledgers import user
from tolsey.cli.output import UsageError
from tolsey.cli.setup import CONFIG_NAME, make_gateway
from tolsey.cli.within import Within
from tolsey.config import Config, load
from tolsey.gateway.client import MAX_DURATION_SECONDS
from tolsey.gateway.destination import NotSent
from tolsey.gateway.mcp.line import Line
from tolsey.gateway.mcp.process import Process
from tolsey.gateway.mcp.servers import Endpoint, Server, ToolPrice
from tolsey.gateway.routes import Mode, Routes
from tolsey.store.by_hand import noted, open_accounts
from tolsey.store.keyring import Keyring, LiveKeyring
from tolsey.store.minting import caveats_of, make
from tolsey.store.private_file import replace_file
from tolsey.token.caveats import parse_caveat
from tolsey.token.macaroon import Macaroon, prefix_id

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
"""What is in the name of an environment variable whose value is not to be logged."""

_OWN: Final = "TOLSEY_"


async def run(
    words: Sequence[str],
    folder: Path,
    *,
    label: str,
    budget: str,
    prices: tuple[ToolPrice, ...],
    tools: Sequence[str],
    sink: int,
    json: bool,
) -> str | None:
    """Serve one client on standard input and `sink`. Returns why the server is gone, None if the client went first.
    Raises `TolseyError`.
    """
    log = logs.configure(json=json)
    only = f"tool = {', '.join(tools)}".encode() if tools else None
    if only is not None:
        parse_caveat(only)
    with _alone(folder):
        config = _gateway_in(folder)
        token = await _token(config, folder, label, budget)
    if only is not None:
        token = token.attenuate(only)
    front = Front(token.to_text(), 0, sink)
    name = Path(words[0]).name
    complaints = log.bind(server=name)
    line = Line(
        name,
        lambda: Process(
            words,
            _environment(os.environ),
            secrets=[value for key, value in os.environ.items() if _SECRET.search(key)],
            complain=lambda text: complaints.info("the server says", text=text),
        ),
        timeout=MAX_DURATION_SECONDS,
        log=lambda text: complaints.warning("the server", what=text),
        own=front,
    )
    keys = LiveKeyring(Keyring.open(config.keys))
    endpoint = Endpoint(
        PATH, Mode.ENFORCE, (Server(name, "", "", line),), prices, None, frozenset(), MAX_MESSAGE,
        MAX_DURATION_SECONDS, sessions_of(keys),
    )  # fmt: skip
    within = Within(config, log, (lambda lines: os.write(2, lines)) if json else len)
    gateway = await within.open(Routes([], [endpoint]))
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, front.stop)
        try:
            await line.connected()
        except NotSent:
            return "cannot be started"
        await front.serve(gateway)
    finally:
        await within.close()
    return front.why


def _environment(of: Mapping[str, str]) -> dict[str, str]:
    """The environment that the client gave, without what is ours: the server has no business with tokens."""
    return {name: value for name, value in of.items() if not name.startswith(_OWN)}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process makes anything in the folder: a client starts all its servers at once."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _gateway_in(folder: Path) -> Config:
    """The gateway whose ledger it is, made if it is not there. Raises `ConfigError`."""
    file = folder / CONFIG_NAME
    if not file.exists():
        make_gateway(folder)
    return load(file, os.environ, sends=False)


async def _token(config: Config, folder: Path, label: str, budget: str) -> Macaroon:
    """The token of a label, minted when it is first asked for."""
    keyring = Keyring.open(config.keys)
    texts = caveats_of(label=label, budget=budget, scope=None, expires=None, caveats=())
    kept = folder / "tokens" / sha256(label.encode("utf-8")).hexdigest()[:32]
    if kept.exists():
        token = Macaroon.deserialize(kept.read_text("ascii").strip())
        before = token.caveats[-1].cid.decode("utf-8")
        if parse_caveat(before.encode("utf-8")) != parse_caveat(texts[-1].encode("utf-8")):
            limit = before.partition("=")[2].strip()
            grant = f"tolsey grant -c {folder / CONFIG_NAME} {prefix_id(token.signature)} AMOUNT --reason …"
            raise UsageError(
                f"the label {label!r} has another budget already, {limit}: give another --label, or raise it: {grant}"
            )
        return token
    token, chain = make(keyring, texts, config.limits)
    ledger = await open_ledger(config, keyring, new_id=os.urandom(16).hex())
    try:
        ledger.config = await ledger.number_config(config.generation)
        await open_accounts(ledger, list(chain.accounts()), noted("minted", user(), "for tolsey mcp"))
    finally:
        await ledger.close()
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    replace_file(kept, token.to_text().encode("ascii"))
    return token
