"""The admin API's office, put together from a gateway's config, keyring and ledger."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version

from tolsey.admin.identity import check_extra
from tolsey.admin.office import Office
from tolsey.cli.ledgers import snapshot_of
from tolsey.config import Config
from tolsey.gateway.shop import price_words
from tolsey.store.contract import Ledger
from tolsey.store.keyring import Keyring
from tolsey.store.revocations import Revocations


def office_of(
    config: Callable[[], Config],
    keyring: Keyring,
    changing: Callable[[], AbstractAsyncContextManager[Ledger]],
    revocations: Revocations,
    problems: Callable[[], list[str]],
    workers: int,
) -> Office:
    """The office of a gateway. `config` is the one in use, `problems` why calls are not taken at the moment.

    Raises `IdentityUnavailable` where the config has providers, and what they need is not installed.
    """
    if config().minting.providers:
        check_extra()
    return Office(
        keyring=keyring,
        changing=changing,
        snapshot=lambda: snapshot_of(config()),
        revocations=revocations,
        state=lambda: _state(config(), workers) | {"problems": problems()},
        now=time.time_ns,
        minting=lambda: config().minting,
        limits=config().limits,
    )


def _state(config: Config, workers: int) -> dict[str, object]:
    """What may be shown of a config: no secret, no place of a file or a database."""
    return {
        "generation": config.generation,
        "version": version("tolsey"),
        "workers": workers,
        "mode": config.server.mode,
        "ledger": "SQLite" if config.ledger.postgresql is None else "PostgreSQL",
        "durability": config.ledger.durability,
        "upstreams": [
            {"name": upstream.name, "url": upstream.url, "headers": [name for name, _ in upstream.headers]}
            for upstream in config.upstreams
        ],
        "routes": [
            {
                "path": route.pattern.text,
                "methods": list(route.methods),
                "upstream": route.upstream,
                "mode": route.mode,
                "prices": [
                    price_words(price)
                    for price in (*(rule.price for rule in route.rules), route.price)
                    if price is not None
                ],
                "offers": list(route.offers),
            }
            for route in config.routes
        ],
        "warnings": list(config.warnings),
    }
