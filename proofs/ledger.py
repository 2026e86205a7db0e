"""The ledger in small: what `tolsey/ledger/rules.py` decides, for three calls on three accounts.

It is what survives a crash: balances, the journal that they must follow from, and the ids of the groups written. A
`bug` is one of the mutations in proofs/model.py, or nothing.
"""

from functools import cache
from typing import NamedTuple, TypeVar

T = TypeVar("T")

ROOT, CHILD, SIBLING = range(3)
ACCOUNTS = ("root", "child", "sibling")
LIMITS = (3, 2, 2)


class Plan(NamedTuple):
    """A call as it will be: its gateway, its accounts (root first), what is held for it, what it costs.

    `more` is what it may be extended by; then it costs that too.
    """

    gateway: int
    chain: tuple[int, ...]
    amount: int
    cost: int
    more: int = 0


CALLS = (
    Plan(0, (ROOT, CHILD), amount=2, cost=1),
    Plan(1, (ROOT, SIBLING), amount=2, cost=2),
    Plan(0, (ROOT, CHILD), amount=1, cost=1, more=1),
)
"""A, B and C. Any two of them exceed a limit while they are held; some fit once another is settled for less."""


class Entry(NamedTuple):
    """One line of the journal, which is kept by call. `owner` stands in a reserve: who holds the money."""

    kind: str
    amount: int
    owner: int = 0


class Event(NamedTuple):
    """What is asked of the ledger about one call. The amounts of void, expire and annul follow from the hold."""

    kind: str
    call: int
    amount: int = 0


class Outcome(NamedTuple):
    """What the ledger answers: granted, short, resolved, late or unknown.

    `figure` is, in `short`, what the poorest account had left by the journal; in `late`, whose hold was expired.
    """

    word: str
    figure: int = 0


class Balance(NamedTuple):
    """Where an account stands."""

    spent: int = 0
    held: int = 0
    granted: int = 0


Journal = tuple[tuple[Entry, ...], ...]
"""The entries of each call."""


class Ledger(NamedTuple):
    """All that is on disk. `grants` has the sum of the operator's entries for each account."""

    balances: tuple[Balance, ...] = (Balance(),) * len(ACCOUNTS)
    journal: Journal = ((),) * len(CALLS)
    grants: tuple[int, ...] = (0, 0, 0)
    groups: frozenset[int] = frozenset()


class Hold(NamedTuple):
    """A call's entries, added up. `resolution` is empty while the hold is open."""

    amount: int
    owner: int
    resolution: str = ""
    settled: int = 0
    annulled: bool = False

    @property
    def charged(self) -> int:
        """What it costs in the end."""
        return 0 if self.annulled else self.settled


RESOLUTIONS = ("settle", "void", "expire")


@cache
def read(entries: tuple[Entry, ...]) -> Hold | None:
    """Add a call's entries up; None if it was never reserved."""
    if not entries:
        return None
    hold = Hold(0, entries[0].owner)
    for kind, amount, _ in entries:
        if kind in ("reserve", "extend"):
            hold = hold._replace(amount=hold.amount + amount)
        elif kind in RESOLUTIONS:
            hold = hold._replace(resolution=kind, settled=hold.settled + amount)
        elif kind == "annul":
            hold = hold._replace(annulled=True)
    return hold


def stands(journal: Journal, account: int) -> tuple[int, int]:
    """What is spent and held on an account, by the journal alone."""
    holds = [read(entries) for entries, plan in zip(journal, CALLS, strict=True) if account in plan.chain]
    spent = sum(hold.charged for hold in holds if hold)
    return spent, sum(hold.amount for hold in holds if hold and not hold.resolution)


def apply(
    ledger: Ledger, event: Event, owner: int, bug: str = "", seen: Ledger | None = None
) -> tuple[Ledger, Outcome]:
    """Run one event for `owner`. `seen` is an older ledger that the bug `decide-before-the-lock` looks at."""
    kind, call, amount = event
    hold = read(ledger.journal[call])
    if kind == "reserve" and hold and bug != "retry-reserves-again":
        return ledger, Outcome("granted")
    if kind == "extend" and hold and hold.resolution:
        return ledger, _late(hold)
    if kind == "reserve" or (kind == "extend" and hold):
        return _hold(ledger, event, owner, bug, seen or ledger)
    if hold is None:
        return ledger, Outcome("unknown")
    chain = CALLS[call].chain
    if kind == "annul":
        return _write(ledger, call, Entry(kind, hold.charged), chain, 0, -hold.charged), Outcome("resolved")
    cost = {"settle": amount, "void": 0, "expire": 0 if bug == "expire-as-void" else hold.amount}[kind]
    if hold.resolution and not (bug == "settle-without-fence" and kind == "settle"):
        if (hold.resolution, hold.settled) == (kind, cost):
            return ledger, Outcome("resolved")
        return _write(ledger, call, Entry("late", cost), (), 0, 0), _late(hold)
    return _write(ledger, call, Entry(kind, cost), chain, -hold.amount, cost), Outcome("resolved")


def _hold(ledger: Ledger, event: Event, owner: int, bug: str, seen: Ledger) -> tuple[Ledger, Outcome]:
    """Hold the amount on every account of the chain, or on none."""
    kind, call, amount = event
    chain = CALLS[call].chain
    asked = {"check-leaf-only": chain[-1:], "parent-only": chain[:1]}.get(bug, chain)
    spare = min(_left(seen, account) for account in asked) - (bug == "refuse-the-last-coin")
    if spare < amount and not (bug == "extend-unchecked" and kind == "extend"):
        return ledger, Outcome("short", min(_left_by_journal(ledger, account) for account in chain))
    charged = chain[:1] if bug == "parent-only" else chain
    line = Entry(kind, amount, owner if kind == "reserve" else 0)
    return _write(ledger, call, line, charged, amount, 0), Outcome("granted")


def _late(hold: Hold) -> Outcome:
    return Outcome("late", hold.owner if hold.resolution == "expire" else 0)


def _write(ledger: Ledger, call: int, line: Entry, chain: tuple[int, ...], held: int, spent: int) -> Ledger:
    """Append a line to the journal, and move the balances of a chain with it."""
    balances = list(ledger.balances)
    for account in chain:
        was = balances[account]
        balances[account] = Balance(was.spent + spent, was.held + held, was.granted)
    journal = put(ledger.journal, call, (*ledger.journal[call], line))
    return Ledger(tuple(balances), journal, ledger.grants, ledger.groups)


def _left(ledger: Ledger, account: int) -> int:
    spent, held, granted = ledger.balances[account]
    return LIMITS[account] + granted - spent - held


def _left_by_journal(ledger: Ledger, account: int) -> int:
    return LIMITS[account] + ledger.grants[account] - sum(stands(ledger.journal, account))


def grant(ledger: Ledger, account: int, amount: int) -> Ledger:
    """An operator raises a limit."""
    was = ledger.balances[account]
    return ledger._replace(
        balances=put(ledger.balances, account, was._replace(granted=was.granted + amount)),
        grants=put(ledger.grants, account, ledger.grants[account] + amount),
    )


def put(items: tuple[T, ...], n: int, item: T) -> tuple[T, ...]:
    """The same tuple with another item in place `n`."""
    return (*items[:n], item, *items[n + 1 :])
