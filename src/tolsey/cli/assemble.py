"""From a Config to the parts of a gateway."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

from tolsey.config import Config
from tolsey.errors import LedgerRefused
from tolsey.gateway.routes import Mode, Route, Routes
from tolsey.gateway.upstream import Upstream
from tolsey.pricing.tariff import Tariff
from tolsey.store.keyring import Keyring, check_ledger
from tolsey.store.sqlite import SqliteLedger
from tolsey.store.sqlite_file import Durability


def routes_of(config: Config) -> Routes:
    """The routes of a config, with an upstream client for each upstream."""
    upstreams = {
        upstream.name: Upstream(
            upstream.name,
            upstream.url,
            headers=tuple((name, value.reveal()) for name, value in upstream.headers),
            connect_timeout=upstream.connect_timeout,
            timeout=upstream.timeout,
        )
        for upstream in config.upstreams
    }
    return Routes(
        [
            Route(
                route.pattern,
                route.methods,
                upstreams[route.upstream],
                Mode(route.mode),
                None if route.price is None else Tariff(route.price, route.charge == "success"),
                route.max_body,
            )
            for route in config.routes
        ]
    )


def durability_of(config: Config) -> Durability:
    """The ledger's durability as its store knows it."""
    return "normal" if config.ledger.durability == "normal" else "full"


def open_ledger(config: Config, keyring: Keyring, *, new_id: str, accept_lost_spend: str | None = None) -> SqliteLedger:
    """Open the config's ledger if its keys may be used with it, and have them remember it (RULES.md L1).

    Raises `LedgerRefused` for a ledger that is empty, other or older than the one its keys were used with, unless
    `accept_lost_spend` says why it is accepted, which becomes an entry.
    """
    path: Path = config.ledger.path
    durability = durability_of(config)
    if not path.exists() and accept_lost_spend is None:
        _refuse(check_ledger(keyring, ledger_id=None, entries=0))
    ledger = SqliteLedger(path, durability=durability, now=time.time_ns(), new_id=new_id)
    refused = _fault(keyring, ledger)
    if refused is not None and not (keyring.ledger is None and ledger.entry_count() == 0):
        if accept_lost_spend is None:
            ledger.close()
            _refuse(refused)
        ledger.accept(f"{refused}; accepted: {accept_lost_spend}", time.time_ns())
    replace = refused is not None and accept_lost_spend is not None
    keyring.remember_ledger(ledger.id, entries=ledger.entry_count(), at=time.time_ns(), replace=replace)
    return ledger


def reopen_ledger(config: Config, keyring: Keyring) -> SqliteLedger:
    """A worker's own connection to the ledger that its supervisor opened. Raises `LedgerRefused` if it is that no more:
    a worker that starts late may find another file, or another path in the config.
    """
    ledger = SqliteLedger(
        config.ledger.path, durability=durability_of(config), now=time.time_ns(), new_id="", create=False
    )
    refused = _fault(keyring, ledger)
    if refused is not None:
        ledger.close()
        _refuse(refused)
    return ledger


def _fault(keyring: Keyring, ledger: SqliteLedger) -> str | None:
    def look() -> str | None:
        return check_ledger(keyring, ledger_id=ledger.id, entries=ledger.entry_count())

    # Twice, since a gateway may raise the mark between the two readings; it does so no more than twice a second.
    return look() and look()


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise LedgerRefused(
            f"{reason}. Used like this, every budget would be fresh again: put the right ledger back, or start with"
            " `tolsey serve --accept-lost-spend REASON`"
        )


def hold_ids(owner: str) -> Callable[[int], str]:
    """A maker of hold ids for one owner: the time (milliseconds), the owner's random id, a count. Sorted by time, so
    that the ledger's indexes grow at their end.
    """
    count = itertools.count()
    return lambda at: f"{at // 1_000_000:x}-{owner}-{next(count):x}"
