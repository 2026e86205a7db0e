"""What `tolsey doctor` looks at, one function for each part. Nothing here changes anything."""

import asyncio
import ctypes
import os
import platform
import resource
import shutil
import socket
import sqlite3
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tolsey.cli.assemble import upstreams_of
from tolsey.cli.examining import faults, sqlite_notes
from tolsey.config import Config
from tolsey.config_mcp import Program
from tolsey.errors import TolseyError
from tolsey.gateway.destination import NotSent
from tolsey.gateway.mcp.process import environment
from tolsey.gateway.native import OFF, Wire
from tolsey.gateway.upstream import Upstream
from tolsey.ledger import rules
from tolsey.store.disk import sync_times
from tolsey.store.sqlite_file import check_library, connect_read_only, file_system

SLOW_SYNC: Final = 0.010
"""A sync that takes longer than this, in seconds, is felt in every call."""

SLOW_ANSWER: Final = 0.010
"""The same for a database's answer: a group of calls waits for several."""

LOW_DISK: Final = 1 << 30
"""How many free bytes are few: a million calls are some 300 MB of journal."""

FEW_FILES: Final = 4096
"""How many open files a process should be allowed: a call under way has two."""

SKEW_SECONDS: Final = 0.5
"""A clock that is further from the database's is on its way to the 2 seconds at which calls are refused."""

IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
LAYERS: Final = frozenset({"overlay", "aufs"})
"""File systems of a container's own, which go when it goes."""

REBUILD: Final = "install Tolsey from its sources where there is cargo"

_UNSYNCHRONISED: Final = 5
_TIMEX_BYTES: Final = 512

State = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one part. `advice` says what to do about it; empty where there is nothing to do."""

    check: str
    state: State
    detail: str
    advice: str = ""


Checkup = Callable[[Config], Iterator[Finding]]


def libraries(config: Config) -> Iterator[Finding]:
    """Python, what is compiled, and the SQLite library."""
    yield Finding("python", "ok", f"Python {platform.python_version()}, {platform.machine()}")
    yield _wire()
    yield _modules()
    if config.ledger.postgresql is not None:
        return
    try:
        check_library(sqlite3.sqlite_version_info)
    except TolseyError as error:
        yield Finding("sqlite", "error", error.detail, "use a Python that was built with a newer SQLite")
        return
    known = list(sqlite_notes())
    if not known:
        yield Finding("sqlite", "ok", f"SQLite {sqlite3.sqlite_version}, no known fault of its WAL")
    for note in known:
        yield Finding("sqlite", "note", note, "let no other program write to the ledger; a newer SQLite is free of it")


def _wire() -> Finding:
    """Whether calls can take the fast path."""
    try:
        if Wire.load() is not None:
            return Finding("fast path", "ok", "the compiled wire is there")
    except OSError as error:
        return Finding("fast path", "warning", f"the compiled wire cannot be used: {error}", REBUILD)
    cost = "a call takes three times the processor time"
    if os.environ.get(OFF):
        return Finding("fast path", "note", f"{OFF} is set: {cost}", f"unset {OFF}")
    return Finding("fast path", "note", f"the wire was not compiled: {cost}", REBUILD)


def is_compiled() -> bool:
    """Whether what a call runs through is compiled."""
    return not str(rules.__file__).endswith(".py")


def _modules() -> Finding:
    if not is_compiled():
        detail = "the modules are not compiled: a call takes a seventh more processor time"
        return Finding(
            "compiled", "note", detail, "install Tolsey from its sources with pip, where there is a C compiler"
        )
    return Finding("compiled", "ok", "what a call runs through is compiled")


def files(config: Config) -> Iterator[Finding]:
    """Who may read and write what is on disk."""
    loose = [*_loose(config.file, stat.S_IWGRP | stat.S_IWOTH)]
    paths = [config.keys.parent]
    if config.ledger.postgresql is None:
        ledger = config.ledger.path
        paths.append(ledger.parent)
        loose += [found for path in ledger.parent.glob(f"{ledger.name}*") for found in _loose(path, stat.S_IWOTH)]
        if ledger.parent.exists() and not os.access(ledger.parent, os.W_OK):
            yield Finding(
                "files", "error", f"{ledger.parent} cannot be written to by this user", "run as the user who owns it"
            )
    for path in dict.fromkeys(paths):
        loose += _loose(path, stat.S_IWGRP | stat.S_IWOTH)
    for path, mode, others in loose:
        yield Finding(
            "files", "error", f"{path} can be written to by others (mode {mode:04o})", f"chmod {others} '{path}'"
        )
    open_dirs = [path for path in dict.fromkeys(paths) if path.exists() and path.stat().st_mode & 0o007]
    for path in open_dirs:
        yield Finding(
            "files", "warning", f"{path} is open to every user of the machine, who can read what was spent",
            f"chmod o-rwx '{path}'",
        )  # fmt: skip
    if not loose and not open_dirs:
        yield Finding("files", "ok", "config, keys and ledger are for their owner alone to change")


def _loose(path: Path, bits: int) -> Iterator[tuple[Path, int, str]]:
    if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & bits:
        yield path, mode, "go-w"


def clock(config: Config) -> Iterator[Finding]:
    """Whether the machine's clock is kept by something, and is not behind the ledger's."""
    synchronised = _synchronised()
    if synchronised is None:
        yield Finding("clock", "note", "the kernel does not tell whether the clock is synchronised", "run NTP")
    elif synchronised:
        yield Finding("clock", "ok", "the kernel's clock is synchronised")
    else:
        yield Finding(
            "clock", "warning", "nothing keeps the kernel's clock synchronised",
            "run chrony, systemd-timesyncd or another NTP client; in a virtual machine the host may do it unseen",
        )  # fmt: skip
    last = None if config.ledger.postgresql else _last_entry(config.ledger.path)
    if last is not None and (behind := (last - time.time_ns()) / 1e9) > SKEW_SECONDS:
        yield Finding(
            "clock", "error", f"the clock is {behind:.1f} s behind the ledger's last entry, and the ledger's time"
            " stands still until it has caught up", "set the clock; windows and expiries wait meanwhile",
        )  # fmt: skip


def _synchronised() -> bool | None:
    """Whether something disciplines the kernel's clock; None where that cannot be known."""
    try:
        ask = ctypes.CDLL(None, use_errno=True).adjtimex
    except (AttributeError, OSError):
        return None
    # A zeroed timex asks and sets nothing.
    answer = ask(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if answer < 0 else answer != _UNSYNCHRONISED


def _last_entry(ledger: Path) -> int | None:
    try:
        with closing(connect_read_only(ledger)) as db:
            found = db.execute("SELECT at FROM entry ORDER BY n DESC LIMIT 1").fetchone()
    except (TolseyError, sqlite3.Error):
        # What is wrong with it, the check of the ledger says.
        return None
    return None if found is None else int(found[0])


def limits(config: Config) -> Iterator[Finding]:
    """How many connections a worker may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = "any number of" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    detail = f"{allowed} open files a process, of which a call under way has two"
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        most = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard:,}"
        yield Finding(
            "open files", "warning", detail, f"ulimit -n 65536 (at most {most} here), LimitNOFILE=65536 in a unit"
        )
    else:
        yield Finding("open files", "ok", detail)


def disk(config: Config) -> Iterator[Finding]:
    """What lies under a ledger in a file: how fast it syncs, what it is, what room there is."""
    if config.ledger.postgresql is not None:
        return
    folder = config.ledger.path.parent
    kind = file_system(config.ledger.path)
    if not folder.is_dir():
        yield Finding("disk", "error", f"{folder} is not there", f"mkdir -m 700 '{folder}'")
        return
    if kind in IN_MEMORY:
        yield Finding("disk", "warning", f"{folder} lies in memory ({kind}): a restart loses the ledger", "use a disk")
    if kind in LAYERS:
        yield Finding(
            "disk", "warning", f"{folder} lies in a container's own layer ({kind}), which goes when it goes",
            "mount a volume there",
        )  # fmt: skip
    free = shutil.disk_usage(folder).free
    state: State = "ok" if free >= LOW_DISK else "warning"
    advice = "" if state == "ok" else "make room; see `tolsey compact`. When it is full, priced calls are refused"
    yield Finding("disk", state, f"{free / (1 << 30):.1f} GiB free for the ledger", advice)
    try:
        times = sync_times(folder)
    except OSError as error:
        yield Finding("fsync", "error", f"{folder} cannot be written to: {error.strerror}", "see to its disk and owner")
        return
    median = times[len(times) // 2]
    detail = f"{median * 1e3:.2f} ms in the middle, {times[-1] * 1e3:.2f} ms at most, of {len(times)} syncs"
    if median <= SLOW_SYNC:
        yield Finding("fsync", "ok", detail)
    elif config.ledger.durability == "full":
        yield Finding(
            "fsync", "warning", f"{detail}: every priced call waits for one",
            'use a local SSD; durability = "normal" does not wait, and can lose the last calls in a power cut',
        )  # fmt: skip
    else:
        yield Finding("fsync", "ok", f'{detail}; with durability = "normal" no call waits for one')


def ledger(config: Config) -> Iterator[Finding]:
    """The keyring, the ledger, and whether they belong together."""
    warnings: list[str] = []
    found = list(faults(config, warnings))
    for error in found:
        yield Finding("ledger", "error", error.detail, _cure(error.code))
    for warning in warnings:
        yield Finding("ledger", "warning", warning, "change the server's settings; see docs/operating.md, PostgreSQL")
    if not found:
        yield Finding("ledger", "ok", "keyring and ledger can be used, and belong together")
        yield from _database(config)


def _cure(code: str) -> str:
    return {
        "keyring_invalid": "put the keyring back from its copy; `tolsey init` makes one for a new gateway",
        "ledger_refused": "put the right ledger back; docs/operating.md, A ledger that is lost, swapped or old",
    }.get(code, "see to the disk or the server of the ledger; `tolsey fsck` tells whether it adds up")


def _database(config: Config) -> Iterator[Finding]:
    url = config.ledger.postgresql
    if url is None:
        return
    from tolsey.store.postgres_health import examine

    try:
        found = examine(url, seconds=config.ledger.timeout)
    except TolseyError as error:
        yield Finding("postgresql", "error", error.detail, _cure(error.code))
        return
    took = f"PostgreSQL {found.version} answers in {found.answered * 1e3:.2f} ms"
    near = found.answered <= SLOW_ANSWER
    yield Finding("postgresql", "ok" if near else "warning", took, "" if near else "put gateway and server closer")
    needed = 2 * config.server.workers + 1
    if found.free < needed:
        yield Finding(
            "postgresql", "warning", f"{found.free} connections are left on the server; this gateway takes {needed}",
            "raise max_connections, or start fewer workers; a gateway that runs has its own already",
        )  # fmt: skip
    if not found.private:
        yield Finding(
            "postgresql", "warning", "the connection to the server is in the clear",
            "add sslmode=verify-full to [ledger] url",
        )  # fmt: skip
    if found.apart > SKEW_SECONDS:
        yield Finding(
            "clock", "warning", f"the database's clock is {found.apart:.1f} s off this machine's; at 2 s calls are"
            " refused", "run NTP on both",
        )  # fmt: skip


def programs(config: Config) -> Iterator[Finding]:
    """Whether each MCP server that is a program is there to be run; none is started."""
    for name, program in _programs(config).items():
        command = program.command[0]
        env = environment(os.environ, {key: value.reveal() for key, value in program.env})
        found = shutil.which(command, path=env.get("PATH"))
        if found is None:
            yield Finding(
                "program", "error", f"{name}: {command} cannot be run by this user",
                "install it, or give its whole path in `command`",
            )  # fmt: skip
        else:
            yield Finding("program", "ok", f"{name}: {found}")


def _programs(config: Config) -> dict[str, Program]:
    servers = [server for mcp in config.mcp for server in mcp.servers]
    return {server.upstream: server.program for server in servers if server.program is not None}


def upstreams(config: Config) -> Iterator[Finding]:
    """Whether each upstream takes a connection; nothing is sent on it."""
    if not config.upstreams:
        if not _programs(config):
            yield Finding("upstream", "note", "the config has none", "add an [[upstream]] and a [[route]]")
        return
    yield from asyncio.run(_upstreams(config))


async def _upstreams(config: Config) -> list[Finding]:
    clients = upstreams_of(config).values()
    return list(await asyncio.gather(*map(_reach, clients)))


async def _reach(upstream: Upstream) -> Finding:
    began = time.perf_counter()
    where = f"{upstream.name} at {upstream.origin.decode('ascii')}"
    try:
        connection = await upstream.connect()
    except NotSent as error:
        reason = f": {_reason(error.__cause__)}" if error.__cause__ is not None else ""
        return Finding(
            "upstream", "error", f"{where}: {error.detail}{reason}",
            "start it, or correct [[upstream]] url, and see that nothing between blocks the way; its calls get 502",
        )  # fmt: skip
    connection.close()
    return Finding("upstream", "ok", f"{where} takes connections, in {(time.perf_counter() - began) * 1e3:.1f} ms")


def _reason(error: BaseException) -> str:
    """Why a connection failed, in the words of the system."""
    if isinstance(error, ssl.SSLError):
        return getattr(error, "verify_message", None) or error.reason or "TLS failed"
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, socket.gaierror):
        # asyncio puts addresses into the message.
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)


CHECKUPS: Final[tuple[Checkup, ...]] = (libraries, files, clock, limits, disk, ledger, programs, upstreams)
"""All of them, in the order in which they are shown."""


def examine_all(config: Config) -> Iterator[Finding]:
    """Everything that was found. What the config warns of comes first."""
    yield Finding("config", "ok", f"{config.file} can be used, generation {config.generation}")
    for warning in config.warnings:
        yield Finding("config", "warning", warning, "remove the route, or put it before the one that covers it")
    for checkup in CHECKUPS:
        yield from checkup(config)
