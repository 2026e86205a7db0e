"""The rules' books from PostgreSQL's rows and back: what a group touches is locked and read, what the rules changed is
written.

Balances are never kept from one group to the next, since others write too. What cannot change is: the numbers of
accounts and what they are. So are the holds of this process: nobody else resolves them as long as its owner lives, but
for those whose time is over; the unique indexes say so then.

Order of locks, in every group: accounts by number, rates, claims, the owner's row. What belongs to an account (windows,
holds) is read once the account is locked.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from tolsey.errors import LedgerUnavailable
from tolsey.ledger.books import Balance, Books, Chains, Hold, Window, WindowKey
from tolsey.ledger.events import (
    RESOLUTIONS,
    Annul,
    Claim,
    Claimed,
    Entry,
    Event,
    Grant,
    Key,
    Kind,
    Observe,
    Open,
    Pay,
    Refund,
    Reserve,
    are_of_calls,
    openers_of,
)
from tolsey.ledger.observing import RATE_PREFIX
from tolsey.ledger.rules import CLAIM_NS
from tolsey.ledger.windows import closed_before, window
from tolsey.store import postgres_sql as sql
from tolsey.store.contract import IN_PASSING
from tolsey.store.postgres_connection import Clock, Db
from tolsey.store.sealing import Sealer
from tolsey.store.sealing_postgres import seal
from tolsey.token.chain import Account

CACHED_ACCOUNTS: Final = 65_536
"""How many accounts' numbers are remembered."""


class Stale(Exception):
    """What was remembered is not so any more: the group is to be run again, and everything read."""


@dataclass(slots=True)
class Group:
    """One group under way: the books that it runs on, and what of the rows is there already.

    `numbers` are those of the accounts that exist, `at` is the ledger's time, `last` the number of the last entry.
    """

    books: Books
    numbers: dict[Key, int]
    at: int = 0
    last: int = 0
    rates: set[str] = field(default_factory=set)
    claims: set[tuple[str, str]] = field(default_factory=set)
    windows: set[WindowKey] = field(default_factory=set)
    opened: dict[str, Hold] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)


class Rows:
    """What one process knows of the rows between groups."""

    def __init__(self) -> None:
        self._accounts: dict[Key, tuple[int, Account]] = {}
        self._holds: dict[str, Hold] = {}
        self._chains: Chains = {}
        self.sealer = Sealer()

    def forget(self) -> None:
        """Something went wrong: read everything again."""
        self._accounts.clear()
        self._holds.clear()
        self.sealer = Sealer()

    def done(self, group: Group) -> None:
        """The group is committed."""
        for key, n in group.numbers.items():
            self._accounts[key] = (n, group.books.balances[key].account)
        self._holds.update(group.opened)
        for hold in group.closed:
            self._holds.pop(hold, None)
        if len(self._accounts) > CACHED_ACCOUNTS:
            self._accounts.clear()

    async def load(self, db: Db, events: Sequence[Event], clock: Clock, *, trusting: bool) -> Group:
        """Lock and read everything that the events touch, in an open transaction. With `trusting`, a reserve's id is
        taken to be new and a hold of this process to be as it was left.
        """
        group = Group(Books(chains=self._chains), {})
        holds, keys = group.books.holds, group.books.keys
        unknown: dict[str, None] = {}
        wanted: dict[Key, None] = {}
        # By identity, as the same tuple has the same keys: calls with one token share it.
        chains: dict[int, tuple[Key, ...]] = {}
        for event in events:
            match event:
                case Reserve():
                    for accounts in (event.accounts, event.counters) if event.counters else (event.accounts,):
                        chain = keys(accounts)
                        chains[id(chain)] = chain
                    if not trusting:
                        unknown[event.hold] = None
                case Open(account) | Pay(_, account):
                    wanted[account[:2]] = None
                case Grant(key):
                    wanted[key] = None
                case Observe():
                    wanted.update((account[:2], None) for account in event.accounts + event.counters)
                case _:
                    known = self._holds.get(event.hold)
                    if known is None or not trusting or isinstance(event, Refund | Annul):
                        unknown[event.hold] = None
                    else:
                        holds[event.hold] = known
                        chains[id(known.chain)] = known.chain
                        chains[id(known.counters)] = known.counters
        for chain in chains.values():
            wanted.update(dict.fromkeys(chain))
        if unknown:
            wanted.update(await self._where_held(db, list(unknown)))
        await self._lock(db, group, wanted, clock)
        if unknown:
            await self.read_holds(db, group.books, list(unknown))
        paid = [event.hash for event in events if isinstance(event, Pay)]
        if paid:
            await self._read_payments(db, group, paid, wanted)
        await self._read_rest(db, group, events)
        return group

    async def _read_payments(self, db: Db, group: Group, paid: list[str], wanted: Container[Key]) -> None:
        """Which of these payments opened an account, after the accounts were looked for: one that is there has its
        payment there too. The other way round another gateway has just opened it.
        """
        for row in await db.fetch(sql.PAYMENTS, paid):
            key = (row["id"], row["unit"])
            if key in wanted and key not in group.numbers:
                raise Stale("an account was opened at this instant")
            group.books.payments[row["hold"]] = key

    async def _where_held(self, db: Db, ids: list[str]) -> dict[Key, None]:
        """The accounts of holds, which never change, unlike all else about a hold."""
        keys: dict[Key, None] = {}
        for row in await db.fetch(sql.WHERE_HELD, ids):
            for number in (row["leaf"], row["counter"]):
                keys.update((key, None) for key in await self.chain(db, number))
        return keys

    async def chain(self, db: Db, number: int | None) -> tuple[Key, ...]:
        """The accounts from the root down to the one with this number."""
        if number is None:
            return ()
        rows = await db.fetch(sql.ANCESTRY, number)
        return tuple(self._remember(row) for row in rows)

    def _remember(self, row: asyncpg.Record) -> Key:
        account = Account(row["id"], row["unit"], row["parent"], row["label"], row["limit"], row["period"])
        self._accounts[account[:2]] = (row["n"], account)
        return account[:2]

    async def _lock(self, db: Db, group: Group, wanted: Iterable[Key], clock: Clock) -> None:
        missing = [key for key in wanted if key not in self._accounts]
        if missing:
            for row in await db.fetch(sql.KEYED, [key[0] for key in missing], [key[1] for key in missing]):
                self._remember(row)
        known = {found[0]: found[1] for key in wanted if (found := self._accounts.get(key)) is not None}
        asked = clock.local()
        rows = await db.fetch(sql.LOCK, sql.numbers(sorted(known)))
        group.at = clock.heard(asked, *rows[-1][7:9])
        group.last = rows[-1][9] or 0
        for n, granted, spent, held, calls, open_, observed, *_ in rows:
            if n is not None:
                account = known[n]
                group.numbers[account[:2]] = n
                group.books.balances[account[:2]] = Balance(account, spent, held, calls, open_, granted, observed)
        if len(group.numbers) != len(known):
            raise Stale("an account is gone")

    async def read_holds(self, db: Db, books: Books, ids: Sequence[str]) -> None:
        """Read holds as they stand: another owner's, resolved ones, or a repeated id."""
        for row in await db.fetch(sql.HOLDS, ids):
            books.holds[row["hold"]] = Hold(
                row["hold"],
                await self.chain(db, row["leaf"]),
                row["amount"] + row["extended"],
                row["owner"],
                row["at"],
                await self.chain(db, row["counter"]),
                None if row["scope"] is None else (row["scope"], row["key"]),
                row["extended"],
                None if row["done"] is None else Kind(row["done"]),
                row["settled"] or 0,
                row["refunded"],
                row["annulled"],
            )

    async def _read_rest(self, db: Db, group: Group, events: Sequence[Event]) -> None:
        """Rates, claims and windows, where there are any."""
        books = group.books
        if not (
            any(balance.account.period for balance in books.balances.values())
            or any(event.rates or event.claim for event in events if isinstance(event, Reserve))
            or any(event.rates for event in events if isinstance(event, Observe))
            or any(hold.claim for hold in books.holds.values())
        ):
            return
        rates: set[str] = set()
        claims: list[Claim] = []
        claiming: list[str] = []
        windows: set[WindowKey] = set()
        for event in events:
            moments = [group.at]
            keys: tuple[Key, ...] = ()
            hold = None if isinstance(event, Open | Grant | Observe | Pay) else books.holds.get(event.hold)
            if isinstance(event, Reserve):
                keys = tuple(account[:2] for account in event.accounts + event.counters)
                rates.update(rate.id for rate in event.rates)
                if event.claim is not None:
                    claims.append(event.claim)
                if hold is not None:
                    moments.append(hold.at)
            elif isinstance(event, Open | Pay):
                keys = (event.account[:2],)
            elif isinstance(event, Grant):
                keys = (event.key,)
            elif isinstance(event, Observe):
                keys = tuple(account[:2] for account in event.accounts + event.counters)
                rates.update(RATE_PREFIX + rate.id for rate in event.rates)
            elif hold is not None:
                keys, moments = hold.chain + hold.counters, [hold.at]
                if hold.claim is not None:
                    claiming.append(hold.id)
            for key in keys:
                balance = books.balances.get(key)
                if balance is not None and balance.account.period is not None:
                    windows.update((key, window(balance.account.period, at)[0]) for at in moments)
        if rates:
            books.rates.update((row["id"], row["tat"]) for row in await db.fetch(sql.RATES, list(rates)))
            group.rates.update(books.rates)
        if claims or claiming:
            await self._read_claims(db, group, claims, claiming)
        if windows:
            await self._read_windows(db, group, windows)

    async def _read_claims(self, db: Db, group: Group, claims: list[Claim], holds: list[str]) -> None:
        rows = await db.fetch(sql.CLAIMS, [c.scope for c in claims], [c.key for c in claims]) if claims else []
        if holds:
            rows += await db.fetch(sql.CLAIMS_OF, holds)
        for row in rows:
            claim = Claim(row["scope"], row["key"], row["request"])
            done = None if row["done"] is None else Kind(row["done"])
            found = Claimed(claim, row["hold"], row["at"], done, row["body"], row["response"])
            group.books.claims.setdefault(claim[:2], found)
            group.claims.add(claim[:2])

    async def _read_windows(self, db: Db, group: Group, windows: set[WindowKey]) -> None:
        names = {group.numbers[key]: key for key, _ in windows}
        keys = list(windows)
        for n, start, *stands in await db.fetch(
            sql.WINDOWS, [group.numbers[key] for key, _ in keys], [start for _, start in keys]
        ):
            group.books.windows[names[n], start] = Window(*stands)
            group.windows.add((names[n], start))

    async def write(self, db: Db, group: Group, *, name: str, owner: int, config: int | None) -> bool:
        """Write what the rules changed, as the group `name`; False if the owner was ended and it must not count.

        Raises `Stale`, or what a unique index says, where something was not as remembered.
        """
        books = group.books
        await self._open_accounts(db, group)
        lines, known = self._lines(group)
        entries = books.entries
        sealed = await seal(db, self.sealer, entries, books.balances, config) if entries else []
        place, head = sealed[-1] if sealed else (None, None)
        moved = [(group.numbers[key], b) for key, b in books.changed().items()]
        ((lives, closed, moved_to),) = await db.fetch(
            sql.WRITE,
            name,
            owner,
            group.at,
            config,
            *lines,
            sql.numbers([n for n, _ in moved]),
            sql.numbers([b.granted for _, b in moved]),
            sql.numbers([b.spent for _, b in moved]),
            sql.numbers([b.held for _, b in moved]),
            sql.numbers([b.calls for _, b in moved]),
            sql.numbers([b.open for _, b in moved]),
            sql.numbers([b.observed for _, b in moved]),
            b"".join([each for _, each in sealed]),
            0 if place is None else place - len(sealed),
            place,
            head,
            sql.texts(group.closed),
            group.at if are_of_calls(entries) else None,
        )
        if moved_to is not None:
            raise LedgerUnavailable(f"the ledger was moved to {moved_to} while it was in use")
        if owner and not lives:
            return False
        if closed != known:
            raise Stale("a hold is not open any more")
        await self._write_rest(db, group)
        return True

    async def _open_accounts(self, db: Db, group: Group) -> None:
        fresh = sorted((key, b) for key, b in group.books.changed().items() if key not in group.numbers)
        if not fresh:
            return
        entries = group.books.entries
        openers = openers_of(entries)
        columns = zip(
            *((*b.account, b.granted, b.spent, b.held, b.calls, b.open, b.observed, openers.get(k)) for k, b in fresh),
            strict=True,
        )
        seen = group.at if are_of_calls(entries) else None
        for n, id_, unit in await db.fetch(sql.NEW_ACCOUNTS, *map(list, columns), group.at, seen):
            group.numbers[id_, unit] = n

    def _lines(self, group: Group) -> tuple[list[str], int]:
        """The entries, column by column, and how many open holds they close that were there before."""
        books, numbers, opened = group.books, group.numbers, group.opened
        known = 0
        columns = [*zip(*books.entries, strict=True)] or [()] * len(Entry._fields)
        kinds, _, holds, leaves, amounts, _, notes, counters, untils = columns
        for kind, hold in zip(kinds, holds, strict=True):
            if hold is None:
                continue
            if kind is Kind.RESERVE:
                opened[hold] = books.holds[hold]
            elif kind in RESOLUTIONS:
                known += opened.pop(hold, None) is None
                group.closed.append(hold)
        still = zip(kinds, holds, strict=True)
        held = [opened[hold].amount if kind is Kind.RESERVE and hold in opened else None for kind, hold in still]
        return [
            sql.texts(kinds),
            sql.texts([hold or "" for hold in holds]),
            sql.numbers([None if leaf is None else numbers[leaf] for leaf in leaves]),
            sql.numbers(_any([None if counter is None else numbers[counter] for counter in counters])),
            sql.numbers(amounts),
            sql.numbers(_any(untils)),
            sql.texts(notes),
            sql.numbers(_any(held)),
        ], known

    async def _write_rest(self, db: Db, group: Group) -> None:
        books = group.books
        grown = {e.hold: books.holds[e.hold].amount for e in books.entries if e.hold and e.kind is Kind.EXTEND}
        for hold in (*group.opened, *group.closed):
            grown.pop(hold, None)
        if grown and await db.fetchval(sql.GROWN, list(grown), list(grown.values())) != len(grown):
            raise Stale("a hold is not open any more")
        if books.dirty_windows:
            await self._write_windows(db, group)
        if books.dirty_rates:
            await self._write_rates(db, group)
        if books.dirty_claims:
            await self._write_claims(db, group)

    async def _write_windows(self, db: Db, group: Group) -> None:
        lines = []
        for (key, start), w in sorted(group.books.dirty_windows.items()):
            account = group.books.balances[key].account
            lines.append((group.numbers[key], start, account.limit, w.spent, w.held, w.granted, w.observed))
            if (key, start) not in group.windows and account.period is not None:
                await db.execute(sql.CLOSE_WINDOWS, group.numbers[key], closed_before(account.period, start))
        await db.execute(sql.WRITE_WINDOWS, *map(list, zip(*lines, strict=True)))

    async def _write_rates(self, db: Db, group: Group) -> None:
        for there, statement in ((True, sql.RATES_CHANGED), (False, sql.NEW_RATES)):
            rates = sorted((id_, tat) for id_, tat in group.books.dirty_rates.items() if (id_ in group.rates) is there)
            if rates:
                await db.execute(statement, *map(list, zip(*rates, strict=True)))
        await db.execute(sql.PURGE_RATES, group.at, IN_PASSING)

    async def _write_claims(self, db: Db, group: Group) -> None:
        for key, c in sorted(group.books.dirty_claims.items()):
            if c is None:
                await db.execute("DELETE FROM claim WHERE scope = $1 AND key = $2", *key)
            else:
                statement = sql.CLAIM_CHANGED if key in group.claims else sql.NEW_CLAIM
                await db.execute(statement, *key, c.claim.request, c.hold, c.at, c.done, c.body, c.response)
        await db.execute(sql.PURGE_CLAIMS, group.at - CLAIM_NS, IN_PASSING)


def _any(column: Sequence[int | None]) -> Sequence[int | None]:
    """The column, or nothing where nothing is in it: `unnest` fills it up with NULL, and each value would cost."""
    return column if column.count(None) < len(column) else ()


async def standing(db: Db, accounts: Sequence[Account], at: int) -> list[Balance]:
    """Where the accounts stand as committed; one that does not exist yet stands at 0, one with a period as its window
    does that holds the ledger's time `at`. Read in one statement, so that all of it is of one instant.
    """
    starts = [None if a.period is None else window(a.period, at)[0] for a in accounts]
    rows = await db.fetch(sql.STANDING, [a.id for a in accounts], [a.unit for a in accounts], starts)
    balances = []
    for account, (n, parent, label, limit, period, calls, open_, spent, held, granted, observed) in zip(
        accounts, rows, strict=True
    ):
        there = account if n is None else Account(account.id, account.unit, parent, label, limit, period)
        balances.append(Balance(there, spent, held, calls, open_, granted, observed))
    return balances


async def opened(db: Db, payment: str) -> Key | None:
    """The key of the account that a payment opened, by its hash; None if it was not taken."""
    rows = await db.fetch(sql.PAYMENTS, [payment])
    return (rows[0]["id"], rows[0]["unit"]) if rows else None
