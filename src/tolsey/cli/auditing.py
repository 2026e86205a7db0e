"""`tolsey audit`: what the journal was, proved to somebody who need not trust whoever kept it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from tolsey.audit.sealed import MAX_LINE, Verdict, verify
from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Why
from tolsey.cli.output import UsageError, emit, printable, say
from tolsey.cli.program import command, new_app, show_help
from tolsey.errors import TolseyError

if TYPE_CHECKING:
    from typing import BinaryIO

    from tolsey.store.contract import Ledger

app = new_app("Prove what the journal was, and verify such proofs.")

MAX_KEYS = 64 * 1024
"""The largest file of public keys that is read, in bytes."""


class SealBroken(TolseyError):
    """An export that was changed, or that nobody who is trusted has signed."""

    code: ClassVar[str] = "seal_broken"


@app.callback(
    invoke_without_command=True,
    epilog="\b\nExamples:\n  tolsey audit key > seal.pub\n  tolsey audit verify ledger.sealed --key seal.pub",
)
def audit(ctx: typer.Context) -> None:
    """Prove what the journal was, and verify such proofs.

    Verifying needs no config, no keyring and no network: only the public key.
    """
    show_help(ctx)


Keys = Annotated[
    list[str],
    typer.Option("--key", metavar="KEY", help="A public key: 64 hex digits, or a file of them. May be given again."),
]


@command(
    app,
    "verify",
    examples=[
        "tolsey export --format sealed -o ledger.sealed && tolsey audit verify ledger.sealed --key seal.pub",
        "tolsey audit verify ledger.sealed --key seal.pub --checkpoints kept.jsonl --json",
    ],
)
def verify_export(
    export: Annotated[Path, typer.Argument(metavar="FILE", help="What `tolsey export --format sealed` wrote.")],
    key: Keys,
    checkpoints: Annotated[
        Path | None, typer.Option("--checkpoints", metavar="FILE", help="Checkpoints that were kept elsewhere.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify a sealed export, offline.

    Exit status 1, and the first entry that was changed, dropped, inserted or moved, if there is one.
    """
    from tolsey.store.signing import is_signed

    trusted = read_keys(key)
    outside = [] if checkpoints is None else checkpoints.read_bytes().splitlines()
    with export.open("rb") as file:
        verdict = verify(_lines(file), trusted, is_signed, outside)
    last = verdict.last
    data = {
        "ledger": verdict.ledger,
        "entries": verdict.entries,
        "logs": verdict.logs,
        "rolled_up": verdict.rolled,
        "checkpoints": verdict.checkpoints,
        "signed_until": None if last is None else last.at,
        "keys": verdict.keys,
        "unsigned": verdict.unsigned,
        "kept": len(outside),
        "fault": verdict.fault,
        "line": None if verdict.fault is None else verdict.line,
    }
    emit(json, data, lambda: _show(verdict, len(outside)))
    if verdict.fault is not None:
        raise SealBroken(f"{export}, line {verdict.line}: {verdict.fault}")


def _show(verdict: Verdict, kept: int) -> None:
    if verdict.fault is not None:
        return
    if verdict.rolled:
        say(f"{verdict.rolled} entries were rolled up: of them their seals and their totals are known")
    if verdict.unsigned:
        say(f"{verdict.unsigned} entries are behind the last checkpoint: chained, and not signed yet")
    if kept:
        say(f"the {kept} checkpoints that were kept elsewhere are in it")
    else:
        say("without checkpoints that were kept elsewhere, whoever has the key could have rewritten all of it")
    sizes = f"entries: {verdict.entries}, logs: {verdict.logs}, checkpoints: {verdict.checkpoints}"
    until = "nothing is signed" if verdict.last is None else f"signed until {verdict.last.at}"
    print(f"{sizes}; nothing was changed; {until}")


def _lines(file: "BinaryIO") -> Iterator[bytes]:
    while line := file.readline(MAX_LINE + 1):
        yield line


def read_keys(given: Sequence[str]) -> list[str]:
    """Public keys, each given as such or as a file of them, one a line. Raises `UsageError`."""
    keys: list[str] = []
    for text in given:
        if _is_key(text):
            keys.append(text)
            continue
        with open(text, "rb") as file:
            words = file.read(MAX_KEYS).decode("utf-8", "replace").split()
        if not words or not all(_is_key(word) for word in words):
            raise UsageError(f"{text} is neither a public key (64 hex digits) nor a file of such keys")
        keys += words
    return keys


def _is_key(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")


@command(app, "key", examples=["tolsey audit key > seal.pub", "tolsey audit key --json"])
def show_key(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Print the public keys that checkpoints were or are signed with, the current one last.

    Give them to whoever is to verify; they are no secret.
    """
    from tolsey.cli.place import read_keyring
    from tolsey.store.checkpoints import seal_keys

    _, keyring = read_keyring(file)
    keys = [key.public.hex() for key in seal_keys(keyring)]
    emit(json, {"keys": keys, "current": keys[-1]}, lambda: print("\n".join(keys)))


@command(app, "checkpoint", examples=["tolsey audit checkpoint >> kept.jsonl", "tolsey audit checkpoint --json"])
def take_checkpoint(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Take a checkpoint now, if there is an entry that none has, and print the last one.

    A gateway takes them by itself, as [seal] says.
    """
    from tolsey.audit.canonical import parse
    from tolsey.cli.ledgers import snapshot_of, writing
    from tolsey.cli.place import read_keyring
    from tolsey.store.checkpoints import AT_ONCE, SealRefused, seal_keys, take

    config, keyring = read_keyring(file)
    writing(config, keyring, lambda ledger: take(ledger, seal_keys(keyring), AT_ONCE))
    with snapshot_of(config) as snapshot:
        documents = list(snapshot.checkpoints())
    if not documents:
        raise SealRefused("there is no entry yet: mint a token first")
    emit(json, {"checkpoint": parse(documents[-1])}, lambda: print(documents[-1].decode()))


@command(app, "rotate", examples=["tolsey audit rotate", "tolsey audit rotate --lost --json"])
def rotate(
    lost: Annotated[
        bool, typer.Option("--lost", help="The key that signs now is gone, or in wrong hands: begin anew.")
    ] = False,
    file: ConfigFile = DEFAULT_CONFIG,
    reason: Why = "",
    json: Json = False,
) -> None:
    """Add a seal key, which signs from now on. The old one announces it in its last checkpoint.

    So whoever trusts the old key trusts the new one too. With --lost nothing is announced: give the new public key to
    everybody who verifies. A running gateway follows within a second.
    """
    from tolsey.cli.ledgers import user, writing
    from tolsey.cli.place import read_keyring
    from tolsey.ledger.events import Kind
    from tolsey.store.by_hand import noted
    from tolsey.store.checkpoints import AT_ONCE, SealRefused, named_key, seal_keys, take
    from tolsey.store.keyring import SEAL

    config, keyring = read_keyring(file)

    async def change(ledger: "Ledger") -> tuple[str, bool]:
        keys = seal_keys(keyring)
        wanted = await named_key(ledger)
        if not lost and wanted is not None and wanted not in {key.public.hex() for key in keys}:
            raise SealRefused(f"seal key {wanted[:16]}…, which signs now, is not in this keyring; see --lost")
        keyring.rotate(SEAL)
        new = seal_keys(keyring)[-1]
        what = f"seal key {new.public.hex()} added" + (", as the one before is lost" if lost else "")
        await ledger.note(Kind.KEYS, noted(what, user(), reason))
        if wanted is not None and lost:
            await take(ledger, [new], AT_ONCE, anew=True)
        elif wanted is not None:
            await take(ledger, keys, AT_ONCE, announced=new)
        return new.public.hex(), wanted is not None and not lost

    public, announced = writing(config, keyring, change)

    def human() -> None:
        print(public)
        told = "the checkpoint before it announces it" if announced else "give it to everybody who verifies"
        say(f"this is the public key that signs from now on; {told}")

    emit(json, {"key": public, "announced": announced}, human)


@command(app, "prove", examples=["tolsey audit prove 1a218e4c54f-526167cc70dd3ab0-0 > call.proof"])
def prove(
    hold: Annotated[str, typer.Argument(metavar="HOLD", help="The call's hold, as in the header Tolsey-Hold.")],
    file: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Prove that the entries of one call are in the sealed journal, without showing any other entry.

    `tolsey audit check` verifies it offline.
    """
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_config
    from tolsey.store import proofs

    document = proofs.prove(snapshot_of(read_config(file)), hold)
    # It is JSON in either case.
    print(document.decode())


@command(
    app,
    "check",
    examples=[
        "tolsey audit check call.proof --key seal.pub",
        "tolsey receipt HOLD | tolsey audit check - --key seal.pub",
    ],
)
def check(
    document: Annotated[Path, typer.Argument(metavar="FILE", help="A proof or a receipt; - is standard input.")],
    key: Keys,
    json: Json = False,
) -> None:
    """Verify a proof or a receipt, offline.

    Exit status 1 if it proves nothing, or is not signed by a key that was given.
    """
    from tolsey.audit import proof
    from tolsey.store.signing import is_signed

    trusted = read_keys(key)
    with nullcontext(sys.stdin.buffer) if str(document) == "-" else document.open("rb") as opened:
        data = opened.read(proof.MAX_BYTES + 1)
    found = proof.check(data.removesuffix(b"\n"), trusted, is_signed)
    if found.fault is not None:
        raise SealBroken(f"{document}: {found.fault}")
    data_ = {"format": found.format, "hold": found.hold, "ledger": found.ledger, "keys": found.keys}

    def human() -> None:
        for entry in found.entries:
            amount = f"{entry['amount']} {entry['unit'] or ''}".strip()
            print(f"{entry['at']}  {entry['kind']}  {amount}  {printable(str(entry['note']))}")
        what = "a receipt" if found.format == proof.RECEIPT else "a proof"
        say(f"{what} for hold {found.hold}, signed by key {found.keys[0][:16]}…: it holds")

    emit(json, data_ | {"entries": found.entries}, human)
