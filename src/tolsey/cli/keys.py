"""`tolsey keys`: the root keys that tokens are made with. Secrets are never shown.

A change is an entry with who and why. It is made all the same where the ledger cannot be written: a key that got out
must be ended even then.
"""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Why
from tolsey.cli.output import emit, say, table, warn
from tolsey.cli.program import command, new_app, show_help
from tolsey.errors import LedgerMissing, TolseyError
from tolsey.store.minting import KIND_NAMES
from tolsey.token.chain import ADMIN

if TYPE_CHECKING:
    from tolsey.config import Config
    from tolsey.store.keyring import Keyring

app = new_app("List, rotate and drop the root keys.")

Kind = Literal["capability", "admin", "paid", "approval"]


@app.callback(
    invoke_without_command=True,
    epilog="\b\nExamples:\n  tolsey keys list\n  tolsey keys rotate\n  tolsey keys drop 1f2e3d4c",
)
def keys(ctx: typer.Context) -> None:
    """List, rotate and drop the root keys.

    New tokens are made with the current key of their kind; the older keys still verify until they are dropped. A
    running gateway follows within a second.
    """
    show_help(ctx)


@command(app, "list", examples=["tolsey keys list", "tolsey keys list -c /etc/tolsey/tolsey.toml --json"])
def list_(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """List the keys by kind, oldest first."""
    from tolsey.cli.place import read_keyring

    _, keyring = read_keyring(file)
    found = [
        {"id": key_id, "kind": name, "current": key_id == keyring.key_ids(kind)[-1]}
        for kind, name in KIND_NAMES.items()
        for key_id in keyring.key_ids(kind)
    ]

    def human() -> None:
        rows = [(str(k["id"]), str(k["kind"]), "current" if k["current"] else "verifies until dropped") for k in found]
        table(("key", "kind", "use"), rows)

    emit(json, {"keys": found}, human)


@command(app, "rotate", examples=["tolsey keys rotate", "tolsey keys rotate --kind admin --json"])
def rotate(
    file: ConfigFile = DEFAULT_CONFIG,
    kind: Annotated[Kind, typer.Option("--kind", help="Which kind of key.")] = "capability",
    reason: Why = "",
    json: Json = False,
) -> None:
    """Add a key, with which new tokens are made from now on. Tokens made with the older ones still verify.

    For the admin kind, prints a new admin token, once.
    """
    from tolsey.cli.place import admin_token, read_keyring

    config, keyring = read_keyring(file)
    of_kind = next(of for of, name in KIND_NAMES.items() if name == kind)
    before = next(reversed(keyring.key_ids(of_kind)), None)
    new = keyring.rotate(of_kind)
    noted = note_change(config, keyring, f"{kind} key {new} added", reason)
    data = {"id": new, "kind": kind, "before": before, "noted": noted}
    if of_kind == ADMIN:
        data["admin_token"] = admin_token(keyring)

    def human() -> None:
        if of_kind == ADMIN:
            say(f"the current admin key is {new}; this is a new admin token, shown once:")
            print(data["admin_token"])
        else:
            print(f"the current {kind} key is {new}")
        if before is not None:
            say(f"tokens made with {before} still verify; `tolsey keys drop {before}` ends them")

    emit(json, data, human)


@command(app, "drop", examples=["tolsey keys drop 1f2e3d4c", "tolsey keys drop 1f2e3d4c --json"])
def drop(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as in `tolsey keys list`.")],
    file: ConfigFile = DEFAULT_CONFIG,
    reason: Why = "",
    json: Json = False,
) -> None:
    """Remove an old key for good: every token made with it, and all that was made from those, is refused from then on.

    The current key of a kind cannot be dropped: rotate first.
    """
    from tolsey.cli.place import read_keyring

    config, keyring = read_keyring(file)
    kind = next((name for of, name in KIND_NAMES.items() if key_id in keyring.key_ids(of)), "")
    keyring.check_drop(key_id)
    # First: a key that is gone without a word would be worse than a word too many.
    noted = note_change(config, keyring, f"{kind or 'seal'} key {key_id} dropped", reason)
    keyring.drop(key_id)

    def human() -> None:
        if not kind:
            print(f"dropped {key_id}: it signs nothing any more; what it has signed verifies with its public key")
            return
        what = "admin token" if kind == "admin" else "token, and every token attenuated from one,"
        print(f"dropped {key_id}: every {what} whose identifier names this key is refused from now on")

    emit(json, {"id": key_id, "kind": kind, "dropped": True, "noted": noted}, human)


def note_change(config: "Config", keyring: "Keyring", what: str, reason: str) -> bool:
    """Write a change of the keys down; whether that could be done. Where there is a ledger and it could not, a warning
    says why.
    """
    from tolsey.cli.ledgers import user, writing
    from tolsey.ledger.events import Kind as EntryKind
    from tolsey.store.by_hand import noted

    note = noted(what, user(), reason.strip())
    try:
        writing(config, keyring, lambda ledger: ledger.note(EntryKind.KEYS, note))
    except LedgerMissing:
        # Nothing was ever written there.
        return False
    except TolseyError as error:
        warn(f"no entry says so, as the ledger cannot be written: {error}")
        return False
    return True
