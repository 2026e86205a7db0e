"""The ledger as a state machine: balances and holds in, an outcome and journal entries out.

Law 2: for every account at every instant, spent + held <= limit. It holds because `reserve` is the only thing that adds
to held, and it adds to all accounts on a chain or to none; because a resolution moves at most what is held; and because
a hold is resolved exactly once. Nothing here knows the time, a disk or another gateway: a store runs these rules inside
its own transaction, over the rows that it has locked.

The words are TigerBeetle's: a reserve is a pending transfer, an entry is never changed, a hold is resolved by a later
entry. All amounts are nano-units.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from tolsey.token.chain import Account
from tolsey.units import MAX_NANO

MAX_OPEN_HOLDS: Final = 256
"""Open holds of one Link, at most (RULES.md M9)."""


class Kind(StrEnum):
    """What an entry says. The three resolutions each close a hold; of those a hold has exactly one."""

    OPEN = "open"
    RESERVE = "reserve"
    SETTLE = "settle"
    VOID = "void"
    EXPIRE = "expire"
    LATE = "late"
    ACCEPT = "accept"


RESOLUTIONS: Final = (Kind.SETTLE, Kind.VOID, Kind.EXPIRE)

Key = tuple[str, str]
"""An account's id and unit."""


@dataclass(slots=True)
class Balance:
    """Where an account stands. `calls` are those that were settled; `open` are the holds whose leaf this is."""

    account: Account
    spent: int = 0
    held: int = 0
    calls: int = 0
    open: int = 0


class Entry(NamedTuple):
    """One line of the journal. `leaf` is the account at the end of the chain; the ones above are charged with it."""

    kind: Kind
    at: int
    hold: str | None
    leaf: Key | None
    amount: int
    owner: int
    note: str = ""


@dataclass(slots=True)
class Hold:
    """A reserved amount on a chain of accounts, root first. `resolution` is None while it is open."""

    id: str
    chain: tuple[Key, ...]
    amount: int
    owner: int
    resolution: Kind | None = None
    settled: int = 0


@dataclass(slots=True)
class Books:
    """The part of the ledger that a group of events touches.

    `balances` holds every account that exists among those touched; what is not in it does not exist yet. `dirty` are
    the keys changed, `entries` those made, since the store last wrote.
    """

    balances: dict[Key, Balance] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    dirty: dict[Key, Balance] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)


class Reserve(NamedTuple):
    """Hold `amount` on every account of a chain (root first, one unit). `note` is kept with the entry."""

    hold: str
    accounts: tuple[Account, ...]
    amount: int
    note: str = ""


class Settle(NamedTuple):
    """The call was served and cost `amount`, at most what is held; the rest returns."""

    hold: str
    amount: int
    note: str = ""


class Void(NamedTuple):
    """The call was surely not served: the whole amount returns."""

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


Event = Reserve | Settle | Void | Expire | Open


class Granted(NamedTuple):
    """The amount is held. `remaining` is the least that is left on the chain (None: no limit on it), after the hold."""

    hold: str
    amount: int
    remaining: int | None


class Shortfall(NamedTuple):
    """An account cannot pay: the first from the root that cannot, as it stands."""

    account: Account
    spent: int
    held: int


class TooManyHolds(NamedTuple):
    """The Link has `MAX_OPEN_HOLDS` open."""

    account: Account


class Conflict(NamedTuple):
    """The ledger holds something else under this id. `detail` says what."""

    detail: str


class Resolved(NamedTuple):
    """The hold is closed, by this event or by an equal one before."""

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
    """No such hold. For a void that is all one could want; for a settle the store is not the one that reserved."""

    hold: str


Outcome = Granted | Shortfall | TooManyHolds | Conflict | Resolved | Late | Unknown


def apply(books: Books, event: Event, *, at: int, owner: int) -> Outcome:
    """Run one event at ledger time `at` (nanoseconds) for `owner`. Changes `books` only where it grants or resolves."""
    match event:
        case Reserve():
            return _reserve(books, event, at, owner)
        case Settle(hold, amount, note):
            return _resolve(books, Kind.SETTLE, hold, amount, note, at, owner)
        case Void(hold, note):
            return _resolve(books, Kind.VOID, hold, 0, note, at, owner)
        case Expire(hold, note):
            return _resolve(books, Kind.EXPIRE, hold, None, note, at, owner)
        case Open(account, note):
            return _open(books, account, note, at, owner)


def _reserve(books: Books, event: Reserve, at: int, owner: int) -> Outcome:
    accounts, amount = event.accounts, event.amount
    chain: tuple[Key, ...] = tuple([account[:2] for account in accounts])
    known = books.holds.get(event.hold)
    if known is not None:
        if (known.chain, known.amount) != (chain, amount):
            return Conflict(f"hold {event.hold} was reserved with other contents")
        return Granted(event.hold, amount, _remaining([books.balances[key] for key in chain]))
    if not accounts or not 0 < amount <= MAX_NANO:
        return Conflict("a reserve needs accounts and an amount above 0")
    balances = []
    remaining: int | None = None
    for key, account in zip(chain, accounts, strict=True):
        balance = books.balances.get(key)
        if balance is None:
            balance = Balance(account)
        elif balance.account != account:
            return Conflict(f"account {account.id} is in the ledger with another parent, unit, limit or label")
        left = (MAX_NANO if account.limit is None else account.limit) - balance.spent - balance.held - amount
        if left < 0:
            return Shortfall(account, balance.spent, balance.held)
        if account.limit is not None and (remaining is None or left < remaining):
            remaining = left
        balances.append(balance)
    leaf = balances[-1]
    if leaf.open >= MAX_OPEN_HOLDS:
        return TooManyHolds(leaf.account)
    leaf.open += 1
    for key, balance in zip(chain, balances, strict=True):
        balance.held += amount
        books.balances[key] = books.dirty[key] = balance
    books.holds[event.hold] = Hold(event.hold, chain, amount, owner)
    books.entries.append(Entry(Kind.RESERVE, at, event.hold, chain[-1], amount, owner, event.note))
    return Granted(event.hold, amount, remaining)


def _remaining(balances: Sequence[Balance]) -> int | None:
    left = [b.account.limit - b.spent - b.held for b in balances if b.account.limit is not None]
    return min(left, default=None)


def _resolve(books: Books, kind: Kind, hold_id: str, amount: int | None, note: str, at: int, owner: int) -> Outcome:
    hold = books.holds.get(hold_id)
    if hold is None:
        return Unknown(hold_id)
    cost = hold.amount if amount is None else amount
    if not 0 <= cost <= hold.amount:
        return Conflict(f"hold {hold_id} has {hold.amount} nano-units, {cost} cannot be settled on it")
    if hold.resolution is not None:
        if (hold.resolution, hold.settled) == (kind, cost):
            return Resolved(hold_id, kind, cost)
        books.entries.append(
            Entry(Kind.LATE, at, hold_id, hold.chain[-1], cost, owner, f"{kind} after {hold.resolution}")
        )
        return Late(hold_id, hold.resolution, hold.owner)
    for key in hold.chain:
        balance = books.balances[key]
        balance.held -= hold.amount
        balance.spent += cost
        if kind is not Kind.VOID:
            balance.calls += 1
        if balance.held < 0:
            raise AssertionError(f"account {key} holds less than its open holds")
        books.dirty[key] = balance
    books.balances[hold.chain[-1]].open -= 1
    hold.resolution, hold.settled = kind, cost
    books.entries.append(Entry(kind, at, hold_id, hold.chain[-1], cost, owner, note))
    return Resolved(hold_id, kind, cost)


def _open(books: Books, account: Account, note: str, at: int, owner: int) -> Outcome:
    key = (account.id, account.unit)
    balance = books.balances.get(key)
    if balance is not None:
        if balance.account != account:
            return Conflict(f"account {account.id} is in the ledger with another parent, unit, limit or label")
        return Granted(account.id, 0, _remaining([balance]))
    books.balances[key] = books.dirty[key] = Balance(account)
    books.entries.append(Entry(Kind.OPEN, at, None, key, 0, owner, note))
    return Granted(account.id, 0, account.limit)
