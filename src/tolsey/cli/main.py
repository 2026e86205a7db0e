"""`tolsey`: the list of commands and the entry point.

To add a command: declare it in a module of this package with `program.command`, and add its name here.
"""

import io
import os
import sys
from typing import Annotated, Final

import typer

from tolsey.cli.program import LazyCommands, Program, show_help

COMMANDS: Final = {
    "init": "tolsey.cli.setup",
    "check": "tolsey.cli.setup",
    "doctor": "tolsey.cli.doctoring",
    "serve": "tolsey.cli.running",
    "mint": "tolsey.cli.minting",
    "attenuate": "tolsey.cli.tokens",
    "inspect": "tolsey.cli.tokens",
    "exec": "tolsey.cli.executing",
    "mcp": "tolsey.cli.wrapping",
    "verify": "tolsey.cli.verifying",
    "price": "tolsey.cli.pricing",
    "trail": "tolsey.cli.trailing",
    "report": "tolsey.cli.reporting",
    "fsck": "tolsey.cli.books",
    "holds": "tolsey.cli.holds",
    "void": "tolsey.cli.holds",
    "refund": "tolsey.cli.holds",
    "grant": "tolsey.cli.grants",
    "revoke": "tolsey.cli.revoking",
    "revoked": "tolsey.cli.revoking",
    "unrevoke": "tolsey.cli.revoking",
    "export": "tolsey.cli.exporting",
    "audit": "tolsey.cli.auditing",
    "receipt": "tolsey.cli.receipts",
    "backup": "tolsey.cli.copying",
    "migrate": "tolsey.cli.copying",
    "compact": "tolsey.cli.compacting",
    "keys": "tolsey.cli.keys",
    "alerts": "tolsey.cli.alerting",
    "approver": "tolsey.cli.approving",
    "approvals": "tolsey.cli.approving",
    "approve": "tolsey.cli.approving",
    "deny": "tolsey.cli.approving",
    "fetch": "tolsey.cli.fetching",
    "payments": "tolsey.cli.payments",
    "demo": "tolsey.cli.running",
}
"""The module of each command, in the order of the help."""


class Tolsey(Program):
    """The program with its commands."""

    def __init__(self, **attrs: object) -> None:
        super().__init__(**attrs)  # type: ignore[arg-type]  # Typer passes what it knows
        self.commands = LazyCommands(COMMANDS)  # type: ignore[assignment]  # a mapping of commands, not yet imported


app = typer.Typer(
    cls=Tolsey,
    help="A capability and budget gateway for AI agents.",
    epilog="\b\nExamples:\n  tolsey init gateway && cd gateway\n  tolsey mint --help",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tolsey {version('tolsey')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A capability and budget gateway for AI agents."""
    show_help(ctx)


def main() -> None:
    """The entry point of the console script."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # A stream that was closed: without this, the next file to be opened, such as the ledger, takes its number.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
