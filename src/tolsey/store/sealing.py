"""The bodies of entries: from what the rules write, to be sealed, and from rows that were sealed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tolsey.audit.seal import (
    EMPTY,
    NO_CHAIN,
    OPERATORS,
    Head,
    account_text,
    beginning,
    body,
    chain_text,
    end,
    follow,
    follow_digest,
    stamp,
    unit_of,
)
from tolsey.errors import LedgerUnavailable
from tolsey.ledger.books import Balance
from tolsey.ledger.events import Entry, Key
from tolsey.store.contract import AccountRow, EntryRow
from tolsey.token.chain import Account

CACHED_CHAINS: Final = 16_384
"""How many chains are remembered as text."""


class Sealer:
    """What a writer remembers from group to group. An account's chain never changes, nor does a config's generation."""

    def __init__(self) -> None:
        self._log: int | None = None
        self._head = Head(0, b"")
        self.configs: dict[int | None, str | None] = {None: None}
        self._chains: dict[Key, str] = {}

    def head_of(self, log: int) -> Head | None:
        """The head of a log, if it was this one that was written last, and by this process."""
        return self._head if log == self._log else None

    def others_wrote(self) -> None:
        """Forget what another process may have changed: only the log of the operators is written by several."""
        if self._log == OPERATORS:
            self._log = None

    def wants(self, entries: Sequence[Entry], balances: Mapping[Key, Balance]) -> list[Key]:
        """The accounts whose chain is not known and is not among `balances` either; `learn` them before sealing."""
        if len(self._chains) > CACHED_CHAINS:
            self._chains.clear()
        keys = {entry.leaf for entry in entries}
        keys.update(entry.counter for entry in entries)
        keys.discard(None)
        return [key for key in keys if key not in self._chains and key is not None and not self._find(key, balances)]

    def _find(self, key: Key, balances: Mapping[Key, Balance]) -> bool:
        chain: list[Account] = []
        at: Key | None = key
        while at is not None:
            balance = balances.get(at)
            if balance is None:
                return False
            account = balance.account
            chain.append(account)
            at = None if account.parent is None else (account.parent, account.unit)
        self.learn(chain[::-1])
        return True

    def learn(self, chain: Sequence[Account]) -> None:
        """Remember the chain of accounts, root first, of its last one."""
        self._chains[chain[-1][:2]] = chain_text(account_text(a.id, a.label, a.limit, a.period, a.unit) for a in chain)

    def seal(self, head: Head, entries: Sequence[Entry], log: int, config: int | None) -> list[tuple[int, bytes]]:
        """The place and the seal of each of these entries of one instant, which follow `head` in the log."""
        chains, generation = self._chains, self.configs[config]
        place, seal = head
        sealed = []
        at = stamp(entries[0].at)
        # The digests of the beginnings of bodies: of a group most begin alike.
        begun: dict[tuple[str, str, int], Any] = {}
        for kind, _, hold, leaf, amount, _, note, counter, until in entries:
            place += 1
            chain = NO_CHAIN if leaf is None else chains[leaf]
            counters = NO_CHAIN if counter is None else chains[counter]
            first = begun.get((chain, counters, amount))
            if first is None:
                first = begun[chain, counters, amount] = EMPTY.copy()
                first.update(beginning(at, chain, counters, amount, generation))
            digest = first.copy()
            unit = unit_of(kind, None if leaf is None else leaf[1])
            digest.update(end(log, place, kind, hold, unit, until, note))
            seal = follow_digest(seal, digest.digest())
            sealed.append((place, seal))
        self._log, self._head = log, Head(place, seal)
        return sealed


class Bodies:
    """The bodies of rows of the journal."""

    def __init__(self, accounts: Iterable[AccountRow], configs: Mapping[int, str]) -> None:
        self._accounts = {row.n: row for row in accounts}
        self._configs = configs
        self._chains: dict[int, str] = {}

    def __contains__(self, entry: EntryRow) -> bool:
        """Whether every account that it names was there."""
        return all(n is None or n in self._accounts for n in (entry.leaf, entry.counter))

    def behind(self, head: Head, entry: EntryRow) -> Head:
        """The head of a log once an entry stands behind `head`, whatever place and seal the entry has now."""
        entry = replace(entry, place=head.entries + 1)
        return Head(entry.place, follow(head.seal, self.body(entry)))

    def body(self, entry: EntryRow) -> bytes:
        """The body of an entry. Raises `LedgerUnavailable` where its accounts are not there."""
        leaf = None if entry.leaf is None else self._accounts.get(entry.leaf)
        return body(
            entry.owner,
            entry.place,
            stamp(entry.at),
            entry.kind,
            entry.hold,
            self._chain(entry.leaf),
            self._chain(entry.counter),
            unit_of(entry.kind, None if leaf is None else leaf.unit),
            entry.amount,
            entry.until,
            None if entry.config is None else self._configs.get(entry.config),
            entry.note,
        )

    def _chain(self, n: int | None) -> str:
        if n is None:
            return NO_CHAIN
        known = self._chains.get(n)
        if known is None:
            texts: list[str] = []
            at: int | None = n
            while at is not None:
                row = self._accounts.get(at)
                if row is None or len(texts) > len(self._accounts):
                    raise LedgerUnavailable("the journal names an account that is not in the ledger")
                texts.append(account_text(row.id, row.label, row.limit, row.period, row.unit))
                at = row.up
            if len(self._chains) > CACHED_CHAINS:
                self._chains.clear()
            known = self._chains[n] = chain_text(reversed(texts))
        return known

    def key(self, n: int) -> Key:
        """The id and the unit of an account."""
        row = self._accounts[n]
        return row.id, row.unit
