"""Options that several commands have, and how a token is read."""

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from tolsey.cli.output import UsageError, say
from tolsey.errors import TokenMalformed

MAX_INPUT: Final = 64 * 1024
"""How much is read from standard input, in bytes. A token has at most 8 KiB."""

DEFAULT_CONFIG: Final = Path("tolsey.toml")

Json = Annotated[bool, typer.Option("--json", help="Print JSON; an error is JSON on standard error.")]

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", envvar="TOLSEY_CONFIG", help="The config file.")
]

Token = Annotated[
    str | None,
    typer.Argument(
        metavar="TOKEN|-",
        envvar="TOLSEY_TOKEN",
        show_default=False,
        help="The token. '-' reads it from standard input, which other users of the machine cannot see; left out, it"
        " comes from TOLSEY_TOKEN.",
    ),
]

Label = Annotated[str, typer.Option("--label", metavar="NAME", help="The name of the new Link.")]
Budget = Annotated[str | None, typer.Option("--budget", metavar="AMOUNT", help='The most that it may spend: "50 USD".')]
Scopes = Annotated[
    list[str] | None,
    typer.Option(
        "--scope",
        metavar="PATTERN",
        help='The paths that it may call: "/api/v1/*", "/search?source=arxiv". Repeat it for alternatives.',
    ),
]
Expires = Annotated[
    str | None, typer.Option("--expires", metavar="TIME", help="A date (its end, UTC) or an RFC 3339 time.")
]
Caveats = Annotated[
    list[str] | None,
    typer.Option("--caveat", metavar="CAVEAT", help='Any other caveat: "method = GET". May be repeated; all hold.'),
]


MAX_REASON: Final = 500
"""The longest reason, in characters, as over the admin API."""


def _said(reason: str) -> str:
    if not reason.strip():
        raise UsageError("--reason is empty")
    return line_of(reason)


def line_of(reason: str) -> str:
    """A reason as it is written into the ledger: one line, and not too long. Raises `UsageError`."""
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise UsageError(f"--reason is one line of at most {MAX_REASON} characters")
    return reason.strip()


Why = Annotated[
    str,
    typer.Option("--reason", metavar="REASON", callback=line_of, help="Why; it is written into the ledger."),
]


Reason = Annotated[
    str, typer.Option("--reason", metavar="REASON", callback=_said, help="Why; it is written into the ledger.")
]


def read_token(token: str | None) -> str:
    """The text of a token: `token` itself, or standard input for `-`; white space around it is stripped.

    Raises `UsageError` where there is none and `TokenMalformed` where the input cannot be one.
    """
    if token is None:
        raise UsageError("a token is missing: give it as an argument, as '-' on standard input, or in TOLSEY_TOKEN")
    if token == "-":  # noqa: S105 - the sign for standard input
        if sys.stdin.isatty():
            say("reading a token from the terminal; end it with Enter and Ctrl-D")
        data = sys.stdin.buffer.read(MAX_INPUT + 1)
        if len(data) > MAX_INPUT:
            raise TokenMalformed(f"standard input holds more than {MAX_INPUT} bytes, which is no token")
        try:
            token = data.decode("ascii")
        except UnicodeDecodeError:
            raise TokenMalformed("what is on standard input is not base64") from None
        if not token.strip():
            raise TokenMalformed("standard input is empty")
    return token.strip()


def one_scope(scopes: list[str] | None) -> str | None:
    """The scopes that were given, as the alternatives of one caveat."""
    return " ".join(scopes) if scopes else None
