"""`[[mcp]]`, as `tolsey.toml` has it: an endpoint, the servers behind it, and what their tools cost."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tolsey import config_lines as lines
from tolsey.call import path_fault
from tolsey.config_lines import Table, one_of, seconds, shown, suggestion, whole
from tolsey.config_prices import LONGEST, amount, has_price, read_price
from tolsey.config_secrets import Secret, fill
from tolsey.gateway.mcp.servers import ToolPrice
from tolsey.pricing.document import parse_pointer
from tolsey.pricing.tariff import Price
from tolsey.units import Amount

MAX_ENDPOINTS: Final = 32
MAX_SERVERS: Final = 32
MAX_TOOLS: Final = 1000
MAX_BODY: Final = 4 * 1024 * 1024
"""The largest message that is taken unless the config says otherwise, in bytes."""

MOST_BODY: Final = 64 * 1024 * 1024
MAX_WORDS: Final = 100
MAX_VALUE: Final = 8192
"""The longest value in a program's environment, in characters."""

_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_EVERY_HOST: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, never bound here
_NOTHING: Final[tuple[str, ...]] = ()
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_GLOB = re.compile(r"[A-Za-z0-9_.:/@+*-]{1,256}", re.ASCII)
_HOST = re.compile(r"\*|[a-z0-9.-]{1,253}|\[[0-9a-f:]+\]", re.ASCII)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]{0,31}://([a-z0-9.-]{1,253}|\[[0-9a-f:]+\])(:\d{1,5})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Program:
    """A server that is a program: its command line, what is added to its environment, how many seconds of silence are
    borne.
    """

    command: tuple[str, ...]
    env: tuple[tuple[str, Secret], ...]
    timeout: float


@dataclass(frozen=True, slots=True)
class McpServer:
    """A server behind an endpoint: the upstream that it is, or the `program`, which then has that name; what stands
    before the names of its tools and prompts, and before its resources' URIs ("" where it is the only one). `events`
    is whether it is one of 2024-11-05, over HTTP and SSE.
    """

    upstream: str
    prefix: str
    scheme: str
    program: Program | None = None
    events: bool = False


@dataclass(frozen=True, slots=True)
class Mcp:
    """An endpoint. `hosts` (None: any) and `origins` are in lower case, `max_body` is in bytes, `max_duration` in
    seconds. With `agent_tools` the gateway's own tools are offered.
    """

    path: str
    mode: str
    servers: tuple[McpServer, ...]
    tools: tuple[ToolPrice, ...]
    hosts: frozenset[str] | None
    origins: frozenset[str]
    max_body: int
    max_duration: float
    agent_tools: bool
    line: int | None


def read_mcp(
    document: Table, names: Sequence[str], *, mode: str, host: str, env: Mapping[str, str], sends: bool
) -> tuple[Mcp, ...]:
    """The endpoints of a config. `names` are those of its upstreams, `mode` the server's, `host` where it listens. With
    `sends` variables are filled in from `env`.
    """
    found: list[Mcp] = []
    reader = _Servers(names, env, sends)
    for table in document.tables("mcp", MAX_ENDPOINTS):
        endpoint = _endpoint(table, reader, mode, host)
        if any(endpoint.path == other.path for other in found):
            table.complain("path", "another [[mcp]] has this path")
        found.append(endpoint)
    return tuple(found)


def _endpoint(table: Table, servers: "_Servers", mode: str, host: str) -> Mcp:
    path = table.need("path", _path, "/")
    modes = one_of("enforce", "observe")
    mode = table.read("mode", modes, mode)
    if mode == "public":
        table.complain("mode", 'is missing: an MCP endpoint is never public; write "enforce" or "observe"')
    free_on_failure = table.read("charge", one_of("always", "success"), "always") == "success"
    hosts = table.each("hosts", _host)
    if not hosts and not table.has("hosts"):
        if host in _EVERY_HOST:
            table.complain(
                "hosts", 'is missing: the server listens on every address; name the hosts that clients call, or "*"'
            )
        hosts = (*_LOOPBACK, f"[{host}]" if ":" in host else host.lower())
    endpoint = Mcp(
        path=path,
        mode=mode,
        servers=servers.read(table),
        tools=_tools(table, free_on_failure=free_on_failure),
        hosts=None if "*" in hosts else frozenset(hosts),
        origins=frozenset(table.each("origins", _origin)),
        max_body=table.read("max_body", whole(1, MOST_BODY), MAX_BODY),
        max_duration=table.read("max_duration", seconds(LONGEST), 3600.0),
        agent_tools=table.read("agent_tools", lines.boolean, False),
        line=table.problems.line(table.key),
    )
    table.done()
    return endpoint


class _Servers:
    """Reads `[[mcp.server]]`, of all endpoints: the names of programs are each there once."""

    def __init__(self, names: Sequence[str], env: Mapping[str, str], sends: bool) -> None:
        self._names = list(names)
        self._programs: list[str] = []
        self._env = env
        self._sends = sends

    def read(self, table: Table) -> tuple[McpServer, ...]:
        """The servers of one endpoint."""
        tables = table.tables("server", MAX_SERVERS)
        if not tables and table.good("server"):
            table.complain("server", "is missing; an endpoint has one [[mcp.server]] or more")
        several = len(tables) > 1
        found: list[McpServer] = []
        for server in tables:
            is_program = server.has("command")
            key = "name" if is_program else "upstream"
            name = server.need(key, self._new if is_program else self._known, "")
            prefix = server.read("prefix", _prefix, "")
            scheme = name.lower().replace("_", "-") if several else ""
            if several and not server.has("prefix"):
                server.complain("prefix", "is missing; of several servers each has one, and none begins with another's")
            for other in found:
                if other.prefix and prefix and (prefix.startswith(other.prefix) or other.prefix.startswith(prefix)):
                    server.complain("prefix", f"{shown(prefix)} and {shown(other.prefix)} fit one name")
                if other.upstream == name:
                    server.complain(key, "stands for another server already")
                elif several and other.scheme == scheme:
                    server.complain(key, f"cannot be told from {shown(other.upstream)} in the URIs of resources")
            if several and name and not name[0].isalpha():
                server.complain(key, "of several servers each has a name that begins with a letter")
            program = self._program(server) if is_program else None
            events = not is_program and server.read("transport", one_of("http", "sse"), "http") == "sse"
            server.done()
            found.append(McpServer(name, prefix, scheme, program, events))
        return tuple(found)

    def _known(self, value: object) -> str:
        name = lines.text(value)
        if name not in self._names:
            raise ValueError(f"no upstream is called {shown(name)}{suggestion(name, self._names)}")
        return name

    def _new(self, value: object) -> str:
        name = lines.text(value)
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{shown(name)} is not a name: use letters, digits, '.', '_' and '-', at most 64")
        if name in self._names or name in self._programs:
            raise ValueError(f"an upstream or another program is called {shown(name)}")
        self._programs.append(name)
        return name

    def _program(self, server: Table) -> Program:
        command = server.each("command", _word)
        if server.good("command") and not (command and command[0]):
            server.complain("command", 'is an array that begins with a program: ["npx", "-y", "some-server"]')
        if len(command) > MAX_WORDS:
            server.complain("command", f"has at most {MAX_WORDS} words")
        table = server.table("env")
        found = []
        for name, value in table.items():
            try:
                if _VARIABLE.fullmatch(name) is None or name.startswith("TOLSEY_"):
                    raise ValueError("this is not a name for a variable of its environment")
                filled = fill(lines.text(value), self._env) if self._sends else ""
                if "\0" in filled or len(filled) > MAX_VALUE:
                    raise ValueError(f"the value holds NUL, or is longer than {MAX_VALUE} characters")
                found.append((name, Secret(filled)))
            except ValueError as error:
                table.complain(name, str(error))
        return Program(command, tuple(found), server.read("timeout", seconds(LONGEST), 60.0))


def _tools(table: Table, *, free_on_failure: bool) -> tuple[ToolPrice, ...]:
    found = []
    for tool in table.tables("tool", MAX_TOOLS):
        glob = tool.need("name", tool_glob, "*")
        price = read_price(tool, free_on_failure=free_on_failure)
        per = _per(tool, price)
        if not has_price(tool) and not tool.has("per_argument"):
            tool.complain("price", 'is missing; a tool has one, if only "0 USD"')
        if tool.has("llm"):
            tool.complain("llm", "is not for a tool")
        arguments = []
        conditions = tool.table("arguments")
        for name, value in conditions.items():
            if not isinstance(value, str | int | bool):
                conditions.complain(name, "must be a string, an integer or a boolean, which the argument has to be")
            try:
                arguments.append((parse_pointer(name) if name.startswith("/") else (name,), value))
            except ValueError as error:
                conditions.complain(name, str(error))
        tool.done()
        if per is not None:
            price = price or Price(per[1].unit, free_on_failure=free_on_failure)
        if price is not None:
            found.append(ToolPrice(glob, price, tuple(arguments), None if per is None else (per[0], per[1].nano)))
    return tuple(found)


def _per(tool: Table, price: Price | None) -> tuple[tuple[str, ...], Amount] | None:
    """What each of a number among the arguments costs."""
    if not tool.has("per_argument"):
        return None
    inner = tool.table("per_argument")
    pointer = inner.need("json", _pointer, _NOTHING)
    each = inner.need("each", amount, None)
    inner.done()
    if each is None:
        return None
    if price is not None and price.unit != each.unit:
        tool.complain("per_argument", f"is in {each.unit}, and another part of the price in {price.unit}")
    if price is not None and (price.per_second or price.per_request_mb or price.per_response_mb or price.reported):
        tool.complain("per_argument", "stands beside a flat price and at_most, and no other part of a price")
    return pointer, each


def _pointer(value: object) -> tuple[str, ...]:
    found = parse_pointer(lines.text(value))
    if not found:
        raise ValueError('must name an argument, as in "/count"')
    return found


def _word(value: object) -> str:
    word = lines.text(value)
    if "${" in word:
        raise ValueError("variables are filled in under env alone: every user of the machine can see arguments")
    if "\0" in word:
        raise ValueError("holds NUL")
    return word


def _path(value: object) -> str:
    path = lines.text(value)
    fault = path_fault(path.encode("ascii", "replace"))
    if fault or "*" in path:
        raise ValueError(f"{shown(path)} is not the path of an endpoint: {fault or 'it is one path, without *'}")
    if path.startswith("/.tolsey"):
        raise ValueError("paths below /.tolsey are the gateway's own")
    return path


def _prefix(value: object) -> str:
    prefix = lines.text(value)
    if prefix and _PREFIX.fullmatch(prefix) is None:
        raise ValueError(f"{shown(prefix)} is not a prefix: letters, digits, '_', '.' and '-', at most 32")
    return prefix


def tool_glob(value: object) -> str:
    """Parse a tool's name with `*` in it. Raises ValueError."""
    glob = lines.text(value)
    if _GLOB.fullmatch(glob) is None:
        raise ValueError(f"{shown(glob)} is not a tool's name with '*' for any characters")
    return glob


def _host(value: object) -> str:
    host = lines.text(value).lower()
    if _HOST.fullmatch(host) is None:
        raise ValueError(f"{shown(host)} is not a host name or an address, without a port")
    return host


def _origin(value: object) -> str:
    origin = lines.text(value).lower()
    if _ORIGIN.fullmatch(origin) is None:
        raise ValueError(f'{shown(origin)} is not an origin, as in "https://app.example"')
    return origin
