"""What can be asked of the ledger, what it answers, and what it writes down.

The words are TigerBeetle's: a reserve is a pending transfer, an entry is never changed, a hold is resolved by a later
entry. All amounts are nano-units, all times nanoseconds since the epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from tolsey.token.chain import Account, Rate


class Kind(StrEnum):
    """What an entry says. The three resolutions each close a hold; of those a hold has exactly one."""

    OPEN = "open"
    RESERVE = "reserve"
    EXTEND = "extend"
    SETTLE = "settle"
    VOID = "void"
    EXPIRE = "expire"
    LATE = "late"
    ACCEPT = "accept"
    GRANT = "grant"
    REFUND = "refund"
    ANNUL = "annul"
    OBSERVE = "observe"
    PAY = "pay"
    ROLLUP = "rollup"
    KEYS = "keys"
    APPROVE = "approve"
    DENY = "deny"
    REVOKE = "revoke"
    UNREVOKE = "unrevoke"


RESOLUTIONS: Final = (Kind.SETTLE, Kind.VOID, Kind.EXPIRE)

Key = tuple[str, str]
"""An account's id and unit."""


class Entry(NamedTuple):
    """One line of the journal.

    `leaf` is the account at the end of the chain and `counter` the last of those that count calls; the ones above them
    are charged with them. `until` is there in a reserve that may be expired whoever owns it. Of a payment, `hold` is
    its hash, `leaf` what it opened, and `amount` what was paid, in nano-sat whatever the unit of the account. Of an
    answer to a question, `hold` is the question's id, and `amount` the most that was approved. Of a revocation, `hold`
    is the prefix id, and `until` the instant at which every token that it is for has expired.
    """

    kind: Kind
    at: int
    hold: str | None
    leaf: Key | None
    amount: int
    owner: int
    note: str = ""
    counter: Key | None = None
    until: int | None = None


class Claim(NamedTuple):
    """An idempotency key in use: `scope` is the Link that sent it, `request` a digest of the request's head."""

    scope: str
    key: str
    request: str


@dataclass(slots=True)
class Claimed:
    """What became of a claim. `done` is the resolution of its `hold`, None while the call is running.

    `body` is a digest of the request's body and `response` what was answered, both there once the call was served and
    its answer was small enough to keep.
    """

    claim: Claim
    hold: str
    at: int
    done: Kind | None = None
    body: str = ""
    response: bytes | None = None


class Kept(NamedTuple):
    """The outcome of a call, to be kept for its idempotency key: see `Claimed`."""

    body: str
    response: bytes


class Reserve(NamedTuple):
    """Hold `amount` on every one of `accounts` (root first, one unit), and one call on every one of `counters`, within
    every one of `rates`. `note` is kept with the entry; from `until` on (0: never) the hold may be expired.
    """

    hold: str
    accounts: tuple[Account, ...]
    amount: int
    note: str = ""
    counters: tuple[Account, ...] = ()
    rates: tuple[Rate, ...] = ()
    claim: Claim | None = None
    until: int = 0


class Extend(NamedTuple):
    """Hold `amount` more, on the accounts and in the windows of the first reserve. Counts no further call."""

    hold: str
    amount: int
    note: str = ""


class Settle(NamedTuple):
    """The call was served and cost `amount`, at most what is held; the rest returns."""

    hold: str
    amount: int
    note: str = ""
    kept: Kept | None = None


class Void(NamedTuple):
    """The call was surely not served: the whole amount returns, and the call is not counted."""

    hold: str
    note: str = ""


class Expire(NamedTuple):
    """The owner died and the outcome is unknown: settled at the held amount, `unmetered`."""

    hold: str
    note: str = "unmetered"


class Open(NamedTuple):
    """Write down a minted account before its first call."""

    account: Account
    note: str = ""


class Grant(NamedTuple):
    """Add `amount` to the limit of an account (RULES.md M4); of one with a period, in its running window."""

    key: Key
    amount: int
    note: str


class Refund(NamedTuple):
    """Give back `amount` of what a hold was charged (None: all that is left of it). The call stays counted."""

    hold: str
    amount: int | None
    note: str


class Annul(NamedTuple):
    """An operator says that a charged call was not served: all of it returns, the counted call too."""

    hold: str
    note: str


PAID_IN_KIND: Final = "x402 "
"""How the note of a payment begins that was not made in sats."""


class Pay(NamedTuple):
    """A payment was proved: its `hash` (hex) opens `account`, which it paid `amount` nano-sat for; if its note begins
    with `PAID_IN_KIND`, nano-units of the account's own unit. It does so once: the same event again changes nothing,
    and for another account the payment is used up.
    """

    hash: str
    account: Account
    amount: int
    note: str = ""


class Observe(NamedTuple):
    """A call that observe mode let through: enforced, it would have held `quote`, and it cost `cost`.

    `refusal` is the code of the Refusal that it met before the ledger was asked; empty if the ledger is to say.
    """

    hold: str
    accounts: tuple[Account, ...]
    quote: int
    cost: int
    note: str = ""
    counters: tuple[Account, ...] = ()
    rates: tuple[Rate, ...] = ()
    refusal: str = ""


Event = Reserve | Extend | Settle | Void | Expire | Open | Grant | Refund | Annul | Observe | Pay


class Granted(NamedTuple):
    """The amount is held. `remaining` is the least that is left on the chain (None: no limit on it), after the hold."""

    hold: str
    amount: int
    remaining: int | None


class Shortfall(NamedTuple):
    """An account cannot pay: the first from the root that cannot, as it stands.

    `limit` is what it may spend now, grants included (None: no budget, the sums fit no amount); `resets_at` is when its
    window ends (None: it has none).
    """

    account: Account
    spent: int
    held: int
    limit: int | None
    resets_at: int | None = None


class RateLimited(NamedTuple):
    """Too fast for `rate`; a call is allowed again at `until`."""

    rate: Rate
    until: int


class TooManyHolds(NamedTuple):
    """The Link has `MAX_OPEN_HOLDS` open."""

    account: Account


class Repeated(NamedTuple):
    """The key of `claim` was used before, and this is what became of that call. Nothing was held."""

    claim: Claim
    claimed: Claimed


class Conflict(NamedTuple):
    """The ledger holds something else under this id. `detail` says what."""

    detail: str


class Resolved(NamedTuple):
    """It is done, by this event or by an equal one before."""

    hold: str
    kind: Kind
    amount: int


class Late(NamedTuple):
    """The hold was already closed in another way, by `kind`: nothing changes but a note. After an `expire`, its `owner`
    was taken for dead.
    """

    hold: str
    kind: Kind
    owner: int


class Unknown(NamedTuple):
    """No such hold, or account. For a void that is all one could want; for a settle the store is not the one that
    reserved.
    """

    hold: str


class Observed(NamedTuple):
    """The call is written down. `verdict` is what a reserve would have met; None if it met a Refusal before."""

    hold: str
    verdict: "Outcome | None"


Outcome = Granted | Shortfall | RateLimited | TooManyHolds | Repeated | Conflict | Resolved | Late | Unknown | Observed


_OF_CALLS: Final = frozenset({Kind.RESERVE, Kind.EXTEND, Kind.SETTLE, Kind.VOID, Kind.OBSERVE})


def are_of_calls(entries: Sequence[Entry]) -> bool:
    """Whether some of these entries were made by calls, and not by hand."""
    return any(entry.kind in _OF_CALLS for entry in entries)


def openers_of(entries: Sequence[Entry]) -> dict[Key, str]:
    """What the entries that open accounts by name say of who did."""
    return {e.leaf: e.note for e in entries if e.leaf is not None and e.kind in (Kind.OPEN, Kind.PAY)}
