"""Taking checkpoints: when one is due, and by which key."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from tolsey.audit.canonical import NotCanonical, parse
from tolsey.audit.checkpoint import Checkpoint, Logged, make, read
from tolsey.audit.seal import stamp
from tolsey.errors import KeyringError, TolseyError
from tolsey.ledger.windows import SECOND
from tolsey.store.contract import Ledger, Stated
from tolsey.store.keyring import SEAL, Keyring, LiveKeyring
from tolsey.store.signing import SealKey, is_signed

AT_ONCE: Final = (1, 0)
"""Every so many entries or seconds: whenever there is an entry that no checkpoint has."""


class SealRefused(TolseyError):
    """A checkpoint that cannot be taken, for its key or for the one before it."""

    code: ClassVar[str] = "seal_refused"


async def take(
    ledger: Ledger,
    keys: Sequence[SealKey],
    every: tuple[int, int],
    *,
    announced: SealKey | None = None,
    anew: bool = False,
) -> bytes | None:
    """Take a checkpoint of the ledger if one is due: `every` so many entries, or so many seconds after the last one if
    there is any entry; return its document. It is signed by that of `keys` which the last one names, the first of all
    by the last of them.

    With `announced`, one is taken in any case, which says that this key signs from then on; `anew` begins with the last
    of the keys, whatever the last checkpoint named. Raises `SealRefused` and `LedgerUnavailable`.
    """

    def due(last: bytes | None, heads: Sequence[Stated]) -> bytes | None:
        before = _before(last, ledger.id)
        entries, seconds = every
        more = sum(each.more for each in heads)
        at = ledger.time()
        aged = before is None or stamp(at - seconds * SECOND) >= before.at
        # Before asking whether one is due: a key that is not there is a fault also while somebody else signs.
        key = keys[-1] if before is None or anew else _named(keys, before)
        if announced is None and not anew and (not more or (more < entries and not aged)):
            return None
        return make(
            before,
            [Logged(each.log, each.head) for each in heads],
            ledger=ledger.id,
            at=max(stamp(at), "" if before is None else before.at),
            key=key.public,
            sign=key.sign,
            announced=None if announced is None else announced.public,
        )

    return await ledger.checkpoint(due)


async def named_key(ledger: Ledger) -> str | None:
    """The public key (hex) that is to sign the next checkpoint; None before the first. Raises `SealRefused`."""
    found: list[str] = []

    def look(last: bytes | None, heads: Sequence[Stated]) -> None:
        before = _before(last, ledger.id)
        if before is not None:
            found.append(before.next or before.key)

    await ledger.checkpoint(look)
    return found[0] if found else None


def seal_keys(keyring: Keyring) -> list[SealKey]:
    """The keys of a keyring that sign, the current one last; one is made if there is none."""
    return [SealKey(secret) for secret in keyring.with_key(SEAL).secrets_of(SEAL)]


class Notary:
    """Takes checkpoints for a gateway. `problem` is why none can be taken, `""` while they can; `tell` is told it when
    that changes.
    """

    def __init__(self, keyring: Keyring, tell: Callable[[str], None]) -> None:
        self._keys = LiveKeyring(keyring.with_key(SEAL))
        self._tell = tell
        self.problem = ""

    async def keep(self, ledger: Ledger, every: tuple[int, int], now: int) -> bytes | None:
        """Take a checkpoint if one is due, and return its document. Raises `LedgerUnavailable`."""
        self._keys.refresh(now)
        made, problem = await self._take(ledger, every)
        if problem and not self.problem:
            # Another process may have rotated within the second for which the file is not looked at again.
            self._keys.read_again()
            made, problem = await self._take(ledger, every)
        if problem != self.problem:
            self.problem = problem
            self._tell(problem)
        return made

    async def _take(self, ledger: Ledger, every: tuple[int, int]) -> tuple[bytes | None, str]:
        """The checkpoint, if one is due, and why none can be taken."""
        try:
            return await take(ledger, seal_keys(self._keys.keyring), every), ""
        except (SealRefused, KeyringError) as error:
            return None, error.detail


def _named(keys: Sequence[SealKey], before: Checkpoint) -> SealKey:
    wanted = before.next or before.key
    for key in keys:
        if key.public.hex() == wanted:
            return key
    raise SealRefused(
        f"this ledger's checkpoints are signed by seal key {wanted[:16]}…, which is not in this keyring: copy the one"
        " that has it, or see `tolsey audit rotate --help`"
    )


def _before(document: bytes | None, ledger: str) -> Checkpoint | None:
    if document is None:
        return None
    try:
        found = read(parse(document), is_signed)
    except NotCanonical as error:
        found = error.detail
    if isinstance(found, str) or found.ledger != ledger:
        raise SealRefused("the last checkpoint in the ledger is damaged; see `tolsey fsck`")
    return found
