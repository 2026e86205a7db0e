"""What tests share: how Hypothesis runs, and the fixtures that several files use as they are."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.books import book_on
from tests.cli import gateway as new_gateway
from tests.gateways import Gateway, serving
from tests.ledgers import DEADLINE_SECONDS, Ledgers
from tests.postgres import OnDatabase, Server, server
from tests.reading import fsck
from tests.tables import Check, OnDisk, Player, RulesAlone, lines_of, play
from tests.upstreams import Upstream
from tolsey.store import book as book_module
from tolsey.store.book import Book
from tolsey.testing import FaultyLedger

# No test depends on speed, and CI draws the same examples every time.
settings.register_profile(
    "tolsey",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tolsey")

# A shell has what it runs in the background ignore it, and so would every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """A scriptable upstream for the tests of one file."""
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    request: pytest.FixtureRequest, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with the file's `CONFIG` before that upstream, and before `more` where the config names it."""
    config: str = request.module.CONFIG
    ports = {"port": upstream.port}
    if "<more>" in config:
        ports["more"] = request.getfixturevalue("more").port
    with serving(tmp_path_factory.mktemp("gateway"), config, **ports) as running:
        yield running


@pytest.fixture(scope="module")
def more() -> Iterator[Upstream]:
    """Another upstream."""
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def tools(upstream: Upstream) -> Upstream:
    """The upstream, where it is a server of tools."""
    return upstream


@pytest.fixture
def token(gateway: Gateway) -> str:
    """A token with 10 USD."""
    return gateway.token()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server for all tests."""
    with server() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The config of a gateway that `tolsey init` made."""
    return new_gateway(tmp_path / "g")


@pytest.fixture
def c(config: Path) -> tuple[str, str]:
    """The words that name it to a command."""
    return "-c", str(config)


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[Ledgers]:
    """A place for one ledger file and the connections to it."""
    with Ledgers(tmp_path / "ledger.db", durability="full") as found:
        yield found


@pytest.fixture
def ledger(ledgers: Ledgers) -> FaultyLedger:
    """The connection of owner o1."""
    return ledgers.open("o1")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a Book's failed group be tried again at once."""
    monkeypatch.setattr(book_module, "BACKOFF_SECONDS", (0.001, 0.002))


@pytest.fixture
async def book(ledgers: Ledgers, ledger: FaultyLedger) -> AsyncIterator[Book]:
    """A Book on that connection; in the end its ledger must add up."""
    found = book_on(ledgers, ledger)
    yield found
    ledger.heal()
    await found.close(DEADLINE_SECONDS)
    assert fsck(ledgers.path).difference is None


@pytest.fixture(params=["rules alone", "one ledger", "two ledgers", "two gateways on PostgreSQL"])
def player(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Player]:
    """What a table of rules is played on, one after the other."""
    if request.param == "rules alone":
        yield RulesAlone()
        return
    if request.param == "two gateways on PostgreSQL":
        gateways = OnDatabase(request.getfixturevalue("postgres").database(), 2)
        yield gateways
        gateways.close()
        return
    with Ledgers(tmp_path / "ledger.db") as ledgers:
        yield OnDisk(ledgers, 1 if request.param == "one ledger" else 2)


@pytest.fixture
def check(player: Player) -> Check:
    """Plays a table and compares it, line by line, with what came of it."""

    def check(table: str) -> None:
        assert list(play(player, lines_of(table))) == lines_of(table)

    return check
