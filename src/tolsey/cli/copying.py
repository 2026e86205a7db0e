"""`tolsey backup` and `tolsey migrate`: a copy of the ledger, and the ledger itself somewhere else."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeAlias

import typer

from tolsey.cli.books import LedgerDiffers
from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import emit, say
from tolsey.cli.program import command, new_app
from tolsey.errors import LedgerUnavailable, TolseyError

if TYPE_CHECKING:
    from tolsey.cli.progress import Tell
    from tolsey.config_secrets import Secret
    from tolsey.store.contract import Snapshot
    from tolsey.store.moving import Movable
    from tolsey.store.reports import Checked

    Where: TypeAlias = Path | Secret
    """A SQLite file, or the URL of a database."""

app = new_app()


class UrlInvalid(TolseyError, ValueError):
    """A text that is not the URL of a ledger. It is never quoted: it may hold a password."""

    code: ClassVar[str] = "url_invalid"


@command(app, "backup", examples=["tolsey backup /backups/ledger-2030-06-30.db"])
def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Copy the ledger into one file, while the gateway runs.

    The copy is the ledger as it was at one instant, and is checked as `tolsey fsck` does. To restore it, put it in the
    ledger's place: the gateway then says by how much it is older than its keys, and
    `tolsey serve --accept-lost-spend REASON` takes it.
    """
    from tolsey.cli.place import read_config
    from tolsey.cli.progress import progress
    from tolsey.store.backup import back_up
    from tolsey.store.reports import fsck
    from tolsey.store.sqlite_snapshot import SqliteSnapshot

    ledger = read_config(file).ledger
    with progress("copying") as tell:
        if ledger.postgresql is None:
            back_up(ledger.path, target, tell)
        else:
            asyncio.run(copy_of(ledger.postgresql, target, tell))
    snapshot = SqliteSnapshot(target)
    with progress("checking") as tell:
        found = fsck(snapshot, tell)
    if found.difference is not None:
        target.unlink()
        raise LedgerDiffers(f"the copy does not add up, and so was removed; see `tolsey fsck`: {found.difference}")
    size = target.stat().st_size
    data = {
        "file": os.fspath(target),
        "ledger": snapshot.id,
        "accounts": found.accounts,
        "entries": found.entries,
        "open_holds": found.open_holds,
        "bytes": size,
    }
    sizes = f"accounts: {found.accounts}, entries: {found.entries}, open holds: {found.open_holds}"
    emit(json, data, lambda: print(f"{target}: {sizes}; everything adds up"))


@command(
    app,
    "migrate",
    examples=[
        "tolsey migrate sqlite:///data/ledger.db 'postgresql://tolsey@db.example/tolsey'",
        "LEDGER_URL=postgresql://… tolsey migrate sqlite:///data/ledger.db '${LEDGER_URL}'",
    ],
)
def migrate(
    source: Annotated[str, typer.Argument(metavar="SOURCE_URL", help="Where the ledger is.")],
    target: Annotated[str, typer.Argument(metavar="TARGET_URL", help="Where it shall be: nothing may be there yet.")],
    json: Json = False,
) -> None:
    """Move a ledger to another file or database.

    A URL is sqlite:///PATH, relative to this directory (sqlite:////PATH is absolute), or postgresql://…. Write
    '${NAME}' for what the environment holds: other users see a command's arguments, and so a password in them.

    Stop the gateways first. Everything is carried over with its numbers and times, and both sides are checked as
    `tolsey fsck` does; then the source is marked as moved, and is refused from there on. The keys go on working. Put
    the new URL into [ledger], and start.
    """
    before, after = resolve(source, os.environ), resolve(target, os.environ)
    found = asyncio.run(_move(before, after))
    data = {
        "source": shown(before),
        "target": shown(after),
        "accounts": found.accounts,
        "entries": found.entries,
        "open_holds": found.open_holds,
    }

    def human() -> None:
        sizes = f"accounts: {found.accounts}, entries: {found.entries}, open holds: {found.open_holds}"
        print(f"moved to {shown(after)}: {sizes}; everything adds up")
        say(f"put the new URL into [ledger] url; {shown(before)} is refused from now on")

    emit(json, data, human)


async def _move(before: "Where", after: "Where") -> "Checked":
    """Carry the ledger over under a lock; whatever fails, it is in one place and is right there."""
    from tolsey.cli.progress import progress
    from tolsey.store.moving import copy

    source = await _source(before)
    try:
        checked = await _checked(_snapshot(before), "checking the source")
        target = await _target(after, source)
        try:
            with progress("moving") as tell:
                await copy(source, target, tell)
            try:
                found = await _checked(_snapshot(after), "checking the target")
                if found != checked:
                    raise LedgerDiffers(f"the copy has {found} where the source has {checked}; nothing was moved")
            except BaseException:
                await target.discard()
                raise
            try:
                await source.mark_moved(shown(after))
            except LedgerUnavailable as error:
                raise LedgerUnavailable(
                    f"{error.detail}. The copy at {shown(after)} is whole: remove one of them before a gateway starts"
                ) from None
        finally:
            await target.close()
    finally:
        await source.close()
    return found


async def copy_of(url: str, target: Path, tell: "Tell") -> None:
    """Copy the ledger in a database, as it is at this instant, into the new file `target`."""
    from tolsey.store.moving import copy
    from tolsey.store.moving_postgres import view_at
    from tolsey.store.moving_sqlite import target_at

    source = await view_at(url)
    try:
        made = target_at(target, source.id, source.created_at)
        try:
            await copy(source, made, tell)
        finally:
            await made.close()
    finally:
        await source.close()
    # What a ledger in use has beside it.
    os.unlink(f"{target}.turn")


async def _checked(snapshot: "Snapshot", text: str) -> "Checked":
    from tolsey.cli.progress import progress
    from tolsey.store.reports import fsck

    with progress(text) as tell:
        found = await asyncio.to_thread(fsck, snapshot, tell)
    if found.difference is not None:
        raise LedgerDiffers(f"{text}: {found.difference}; nothing was moved")
    return found


async def _source(where: "Where") -> "Movable":
    if isinstance(where, Path):
        from tolsey.store.moving_sqlite import source_at

        return source_at(where, time.time_ns())
    from tolsey.store import moving_postgres

    return await moving_postgres.source_at(where.reveal())


async def _target(where: "Where", source: "Movable") -> "Movable":
    if isinstance(where, Path):
        from tolsey.store.moving_sqlite import target_at

        return target_at(where, source.id, source.created_at)
    from tolsey.store import moving_postgres

    return await moving_postgres.target_at(where.reveal(), source.id, source.created_at)


def _snapshot(where: "Where") -> "Snapshot":
    if isinstance(where, Path):
        from tolsey.store.sqlite_snapshot import SqliteSnapshot

        return SqliteSnapshot(where)
    from tolsey.store.postgres_snapshot import PostgresSnapshot

    return PostgresSnapshot(where.reveal())


def resolve(url: str, env: Mapping[str, str]) -> "Where":
    """Where a URL says that the ledger is, as `[ledger] url` would but relative to this directory; `${NAME}` comes from
    `env`. Raises `UrlInvalid`.
    """
    from tolsey.config_secrets import ledger_in

    try:
        return ledger_in(Path.cwd(), env)(url)
    except ValueError as error:
        raise UrlInvalid(f"the URL of a ledger {error}") from None


def shown(where: "Where") -> str:
    """Where a ledger is, as it may be shown and kept: without a password and options."""
    if isinstance(where, Path):
        return f"sqlite:///{where}"
    scheme, _, rest = where.reveal().partition("://")
    # By the last @, and before anything else is cut: whatever a password holds stands before it.
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{place.partition('?')[0]}"
