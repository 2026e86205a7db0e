"""What a ledger's engine does for those above it: `Ledger` to write, `Snapshot` to read.

`Ledger` is one process's place in a ledger, on one event loop; the Book groups what it writes, the supervisor keeps its
house, the command line uses it for single changes. `Snapshot` is a frozen view for reports, in short transactions on a
live store. What engines share stands here, and nothing above knows which one it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self, TypeAlias

from tolsey.audit.seal import Gap, Head
from tolsey.ledger.approving import Asked, Question
from tolsey.ledger.books import Balance, Hold
from tolsey.ledger.events import PAID_IN_KIND, Event, Key, Kind, Outcome
from tolsey.ledger.revoking import Revised, Revocation, Revoke, Unrevoke
from tolsey.token.chain import Account

IN_PASSING: Final = 8
"""How many rows that are over an engine removes beside each write of their kind."""


TALLIED_HOURS: Final = 90 * 24
"""How long tallies are kept, in hours."""


@dataclass(frozen=True, slots=True)
class TallyRow:
    """What one process, `source`, counted in the `hour` (hours since the epoch) of the calls that `key` tells of; `key`
    and `counts` are JSON (see `ledger.tallies`).
    """

    hour: int
    source: str
    key: str
    counts: str


class Stated(NamedTuple):
    """A log whose head is to be stated in a checkpoint, and how many entries more it has than when it last was."""

    log: int
    head: Head
    more: int


Make: TypeAlias = Callable[[bytes | None, Sequence[Stated]], bytes | None]
"""Makes the next checkpoint of the last one and of the heads that changed since then; or None."""


class Ledger(Protocol):
    """One process in a ledger. Methods raise `LedgerUnavailable`; times are the ledger's own (RULES.md M11)."""

    @property
    def id(self) -> str:
        """The ledger's random id (RULES.md L1)."""

    @property
    def owner(self) -> int:
        """This process's number in the ledger, 0 until `register`: only a registered one may hold money."""

    config: int | None
    """The number of the config that entries are made under."""

    def time(self) -> int:
        """The ledger's time, as far as it is known without asking: the later of the clock and the last entry."""

    async def register(self, owner_id: str) -> None:
        """Begin as a new owner, also in place of the one before, whose open holds stay its own."""

    async def is_ended(self) -> bool:
        """Whether somebody has taken this owner for dead: then it must begin as a new one (RULES.md L3)."""

    async def write(self, events: Sequence[Event]) -> list[Outcome]:
        """Run a group of events: atomic, and durable when it returns. An empty one asks whether it could be written.

        Raises `LedgerUnavailable` when nothing was changed, `LedgerFull` when it was for want of disk, `CommitUnknown`
        when nobody knows; then the same events may be written again, and holds of reserves whose caller has gone must
        be voided.
        """

    async def balances(self, accounts: Sequence[Account]) -> list[Balance]:
        """The accounts as committed, by all; one that does not exist yet stands at 0. Of one with a period: its running
        window, as `spent`, `held`, `granted` and `observed`.
        """

    async def paid(self, payment: str) -> Key | None:
        """The key of the account that a payment opened, by its hash, as committed; None if it was not taken."""

    async def hold(self, hold_id: str) -> Hold | None:
        """A hold as committed, open or resolved; None if there is none, or if it was rolled up."""

    async def number_config(self, generation: str) -> int:
        """Record a config's generation; return its number, for `config` of every process that uses it."""

    async def entry_count(self) -> int:
        """The number of the last entry; it never falls."""

    async def note(self, kind: Kind, note: str) -> None:
        """Write down what moves no money: that an operator accepts this ledger as it is (`ACCEPT`, RULES.md L1), or a
        change of the root keys (`KEYS`).
        """

    async def ask(self, question: Question) -> bool:
        """Keep a question that somebody is to answer, durably; False if too many are open."""

    async def asked(self, id_: str) -> Asked | None:
        """A question with what was said to it, None if there is no such question (any more)."""

    async def answer(self, id_: str, *, granted: bool, note: str) -> Asked | None:
        """Answer a question, durably, and write an entry about it. Returns how it was before, None if there is no such
        question; one that is not open any more is left as it is.
        """

    async def revise(self, change: Revoke | Unrevoke) -> Revised:
        """Revoke a prefix, or take that back; durable when it returns. The same change again changes nothing, so that
        it may be asked for again after an error. Raises `LedgerRefused` where the ledger was moved elsewhere.
        """

    async def checkpoint(self, make: Make) -> bytes | None:
        """Add the checkpoint that `make` makes, and return it. Nobody else adds one meanwhile."""

    async def transact(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[tuple[Any, ...]]]:
        """Run SQL in one transaction, durable when it returns; the rows of each statement. Parameters are written `$1`.

        For what is no money: alerts.
        """

    async def tally(self, rows: Sequence[TallyRow]) -> None:
        """Put these in the place of what the same process had counted, durably, and drop some that are too old."""

    async def expire(self) -> int:
        """Close every owner that is dead and settle its open holds as held, and those whose time is over; return how
        many holds (RULES.md L3).
        """

    async def tidy(self) -> None:
        """Housework of the engine, from time to time: what is over and need not be kept."""

    def has_room(self) -> bool:
        """Whether there is disk for granting; after `make_room` this is asked until there is."""

    def make_room(self) -> None:
        """Free what disk is kept back for settling on a full one (RULES.md L8)."""

    async def close(self) -> None:
        """End this owner, if it holds nothing, and let go of the ledger."""


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account as it stands; amounts in nano-units. `n` is its number, `up` that of its parent.

    Of an account with a period, `granted` is 0; see `WindowRow`. `opened_by` is the note of who opened it by name, None
    for a first call; `seen_at` is when a call last changed it, None if none did since that is written down.
    """

    n: int
    id: str
    unit: str
    parent: str | None
    up: int | None
    label: str | None
    limit: int | None
    period: str | None
    granted: int
    spent: int
    held: int
    calls: int
    open: int
    observed: int
    opened_at: int
    opened_by: str | None
    seen_at: int | None


@dataclass(frozen=True, slots=True)
class WindowRow:
    """One window of an account, which begins at `start`."""

    account: int
    start: int
    spent: int
    held: int
    granted: int
    observed: int


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One line of the journal. `leaf` and `counter` are numbers of accounts, `config` is that of the config; `place` is
    where in the log of its `owner` it stands, from 1 on.
    """

    n: int
    at: int
    kind: str
    hold: str | None
    leaf: int | None
    counter: int | None
    amount: int
    until: int | None
    owner: int
    config: int | None
    note: str
    place: int = 0
    seal: bytes = b""


@dataclass(frozen=True, slots=True)
class OwnerRow:
    """A log, by the number and the id of its owner: how many entries it has had, the seal of the last, and how many
    of them are in a checkpoint.
    """

    n: int
    id: str
    entries: int
    seal: bytes
    signed: int


@dataclass(frozen=True, slots=True)
class HoldRow:
    """One open hold. `owner_id` says who holds it, `note` which call it is."""

    id: str
    leaf: int | None
    counter: int | None
    amount: int
    at: int
    until: int | None
    owner: int
    owner_id: str
    note: str


@dataclass(frozen=True, slots=True)
class RollUp:
    """One run of `tolsey compact`: how many entries with numbers up to `up_to` were taken out of the journal, and the
    SHA-256 (hex) of their lines as `export` writes them, in the order in which they were taken.

    `at` is the instant before which they were made, `made_at` when that was done; `note` says by whom.
    """

    n: int
    up_to: int
    at: int
    entries: int
    sha256: str
    made_at: int
    note: str


@dataclass(frozen=True, slots=True)
class RolledRow:
    """What all entries of an account that were rolled up add up to; no open hold is among them."""

    account: int
    spent: int
    calls: int
    granted: int
    observed: int


@dataclass(frozen=True, slots=True)
class AlertRow:
    """One alert; `state` is `waiting`, `sent` or `dead`, `body` JSON, `fault` what went wrong the last time."""

    id: str
    at: int
    kind: str
    body: str
    state: str
    tries: int
    fault: str


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """A payment and the purse that it opened: `paid` in nano-units of `paid_unit`, the figures of the purse in those of
    `unit`.
    """

    n: int
    at: int
    hash: str
    paid: int
    account: str
    label: str | None
    unit: str
    limit: int
    spent: int
    held: int
    calls: int
    note: str

    @property
    def paid_unit(self) -> str:
        """What the payment was made in."""
        return self.unit if self.note.startswith(PAID_IN_KIND) else "sat"


class Snapshot(Protocol):
    """One view of a ledger at one instant. Use as a context manager, again and again: each time it is a new view.
    Raises `LedgerUnavailable`, and `LedgerRefused` for a ledger that is not there or was moved elsewhere.
    """

    id: str

    contiguous: bool
    """Whether entries are numbered without gaps, in the order in which they were committed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def damage(self) -> str | None:
        """What the engine itself finds wrong with its files, or None."""

    def schema_fault(self) -> str | None:
        """Which index, trigger or table is not as it was made, or None: some of them keep a hold from being resolved
        twice.
        """

    def now(self) -> int:
        """The ledger's time."""

    def accounts(self) -> Iterator[AccountRow]:
        """Every account, in the order in which they were opened."""

    def windows(self) -> Iterator[WindowRow]:
        """Every window that is kept."""

    def entries(self, after: int = 0) -> Iterator[EntryRow]:
        """The journal behind entry `after`, in order."""

    def entries_of(self, hold: str) -> list[EntryRow]:
        """The reserve of a hold, its resolution, and its extensions, refunds and annulment, in order (not `late`)."""

    def entry_before(self, entry: EntryRow) -> EntryRow | None:
        """The entry that stands before another in its log, None for none that is left."""

    def number_before(self, at: int) -> int:
        """A number up to which every entry was made before the instant `at`, as high as can be; 0 for none."""

    def entry_count(self) -> int:
        """How many entries `entries()` has."""

    def last_entry(self) -> int:
        """The number of the last entry, 0 for none."""

    def configs(self) -> dict[int, str]:
        """The generations of configs by their numbers."""

    def rollups(self) -> Iterator[RollUp]:
        """Every roll-up, in order."""

    def rolled(self) -> Iterator[RolledRow]:
        """What entries that were rolled up add up to, for each account that had any."""

    def rolled_windows(self) -> Iterator[WindowRow]:
        """The same for windows that are kept; nothing is held."""

    def tallies(self, since: int, until: int) -> Iterator[TallyRow]:
        """What was counted of calls from the hour `since` to before the hour `until`."""

    def refusals(self, since: int, until: int) -> Iterator[TallyRow]:
        """The same of refusals, by who refused."""

    def owners(self) -> Iterator[OwnerRow]:
        """Every log that has entries, by number."""

    def gaps(self) -> Iterator[Gap]:
        """Which entries of which logs were rolled up, in order."""

    def checkpoints(self) -> Iterator[bytes]:
        """The documents of all checkpoints, in order."""

    def holds(self) -> Iterator[HoldRow]:
        """The open holds, oldest first."""

    def payments(self) -> Iterator[PaymentRow]:
        """Every payment, in order; of the limit of its purse, grants are a part."""

    def alerts(self) -> Iterator[AlertRow]:
        """Every alert that is kept, newest first."""

    def questions(self) -> Iterator[Asked]:
        """Every question that is kept, oldest first."""

    def revocations(self) -> Iterator[Revocation]:
        """What is revoked, oldest first; also what no longer matters and was not dropped yet."""
