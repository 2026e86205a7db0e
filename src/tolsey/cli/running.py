"""`tolsey serve` and `tolsey demo`: how they are called. What they do is in `serve.py` and `demo.py`."""

from typing import Annotated

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import emit
from tolsey.cli.program import command, new_app

app = new_app()


@command(app, "serve", examples=["tolsey serve", "tolsey serve -c /etc/tolsey/tolsey.toml --workers 4"])
def serve(
    file: ConfigFile = DEFAULT_CONFIG,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="The data port, not the file's.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=256, help="How many worker processes, not the file's number.")
    ] = None,
    accept_lost_spend: Annotated[
        str | None,
        typer.Option(
            "--accept-lost-spend",
            metavar="REASON",
            help="Serve with a ledger that is empty, other or older than the one these keys were used with. What was"
            " spent since is forgotten, and the reason is written into the ledger.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run the gateway until it is told to stop. SIGTERM lets the calls under way finish.

    Each served call is a line of JSON on standard output. What the gateway itself does is said on standard error: JSON,
    but on a terminal plain text. A change of the config file, or SIGHUP, reloads
    the routes; a wrong one leaves the old ones in use.
    """
    from tolsey.cli.place import find_config
    from tolsey.cli.serve import serve as run

    status = run(find_config(file), port=port, workers=workers, accept_lost_spend=accept_lost_spend)
    if status:
        raise typer.Exit(status)


@command(app, "demo", examples=["tolsey demo", "tolsey demo --json"])
def demo(json: Json = False) -> None:
    """Tell the whole story in under 20 s, with nothing configured.

    A small priced upstream and a gateway are started in a directory of their own, tokens are minted, narrowed, used,
    refused and spent, and the delegation tree is shown. Everything is taken away at the end.
    """
    from rich.console import Console

    from tolsey.cli.demo import run

    happened = run(Console(quiet=json, soft_wrap=True))
    emit(json, happened, lambda: None)
