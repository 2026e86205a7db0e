"""`tolsey alerts`: what was told, what could not be told, and a test."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import emit, printable, say, table
from tolsey.cli.program import command, new_app, show_help
from tolsey.errors import TolseyError
from tolsey.token.caveats import format_time

if TYPE_CHECKING:
    from tolsey.store.contract import AlertRow, Ledger

app = new_app("List alerts, send those again that were given up, send a test.")


class AlertUnknown(TolseyError):
    """No alert of this id was given up."""

    code: ClassVar[str] = "alert_unknown"


class AlertsOff(TolseyError):
    """The config says nowhere that alerts could go."""

    code: ClassVar[str] = "alerts_off"


@app.callback(
    invoke_without_command=True,
    epilog="\b\nExamples:\n  tolsey alerts list\n  tolsey alerts list --dead --json\n  tolsey alerts test",
)
def alerts(ctx: typer.Context) -> None:
    """List alerts, send those again that were given up, send a test."""
    show_help(ctx)


@command(app, "list", examples=["tolsey alerts list", "tolsey alerts list --dead --json"])
def list_(
    dead: Annotated[bool, typer.Option("--dead", help="Only those that were given up.")] = False,
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """List the alerts that are kept, newest first: sent, waiting to be sent, or given up (dead)."""
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_config

    with snapshot_of(read_config(file)) as snapshot:
        rows = [row for row in snapshot.alerts() if not dead or row.state == "dead"]
    emit(json, {"alerts": [_document(row) for row in rows]}, lambda: _show(rows))


@command(app, "retry", examples=["tolsey alerts retry account.threshold:3fd873c6f5a0b7705dbe21ac6dff08fb:USD:80"])
def retry(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The alert's, as in `tolsey alerts list --dead`.")],
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Send an alert again that was given up."""
    from tolsey.cli.ledgers import writing
    from tolsey.cli.place import read_keyring
    from tolsey.store.alerts import try_again

    config, keyring = read_keyring(file)

    async def write(ledger: "Ledger") -> bool:
        return await try_again(ledger, id_)

    if not writing(config, keyring, write):
        raise AlertUnknown(f"no alert called {id_} was given up; `tolsey alerts list --dead` lists those that were")
    emit(json, {"id": id_}, lambda: print(f"{id_} is sent again"))


@command(app, "test", examples=["tolsey alerts test"])
def send_one(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Have the running gateway send an alert that says nothing."""
    from tolsey.cli.alarm import send_test
    from tolsey.cli.ledgers import user, writing
    from tolsey.cli.place import read_keyring

    config, keyring = read_keyring(file)
    if config.alerts is None:
        raise AlertsOff("the config has no [alerts] with the URL that they are sent to")

    async def write(ledger: "Ledger") -> str:
        return await send_test(ledger, user())

    id_ = writing(config, keyring, write)
    emit(json, {"id": id_}, lambda: print(f"the gateway sends {id_}; `tolsey alerts list` says whether it arrived"))


def _document(row: "AlertRow") -> dict[str, object]:
    import msgspec

    return {
        "id": row.id,
        "at": format_time(row.at),
        "type": row.kind,
        "state": row.state,
        "tries": row.tries,
        "fault": row.fault,
        "data": msgspec.json.decode(row.body),
    }


def _show(rows: "Sequence[AlertRow]") -> None:
    if not rows:
        say("no alerts")
        return
    cells = [(format_time(row.at), row.state, str(row.tries), row.id, printable(row.fault) or "-") for row in rows]
    table(("at", "state", "tries", "id", "what went wrong"), cells, right=("tries",))
