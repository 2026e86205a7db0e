"""What the command line shows: results on standard output, everything else on standard error.

With `--json` a result is one JSON document on standard output, and an error one on standard error: the members of the
gateway's problem documents that apply. Without it, tables and colours appear on a terminal only; a pipe gets plain
text.

Texts that came out of a token may be anybody's: `printable` keeps them from steering a terminal, and `redact` keeps
what was typed as a token out of error messages.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import ClassVar, Final, TextIO

import typer

from tolsey.errors import STATUSES, ConfigError, Refusal, TolseyError

REFUSED: Final = 1
USAGE: Final = 2
BROKEN_PIPE: Final = 141
"""The exit status of a program whose reader went away, as the shell writes it for SIGPIPE."""

TITLES: Final[Mapping[str, str]] = {
    "account_unknown": "No such account",
    "amount_invalid": "The amount cannot be read",
    "caveat_invalid": "The caveat cannot be read",
    "caveat_wider": "The caveat is wider than its parent",
    "challenge_refused": "The challenge is not paid",
    "config_invalid": "The config cannot be used",
    "directory_refused": "The directory cannot be used",
    "doctor_errors": "The gateway is not fit to serve",
    "fetch_failed": "The call failed",
    "file_unusable": "A file cannot be used",
    "grant_refused": "This cannot be granted",
    "question_unknown": "No such question is open",
    "alert_unknown": "No such alert was given up",
    "alerts_off": "Alerts go nowhere",
    "hold_refused": "This cannot be done with the hold",
    "hold_unknown": "No such hold",
    "httpx_missing": "HTTP cannot be spoken here",
    "keyring_invalid": "The keyring cannot be used",
    "ledger_differs": "The ledger does not add up",
    "ledger_refused": "This ledger must not be used",
    "link_unknown": "No such Link",
    "parquet_missing": "Parquet cannot be written here",
    "pattern_invalid": "The pattern cannot be read",
    "payment_failed": "The payment failed",
    "payment_unknown": "The payment is not certain",
    "proof_refused": "It cannot be proved",
    "purses_invalid": "The purses cannot be used",
    "revocation_unknown": "Nothing is revoked under this prefix id",
    "seal_broken": "The seal is broken",
    "seal_refused": "No checkpoint can be taken",
    "server_failed": "The MCP server failed",
    "time_invalid": "The time cannot be read",
    "url_invalid": "The URL cannot be used",
    "usage": "The command line is not valid",
}
"""Titles of the codes that only the command line has."""

_TOKEN = re.compile(r"(?:tolsey_|Ag[EIJ]|MDA)[A-Za-z0-9_+/=,:-]{16,}|[A-Za-z0-9_+=,:-]{40,}", re.ASCII)
"""What may be a token: by its first bytes, or a long word that is no path."""


class UsageError(typer.TyperException):
    """The command line cannot be understood: exit status 2."""

    exit_code = USAGE


class CallRefused(TolseyError):
    """A call that a token does not allow, or cannot pay."""

    code: ClassVar[str] = "caveat_refused"

    def __init__(self, refusal: Refusal) -> None:
        where = [f"Link {refusal.link}"] if refusal.link else []
        where += [f"caveat '{refusal.caveat}'"] if refusal.caveat else []
        place = f" ({', '.join(where)})" if where else ""
        super().__init__(f"refused, {refusal.code}: {refusal.detail}{place}")
        self.refusal = refusal


def emit(json_mode: bool, data: object, human: Callable[[], None]) -> None:
    """Show a result: `data` as one line of JSON, or whatever `human` prints."""
    if json_mode:
        print(json.dumps(data))
    else:
        human()


def print_list(name: str, rows: Iterable[object]) -> None:
    """Print `{name: [rows]}` as one line of JSON, row by row: there may be more than memory would hold."""
    print("{" + json.dumps(name) + ": [", end="")
    for n, row in enumerate(rows):
        print(", " * (n > 0) + json.dumps(row), end="")
    print("]}")


def say(text: str) -> None:
    """Print a line beside the result, on standard error."""
    _aside(printable(text))


def warn(text: str) -> None:
    """Print a warning on standard error."""
    _aside(f"{_coloured('warning:', '33', sys.stderr)} {printable(text)}")


def fault(text: str) -> None:
    """Print an error on standard error."""
    _aside(f"{_coloured('error:', '31', sys.stderr)} {printable(text)}")


def _aside(line: str) -> None:
    # What was printed before comes before, also where both streams end in one file.
    sys.stdout.flush()
    print(line, file=sys.stderr)


def report(error: Exception, words: Sequence[str]) -> int:
    """Show an error; `words` is the command line. Returns the exit status."""
    status, document, text = _problem(error)
    document["detail"] = redact(str(document["detail"]), words)
    # What follows `--` is another program's.
    if "--json" in takewhile(lambda word: word != "--", words):
        _aside(json.dumps(document))
    else:
        fault(redact(text, words))
        command = getattr(getattr(error, "ctx", None), "command_path", None)
        if command:
            _aside(f"See: {command} --help")
    return status


def problem(error: TolseyError) -> dict[str, object]:
    """The problem document of an error."""
    if isinstance(error, CallRefused):
        from tolsey.gateway.problems import members

        return members(error.refusal)
    document = _document(error.code, error.detail)
    if isinstance(error, ConfigError):
        document |= {"detail": error.reason, "file": error.file, "line": error.line, "key": error.key}
    return document


def _problem(error: Exception) -> tuple[int, dict[str, object], str]:
    if isinstance(error, TolseyError):
        return REFUSED, problem(error), error.detail
    if isinstance(error, typer.TyperException):
        text = error.format_message()
        return USAGE, _document("usage", text), text
    if isinstance(error, UnicodeEncodeError):
        text = "an argument is not UTF-8"
        return USAGE, _document("usage", text), text
    if isinstance(error, OSError):
        text = error.strerror or type(error).__name__
        text = f"{os.fsdecode(error.filename)}: {text}" if isinstance(error.filename, str | bytes) else text
        return REFUSED, _document("file_unusable", text), text
    raise error


def _document(code: str, detail: str) -> dict[str, object]:
    title = STATUSES[code][1] if code in STATUSES else TITLES.get(code, "It did not work")
    return {"type": f"urn:tolsey:problem:{code}", "title": title, "detail": detail, "code": code}


def redact(text: str, words: Sequence[str]) -> str:
    """`text` without the words of the command line that look like a token."""
    for word in words:
        value = word.partition("=")[2] if word.startswith("--") else word
        for secret in (word, value):
            if _TOKEN.fullmatch(secret):
                text = text.replace(secret, f"{secret[:8]}…")
    return text


def printable(text: str) -> str:
    """`text` with every character that could steer a terminal or turn the line around written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def on_terminal(stream: TextIO | None = None) -> bool:
    """Whether a stream (standard output) is a terminal."""
    stream = sys.stdout if stream is None else stream
    return stream.isatty()


def _coloured(text: str, colour: str, stream: TextIO) -> str:
    plain = not on_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{colour}m{text}\x1b[0m"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table: framed on a terminal, else columns of plain text. The columns named in `right` end together."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if on_terminal():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        framed = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for head in heads:
            framed.add_column(head, justify="right" if head in right else "left", overflow="fold")
        for row in cells:
            framed.add_row(*map(Text, row))
        Console().print(framed)
        return
    lines = [list(heads), *cells]
    widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
    for line in lines:
        padded = [
            cell.rjust(width) if head in right else cell.ljust(width)
            for head, cell, width in zip(heads, line, widths, strict=True)
        ]
        print("  ".join(padded).rstrip())
