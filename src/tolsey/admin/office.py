"""What the admin API works with: the keys, the ledger and the config of the gateway that it is a part of."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import InitVar, dataclass, field
from typing import Final, TypeVar

from tolsey.admin.identity import Identities
from tolsey.admin.policy import Minting
from tolsey.store.contract import Ledger, Snapshot
from tolsey.store.keyring import Keyring, LiveKeyring
from tolsey.store.revocations import Revocations
from tolsey.token.chain import ADMIN
from tolsey.token.verifier import Verifier
from tolsey.token.wire import LIMITS, Limits

READERS: Final = 2
"""How many snapshots are read at a time: each has a thread, and keeps old versions of what is written meanwhile."""

_T = TypeVar("_T")


@dataclass(slots=True)
class Office:
    """One gateway's admin. `ledger` may be used inside `changing()` alone, which keeps order with the gateway's own
    housework; `snapshot` opens a view of it; `revocations` hold for admin tokens too; `state` says what config is in
    use, without secrets; `now` is in nanoseconds since the epoch; `minting` is that of the config in use.
    """

    keyring: InitVar[Keyring]
    changing: Callable[[], AbstractAsyncContextManager[Ledger]]
    snapshot: Callable[[], Snapshot]
    revocations: Revocations
    state: Callable[[], dict[str, object]]
    now: Callable[[], int]
    minting: Callable[[], Minting]
    limits: Limits = LIMITS
    keys: LiveKeyring = field(init=False)
    verifier: Verifier = field(init=False)
    identities: Identities = field(init=False)
    _readers: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(READERS))

    def __post_init__(self, keyring: Keyring) -> None:
        self.verifier = Verifier(ADMIN, lambda key_id: self.keys.derived(ADMIN, key_id, self.now()))
        self.identities = Identities(self.now)
        self.keys = LiveKeyring(keyring, self.verifier.memory.forget)

    async def read(self, what: Callable[[Snapshot], _T]) -> _T:
        """What a function finds in a snapshot, which it opens itself; it runs in a thread."""
        async with self._readers:
            return await asyncio.to_thread(lambda: what(self.snapshot()))
