"""`tolsey compact`: old entries are replaced by what they add up to."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tolsey.cli.moments import parse_moment
from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import emit, say
from tolsey.cli.program import command, new_app
from tolsey.token.caveats import format_time

if TYPE_CHECKING:
    from tolsey.store.contract import Ledger, RollUp

app = new_app()


@command(
    app,
    "compact",
    examples=[
        "tolsey compact --before 90d --archive /archive/ledger-2030-06-30.jsonl",
        "tolsey compact --before 2030-01-01 --archive 2029.jsonl --json",
    ],
)
def compact(
    before: Annotated[
        str,
        typer.Option("--before", metavar="WHEN", help="Only older entries. A date, an RFC 3339 time, or an age: 90d."),
    ],
    archive: Annotated[
        Path | None,
        typer.Option("--archive", metavar="FILE", help="A new file for the entries, as `tolsey export` writes them."),
    ] = None,
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Replace old entries by what they add up to.

    Balances, open holds and the numbers of entries stay as they are, and `tolsey fsck` goes on from the sums. A hold
    whose entries are gone can no longer be voided or refunded. Without --archive the entries are gone for good; their
    count and SHA-256 are kept in either case. The gateway may run meanwhile. Run `tolsey fsck` before.
    """
    from tolsey.cli.ledgers import rollable_of, snapshot_of, user, writing
    from tolsey.cli.place import read_keyring
    from tolsey.cli.progress import progress
    from tolsey.store.checkpoints import AT_ONCE, seal_keys, take
    from tolsey.store.rollup import roll_up

    now = time.time_ns()
    at = min(parse_moment(before, now), now)
    config, keyring = read_keyring(file)

    async def run(opened: "Ledger") -> "RollUp | None":
        # Only what is signed is rolled up.
        await take(opened, seal_keys(keyring), AT_ONCE)
        ledger = await rollable_of(config)
        try:
            with _archive(archive) as put, progress("rolling up") as tell:
                note = f"rolled up by {user()}"
                return await roll_up(ledger, snapshot_of(config), before=at, note=note, archive=put, progress=tell)
        finally:
            await ledger.close()

    done = writing(config, keyring, run)
    data = {
        "before": format_time(at),
        "entries": 0 if done is None else done.entries,
        "up_to": None if done is None else done.up_to,
        "sha256": None if done is None else done.sha256,
        "archive": None if archive is None or done is None else os.fspath(archive),
    }

    def human() -> None:
        if done is None:
            say(f"there is nothing from before {format_time(at)} that could be rolled up")
            return
        where = "" if archive is None else f" into {archive}"
        print(f"rolled up {done.entries} entries from before {format_time(at)}{where}; SHA-256 {done.sha256}")

    emit(json, data, human)


@contextmanager
def _archive(path: Path | None) -> Iterator[Callable[[bytes], None]]:
    """Where the lines go: on disk before their entries are removed. An archive that holds any stays, whatever happens;
    an empty one is removed.
    """
    if path is None:
        yield lambda data: None
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:

        def put(data: bytes) -> None:
            out.write(data)
            out.flush()
            os.fsync(fd)

        try:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            yield put
        finally:
            if not out.tell():
                path.unlink()
