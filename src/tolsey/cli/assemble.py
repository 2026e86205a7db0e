"""From a Config to the parts of a gateway."""

import asyncio
import hmac
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import structlog

from tolsey.config import Config
from tolsey.config import Route as RouteConfig
from tolsey.config import Upstream as UpstreamConfig
from tolsey.config_mcp import McpServer, Program
from tolsey.config_payment import Payment
from tolsey.config_x402 import X402
from tolsey.errors import ConfigError, LedgerMissing, LedgerRefused
from tolsey.gateway.desk import Desk
from tolsey.gateway.destination import Destination
from tolsey.gateway.mcp.event_stream import EventStream
from tolsey.gateway.mcp.line import Line
from tolsey.gateway.mcp.process import Process, environment
from tolsey.gateway.mcp.servers import Endpoint, Server
from tolsey.gateway.mcp.sessions import Sessions
from tolsey.gateway.routes import Mode, Route, Routes
from tolsey.gateway.till import Till
from tolsey.gateway.upstream import Upstream
from tolsey.ledger.events import Kind
from tolsey.model_prices import KnownModels
from tolsey.pricing.llm import MAX_BODY
from tolsey.pricing.tariff import Tariff
from tolsey.store.book import Book
from tolsey.store.contract import Ledger
from tolsey.store.embedded import EmbeddedLedger
from tolsey.store.invoices import Invoicer, Patient
from tolsey.store.kernel_sync import KernelSync
from tolsey.store.keyring import Keyring, LiveKeyring, check_ledger
from tolsey.store.lightning_fake import FakeNode
from tolsey.store.outside import FilePlace, Outside, Place, Stdout, Webhook
from tolsey.store.revocations import Source
from tolsey.store.revocations_sqlite import SqliteRevocations
from tolsey.store.settling import Facilitator
from tolsey.store.sqlite import SqliteLedger
from tolsey.store.sqlite_file import Durability
from tolsey.token.chain import CAPABILITY, L402
from tolsey.token.verifier import Verifier

if TYPE_CHECKING:
    from tolsey.gateway.telemetry import Telemetry


def upstreams_of(config: Config) -> dict[str, Upstream]:
    """A client for each upstream of a config, by name."""
    return {upstream.name: _client(upstream, upstream.url) for upstream in config.upstreams}


def _client(upstream: UpstreamConfig, url: str) -> Upstream:
    return Upstream(
        upstream.name,
        url,
        headers=tuple((name, value.reveal()) for name, value in upstream.headers),
        connect_timeout=upstream.connect_timeout,
        timeout=upstream.timeout,
        tls=None if upstream.tls is None else upstream.tls.client(),
    )


def sessions_of(keys: LiveKeyring) -> Sessions:
    """What seals and opens the ids of MCP sessions."""

    def key_of(key_id: str) -> bytes | None:
        return keys.derived(CAPABILITY, key_id, time.time_ns())

    def current() -> tuple[str, bytes]:
        key_id = keys.keyring.current(CAPABILITY)[0]
        key = key_of(key_id)
        if key is None:
            raise AssertionError("the current key is a key")
        return key_id, key

    return Sessions(current, key_of)


def endpoints_of(config: Config, upstreams: Mapping[str, Upstream], keys: LiveKeyring) -> list[Endpoint]:
    """The MCP endpoints of a config."""
    sessions = sessions_of(keys)
    configured = {upstream.name: upstream for upstream in config.upstreams}

    def destination(server: McpServer) -> Destination:
        if server.program is not None:
            return program_line(server.upstream, server.program)
        upstream = upstreams[server.upstream]
        return event_line(configured[server.upstream], upstream) if server.events else upstream

    return [
        Endpoint(
            mcp.path,
            Mode(mcp.mode),
            tuple(Server(s.upstream, s.prefix, s.scheme, destination(s)) for s in mcp.servers),
            mcp.tools,
            mcp.hosts,
            mcp.origins,
            mcp.max_body,
            mcp.max_duration,
            sessions,
            mcp.agent_tools,
        )
        for mcp in config.mcp
    ]


def program_line(name: str, program: Program) -> Line:
    """The line to a server that is a program."""
    env = {name: value.reveal() for name, value in program.env}
    log: structlog.stdlib.BoundLogger = structlog.get_logger()

    def connect() -> Process:
        return Process(
            program.command,
            environment(os.environ, env),
            secrets=list(env.values()),
            complain=lambda text: log.info("an MCP server says", server=name, text=text),
        )

    return Line(name, connect, timeout=program.timeout, log=_teller(name))


def event_line(configured: UpstreamConfig, upstream: Upstream) -> Line:
    """The line to an upstream that speaks MCP as of 2024-11-05."""

    def connect() -> EventStream:
        return EventStream(_client(configured, upstream.origin.decode("ascii")), upstream.prefix or b"/")

    return Line(upstream.name, connect, timeout=upstream.timeout, log=_teller(upstream.name))


def _teller(name: str) -> Callable[[str], None]:
    log: structlog.stdlib.BoundLogger = structlog.get_logger()
    return lambda text: log.warning("an MCP server", server=name, what=text)


def routes_of(config: Config, keys: LiveKeyring | None = None) -> Routes:
    """The routes of a config, with an upstream client for each upstream. With `keys` its MCP endpoints are among
    them.
    """
    upstreams = upstreams_of(config)
    models = KnownModels(config.models)
    prices = [price for route in config.routes for price in (route.price, *(rule.price for rule in route.rules))]
    if any(price.llm for price in prices if price is not None):
        # Now, and not while a call waits.
        models.load()
    return Routes(
        [
            Route(
                route.pattern,
                route.methods,
                upstreams[route.upstream],
                Mode(route.mode),
                _tariff(route, models) if Mode(route.mode) is not Mode.PUBLIC else None,
                route.max_body,
                route.timeout or upstreams[route.upstream].timeout,
                route.max_duration,
                route.offers,
            )
            for route in config.routes
        ],
        [] if keys is None else endpoints_of(config, upstreams, keys),
    )


def desk_of(
    config: Config,
    keys: LiveKeyring,
    book: Book,
    *,
    now: Callable[[], int],
    new_hold: Callable[[int], str],
    tell: Callable[[str | None], None],
    tell_unsettled: Callable[[str, str], None],
) -> Desk | None:
    """The pay desk of a config, None where it takes no payments. `tell` is told why the node is away, and None when it
    is back, `tell_unsettled` which payment over x402 is not settled, and why. Raises `ConfigError` where what it needs
    is not installed.
    """
    payment = config.payment
    if payment is None:
        return None
    keys.keyring.with_key(L402)

    def key_of(key_id: str) -> bytes | None:
        return keys.derived(L402, key_id, time.time_ns())

    invoicer: Invoicer
    if payment.backend == "fake":
        invoicer = FakeNode(hmac.digest(keys.keyring.current(L402)[1], b"fake payments", "sha256"))
    else:
        invoicer = Patient(_node(config, payment), tell)
    return Desk(
        offers=payment.offers,
        rates=payment.rates,
        verifier=Verifier(L402, key_of, config.limits),
        key=lambda: keys.keyring.current(L402),
        key_of=key_of,
        invoicer=invoicer,
        book=book,
        challenges=payment.challenges,
        seconds=payment.invoice_expiry,
        aperture=payment.aperture,
        mpp_too=payment.mpp,
        till=None
        if payment.x402 is None
        else Till(
            asset=payment.x402.asset,
            facilitator=_facilitator(config, payment.x402),
            book=book,
            new_hold=lambda: new_hold(now()),
            tell=tell_unsettled,
        ),
        service=payment.service,
        now=now,
    )


def _node(config: Config, payment: Payment) -> Invoicer:
    """The node that draws invoices."""
    file = str(config.file)
    try:
        from tolsey.store.lightning import NODES
    except ImportError:
        raise ConfigError("needs httpx: pip install 'tolsey[httpx]'", file=file, key="payment.backend") from None
    ca = None if payment.ca is None else os.fspath(payment.ca)
    try:
        return NODES[payment.backend](payment.url, payment.secret.reveal(), seconds=payment.timeout, ca=ca)
    except OSError as error:
        raise ConfigError(
            f"{ca} cannot be used: {error.strerror or error}", file=file, key="payment.certificate"
        ) from None


def _facilitator(config: Config, x402: X402) -> Facilitator:
    """Who settles payments over x402."""
    try:
        from tolsey.store.facilitator import HttpFacilitator
    except ImportError:
        raise ConfigError(
            "needs httpx: pip install 'tolsey[httpx]'", file=str(config.file), key="payment.x402.facilitator"
        ) from None
    return HttpFacilitator(x402.facilitator, x402.secret.reveal(), seconds=x402.timeout)


def _tariff(route: RouteConfig, models: KnownModels) -> Tariff:
    return Tariff(route.price, route.rules, models, MAX_BODY if route.max_body is None else route.max_body)


def telemetry_of(config: Config, instance: str, complain: Callable[[str], None]) -> "Telemetry | None":
    """What a config sends to OpenTelemetry, None for nothing. Raises `ConfigError` where the extra is missing."""
    if config.telemetry.endpoint is None:
        return None
    try:
        from tolsey.gateway.telemetry import Telemetry
    except ModuleNotFoundError:
        raise ConfigError("[telemetry] needs OpenTelemetry: pip install 'tolsey[otel]'") from None
    headers = [(name, value.reveal()) for name, value in config.telemetry.headers]
    return Telemetry(config.telemetry.endpoint, headers, config.telemetry.sample_ratio, instance, complain)


async def open_ledger(
    config: Config, keyring: Keyring, *, new_id: str, accept_lost_spend: str | None = None, create: bool = True
) -> Ledger:
    """Open the config's ledger if its keys may be used with it, and have them remember it (RULES.md L1). One that is
    not there is made with the id `new_id`, if `create`.

    Raises `LedgerRefused` for a ledger that is empty, other or older than the one its keys were used with, unless
    `accept_lost_spend` says why it is accepted, which becomes an entry.
    """
    # Keys that know of a ledger are not to find a fresh one made in its place.
    create = create and (keyring.ledger is None or accept_lost_spend is not None)
    try:
        ledger = await _open(config, new_id, create=create)
    except LedgerMissing:
        _refuse(check_ledger(keyring, ledger_id=None, entries=0))
        raise
    entries = await ledger.entry_count()
    refused = await _fault(keyring, ledger)
    if refused is not None and not (keyring.ledger is None and entries == 0):
        if accept_lost_spend is None:
            await ledger.close()
            _refuse(refused)
        await ledger.note(Kind.ACCEPT, f"{refused}; accepted: {accept_lost_spend}")
    replace = refused is not None and accept_lost_spend is not None
    keyring.remember_ledger(ledger.id, entries=await ledger.entry_count(), at=time.time_ns(), replace=replace)
    return ledger


def outside_of(config: Config, tell: Callable[[str], None]) -> Outside:
    """Where checkpoints are sent. `tell` is told what cannot be sent."""
    seal = config.seal
    places: list[Place] = []
    if seal.file is not None:
        places.append(FilePlace(seal.file))
    if seal.webhook is not None:
        places.append(Webhook(seal.webhook.reveal()))
    if seal.stdout:
        places.append(Stdout())
    return Outside(places, tell)


async def reopen_ledger(config: Config, keyring: Keyring) -> Ledger:
    """A worker's own connection to the ledger that its supervisor opened. Raises `LedgerRefused` if it is that no more:
    a worker that starts late may find another file, or another path in the config.
    """
    ledger = await _open(config, "", create=False, serves=True)
    refused = await _fault(keyring, ledger)
    if refused is not None:
        await ledger.close()
        _refuse(refused)
    return ledger


async def _open(config: Config, new_id: str, *, create: bool, serves: bool = False) -> Ledger:
    durability: Durability = "normal" if config.ledger.durability == "normal" else "full"
    timeout = config.ledger.timeout
    url = config.ledger.postgresql
    if url is not None:
        # Not at the start: asyncpg alone is a sixth of what a process imports.
        from tolsey.store.postgres import open_postgres

        return await open_postgres(
            url, durability=durability, seconds=timeout, now=time.time_ns, new_id=new_id, create=create
        )
    file = SqliteLedger(config.ledger.path, durability=durability, now=time.time_ns(), new_id=new_id, create=create)
    # Only where calls are served is it worth its start.
    syncs = KernelSync.of(asyncio.get_running_loop()) if serves and durability == "full" else None
    return EmbeddedLedger(file, timeout=timeout, now=time.time_ns, syncs=syncs)


def revocations_of(config: Config, ledger_id: str) -> Source:
    """Where the revocations of the config's ledger are read."""
    url = config.ledger.postgresql
    if url is None:
        return SqliteRevocations(config.ledger.path, ledger_id)
    from tolsey.store.revocations_postgres import PostgresRevocations

    return PostgresRevocations(url, ledger_id)


async def _fault(keyring: Keyring, ledger: Ledger) -> str | None:
    # Twice, since a gateway may raise the mark between the two readings; it does so no more than twice a second.
    entries = await ledger.entry_count()
    if check_ledger(keyring, ledger_id=ledger.id, entries=entries) is None:
        return None
    return check_ledger(keyring, ledger_id=ledger.id, entries=await ledger.entry_count())


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise LedgerRefused(
            f"{reason}. Used like this, every budget would be fresh again: put the right ledger back, or start with"
            " `tolsey serve --accept-lost-spend REASON`"
        )
