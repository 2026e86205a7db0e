"""The ledger's rules in tables of text, and what such a table is played on.

root 100 / team 50          the accounts that the lines below are about, root first; `-` is no limit
reserve h1 10 -> …          on all of them; `reserve h1 10 @team` on the chain that ends in team
settle h1 7 -> …            void h1, expire h1, open
team? -> …                  where an account stands
journal? -> …               what was written since the last time
"""

from collections.abc import Iterator
from itertools import cycle
from typing import Protocol

from tests.ledgers import Ledgers, database, number, purse, say
from tolsey.ledger.events import Event, Expire, Open, Outcome, Reserve, Settle, Void
from tolsey.ledger.rules import Balance, Books, apply
from tolsey.testing import NOON
from tolsey.token.chain import Account


class Player(Protocol):
    """What a table is played on."""

    def play(self, event: Event) -> Outcome: ...

    def stand(self, account: Account) -> Balance: ...

    def written(self) -> Iterator[str]: ...


class RulesAlone:
    def __init__(self) -> None:
        self._books = Books()

    def play(self, event: Event) -> Outcome:
        return apply(self._books, event, at=NOON, owner=1)

    def stand(self, account: Account) -> Balance:
        return self._books.balances.get((account.id, account.unit), Balance(account))

    def written(self) -> Iterator[str]:
        entries, self._books.entries = self._books.entries, []
        for entry in entries:
            yield _line(entry.kind, entry.hold, entry.amount, entry.note)


class OnDisk:
    def __init__(self, ledgers: Ledgers, workers: int) -> None:
        self._ledgers = ledgers
        self._turn = cycle([ledgers.open(f"worker {n}") for n in range(workers)])
        self._read = 0

    def play(self, event: Event) -> Outcome:
        (outcome,) = next(self._turn).run([event], NOON)
        return outcome

    def stand(self, account: Account) -> Balance:
        (balance,) = next(self._turn).balances([account], NOON)
        return balance

    def written(self) -> Iterator[str]:
        with database(self._ledgers.path) as db:
            rows = db.execute("SELECT n, kind, hold, amount, note FROM entry WHERE n > ? ORDER BY n", (self._read,))
            for self._read, *entry in rows:
                yield _line(*entry)


def _line(kind: str, hold: str | None, amount: int, note: str) -> str:
    return " ".join(
        word for word in (str(kind), hold, str(amount) if hold else "", f"({note})" if note else "") if word
    )


def lines_of(table: str) -> list[str]:
    """The lines of a table, with single spaces."""
    return [" ".join(line.split()) for line in table.splitlines() if line.strip()]


def play(player: Player, lines: list[str]) -> Iterator[str]:
    """Play a table; yield each line with the outcome that it had."""
    chains: dict[str, tuple[Account, ...]] = {}
    leaf = ""
    for line in lines:
        told = line.partition(" -> ")[0]
        match told.split():
            case [question] if question.endswith("?") and question != "journal?":
                balance = player.stand(chains[question[:-1]][-1])
                yield (
                    f"{told} -> {balance.spent} spent, {balance.held} held, {balance.calls} calls, {balance.open} open"
                )
            case ["journal?"]:
                yield f"{told} -> {', '.join(player.written()) or 'nothing'}"
            case ["reserve", hold, amount]:
                yield f"{told} -> {say(player.play(Reserve(hold, chains[leaf], number(amount))))}"
            case ["reserve", hold, amount, at]:
                yield f"{told} -> {say(player.play(Reserve(hold, chains[at[1:]], number(amount))))}"
            case ["settle", hold, amount]:
                yield f"{told} -> {say(player.play(Settle(hold, number(amount))))}"
            case ["void", hold]:
                yield f"{told} -> {say(player.play(Void(hold)))}"
            case ["expire", hold]:
                yield f"{told} -> {say(player.play(Expire(hold)))}"
            case ["open"]:
                yield f"{told} -> {say(player.play(Open(chains[leaf][-1])))}"
            case [*words]:
                unit = words.pop() if words[-1] in ("USD", "sat") else "USD"
                accounts = purse(" ".join(words), unit)
                for depth, account in enumerate(accounts, start=1):
                    leaf = account.id if unit == "USD" else f"{account.id}.{unit}"
                    chains[leaf] = accounts[:depth]
                yield line
