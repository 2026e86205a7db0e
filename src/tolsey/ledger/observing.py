"""What observe mode lets through (RULES.md M3): it is asked what enforcement would have said, and counted apart.

To that question spent is what was spent and observed together, so that a call is refused as if every one before had
been enforced. Rates are kept under ids of their own. Nothing here changes what an enforced call meets.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tolsey.ledger.books import Balance, Books, Window
from tolsey.ledger.events import (
    Conflict,
    Entry,
    Granted,
    Key,
    Kind,
    Observe,
    Observed,
    Outcome,
    RateLimited,
    Reserve,
    Shortfall,
)
from tolsey.ledger.windows import window
from tolsey.units import MAX_NANO, NANO

RATE_PREFIX: Final = "observed:"
"""What stands before the id of a rate of observed calls."""

REFUSED: Final = "would be refused: "
"""What stands before the code in the note of calls that enforcement would have refused."""


def observe(
    books: Books, event: Observe, at: int, owner: int, reserve: Callable[[Books, Reserve, int, int], Outcome]
) -> Observed:
    """Write a call down that was let through; `reserve` is the rule that is asked.

    A call that would have been refused opens no account: it is charged to those that are there. Its entry is one with
    those of others of its group, so that a bearer without money does not fill the journal.
    """
    verdict = None if event.refusal else _verdict(books, event, at, owner, reserve)
    if isinstance(verdict, Conflict):
        return Observed(event.hold, verdict)
    granted = isinstance(verdict, Granted)
    for accounts, amount in ((event.accounts, event.cost), (event.counters, NANO)):
        leaf: Key | None = None
        for account in accounts:
            key = account[:2]
            if key not in books.balances:
                if not granted:
                    break
                books.balances[key] = Balance(account)
            _add(books, key, amount, at)
            leaf = key
        if leaf is None:
            continue
        if granted:
            books.entries.append(Entry(Kind.OBSERVE, at, event.hold, leaf, amount, owner, event.note))
        else:
            note = REFUSED + (event.refusal or _code(verdict, event))
            _merge(books, Entry(Kind.OBSERVE, at, None, leaf, amount, owner, note))
    if not (event.accounts or event.counters or event.rates):
        books.entries.append(Entry(Kind.OBSERVE, at, None, None, 0, owner, event.note))
    return Observed(event.hold, verdict)


def _verdict(
    books: Books, event: Observe, at: int, owner: int, reserve: Callable[[Books, Reserve, int, int], Outcome]
) -> Outcome:
    if not (event.accounts or event.counters or event.rates):
        return Granted(event.hold, 0, None)
    asked = Books()
    for account in event.accounts + event.counters:
        key = account[:2]
        balance = books.balances.get(key)
        if balance is None:
            continue
        asked.balances[key] = replace(balance, spent=min(MAX_NANO, balance.spent + balance.observed))
        if balance.account.period is not None:
            start = (key, window(balance.account.period, at)[0])
            stands = books.windows.get(start)
            if stands is not None:
                asked.windows[start] = replace(stands, spent=min(MAX_NANO, stands.spent + stands.observed))
    rates = tuple([rate._replace(id=RATE_PREFIX + rate.id) for rate in event.rates])
    asked.rates.update({rate.id: books.rates[rate.id] for rate in rates if rate.id in books.rates})
    verdict = reserve(asked, Reserve(event.hold, event.accounts, event.quote, "", event.counters, rates), at, owner)
    if isinstance(verdict, RateLimited):
        return verdict._replace(rate=verdict.rate._replace(id=verdict.rate.id.removeprefix(RATE_PREFIX)))
    books.rates.update(asked.dirty_rates)
    books.dirty_rates.update(asked.dirty_rates)
    return verdict


def _code(verdict: Outcome | None, event: Observe) -> str:
    """The code of the refusal that an outcome becomes."""
    match verdict:
        case Shortfall(account):
            return "calls_exhausted" if account in event.counters else "budget_exhausted"
        case RateLimited():
            return "rate_limited"
        case _:
            return "too_many_holds"


def _add(books: Books, key: Key, amount: int, at: int) -> None:
    balance = books.dirty[key] = books.balances[key]
    balance.observed = min(MAX_NANO, balance.observed + amount)
    if balance.account.period is not None:
        start = (key, window(balance.account.period, at)[0])
        stands = books.windows.setdefault(start, Window())
        stands.observed = min(MAX_NANO, stands.observed + amount)
        books.dirty_windows[start] = stands


def _merge(books: Books, entry: Entry) -> None:
    """Put an entry with the one that says the same of the same account."""
    for place, before in enumerate(books.entries):
        if before._replace(amount=0) == entry._replace(amount=0):
            books.entries[place] = entry._replace(amount=min(MAX_NANO, before.amount + entry.amount))
            return
    books.entries.append(entry)
