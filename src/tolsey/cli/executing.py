"""`tolsey exec`: another program with a narrower token.

This process becomes that program, so that signals, the terminal and the exit status are its own. Nothing here may
import the config, the keyring, the ledger or the gateway.
"""

import os
import signal
from typing import Annotated, Final

import typer

from tolsey import Delegation
from tolsey.cli.options import Budget, Caveats, Expires, Json, Label, Scopes, one_scope
from tolsey.cli.output import UsageError, report
from tolsey.cli.program import command, new_app

CANNOT_RUN: Final = 126
NOT_FOUND: Final = 127
"""The exit statuses of a program that could not be started, as the shell and env(1) have them."""

app = new_app()


@command(
    app,
    "exec",
    examples=[
        'tolsey exec --label job --budget "5 USD" -- python agent.py',
        'tolsey exec --label reader --scope "/api/v1/*" --caveat "method = GET" -- sh -c \'curl …\'',
    ],
    options_first=True,
)
def execute(
    label: Label,
    words: Annotated[
        list[str], typer.Argument(metavar="CMD", show_default=False, help="The program and its arguments.")
    ],
    budget: Budget = None,
    scope: Scopes = None,
    expires: Expires = None,
    caveat: Caveats = None,
    json: Json = False,
) -> None:
    """Run a program with a narrower token.

    The token comes from TOLSEY_TOKEN, and the program finds the narrower one there: neither is ever an argument, and
    the program does not get the wider one. It takes this process's place, so that signals and the exit status are the
    program's own; 126 and 127 mean that it could not be run or found.
    """
    if not words[0]:
        raise UsageError("the program's name is empty")
    child = Delegation.from_environment().delegate(
        label, budget=budget, scope=one_scope(scope), expires=expires, caveats=caveat or ()
    )
    # Python ignores these two, and what is ignored stays so in the program.
    for name in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(name, signal.SIG_DFL)
    try:
        os.execvpe(words[0], words, child.environment())  # noqa: S606 - to run it is what was asked for
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        error = OSError(error.errno, error.strerror, words[0])
        report(error, [*(["--json"] if json else []), "--", *words])
        raise typer.Exit(NOT_FOUND if missing else CANNOT_RUN) from None
