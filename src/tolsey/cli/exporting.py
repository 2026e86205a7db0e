"""`tolsey export`: the journal as JSON lines, or as a Parquet file."""

import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, ClassVar, Literal

import typer

from tolsey.cli.moments import parse_moment
from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import UsageError, emit, on_terminal
from tolsey.cli.program import command, new_app
from tolsey.errors import TolseyError

if TYPE_CHECKING:
    from tolsey.store.contract import EntryRow
    from tolsey.store.export import Line

app = new_app()

Format = Literal["jsonl", "parquet", "sealed"]
When = "A date, an RFC 3339 time, or how long ago: 7d, 24h."


class ParquetMissing(TolseyError):
    """What writes Parquet is not installed."""

    code: ClassVar[str] = "parquet_missing"


@command(
    app,
    "export",
    examples=[
        "tolsey export --since 7d | gzip > week.jsonl.gz",
        "tolsey export --format parquet --since 2030-01-01 --until 2030-01-31 --output january.parquet",
        "tolsey export --format sealed --output ledger.sealed",
    ],
)
def export(
    file: ConfigFile = DEFAULT_CONFIG,
    format_: Annotated[Format, typer.Option("--format", help="What to write.")] = "jsonl",
    since: Annotated[str | None, typer.Option("--since", metavar="WHEN", help=f"From then on. {When}")] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Up to then; of a date, up to its end.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A new file; left out, standard output.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the journal out, with labels, chains and amounts in full.

    A gateway may run meanwhile: everything that was written when the export began is in it. Parquet needs the extra:
    pip install 'tolsey[parquet]'. `sealed` is what `tolsey audit verify` verifies: every entry with its seal, and the
    signed checkpoints.
    """
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_config
    from tolsey.cli.progress import progress
    from tolsey.store.export import export as read_lines
    from tolsey.store.sealed_export import export_sealed

    now = time.time_ns()
    begin = None if since is None else parse_moment(since, now)
    end = None if until is None else parse_moment(until, now, end_of_day=True)
    if format_ == "parquet":
        _check_parquet(output)
    if format_ == "sealed" and (since is not None or until is not None):
        raise UsageError("a sealed export is of the whole journal: leave --since and --until out")
    snapshot = snapshot_of(read_config(file))
    with snapshot:
        pass  # What is wrong with it is said before a file is made.
    quiet = output is None and on_terminal()
    with (
        nullcontext(lambda done, total: None) if quiet else progress("exporting") as tell,
        nullcontext(sys.stdout.buffer) if output is None else new_file(output) as out,
    ):
        if format_ == "sealed":
            written = _write_sealed(out, export_sealed(snapshot, tell))
        else:
            lines = read_lines(snapshot, since=begin, until=end, progress=tell)
            written = _write_parquet(out, lines) if format_ == "parquet" else _write_lines(out, lines)
    if output is not None:
        data = {"file": os.fspath(output), "format": format_, "entries": written}
        emit(json, data, lambda: print(f"wrote {written} entries to {output}"))


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that must not exist yet, for its owner alone: what is in a ledger is not for everybody. It is on disk at
    the end of the block, and gone where that fails.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write_lines(out: BinaryIO, lines: "Iterator[tuple[EntryRow, Line]]") -> int:
    from tolsey.store.export import encode

    written = 0
    for _, line in lines:
        out.write(encode(line))
        written += 1
    return written


def _write_sealed(out: BinaryIO, lines: Iterator[bytes]) -> int:
    """Write a sealed export; return how many entries are in it."""
    written = 0
    for line in lines:
        out.write(line + b"\n")
        written += line.startswith(b'{"entry":')
    return written


def _check_parquet(output: Path | None) -> None:
    try:
        import pyarrow.parquet  # noqa: F401 - only whether it is there
    except ImportError:
        raise ParquetMissing("Parquet needs pyarrow: pip install 'tolsey[parquet]'") from None
    if output is None:
        raise UsageError("a Parquet file is not for standard output: give --output FILE")


def _write_parquet(out: BinaryIO, lines: "Iterator[tuple[EntryRow, Line]]") -> int:
    import pyarrow as pa
    from pyarrow import parquet

    from tolsey.store.export import PIECE

    instant = pa.timestamp("ns", tz="UTC")
    word = pa.dictionary(pa.int32(), pa.string())
    types = {
        "n": pa.int64(),
        "at": instant,
        "kind": word,
        "hold": pa.string(),
        "amount": pa.decimal128(19, 9),
        "unit": word,
        "account": pa.string(),
        "counter": pa.string(),
        "chain": pa.list_(pa.string()),
        "labels": pa.list_(pa.string()),
        "until": instant,
        "owner": pa.int64(),
        "config": word,
        "note": pa.string(),
    }
    written = 0
    with parquet.ParquetWriter(out, pa.schema(types), compression="zstd") as writer:
        while piece := list(itertools.islice(lines, PIECE)):
            columns = {name: [getattr(line, name) for _, line in piece] for name in types}
            columns["at"] = [entry.at for entry, _ in piece]
            columns["until"] = [entry.until for entry, _ in piece]
            columns["amount"] = [Decimal(entry.amount).scaleb(-9) for entry, _ in piece]
            arrays = [pa.array(values, type=types[name]) for name, values in columns.items()]
            writer.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(types)))
            written += len(piece)
    return written
