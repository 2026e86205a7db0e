"""`tolsey.toml`: read, checked and resolved, or refused with the line and the key of everything that is wrong.

Every key but those of upstreams and routes has a default. Relative paths are relative to the file. Unknown keys are
errors. What comes from the environment is kept in a `Secret` and shows in no error and no `repr`.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Final

from tolsey import config_lines as lines
from tolsey.admin.policy import Minting
from tolsey.call import METHODS, Pattern, parse_pattern
from tolsey.config_alerts import AlertsTo, read_alerts
from tolsey.config_decide import Decide, read_decide, same_listener
from tolsey.config_identity import read_minting
from tolsey.config_ledger import Ledger, Seal, read_ledger, read_seal
from tolsey.config_lines import Key, Network, Problems, Table, one_of, seconds, shown, suggestion, whole
from tolsey.config_mcp import Mcp, read_mcp
from tolsey.config_observe import read_agents
from tolsey.config_overlaps import overlaps
from tolsey.config_payment import Payment, bind, read_offers, read_payment
from tolsey.config_prices import LONGEST, MAX_MODELS, Model, has_price, read_models, read_price, read_rules
from tolsey.config_secrets import Secret, fill
from tolsey.config_telemetry import Telemetry, read_telemetry
from tolsey.config_tls import Tls, read_server_tls, read_upstream_tls
from tolsey.errors import ConfigError
from tolsey.pricing.tariff import Price, Rule
from tolsey.token.wire import LIMITS, Limits

MAX_FILE: Final = 1024 * 1024
"""The largest config that is read, in bytes."""

MAX_ROUTES: Final = 1000
MAX_UPSTREAMS: Final = 256
MAX_WORKERS: Final = 256
MAX_SECONDS: Final = 3600.0
"""The longest timeout, in seconds."""

MAX_HEADER: Final = 8192
"""The longest value of a configured header, in characters."""

_MAX_INT: Final = 2**63 - 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}", re.ASCII)
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_OWN_HEADERS: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "host", "content-length", "expect"}
)


@dataclass(frozen=True, slots=True)
class Server:
    """The data port. `max_body` is in bytes (None: no limit); `mode` is what routes have by default; `disclose` says
    whether refusals show figures of accounts above the bearer's Link ("chain"), `revoked_calls` what becomes of calls
    under way ("finish", "cut").
    """

    host: str
    port: int
    workers: int
    mode: str
    max_body: int | None
    trusted_proxies: tuple[Network, ...]
    disclose: str
    tls: Tls | None
    revoked_calls: str


@dataclass(frozen=True, slots=True)
class Admin:
    """The listener of the admin API and the dashboard."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where calls go. `url` has no trailing slash, `prefix` is its path ("" if it has none).

    `headers` are set on every call, replacing. `connect_timeout` and `timeout` (silence of the upstream): in seconds.
    """

    name: str
    url: str
    prefix: str
    headers: tuple[tuple[str, Secret], ...]
    connect_timeout: float
    timeout: float
    tls: Tls | None


@dataclass(frozen=True, slots=True)
class Route:
    """Which calls go to which upstream at which price.

    `methods` are as written, `["*"]` being all; that HEAD matches a GET route is not in them. `rules` are prices of
    some of its calls, `price` that of the others; both are missing on a public route. `max_body` is in bytes (None: no
    limit), the server's by default; `timeout` (None: the upstream's) and `max_duration` are in seconds. `offers` are
    names: what a stranger may pay for here.
    """

    pattern: Pattern
    methods: tuple[str, ...]
    upstream: str
    mode: str
    price: Price | None
    rules: tuple[Rule, ...]
    max_body: int | None
    timeout: float | None
    max_duration: float
    offers: tuple[str, ...]
    line: int | None


@dataclass(frozen=True, slots=True)
class Config:
    """A whole config. `file` and `keys` (the keyring) are absolute, `source` is the file's bytes as they were read, and
    `generation` 12 hex digits of their SHA-256. `agents` is how callers without a token are told apart. `routes` are in
    file order, and the first that matches wins; `warnings` name those that an earlier one covers.
    """

    file: Path
    source: bytes = field(repr=False)
    generation: str
    server: Server
    admin: Admin
    decide: Decide | None
    keys: Path
    ledger: Ledger
    seal: Seal
    limits: Limits
    telemetry: Telemetry
    agents: tuple[str, ...]
    upstreams: tuple[Upstream, ...]
    routes: tuple[Route, ...]
    models: tuple[Model, ...]
    mcp: tuple[Mcp, ...]
    payment: Payment | None
    minting: Minting
    alerts: AlertsTo | None
    warnings: tuple[str, ...]


def load(path: Path, env: Mapping[str, str], *, sends: bool = True) -> Config:
    """Read a config; `env` is where `${VAR}` comes from. Raises the first `ConfigError` in file order.

    Without `sends` it is for a command that calls no upstream: what is sent to one is left out, set or not.
    """
    return _or_raise(_read(path, env, sends))


def parse(data: bytes, path: Path, env: Mapping[str, str]) -> Config:
    """As `load`, for the bytes of a file that was read before: what a config has in `source`."""
    return _or_raise(_parse(data, path, env))


def _or_raise(found: "Config | list[ConfigError]") -> "Config":
    if isinstance(found, Config):
        return found
    raise found[0]


def problems(path: Path, env: Mapping[str, str]) -> list[ConfigError]:
    """Everything that is wrong with a config, in file order; empty if `load` would take it."""
    found = _read(path, env)
    return [] if isinstance(found, Config) else found


def _read(path: Path, env: Mapping[str, str], sends: bool = True) -> Config | list[ConfigError]:
    file = str(path)
    try:
        with open(path, "rb") as opened:
            data = opened.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return [ConfigError(f"cannot be read: {reason or 'bad file name'}", file=file)]
    return _parse(data, path, env, sends)


def _parse(data: bytes, path: Path, env: Mapping[str, str], sends: bool = True) -> Config | list[ConfigError]:
    file = str(path)
    if len(data) > MAX_FILE:
        return [ConfigError(f"is larger than {MAX_FILE} bytes", file=file)]
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        return [ConfigError("is not UTF-8", file=file, line=data.count(b"\n", 0, error.start) + 1)]
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return [_syntax_error(error, text, file)]
    except (ValueError, RecursionError):
        return [ConfigError("is not TOML: a number is too long, or arrays are nested too deep", file=file)]
    found = Problems(file, lines.locate(text))
    config = _Reader(found, Table(found, (), document), Path(os.path.abspath(path)), env, sends).config(data)
    return found.in_order() or config


def _syntax_error(error: tomllib.TOMLDecodeError, text: str, file: str) -> ConfigError:
    # "Invalid value (at line 3, column 5)" or "… (at end of document)".
    detail, _, where = str(error).rpartition(" (at ")
    line = int(where.split()[1].rstrip(",")) if where.startswith("line ") else text.rstrip("\n").count("\n") + 1
    return ConfigError(f"is not TOML: {detail or where}", file=file, line=line)


class _Reader:
    """Reads one document. What is wrong goes to `problems`; what comes back then has stand-ins and must not be used."""

    def __init__(self, problems: Problems, document: Table, file: Path, env: Mapping[str, str], sends: bool) -> None:
        self.problems = problems
        self.document = document
        self.file = file
        self.base = file.parent
        self.env = env
        self.sends = sends

    def config(self, source: bytes) -> Config:
        document, file = self.document, self.file
        server = self.server(document.table("server"))
        admin = self.admin(document.table("admin"), server)
        listeners = (("server", server.host, server.port), ("admin", admin.host, admin.port))
        decide = read_decide(document, listeners)
        keys = document.table("keys")
        keyring = keys.read("path", lines.file_in(file.parent), file.parent / "data/keys")
        keys.done()
        ledger = read_ledger(document.table("ledger"), file.parent, self.env)
        seal = read_seal(document.table("seal"), file.parent, self.env, sends=self.sends)
        limits = self.limits(document.table("limits"))
        section = document.table("telemetry")
        telemetry = read_telemetry(section, self.headers(section.table("headers")))
        agents = read_agents(document.table("observe"))
        tables = document.tables("upstream", MAX_UPSTREAMS)
        names: list[str] = []
        upstreams = tuple(self.upstream(table, names) for table in tables)
        payment = read_payment(document, file.parent, self.env, sends=self.sends, host=server.host)
        tables = document.tables("route", MAX_ROUTES)
        routes = tuple(self.route(table, names, server, payment) for table in tables)
        if payment is not None:
            payment = bind(payment, routes, lambda number, fault: tables[number].complain("offers", fault))
        models = read_models(document.tables("model", MAX_MODELS))
        mcp = read_mcp(document, names, mode=server.mode, host=server.host, env=self.env, sends=self.sends)
        minting = read_minting(document, file.parent, self.env, sends=self.sends)
        alerts = read_alerts(document.table("alerts"), self.env, sends=self.sends)
        document.done()
        warnings = () if self.problems.in_order() else overlaps(routes, str(file.name))
        generation = sha256(source).hexdigest()[:12]
        return Config(
            file, source, generation, server, admin, decide, keyring, ledger, seal, limits, telemetry, agents,
            upstreams, routes, models, mcp, payment, minting, alerts, warnings,
        )  # fmt: skip

    def server(self, table: Table) -> Server:
        server = Server(
            host=table.read("host", lines.host, "127.0.0.1"),
            port=table.read("port", whole(1, 65535), 8402),
            workers=table.read("workers", whole(1, MAX_WORKERS), 1),
            mode=table.read("mode", _mode, "enforce"),
            max_body=table.read("max_body", whole(0, _MAX_INT), None),
            trusted_proxies=table.each("trusted_proxies", lines.network),
            disclose=table.read("disclose", one_of("chain", "none"), "chain"),
            tls=read_server_tls(table, self.base, uses=self.sends),
            revoked_calls=table.read("revoked_calls", one_of("finish", "cut"), "finish"),
        )
        table.done()
        return server

    def admin(self, table: Table, server: Server) -> Admin:
        admin = Admin(table.read("host", lines.host, "127.0.0.1"), table.read("port", whole(1, 65535), 8403))
        table.done()
        if same_listener(server.host, server.port, admin.host, admin.port):
            key: Key = ("admin", "port") if table.has("port") else ("server", "port")
            self.problems.add(key, f"both listeners would be on port {admin.port}; the admin API needs one of its own")
        return admin

    def limits(self, table: Table) -> Limits:
        values = {}
        for limit in fields(Limits):
            most: int = getattr(LIMITS, limit.name)
            values[limit.name] = table.read(limit.name, whole(0 if limit.name == "discharges" else 1, most), most)
        table.done()
        return Limits(**values)

    def upstream(self, table: Table, names: list[str]) -> Upstream:
        def new_name(value: object) -> str:
            name = lines.text(value)
            taken = name in names
            names.append(name)
            if taken:
                raise ValueError(f"another upstream is called {shown(name)}")
            if _NAME.fullmatch(name) is None:
                raise ValueError(f"{shown(name)} is not a name: use letters, digits, '.', '_' and '-', at most 64")
            return name

        name = table.need("name", new_name, "")
        url, prefix = table.need("url", lines.http_url, ("", ""))
        upstream = Upstream(
            name=name,
            url=url,
            prefix=prefix,
            headers=self.headers(table.table("headers")),
            connect_timeout=table.read("connect_timeout", seconds(MAX_SECONDS), 5.0),
            timeout=table.read("timeout", seconds(MAX_SECONDS), 60.0),
            tls=read_upstream_tls(table, self.base, url, uses=self.sends),
        )
        table.done()
        return upstream

    def headers(self, table: Table) -> tuple[tuple[str, Secret], ...]:
        found: dict[str, tuple[str, Secret]] = {}
        for name, value in table.items():
            try:
                if _HEADER.fullmatch(name) is None:
                    raise ValueError("this is not a header name")
                if name.lower() in _OWN_HEADERS:
                    raise ValueError("this header is the gateway's own to set")
                if name.lower() in found:
                    raise ValueError(f"the same header is there as {found[name.lower()][0]}")
                found[name.lower()] = (name, self._header_value(value))
            except ValueError as error:
                table.complain(name, str(error))
        return tuple(found.values())

    def _header_value(self, value: object) -> Secret:
        """With `${VAR}` filled in, once. No message here may quote the value."""
        filled = fill(lines.text(value), self.env) if self.sends else ""
        if _HEADER_VALUE.fullmatch(filled) is None:
            raise ValueError("the value holds a line break or another character that a header cannot carry")
        if len(filled) > MAX_HEADER:
            raise ValueError(f"the value is longer than {MAX_HEADER} characters")
        return Secret(filled)

    def route(self, table: Table, names: list[str], server: Server, payment: Payment | None) -> Route:
        def known(value: object) -> str:
            name = lines.text(value)
            if name not in names:
                raise ValueError(f"no upstream is called {shown(name)}{suggestion(name, names)}")
            return name

        mode = table.read("mode", _mode, server.mode)
        charge = table.read("charge", one_of("always", "success"), "always")
        price = read_price(table, free_on_failure=charge == "success")
        rules = read_rules(table, free_on_failure=charge == "success")
        priced = has_price(table) or table.has("rule")
        if mode != "public" and table.good("mode") and not priced:
            table.complain("price", f'is missing; an {mode} route has one, if only "0 USD"')
        if mode == "public" and priced:
            table.complain("price", 'a public route charges nobody: drop the price, or set mode = "enforce"')
        route = Route(
            pattern=table.need("path", _route_pattern, _ANYTHING),
            methods=self.methods(table),
            upstream=table.need("upstream", known, ""),
            mode=mode,
            price=price,
            rules=rules,
            max_body=table.read("max_body", whole(0, _MAX_INT), server.max_body),
            timeout=table.read("timeout", seconds(MAX_SECONDS), None),
            max_duration=table.read("max_duration", seconds(LONGEST), MAX_SECONDS),
            offers=read_offers(table, mode, payment),
            line=self.problems.line(table.key),
        )
        table.done()
        return route

    def methods(self, table: Table) -> tuple[str, ...]:
        found = table.each("methods", _method)
        if not found and table.good("methods"):
            table.complain("methods", 'is missing; write ["GET"], or ["*"] for every method')
        elif "*" in found and len(found) > 1:
            table.complain("methods", '"*" stands alone: it is every method')
        elif len(set(found)) != len(found):
            table.complain("methods", "names a method twice")
        return METHODS if found == ("*",) else found


_mode = one_of("enforce", "observe", "public")


def _method(value: object) -> str:
    method = lines.text(value)
    if method in METHODS or method == "*":
        return method
    if method.upper() in METHODS:
        raise ValueError(f"methods are in capitals: write {shown(method.upper())}")
    if method in ("TRACE", "CONNECT"):
        raise ValueError(f"{method} is never let through")
    raise ValueError(f"{shown(method)} is not a method{suggestion(method.upper(), METHODS)}")


def _route_pattern(value: object) -> Pattern:
    text = lines.text(value)
    if "?" in text:
        raise ValueError("a route has no query part; a `scope` caveat may have one")
    pattern = parse_pattern(text)
    if pattern.segments[:1] == (".tolsey",):
        raise ValueError("paths below /.tolsey are the gateway's own")
    return pattern


_ANYTHING: Final = parse_pattern("/*")
