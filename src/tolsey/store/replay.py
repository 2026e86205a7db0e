"""The journal added up once more, entry by entry, for `fsck`: what every account, window and hold must then be.

It is written apart from the rules, so that a mistake there is a difference here. What is kept in memory is bounded by
the accounts, the open holds and the windows that the ledger still has.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tolsey.ledger.revoking import Revocation, dropped_before
from tolsey.ledger.windows import closed_before, window
from tolsey.store.contract import AccountRow, EntryRow, Snapshot
from tolsey.store.sealcheck import SealCheck
from tolsey.units import MAX_NANO, NANO

EVERY: Final = 4096
"""After how many entries each progress is told."""

_NOTES: Final = ("late", "accept", "keys", "rollup")
_ANSWERS: Final = ("approve", "deny")
_RESOLUTIONS: Final = ("settle", "void", "expire")


@dataclass(slots=True)
class _Window:
    spent: int = 0
    held: int = 0
    granted: int = 0
    observed: int = 0


@dataclass(slots=True)
class _Account:
    id: str
    up: int | None
    limit: int | None
    period: str | None
    stored: tuple[int, ...]
    spent: int = 0
    held: int = 0
    calls: int = 0
    open: int = 0
    granted: int = 0
    observed: int = 0
    latest: int = 0
    windows: dict[int, _Window] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Hold:
    leaf: int | None
    counter: int | None
    amount: int
    at: int


class Replay:
    """Goes through one open snapshot, and tells `seal` of every entry. `progress` is called with the number of entries
    done, now and then.
    """

    def __init__(self, snapshot: Snapshot, seal: SealCheck, progress: Callable[[int], None]) -> None:
        self._snapshot = snapshot
        self._seal = seal
        self._progress = progress
        self.accounts = {row.n: _account(row) for row in snapshot.accounts()}
        self._open: dict[str, _Hold] = {}
        self._bought: set[str] = set()
        self._answers: dict[str | None, tuple[str, int]] = {}
        self._revoked: dict[str, Revocation] = {}
        self._stored = {(row.account, row.start): row for row in snapshot.windows()}
        rollups = list(snapshot.rollups())
        self._up_to = max((rollup.up_to for rollup in rollups), default=0)
        self.rolled_up = sum(rollup.entries for rollup in rollups)
        self.rolled_until = max((rollup.at for rollup in rollups), default=None)

    def faults(self) -> Iterator[str]:
        """Yield each difference, in the order of the journal; the caller takes the first."""
        damage = self._snapshot.damage()
        if damage is not None:
            yield f"the file is damaged: {damage}"
        yield from self._parents()
        yield from self._rolled()
        last = EntryRow(0, 0, "", None, None, None, 0, None, 0, None, "")
        for done, entry in enumerate(self._snapshot.entries()):
            yield from self._order(entry, last, done)
            yield from self._entry(entry)
            self._seal.take(entry)
            last = entry
            if done % EVERY == 0:
                self._progress(done)
        if last.n <= self._up_to != 0:
            yield f"the entries behind entry {self._up_to}, up to which they were rolled up, are missing"
        yield from self._compare()
        yield from self._seal.faults()
        fault = self._snapshot.schema_fault()
        if fault is not None:
            yield f"the schema was changed: {fault}"

    def _parents(self) -> Iterator[str]:
        """Every account has its parent, and none is its own ancestor."""
        for row in self._snapshot.accounts():
            if row.parent is not None and row.up is None:
                yield f"account {row.id} has a parent that is not in the ledger"
        sound: set[int] = set()
        for n in self.accounts:
            path: list[int] = []
            at: int | None = n
            while at is not None and at not in sound:
                path.append(at)
                sound.add(at)
                at = self.accounts[at].up
            if at is not None and at in path:
                yield f"account {self.accounts[at].id} is its own ancestor"
                return

    def _rolled(self) -> Iterator[str]:
        """Begin with what was rolled up."""
        for row in self._snapshot.rolled():
            account = self.accounts.get(row.account)
            if account is None:
                yield f"entries of an account were rolled up that is not in the ledger: number {row.account}"
                continue
            account.spent, account.calls, account.granted = row.spent, row.calls, row.granted
            account.observed = row.observed
        for window_row in self._snapshot.rolled_windows():
            account = self.accounts.get(window_row.account)
            if account is not None:
                account.windows[window_row.start] = _Window(
                    window_row.spent, 0, window_row.granted, window_row.observed
                )
                account.latest = max(account.latest, window_row.start)

    def _order(self, entry: EntryRow, last: EntryRow, done: int) -> Iterator[str]:
        if self._up_to and last.n <= self._up_to < entry.n:
            yield from self._bounds()
        if not self._snapshot.contiguous:
            return
        if entry.n <= self._up_to:
            follows = entry.n > last.n
        elif last.n <= self._up_to:
            follows = entry.n == self._up_to + 1
            if self._up_to and done + self.rolled_up != self._up_to:
                yield (
                    f"of the first {self._up_to} entries {self.rolled_up} were rolled up and {done} are left, which is"
                    " not all of them"
                )
        else:
            follows = entry.n == last.n + 1
        if not follows or entry.at < last.at:
            yield f"entry {entry.n} does not follow entry {last.n}"

    def _bounds(self) -> Iterator[str]:
        """Law 2 where the roll-up ends: what lies before is no longer known in its order."""
        for account in self.accounts.values():
            yield from self._law_2(self._up_to, account, None)
            for stands in account.windows.values():
                yield from self._law_2(self._up_to, account, stands)

    def _entry(self, entry: EntryRow) -> Iterator[str]:
        kind, n = entry.kind, entry.n
        if kind in _NOTES:
            return
        if kind in _ANSWERS:
            self._answers[entry.hold] = (kind, entry.at)
            return
        for number in (entry.leaf, entry.counter):
            if number is not None and number not in self.accounts:
                yield f"entry {n} names an account that is not in the ledger"
                return
        if kind in ("open", "grant", "pay"):
            if entry.leaf is None:
                yield f"entry {n} names no account"
            elif kind == "grant":
                yield from self._grant(entry, self.accounts[entry.leaf])
            elif kind == "pay":
                yield from self._pay(entry, self.accounts[entry.leaf])
        elif kind == "observe":
            self._observe(entry)
        elif kind in ("revoke", "unrevoke"):
            yield from self._revoke(entry)
        elif entry.hold is None or (entry.leaf is None and entry.counter is None):
            yield f"entry {n} names no hold or no account"
        elif kind == "reserve":
            yield from self._reserve(entry, entry.hold)
        elif kind == "extend":
            yield from self._extend(entry, entry.hold)
        elif kind in _RESOLUTIONS:
            yield from self._resolve(entry, entry.hold)
        elif kind in ("refund", "annul"):
            yield from self._give_back(entry, entry.hold)
        else:
            yield f"entry {n} is of a kind that is not known: {kind}"

    def _reserve(self, entry: EntryRow, id_: str) -> Iterator[str]:
        if id_ in self._open:
            yield f"entry {entry.n} reserves hold {id_} again"
        hold = self._open[id_] = _Hold(entry.leaf, entry.counter, entry.amount, entry.at)
        self._end(hold).open += 1
        yield from self._move(entry.n, hold, entry.amount, NANO, 0, 0)

    def _extend(self, entry: EntryRow, id_: str) -> Iterator[str]:
        hold = self._open.get(id_)
        if hold is None or (hold.leaf, hold.counter) != (entry.leaf, entry.counter):
            yield f"entry {entry.n} extends hold {id_}, which is not open there"
            return
        self._open[id_] = _Hold(hold.leaf, hold.counter, hold.amount + entry.amount, hold.at)
        yield from self._move(entry.n, hold, entry.amount, 0, 0, 0)

    def _resolve(self, entry: EntryRow, id_: str) -> Iterator[str]:
        hold = self._open.pop(id_, None)
        if hold is None or (hold.leaf, hold.counter) != (entry.leaf, entry.counter):
            yield f"entry {entry.n} resolves hold {id_}, which is not open there"
            return
        kind, amount = entry.kind, entry.amount
        if amount > hold.amount or (kind == "void" and amount) or (kind == "expire" and amount != hold.amount):
            yield f"entry {entry.n} settles {amount} on hold {id_} of {hold.amount}"
        self._end(hold).open -= 1
        yield from self._move(entry.n, hold, -hold.amount, -NANO, amount, int(kind != "void"))

    def _give_back(self, entry: EntryRow, id_: str) -> Iterator[str]:
        """A refund or an annulment. These are rare, so what came before is looked up rather than remembered."""
        before = [each for each in self._snapshot.entries_of(id_) if each.n < entry.n]
        charged = sum(each.amount for each in before if each.kind in ("settle", "expire"))
        left = charged - sum(each.amount for each in before if each.kind in ("refund", "annul"))
        reserve = next((each for each in before if each.kind == "reserve"), None)
        if (
            reserve is None
            or (reserve.leaf, reserve.counter) != (entry.leaf, entry.counter)
            or not any(each.kind in ("settle", "expire") for each in before)
            or (entry.kind == "annul" and any(each.kind == "annul" for each in before))
        ):
            yield f"entry {entry.n} gives back hold {id_}, which was not charged there"
            return
        if entry.amount != left if entry.kind == "annul" else entry.amount > left:
            yield f"entry {entry.n} gives back {entry.amount} of hold {id_}, which has {left} left"
        hold = _Hold(reserve.leaf, reserve.counter, 0, reserve.at)
        yield from self._move(entry.n, hold, 0, 0, -entry.amount, -int(entry.kind == "annul"))

    def _grant(self, entry: EntryRow, account: _Account) -> Iterator[str]:
        if account.limit is None:
            yield f"entry {entry.n} grants to account {account.id}, which has no limit"
        elif account.period is None:
            account.granted += entry.amount
        else:
            self._window(account, entry.leaf or 0, window(account.period, entry.at)[0]).granted += entry.amount

    def _pay(self, entry: EntryRow, account: _Account) -> Iterator[str]:
        """A payment opens one account, which nothing was charged to before."""
        if entry.hold is None or not entry.amount or account.limit is None or account.up is not None:
            yield f"entry {entry.n} is a payment without a hash, an amount or a purse"
        elif entry.n > self._up_to and (account.spent or account.held or account.calls or account.open):
            yield f"entry {entry.n} pays for account {account.id}, which was in use before"
        elif account.id in self._bought:
            yield f"entry {entry.n} pays for account {account.id} again"
        self._bought.add(account.id)

    def _revoke(self, entry: EntryRow) -> Iterator[str]:
        if entry.hold is None:
            yield f"entry {entry.n} names no prefix"
        elif entry.kind == "revoke":
            self._revoked[entry.hold] = Revocation(entry.hold, entry.at, entry.until, entry.note, entry.n)
        elif self._revoked.pop(entry.hold, None) is None:
            yield f"entry {entry.n} takes back the revocation of {entry.hold}, which was not revoked"

    def _move(self, n: int, hold: _Hold, held: int, held_calls: int, spent: int, calls: int) -> Iterator[str]:
        for leaf, more_held, more_spent in ((hold.leaf, held, spent), (hold.counter, held_calls, calls * NANO)):
            at = leaf
            while at is not None:
                account = self.accounts[at]
                account.held += more_held
                account.spent += more_spent
                account.calls += calls
                stands: _Window | None = None
                if account.period is not None:
                    start = window(account.period, hold.at)[0]
                    # One that was closed and is kept no more counts no more either.
                    if more_held > 0 or start in account.windows:
                        stands = self._window(account, at, start)
                        stands.held += more_held
                        stands.spent += more_spent
                if n > self._up_to:
                    yield from self._law_2(n, account, stands)
                at = account.up

    def _observe(self, entry: EntryRow) -> None:
        at = entry.leaf
        while at is not None:
            account = self.accounts[at]
            account.observed = min(MAX_NANO, account.observed + entry.amount)
            if account.period is not None:
                stands = self._window(account, at, window(account.period, entry.at)[0])
                stands.observed = min(MAX_NANO, stands.observed + entry.amount)
            at = account.up

    def _window(self, account: _Account, n: int, start: int) -> _Window:
        stands = account.windows.get(start)
        if stands is not None:
            return stands
        if start > account.latest and account.period is not None:
            account.latest = start
            before = closed_before(account.period, start)
            over = [s for s, w in account.windows.items() if s < before and not w.held and (n, s) not in self._stored]
            for each in over:
                del account.windows[each]
        stands = account.windows[start] = _Window()
        return stands

    def _law_2(self, n: int, account: _Account, stands: _Window | None) -> Iterator[str]:
        if account.limit is None or (account.period is None) != (stands is None):
            return
        purse = stands or account
        if purse.spent + purse.held > account.limit + purse.granted:
            granted = f" and {purse.granted} granted" if purse.granted else ""
            yield (
                f"after entry {n} account {account.id} has spent {purse.spent} and holds {purse.held}"
                f" of {account.limit}{granted}"
            )

    def _end(self, hold: _Hold) -> _Account:
        number = hold.counter if hold.leaf is None else hold.leaf
        return self.accounts[number or 0]

    def _compare(self) -> Iterator[str]:
        for account in self.accounts.values():
            summed = (account.spent, account.held, account.calls, account.open, account.granted, account.observed)
            if summed != account.stored:
                yield (
                    f"account {account.id} stands at (spent, held, calls, open, granted, observed) = {account.stored},"
                    f" its entries add up to {summed}"
                )
        yield from self._compare_windows()
        yield from self._compare_answers()
        yield from self._compare_revocations()
        stored = {row.id: _Hold(row.leaf, row.counter, row.amount, row.at) for row in self._snapshot.holds()}
        for id_ in sorted(stored.keys() | self._open.keys()):
            if stored.get(id_) != self._open.get(id_):
                yield f"hold {id_} is open in the journal or in the table of holds, not in both"

    def _compare_answers(self) -> Iterator[str]:
        for asked in self._snapshot.questions():
            found = None if asked.granted is None else (_ANSWERS[not asked.granted], asked.answered)
            if found != self._answers.get(asked.question.id):
                yield f"the answer to question {asked.question.id} is not as the journal has it"

    def _compare_revocations(self) -> Iterator[str]:
        stored = {row.id: row for row in self._snapshot.revocations()}
        before = dropped_before(self._snapshot.now())
        for id_ in sorted(stored.keys() | self._revoked.keys()):
            found, wanted = stored.get(id_), self._revoked.get(id_)
            over = wanted is not None and wanted.expires is not None and wanted.expires <= before
            if found != wanted and not (found is None and over):
                yield f"the revocation of {id_} is not as the journal has it, which is {_said(wanted)}"

    def _compare_windows(self) -> Iterator[str]:
        for (n, start), row in self._stored.items():
            account = self.accounts.get(n)
            found = None if account is None else account.windows.get(start)
            if account is None or found is None:
                yield f"window {start} of account {account.id if account else n} has no entries"
                continue
            there = (row.spent, row.held, row.granted, row.observed)
            summed = (found.spent, found.held, found.granted, found.observed)
            if there != summed:
                yield (
                    f"window {start} of account {account.id} stands at (spent, held, granted, observed) = {there},"
                    f" its entries add up to {summed}"
                )
        for n, account in self.accounts.items():
            for start, stands in account.windows.items():
                over = account.period is not None and start < closed_before(account.period, account.latest)
                if (n, start) not in self._stored and not (over and not stands.held):
                    yield f"window {start} of account {account.id} is missing"


def _said(revocation: Revocation | None) -> str:
    return "none" if revocation is None else f"that of entry {revocation.entry}"


def _account(row: AccountRow) -> _Account:
    stored = (row.spent, row.held, row.calls, row.open, row.granted, row.observed)
    return _Account(row.id, row.up, row.limit, row.period, stored)
