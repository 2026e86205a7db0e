"""The ledger's rules in tables of text, and what such a table is played on.

root 100 / team 50/day      the accounts that the lines below are about, root first; `-` is no limit
calls 3 / more 2/hour call  counters, root first, in calls; a rate: rate r 2/second
reserve h1 10 -> …          on all of them; `reserve h1 10 @team` on the chain that ends in team. `+more` counts a call
                            on the counters that end in more, `+r` keeps to a rate, `key=k` or `key=k/request` claims an
                            idempotency key, `until=30` may be expired from 30 s on
settle h1 7 -> …            void h1, expire h1, open, extend h1 5, refund h1 3, refund h1, annul h1, grant team 100;
                            `settle h1 7 kept` has a response to keep
observe o1 8 -> observed: … a call that was let through: quoted at 8 and as dear; `observe o1 8/5` cost 5, `refused=x`
                            met that refusal before; `@team`, `+more`, `+r` as above
at 2026-03-31T23:59:59Z     the clock; `+5s`, `-1h`, `+1ns` move it
team? -> …                  where an account stands: over its life, and with a period in its running window
overdue? -> …               the holds whose time is over are expired, and this many were
journal? -> …               what was written since the last time
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import cycle
from typing import Protocol

from tests.ledgers import Ledgers, database, figure, number, purse, say
from tolsey.ledger.books import Balance, Books, Window
from tolsey.ledger.events import (
    Annul,
    Claim,
    Event,
    Expire,
    Extend,
    Grant,
    Granted,
    Kept,
    Observe,
    Open,
    Outcome,
    Refund,
    Reserve,
    Settle,
    Void,
)
from tolsey.ledger.rules import apply
from tolsey.ledger.windows import window
from tolsey.testing import NOON, SECOND, FaultyLedger
from tolsey.token.chain import Account, Rate
from tolsey.units import NANO

UNITS = ("USD", "sat", "call")
STEPS = {"ns": 1, "ms": SECOND // 1000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86400 * SECOND}


Check = Callable[[str], None]
"""Plays a table and compares it, line by line, with what came of it."""


class Player(Protocol):
    """What a table is played on. `now` is the clock, which the table moves."""

    now: int

    def play(self, event: Event) -> Outcome: ...

    def stand(self, account: Account) -> Balance: ...

    def expire(self) -> int: ...

    def written(self) -> Iterator[str]: ...


class RulesAlone:
    """The rules over books that hold everything there is."""

    def __init__(self) -> None:
        self.now = NOON
        self._books = Books()
        self._last = 0
        self._until: dict[str, int] = {}

    def play(self, event: Event) -> Outcome:
        self._last = max(self._last, self.now)
        if isinstance(event, Reserve) and event.until:
            self._until[event.hold] = event.until
        return apply(self._books, event, at=self._last, owner=1)

    def stand(self, account: Account) -> Balance:
        balance = self._books.balances.get(account[:2]) or Balance(account)
        if account.period is None:
            return balance
        start, _ = window(account.period, max(self._last, self.now))
        stands = self._books.windows.get((account[:2], start)) or Window()
        figures = (stands.spent, stands.held, balance.calls, balance.open, stands.granted, stands.observed)
        return Balance(account, *figures)

    def expire(self) -> int:
        holds = self._books.holds
        overdue = [name for name, at in self._until.items() if at <= self.now and not holds[name].resolution]
        for name in overdue:
            self.play(Expire(name, "unmetered: its time was over"))
        return len(overdue)

    def written(self) -> Iterator[str]:
        entries, self._books.entries = self._books.entries, []
        for entry in entries:
            yield entry_line(entry.kind, entry.hold, entry.amount, entry.note)


class OnDisk:
    """Ledgers on one file that take turns; a hold is extended by its owner."""

    def __init__(self, ledgers: Ledgers, workers: int) -> None:
        self.now = NOON
        self._ledgers = ledgers
        self._turn = cycle([ledgers.open(f"worker {n}") for n in range(workers)])
        self._owners: dict[str, FaultyLedger] = {}
        self._read = 0

    def play(self, event: Event) -> Outcome:
        ledger = next(self._turn)
        if isinstance(event, Extend):
            ledger = self._owners.get(event.hold, ledger)
        (outcome,) = ledger.run([event], self.now)
        if isinstance(event, Reserve) and isinstance(outcome, Granted):
            self._owners.setdefault(event.hold, ledger)
        return outcome

    def stand(self, account: Account) -> Balance:
        (balance,) = next(self._turn).balances([account], self.now)
        return balance

    def expire(self) -> int:
        return next(self._turn).expire(self.now)

    def written(self) -> Iterator[str]:
        with database(self._ledgers.path) as db:
            rows = db.execute("SELECT n, kind, hold, amount, note FROM entry WHERE n > ? ORDER BY n", (self._read,))
            for self._read, *entry in rows:
                yield entry_line(*entry)


def entry_line(kind: str, hold: str | None, amount: int, note: str) -> str:
    shown = str(amount) if hold or amount else ""
    return " ".join(word for word in (str(kind), hold, shown, f"({note})" if note else "") if word)


def lines_of(table: str) -> list[str]:
    """The lines of a table, with single spaces."""
    return [" ".join(line.split()) for line in table.splitlines() if line.strip()]


class Names:
    """What a table has declared so far."""

    def __init__(self) -> None:
        self.chains: dict[str, tuple[Account, ...]] = {}
        self.rates: dict[str, Rate] = {}
        self.leaf = ""

    def declare(self, words: list[str]) -> None:
        """Accounts, counters or a rate."""
        if words[0] == "rate":
            calls, _, period = words[2].partition("/")
            self.rates[words[1]] = Rate(words[1], words[1], int(calls), period)
            return
        unit = words.pop() if words[-1] in UNITS else "USD"
        accounts = purse(" ".join(words), unit)
        names = [f"{account.id}.{unit}" if unit == "sat" else account.id for account in accounts]
        for depth, name in enumerate(names, start=1):
            self.chains[name] = accounts[:depth]
        if unit != "call":
            self.leaf = names[-1]

    def reserve(self, hold: str, amount: str, words: list[str], now: int) -> Reserve:
        """`reserve h1 10 …`; an amount of `-` is a free call, on no account."""
        free = amount == "-"
        event = Reserve(hold, () if free else self.chains[self.leaf], 0 if free else number(amount))
        for word in words:
            name, _, value = word.partition("=")
            if word[0] == "@":
                event = event._replace(accounts=self.chains[word[1:]])
            elif word[0] == "+" and word[1:] in self.rates:
                event = event._replace(rates=(*event.rates, self.rates[word[1:]]))
            elif word[0] == "+":
                event = event._replace(counters=self.chains[word[1:]])
            elif name == "until":
                event = event._replace(until=now + int(value) * SECOND)
            else:
                assert name == "key", word
                key, _, request = value.partition("/")
                event = event._replace(claim=Claim("the Link", key, request))
        return event

    def event(self, words: list[str], now: int) -> Event | None:
        """What a line asks of the ledger, if it does."""
        match words:
            case ["reserve", hold, amount, *more]:
                return self.reserve(hold, amount, more, now)
            case ["observe", hold, amount, *more]:
                quote, _, cost = amount.partition("/")
                refused = [word.partition("=")[2] for word in more if word.startswith("refused=")]
                asked = self.reserve(hold, quote, [word for word in more if not word.startswith("refused=")], now)
                paid = number(cost) if cost else asked.amount
                return Observe(
                    hold, asked.accounts, asked.amount, paid, "", asked.counters, asked.rates, "".join(refused)
                )
            case ["extend", hold, amount]:
                return Extend(hold, number(amount))
            case ["settle", hold, amount, *kept]:
                return Settle(hold, number(amount), "", Kept("body", b"response") if kept else None)
            case ["void", hold]:
                return Void(hold)
            case ["expire", hold]:
                return Expire(hold)
            case ["open"]:
                return Open(self.chains[self.leaf][-1])
            case ["grant", name, amount]:
                account = self.chains[name][-1]
                return Grant(account[:2], number(amount) * (NANO if account.unit == "call" else 1), "")
            case ["refund", hold]:
                return Refund(hold, None, "")
            case ["refund", hold, amount]:
                return Refund(hold, number(amount), "")
            case ["annul", hold]:
                return Annul(hold, "")
        return None


def clock_of(words: list[str], now: int) -> int | None:
    """Where a line moves the clock to, if it does."""
    match words:
        case ["at", text]:
            whole, _, nanos = text.removesuffix("Z").partition(".")
            seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
            return seconds * SECOND + int(nanos.ljust(9, "0") or "0")
        case [step] if step[0] in "+-":
            digits = step.rstrip("nmshd")
            return now + int(digits) * STEPS[step.removeprefix(digits)]
    return None


def play(player: Player, lines: list[str]) -> Iterator[str]:
    """Play a table; yield each line with the outcome that it had."""
    names = Names()
    for line in lines:
        told = line.partition(" -> ")[0]
        words = told.split()
        event = names.event(words, player.now)
        moved = clock_of(words, player.now)
        if event is not None:
            yield f"{told} -> {say(player.play(event))}"
        elif moved is not None:
            player.now = moved
            yield told
        elif told == "journal?":
            yield f"{told} -> {', '.join(player.written()) or 'nothing'}"
        elif told == "overdue?":
            yield f"{told} -> {player.expire()}"
        elif told.endswith("?"):
            (account,) = names.chains[told[:-1]][-1:]
            stands = player.stand(account)
            spent, held, granted = (figure(account, n) for n in (stands.spent, stands.held, stands.granted))
            more = f", {granted} granted" if granted else ""
            more += f", {figure(account, stands.observed)} observed" if stands.observed else ""
            yield f"{told} -> {spent} spent, {held} held, {stands.calls} calls, {stands.open} open{more}"
        else:
            names.declare(words)
            yield line
