"""`tolsey init` and `tolsey check`: a new gateway, and what is wrong with one."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import emit, fault, printable, problem, say, warn
from tolsey.cli.program import command, new_app
from tolsey.errors import TolseyError

if TYPE_CHECKING:
    from tolsey.store.keyring import Keyring

app = new_app()

CONFIG_NAME: Final = "tolsey.toml"


class DirectoryRefused(TolseyError):
    """A directory in which no gateway can be made."""

    code: ClassVar[str] = "directory_refused"


@command(app, "init", examples=["tolsey init gateway", "tolsey init gateway --json"])
def init(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="A new or an empty directory.", show_default=True)
    ] = Path(),
    json: Json = False,
) -> None:
    """Make a new gateway: its config, its keys, its data directory.

    Writes tolsey.toml, and data/keys, which only you can read. Prints the admin token, once. Never asks anything.
    Refuses a directory that has something in it.
    """
    from tolsey.cli.place import admin_token

    directory = _new_directory(directory)
    keys = make_gateway(directory)
    token = admin_token(keys)
    config = directory / CONFIG_NAME
    made = {
        "directory": os.fspath(directory),
        "config": os.fspath(config),
        "keys": os.fspath(keys.path),
        "admin_token": token,
    }

    def human() -> None:
        say(f"made {config} and {keys.path}, which only you can read")
        say("This is the admin token. It is shown once:")
        print(token)
        say("Next:")
        say(f"  describe your API in {config}: an [[upstream]], and a [[route]] with its price")
        where = "" if directory == Path.cwd() else f"cd {directory} && "
        say(f"  {where}tolsey check && tolsey serve")
        say('  tolsey mint --label my-team --budget "100 USD" --scope "/api/*" --expires 2030-12-31')

    emit(json, made, human)


def _new_directory(directory: Path) -> Path:
    directory = Path(os.path.abspath(directory))
    directory.mkdir(parents=True, exist_ok=True)
    names = os.listdir(directory)
    if CONFIG_NAME in names:
        raise DirectoryRefused(f"there is a {CONFIG_NAME} in {directory} already; nothing was changed")
    if names:
        raise DirectoryRefused(f"{directory} is not empty; name a new or an empty directory")
    return directory


def make_gateway(directory: Path) -> "Keyring":
    """Write the files of a new gateway; what was begun is taken back if a step fails."""
    from tolsey.cli.template import TEMPLATE
    from tolsey.store.keyring import Keyring

    data = directory / "data"
    with ExitStack() as undo:
        data.mkdir(mode=0o700)
        undo.callback(data.rmdir)
        undo.callback((data / "keys.lock").unlink, missing_ok=True)
        keyring = Keyring.create(data / "keys")
        undo.callback(keyring.path.unlink)
        with open(directory / CONFIG_NAME, "x", encoding="utf-8") as file:
            undo.callback((directory / CONFIG_NAME).unlink)
            file.write(TEMPLATE)
        undo.pop_all()
    return keyring


@command(app, "check", examples=["tolsey check", "tolsey check -c /etc/tolsey/tolsey.toml --json"])
def check(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Say what is wrong with a gateway, and where.

    Goes through the config, with the line and the key of each error, then the keyring and the ledger. Changes nothing.
    Exit status 1 if there is an error; warnings and notes are none.
    """
    from tolsey.cli.examining import faults, sqlite_notes
    from tolsey.cli.place import find_config
    from tolsey.config import load, problems

    errors: list[TolseyError] = []
    warnings: list[str] = []
    notes: list[str] = []
    found = problems(find_config(file), os.environ)
    errors += found
    if not found:
        config = load(file, os.environ)
        warnings += config.warnings
        errors += faults(config, warnings)
        notes += [] if config.ledger.postgresql else sqlite_notes()
    data = {"config": os.fspath(file), "errors": [problem(e) for e in errors], "warnings": warnings, "notes": notes}

    def human() -> None:
        for error in errors:
            fault(error.detail)
        for warning in warnings:
            warn(warning)
        for note in notes:
            say(f"note: {note}")
        if not errors:
            print(printable(f"{file}: no errors"))

    emit(json, data, human)
    if errors and json:
        raise errors[0]
    if errors:
        raise typer.Exit(1)
