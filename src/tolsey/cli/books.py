"""`tolsey fsck`: whether the ledger adds up. A gateway may run meanwhile."""

from typing import TYPE_CHECKING, ClassVar

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import emit, say
from tolsey.cli.program import command, new_app
from tolsey.errors import TolseyError
from tolsey.token.caveats import format_time

if TYPE_CHECKING:
    from tolsey.config import Config

app = new_app()


class LedgerDiffers(TolseyError):
    """A ledger whose balances are not what its entries add up to."""

    code: ClassVar[str] = "ledger_differs"


@command(app, "fsck", examples=["tolsey fsck", "tolsey fsck --json && echo the books are right"])
def fsck(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Recompute balances and seals from the journal, and compare.

    Exit status 1 and the first difference if there is one.
    """
    from tolsey.cli.ledgers import snapshot_of
    from tolsey.cli.place import read_config
    from tolsey.cli.progress import progress
    from tolsey.store.reports import fsck as check

    with progress("adding up") as tell:
        config = read_config(file)
        found = check(snapshot_of(config), tell, trusted=_trusted(config))
    until = None if found.rolled_until is None else format_time(found.rolled_until)
    data = {
        "accounts": found.accounts,
        "entries": found.entries,
        "open_holds": found.open_holds,
        "rolled_up": found.rolled_up,
        "rolled_up_until": until,
        "logs": found.logs,
        "checkpoints": found.checkpoints,
        "unsigned": found.unsigned,
        "difference": found.difference,
    }

    def human() -> None:
        if until is not None:
            say(f"{found.rolled_up} entries from before {until} were rolled up: they count by their totals")
        sizes = f"accounts: {found.accounts}, entries: {found.entries}, open holds: {found.open_holds}"
        verdict = "everything adds up" if found.difference is None else "they do not add up"
        print(f"{sizes}; {verdict}")

    emit(json, data, human)
    if found.difference is not None:
        raise LedgerDiffers(found.difference)


def _trusted(config: "Config") -> list[str] | None:
    """The public seal keys of the keyring; None where that cannot be read, which a check must not depend on."""
    from tolsey.errors import KeyringError
    from tolsey.store.checkpoints import seal_keys
    from tolsey.store.keyring import SEAL, Keyring

    try:
        keyring = Keyring.open(config.keys)
        return [key.public.hex() for key in seal_keys(keyring)] if keyring.key_ids(SEAL) else None
    except KeyringError:
        say("the keyring cannot be read: whose the checkpoints' signatures are was not checked")
        return None
