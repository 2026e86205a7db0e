"""`tolsey revoke`, `revoked` and `unrevoke`: end a token, and all that were made from it, before it expires."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Reason, read_token
from tolsey.cli.output import UsageError, emit, printable, say, table
from tolsey.cli.program import command, new_app
from tolsey.ledger.revoking import Handle, Revised, Revocation, handle_of
from tolsey.token.caveats import format_time

if TYPE_CHECKING:
    from tolsey.store.contract import Ledger
    from tolsey.store.keyring import Keyring

app = new_app()

_PREFIX_ID = re.compile(r"[0-9a-f]{32}")


def _said(reason: str | None) -> str | None:
    if reason is not None and not reason.strip():
        raise UsageError("--reason is empty")
    return None if reason is None else reason.strip()


@command(
    app,
    "revoke",
    examples=[
        'tolsey revoke 3fd873c6f5a0b7705dbe21ac6dff08fb --reason "found in a log"',
        'tolsey revoke - --reason "found in a log" < token.txt',
        'tolsey revoke - --link 1 --reason "the whole team" < token.txt',
    ],
)
def revoke(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX_ID|TOKEN|-",
            show_default=False,
            help="A prefix id, or a token, whose last Link is revoked. '-' reads it from standard input, which other"
            " users of the machine cannot see.",
        ),
    ],
    link: Annotated[
        int | None,
        typer.Option(
            "--link", metavar="N", help="Of a token: revoke this Link instead, as `tolsey verify` numbers them."
        ),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option("--reason", metavar="REASON", callback=_said, help="Why; it is written into the ledger."),
    ] = None,
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Refuse a token, and all that was or will be made from it.

    Every gateway on the ledger refuses it within a second, with 403 `token_revoked`, and goes on to after a restart.
    Nothing that a holder appends leads around it. Of a token the opening of its last Link is revoked: whoever appended
    caveats without a label belongs to the Link before. What its calls cost stays as it is.
    """
    from tolsey.cli.ledgers import user, writing
    from tolsey.cli.place import read_keyring
    from tolsey.store import by_hand

    text = read_token(target)
    config, keyring = read_keyring(file)
    handle = _handle(text, link, keyring)

    async def write(ledger: "Ledger") -> Revised:
        return await by_hand.revoke(ledger, handle, who=user(), reason=reason or "")

    revised = writing(config, keyring, write)
    stands = revised.revocation
    if stands is None:
        raise AssertionError("what was revoked is revoked")
    whose = f"prefix id {stands.id}"
    if handle.number is not None:
        whose = f"Link {handle.number} ({handle.label or 'no label'}), {whose}"
    said = f"revoked {whose}: all tokens that were or will be made from it are refused"
    if not revised.changed:
        said = f"{whose} is revoked since {format_time(stands.since)}: {stands.note}"
    data = _row(stands) | {"link": handle.number, "label": handle.label, "changed": revised.changed}
    emit(json, data, lambda: print(printable(said)))


def _handle(text: str, link: int | None, keyring: "Keyring") -> Handle:
    from tolsey.token.macaroon import Macaroon

    if _PREFIX_ID.fullmatch(text.lower()):
        if link is not None:
            raise UsageError("--link chooses a Link of a token; a prefix id is what it is")
        return Handle(text.lower(), None, None, None)
    # What stands behind the colon is the preimage of a paid token.
    macaroon, *_ = Macaroon.deserialize_all(text.partition(":")[0])
    return handle_of(macaroon, keyring.derived, link)


@command(app, "revoked", examples=["tolsey revoked", "tolsey revoked --json"])
def revoked(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """List what is revoked, oldest first.

    For each prefix id: since when, until when it matters, and who revoked it and why. One whose tokens have all expired
    is not shown any more, and is dropped a day later.
    """
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_config
    from tolsey.store.revocations import standing

    found = standing(snapshot_of(read_config(file)))
    emit(json, {"revocations": [_row(each) for each in found]}, lambda: _show(found))


def _show(found: Sequence[Revocation]) -> None:
    if not found:
        say("nothing is revoked")
        return
    cells = [(each.id, format_time(each.since), _until(each) or "for ever", each.note) for each in found]
    table(("prefix id", "since", "until", "by whom, and why"), cells)


def _until(revocation: Revocation) -> str | None:
    return None if revocation.expires is None else format_time(revocation.expires)


def _row(revocation: Revocation) -> dict[str, object]:
    return {
        "prefix_id": revocation.id,
        "since": format_time(revocation.since),
        "until": _until(revocation),
        "note": revocation.note,
        "entry": revocation.entry,
    }


@command(
    app,
    "unrevoke",
    examples=['tolsey unrevoke 3fd873c6f5a0b7705dbe21ac6dff08fb --reason "it was the wrong one"'],
)
def unrevoke(
    prefix_id: Annotated[str, typer.Argument(metavar="PREFIX_ID", help="As in `tolsey revoked`.")],
    reason: Reason,
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Take a revocation back.

    Tokens with this prefix are good again within a second, unless another prefix of theirs is revoked too. Who took it
    back, and why, becomes an entry.
    """
    from tolsey.cli.ledgers import user, writing
    from tolsey.cli.place import read_keyring
    from tolsey.store import by_hand

    id_ = prefix_id.lower()
    if _PREFIX_ID.fullmatch(id_) is None:
        raise UsageError("a prefix id has 32 hex digits")
    config, keyring = read_keyring(file)

    async def write(ledger: "Ledger") -> Revocation:
        return await by_hand.unrevoke(ledger, id_, who=user(), reason=reason)

    before = writing(config, keyring, write)
    data = {"prefix_id": id_, "since": format_time(before.since), "note": before.note, "reason": reason, "by": user()}
    emit(json, data, lambda: print(f"{id_} is not revoked any more"))
