"""`tolsey approver`, `approvals`, `approve` and `deny`: what is asked of people, and what they say to it."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Reason
from tolsey.cli.output import emit, printable, say, table
from tolsey.cli.program import command, new_app
from tolsey.ledger.approving import Asked, document
from tolsey.token.caveats import format_time
from tolsey.units import Amount

if TYPE_CHECKING:
    from tolsey.store.contract import Ledger

app = new_app()

Id = Annotated[str, typer.Argument(metavar="ID", help="The question's, as in `tolsey approvals`.")]


@command(
    app,
    "approver",
    examples=["tolsey approver https://gateway.example:8402", "export TOLSEY_APPROVER=$(tolsey approver)"],
)
def approver(
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="Where agents reach this gateway's data port.")
    ] = None,
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Print the address and public key that approvals ask.

    It is what `tolsey attenuate --approver` takes, and no secret. The key is made when it is first asked for; where
    several gateways have copies of one keyring, do that before it is copied.
    """
    from tolsey.cli.place import read_keyring
    from tolsey.token.approvals import APPROVAL, Approver, parse_approver, public_key
    from tolsey.token.macaroon import derive_key

    config, keyring = read_keyring(file)
    keyring.with_key(APPROVAL)
    key_id, secret = keyring.current(APPROVAL)
    where = url or f"http://{config.server.host}:{config.server.port}"
    found = parse_approver(str(Approver(where.rstrip("/"), key_id, public_key(derive_key(secret)))))
    emit(json, {"approver": str(found), "url": found.url, "key_id": key_id}, lambda: print(found))


@command(app, "approvals", examples=["tolsey approvals", "tolsey approvals --all --json"])
def approvals(
    every: Annotated[bool, typer.Option("--all", help="Also those that were answered, or are over.")] = False,
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Show the calls that somebody is asked about, oldest first.

    What an agent says of the purpose is its own word; the labels are those of its verified token.
    """
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_config

    with snapshot_of(read_config(file)) as snapshot:
        now = max(snapshot.now(), time.time_ns())
        found = [asked for asked in snapshot.questions() if every or asked.is_open(now)]
    emit(json, {"approvals": [document(asked, now) for asked in found]}, lambda: _show(found, now))


@command(app, "approve", examples=['tolsey approve 5f0c9d2e7a1b4c3d8e6f7a9b --reason "the yearly report"'])
def approve(id_: Id, reason: Reason, file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Say yes to one call. The agent has five minutes to make it, once. Who said it, and why, becomes an entry."""
    _answer(id_, reason, file, json, granted=True)


@command(app, "deny", examples=['tolsey deny 5f0c9d2e7a1b4c3d8e6f7a9b --reason "too dear"'])
def deny(id_: Id, reason: Reason, file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Say no to one call. Who said it, and why, becomes an entry."""
    _answer(id_, reason, file, json, granted=False)


def _answer(id_: str, reason: str, file: ConfigFile, json: bool, *, granted: bool) -> None:
    from tolsey.cli.ledgers import user, writing
    from tolsey.cli.place import read_keyring
    from tolsey.store import by_hand

    config, keyring = read_keyring(file)
    said = "approved" if granted else "denied"

    async def write(ledger: "Ledger") -> Asked:
        return await by_hand.answer(ledger, id_.lower(), granted=granted, who=user(), reason=reason)

    asked = writing(config, keyring, write)
    data = {"id": asked.question.id, "granted": granted, "by": user(), "reason": reason}
    emit(json, data, lambda: print(f"{said} {_call(asked)} at up to {_price(asked)}"))


def _price(asked: Asked) -> str:
    return str(Amount(asked.question.nano, asked.question.unit))


def _call(asked: Asked) -> str:
    question = asked.question
    return printable(f"{question.method} {question.path}" + (f"?{question.query}" if question.query else ""))


def _show(found: Sequence[Asked], now: int) -> None:
    if not found:
        say("nothing is asked")
        return
    rows = [
        (
            asked.question.id,
            str(document(asked, now)["state"]),
            format_time(asked.question.at),
            printable(asked.question.labels),
            _call(asked),
            _price(asked),
            printable(asked.question.purpose) or "-",
        )
        for asked in found
    ]
    table(("id", "state", "asked at", "who", "call", "up to", "purpose"), rows, right=("up to",))
