"""A gateway's ledger in tests of the command line: what a gateway would write, without one."""

import time
from functools import partial
from pathlib import Path

from tests.cli import answer
from tolsey.ledger.events import Event, Granted, Outcome, Reserve, Settle
from tolsey.store.keyring import Keyring
from tolsey.store.sqlite import SqliteLedger
from tolsey.token.chain import CAPABILITY, Chain, Charge
from tolsey.token.clearing import Clearance
from tolsey.token.verifier import Verifier
from tolsey.units import parse_amount

TEAM = ("mint", "--label", "team", "--budget", "100 USD")


def keyring(config: Path) -> Keyring:
    """The keyring beside a config."""
    return Keyring.open(config.parent / "data/keys")


def book(config: Path) -> Path:
    """The ledger beside a config."""
    return config.parent / "data/ledger.db"


def chain_of(config: Path, token: str) -> Chain:
    """The verified chain of a token."""
    return Verifier(CAPABILITY, partial(keyring(config).derived, CAPABILITY)).verify(token)


def open_book(config: Path) -> SqliteLedger:
    """A connection of one's own to the ledger."""
    return SqliteLedger(book(config), now=time.time_ns(), new_id="unused", create=False)


def write(config: Path, *events: Event, at: int | None = None) -> list[Outcome]:
    """Write a group of events into the ledger, as a gateway does."""
    ledger = open_book(config)
    try:
        return ledger.run(events, time.time_ns() if at is None else at)
    finally:
        ledger.close()


def spend(config: Path, token: str, amount: str, *, hold: str, settle: bool = True, at: int | None = None) -> None:
    """Charge a call to every account of a token, as the gateway does."""
    price = parse_amount(amount)
    charge = Clearance(chain_of(config, token), ()).charge(price)
    assert isinstance(charge, Charge)
    note = "GET /api/v1/search"
    events: list[Event] = [Reserve(hold, charge.accounts, price.nano, note, charge.counters)]
    if settle:
        events.append(Settle(hold, price.nano))
    assert isinstance(write(config, *events, at=at)[0], Granted)


def child(token: str, label: str, *args: str) -> str:
    """A token that is narrower."""
    found: str = answer("attenuate", "-", "--label", label, *args, stdin=token)["token"]
    return found
