"""The ledger as a state machine: balances and holds in, an outcome and journal entries out.

Law 2: for every account at every instant, spent + held <= limit. It holds because `reserve` and `extend` are the only
things that add to held, and they add to all accounts on a chain or to none; because a resolution moves at most what is
held; and because a hold is resolved exactly once. Nothing here knows the time, a disk or another gateway: a store runs
these rules inside its own transaction, over the rows that it has locked.

An account with a period has one limit for each of its windows. A hold belongs to the windows of the instant at which it
was reserved, whenever it is settled (RULES.md M10).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from tolsey.ledger.books import Balance, Books, Hold, Window, WindowKey
from tolsey.ledger.events import (
    Annul,
    Claimed,
    Conflict,
    Entry,
    Event,
    Expire,
    Extend,
    Grant,
    Granted,
    Kept,
    Key,
    Kind,
    Late,
    Observe,
    Open,
    Outcome,
    Pay,
    RateLimited,
    Refund,
    Repeated,
    Reserve,
    Resolved,
    Settle,
    Shortfall,
    TooManyHolds,
    Unknown,
    Void,
)
from tolsey.ledger.observing import observe
from tolsey.ledger.windows import HOUR, spacing, window
from tolsey.token.chain import Rate
from tolsey.tuples import make
from tolsey.units import MAX_NANO, NANO

MAX_OPEN_HOLDS: Final = 256
"""Open holds of one Link, at most (RULES.md M9)."""

CLAIM_NS: Final = 24 * HOUR
"""How long an idempotency key is remembered, in nanoseconds."""


def apply(books: Books, event: Event, *, at: int, owner: int) -> Outcome:
    """Run one event at ledger time `at` (nanoseconds) for `owner`. Changes `books` only where it grants or resolves."""
    match event:
        case Reserve():
            return _reserve(books, event, at, owner)
        case Settle():
            return _resolve(books, Kind.SETTLE, event.hold, event.amount, event.note, at, owner, event.kept)
        case Void(hold, note):
            return _resolve(books, Kind.VOID, hold, 0, note, at, owner)
        case Expire(hold, note):
            return _resolve(books, Kind.EXPIRE, hold, None, note, at, owner)
        case Extend():
            return _extend(books, event, at, owner)
        case Open():
            return _open(books, event, at, owner)
        case Grant():
            return _grant(books, event, at, owner)
        case Refund():
            return _refund(books, event, at, owner)
        case Annul():
            return _annul(books, event, at, owner)
        case Observe():
            return observe(books, event, at, owner, _reserve)
        case Pay():
            return _pay(books, event, at, owner)


def _reserve(books: Books, event: Reserve, at: int, owner: int) -> Outcome:
    chain = books.keys(event.accounts)
    counters = books.keys(event.counters) if event.counters else ()
    known = books.holds.get(event.hold)
    if known is not None:
        if (known.chain, known.counters, known.amount - known.extended) != (chain, counters, event.amount):
            return Conflict(f"hold {event.hold} was reserved with other contents")
        return Granted(event.hold, event.amount, _remaining(books, chain, known.at))
    if not (0 < event.amount <= MAX_NANO if chain else event.amount == 0 and (counters or event.rates)):
        return Conflict("a reserve needs accounts and an amount above 0, or counters or rates and none")
    if event.claim is not None:
        claimed = books.claims.get(event.claim[:2])
        if claimed is not None and at - claimed.at < CLAIM_NS:
            # As it is now: a later event of the group may close it.
            return Repeated(event.claim, replace(claimed))
    purse = None if counters else books.purse_of(chain)
    balances: Sequence[Balance]
    left = -1 if purse is None else purse.left()
    if purse is not None and left >= event.amount:
        balances, fresh = purse.balances, False
    else:
        funds = _funds(books, event, chain, counters, at)
        if not isinstance(funds, _Funds):
            return funds
        balances, fresh = funds
        if chain and not (counters or fresh):
            books.keep(chain, balances)
    if balances and (leaf := balances[len(chain) - 1]).open >= MAX_OPEN_HOLDS:
        return TooManyHolds(leaf.account)
    tats = _within_rates(books, event.rates, at) if event.rates else {}
    if isinstance(tats, RateLimited):
        return tats
    if tats:
        books.rates.update(tats)
        books.dirty_rates.update(tats)
    if not balances:
        return Granted(event.hold, 0, None)
    leaf.open += 1
    if fresh:
        books.balances.update(zip(chain + counters, balances, strict=True))
    hold = books.holds[event.hold] = Hold(event.hold, chain, event.amount, owner, at, counters)
    if purse is None:
        _move(books, hold, event.amount, NANO, 0, 0)
        remaining = _remaining(books, chain, at)
    else:
        books.touch(purse)
        remaining = purse.hold(event.amount, left)
    if event.claim is not None:
        hold.claim = event.claim[:2]
        books.claims[hold.claim] = books.dirty_claims[hold.claim] = Claimed(event.claim, event.hold, at)
    books.entries.append(
        make(
            Entry,
            (
                Kind.RESERVE,
                at,
                event.hold,
                chain[-1] if chain else None,
                event.amount,
                owner,
                event.note,
                counters[-1] if counters else None,
                event.until or None,
            ),
        )
    )
    return make(Granted, (event.hold, event.amount, remaining))


class _Funds(NamedTuple):
    """Where the accounts of a reserve stand that could all pay for it, and whether one of them was opened for it."""

    balances: list[Balance]
    fresh: bool


def _funds(
    books: Books, event: Reserve, chain: tuple[Key, ...], counters: tuple[Key, ...], at: int
) -> _Funds | Conflict | Shortfall:
    balances: list[Balance] = []
    fresh = False
    least = [event.amount] * len(chain) + [NANO] * len(counters)
    for key, account, amount in zip(chain + counters, event.accounts + event.counters, least, strict=True):
        balance = books.balances.get(key)
        if balance is None:
            balance = Balance(account)
            fresh = True
        elif balance.account is not account and balance.account != account:
            return Conflict(_OTHERWISE.format(account.id))
        if _left(books, balance, at) < amount:
            return _shortfall(books, balance, at)
        balances.append(balance)
    return _Funds(balances, fresh)


_OTHERWISE: Final = "account {} is in the ledger with another parent, unit, limit, period or label"


def _left(books: Books, balance: Balance, at: int) -> int:
    """What an account can still pay at the instant `at`."""
    account = balance.account
    used = balance.spent + balance.held
    if account.limit is None:
        return MAX_NANO - used
    if account.period is None:
        return account.limit + balance.granted - used
    stands = books.windows.get((account[:2], window(account.period, at)[0])) or Window()
    return min(MAX_NANO - used, account.limit + stands.granted - stands.spent - stands.held)


def _remaining(books: Books, chain: tuple[Key, ...], at: int) -> int | None:
    balances = [books.balances[key] for key in chain]
    return min((_left(books, b, at) for b in balances if b.account.limit is not None), default=None)


def _shortfall(books: Books, balance: Balance, at: int) -> Shortfall:
    account = balance.account
    if account.period is None:
        limit = None if account.limit is None else account.limit + balance.granted
        return Shortfall(account, balance.spent, balance.held, limit)
    start, end = window(account.period, at)
    stands = books.windows.get((account[:2], start)) or Window()
    return Shortfall(account, stands.spent, stands.held, (account.limit or 0) + stands.granted, end)


def _within_rates(books: Books, rates: tuple[Rate, ...], at: int) -> dict[str, int] | RateLimited:
    """GCRA with a burst of all its calls: the new instant of each rate, or the first that is too fast."""
    tats: dict[str, int] = {}
    for rate in rates:
        step = spacing(rate.calls, rate.period)
        tat = books.rates.get(rate.id, 0)
        allowed = tat - (rate.calls - 1) * step
        if allowed > at:
            return RateLimited(rate, allowed)
        tats[rate.id] = max(tat, at) + step
    return tats


def _move(books: Books, hold: Hold, held: int, held_calls: int, spent: int, calls: int) -> None:
    """Add to what is held and spent on every account of a hold, in its windows, and mark what changed. `held_calls` (in
    nano-units) and `calls` are for the counters, and `calls` is counted on every account.
    """
    _shift(books, hold.chain, hold.at, held, spent, calls)
    if hold.counters:
        _shift(books, hold.counters, hold.at, held_calls, calls * NANO, calls)


def _shift(books: Books, keys: tuple[Key, ...], reserved_at: int, held: int, spent: int, calls: int) -> None:
    purse = books.purse_of(keys)
    if purse is None:
        balances: Sequence[Balance] = [books.balances[key] for key in keys]
        books.dirty.update(zip(keys, balances, strict=True))
    else:
        balances = purse.balances
        books.touch(purse)
    for balance in balances:
        balance.held += held
        balance.spent += spent
        balance.calls += calls
        if balance.held < 0 or balance.spent < 0:
            id_ = balance.account.id
            raise AssertionError(f"account {id_} holds less than its open holds, or has spent less than nothing")
    if purse is None:
        for key, balance in zip(keys, balances, strict=True):
            if balance.account.period is not None:
                _shift_window(books, (key, window(balance.account.period, reserved_at)[0]), held, spent)


def _shift_window(books: Books, at: WindowKey, held: int, spent: int) -> None:
    stands = books.windows.get(at)
    if stands is None:
        # One that was closed long ago is of no account any more: there is nothing to limit in it.
        if held <= 0:
            return
        stands = books.windows[at] = Window()
    stands.held += held
    stands.spent += spent
    books.dirty_windows[at] = stands


def _resolve(
    books: Books, kind: Kind, hold_id: str, amount: int | None, note: str, at: int, owner: int, kept: Kept | None = None
) -> Outcome:
    hold = books.holds.get(hold_id)
    if hold is None:
        return Unknown(hold_id)
    cost = hold.amount if amount is None else amount
    if not 0 <= cost <= hold.amount:
        return Conflict(f"hold {hold_id} has {hold.amount} nano-units, {cost} cannot be settled on it")
    if hold.resolution is not None:
        if (hold.resolution, hold.settled) == (kind, cost):
            return Resolved(hold_id, kind, cost)
        books.entries.append(_entry(Kind.LATE, at, hold, cost, owner, f"{kind} after {hold.resolution}"))
        return Late(hold_id, hold.resolution, hold.owner)
    _move(books, hold, -hold.amount, -NANO, cost, 0 if kind is Kind.VOID else 1)
    books.balances[(hold.chain or hold.counters)[-1]].open -= 1
    hold.resolution, hold.settled = kind, cost
    if hold.claim is not None:
        _close_claim(books, hold, hold.claim, kind, kept)
    books.entries.append(_entry(kind, at, hold, cost, owner, note))
    return make(Resolved, (hold_id, kind, cost))


def _close_claim(books: Books, hold: Hold, key: tuple[str, str], kind: Kind, kept: Kept | None) -> None:
    """A call that was surely not served frees its idempotency key; any other keeps it, with its outcome if known."""
    claimed = books.claims.get(key)
    if claimed is None or claimed.hold != hold.id:
        return
    if kind is Kind.VOID:
        del books.claims[key]
        books.dirty_claims[key] = None
        return
    claimed.done = kind
    if kept is not None:
        claimed.body, claimed.response = kept
    books.dirty_claims[key] = claimed


def _extend(books: Books, event: Extend, at: int, owner: int) -> Outcome:
    hold = books.holds.get(event.hold)
    if hold is None:
        return Unknown(event.hold)
    if hold.resolution is not None:
        return Late(hold.id, hold.resolution, hold.owner)
    if not (hold.chain and event.amount > 0):
        return Conflict(f"hold {hold.id} can only be extended by an amount above 0, where it holds one")
    for key in hold.chain:
        if _left(books, books.balances[key], hold.at) < event.amount:
            return _shortfall(books, books.balances[key], hold.at)
    hold.amount += event.amount
    hold.extended += event.amount
    _move(books, hold, event.amount, 0, 0, 0)
    books.entries.append(_entry(Kind.EXTEND, at, hold, event.amount, owner, event.note))
    return Granted(hold.id, event.amount, _remaining(books, hold.chain, hold.at))


def _open(books: Books, event: Open, at: int, owner: int) -> Outcome:
    account = event.account
    key = account[:2]
    balance = books.balances.get(key)
    if balance is not None:
        if balance.account != account:
            return Conflict(_OTHERWISE.format(account.id))
        return Granted(account.id, 0, _remaining(books, (key,), at))
    books.balances[key] = books.dirty[key] = Balance(account)
    books.entries.append(Entry(Kind.OPEN, at, None, key, 0, owner, event.note))
    return Granted(account.id, 0, account.limit)


def _pay(books: Books, event: Pay, at: int, owner: int) -> Outcome:
    account = event.account
    key = account[:2]
    opened = books.payments.get(event.hash)
    if opened is None and key not in books.balances:
        if account.limit is None or account.parent is not None or not 0 < event.amount <= MAX_NANO:
            return Conflict("a payment is above 0, and opens an account that has a limit and none above it")
        books.balances[key] = books.dirty[key] = Balance(account)
        books.payments[event.hash] = key
        books.entries.append(Entry(Kind.PAY, at, event.hash, key, event.amount, owner, event.note))
        return Granted(account.id, event.amount, account.limit)
    if opened != key:
        return Conflict("the payment was used for another token, or the token's account was opened without it")
    if books.balances[key].account != account:
        return Conflict(_OTHERWISE.format(account.id))
    return Granted(account.id, event.amount, _remaining(books, (key,), at))


def _grant(books: Books, event: Grant, at: int, owner: int) -> Outcome:
    balance = books.balances.get(event.key)
    if balance is None:
        return Unknown(event.key[0])
    account = balance.account
    if account.limit is None:
        return Conflict(f"account {account.id} has no limit that could be raised")
    running = None if account.period is None else (event.key, window(account.period, at)[0])
    stands = balance if running is None else books.windows.get(running) or Window()
    if not (event.amount > 0 and account.limit + stands.granted + event.amount <= MAX_NANO):
        return Conflict("a grant is above 0, and a limit with all its grants fits an amount")
    stands.granted += event.amount
    if isinstance(stands, Balance):
        books.dirty[event.key] = stands
        books.relimit()
    elif running is not None:
        books.windows[running] = books.dirty_windows[running] = stands
    books.entries.append(Entry(Kind.GRANT, at, None, event.key, event.amount, owner, event.note))
    return Granted(account.id, event.amount, _left(books, balance, at))


def _refund(books: Books, event: Refund, at: int, owner: int) -> Outcome:
    hold = books.holds.get(event.hold)
    if hold is None:
        return Unknown(event.hold)
    left = hold.settled - hold.refunded
    amount = left if event.amount is None else event.amount
    if not 0 < amount <= left:
        return Conflict(_charged(hold, f"{left} nano-units of it can be refunded"))
    hold.refunded += amount
    _move(books, hold, 0, 0, -amount, 0)
    books.entries.append(_entry(Kind.REFUND, at, hold, amount, owner, event.note))
    return Resolved(hold.id, Kind.REFUND, amount)


def _annul(books: Books, event: Annul, at: int, owner: int) -> Outcome:
    hold = books.holds.get(event.hold)
    if hold is None:
        return Unknown(event.hold)
    if hold.resolution not in (Kind.SETTLE, Kind.EXPIRE):
        return Conflict(_charged(hold, "there is nothing to annul"))
    if hold.annulled:
        return Resolved(hold.id, Kind.ANNUL, 0)
    amount = hold.settled - hold.refunded
    hold.refunded, hold.annulled = hold.settled, True
    _move(books, hold, 0, 0, -amount, -1)
    books.entries.append(_entry(Kind.ANNUL, at, hold, amount, owner, event.note))
    return Resolved(hold.id, Kind.ANNUL, amount)


def _charged(hold: Hold, detail: str) -> str:
    if hold.resolution is None:
        return f"hold {hold.id} is still open"
    return f"hold {hold.id} was charged {hold.settled} nano-units ({hold.resolution}), and {detail}"


def _entry(kind: Kind, at: int, hold: Hold, amount: int, owner: int, note: str) -> Entry:
    leaf = hold.chain[-1] if hold.chain else None
    counter = hold.counters[-1] if hold.counters else None
    return make(Entry, (kind, at, hold.id, leaf, amount, owner, note, counter, None))
