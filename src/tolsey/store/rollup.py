"""Rolling old entries up into what they add up to, so that the journal does not grow for ever.

A hold is rolled up as a whole, once it is resolved and all its entries lie at or before the chosen number; one that is
still open there, or was refunded later, stays in the journal until the next time. So what is rolled up holds nothing,
and balances, windows and the numbers of entries are what they were. The last entry always stays: by its number the
keys know the ledger (RULES.md L1).

Only what a checkpoint has signed is rolled up. It leaves gaps in the logs: each step writes down, in a sealed entry,
which places of which logs are gone, between which seals, and what they add up to (RULES.md L10).

It goes in steps, each a short transaction, and after each of them the ledger adds up. The lines of what was taken out
(see `export`) are hashed in the order in which they were taken: by the number of a hold's reserve, with the hold's
entries together.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Protocol

from tolsey.audit.seal import Gap, rolled_note
from tolsey.ledger.windows import window
from tolsey.store.chains import Chains
from tolsey.store.contract import EntryRow, RollUp, Snapshot
from tolsey.store.export import Lines, encode
from tolsey.units import MAX_NANO, NANO

STEP: Final = 500
"""How many holds, and entries without one, go in one step."""

FIRST_OF_HOLD: Final = "kind NOT IN ('extend', 'settle', 'void', 'expire', 'refund', 'annul')"
"""The SQL for an entry that begins something: a hold's reserve, or one without a hold."""

_GIVEN_BACK: Final = ("refund", "annul")


@dataclass(slots=True)
class Sums:
    """What entries add up to: of each account (spent, calls, granted, observed), of each window (spent, granted,
    observed).
    """

    accounts: dict[int, list[int]] = field(default_factory=dict)
    windows: dict[tuple[int, int], list[int]] = field(default_factory=dict)


class Rollable(Protocol):
    """What an engine does for a roll-up. A step is one transaction, from `take` to `end`, that locks other writers out.
    Methods raise `LedgerUnavailable`.
    """

    async def take(self, after: int, up_to: int, most: int) -> list[list[EntryRow]]:
        """Begin a step, and return the next entries behind `after` that begin something, in order, at most so many:
        each with those that belong to its hold, by number.
        """

    async def begin(self, up_to: int, at: int, made_at: int, note: str) -> int:
        """Write down a roll-up, of no entries yet; return its number."""

    async def put(self, run: int, entries: Sequence[EntryRow], sums: Sums, digest: str) -> list[Gap]:
        """Remove entries, add to what was rolled up (of windows, to those that are kept), and note their count and the
        hash so far; return the gaps that they leave.
        """

    async def seal(self, made_at: int, note: str) -> None:
        """Write down in a sealed entry what the step did."""

    async def end(self) -> None:
        """End the step, durably."""

    async def forget_windows(self) -> None:
        """Drop the sums of windows that are kept no more."""

    async def close(self) -> None:
        """Undo a step that was not ended, and let go."""


async def roll_up(
    ledger: Rollable,
    snapshot: Snapshot,
    *,
    before: int,
    note: str,
    archive: Callable[[bytes], None],
    progress: Callable[[int, int], None],
) -> RollUp | None:
    """Roll up what was made before the instant `before` (nanoseconds since the epoch); None if there is nothing.

    `archive` gets the lines of each step, and has them on disk when it returns: after it they are gone. `progress` is
    told which number of which it has passed.
    """
    up_to, now, chains, lines, signed = await asyncio.to_thread(_look, snapshot, before)
    run, count, digest, after = 0, 0, sha256(), 0
    while True:
        began = time.monotonic()
        found = await ledger.take(after, up_to, STEP)
        whole = [
            entries
            for entries in found
            if _is_whole(entries, up_to) and _is_signed(entries, signed) and _is_known(entries[0], chains)
        ]
        if whole:
            data = b"".join(encode(lines.line(entry)) for entries in whole for entry in entries)
            digest.update(data)
            archive(data)
            gone = [entry for entries in whole for entry in entries]
            count += len(gone)
            run = run or await ledger.begin(up_to, before, now, note)
            sums = _sums(whole, chains)
            gaps = await ledger.put(run, gone, sums, digest.hexdigest())
            named = [(*chains.key(n), figures) for n, figures in sums.accounts.items()]
            await ledger.seal(now, rolled_note(note, len(gone), gaps, named))
        await ledger.end()
        if len(found) < STEP:
            break
        after = found[-1][0].n
        progress(after, up_to)
        # As long as it kept the gateways waiting, it lets them work.
        await asyncio.sleep(time.monotonic() - began)
    if not run:
        return None
    await ledger.forget_windows()
    return RollUp(run, up_to, before, count, digest.hexdigest(), now, note)


def _look(snapshot: Snapshot, before: int) -> tuple[int, int, Chains, Lines, dict[int, int]]:
    """How far it may go, the ledger's time, the accounts that there are, and how much of each log is signed. A view may
    have an event loop of its own, and so is not for one that runs.
    """
    with snapshot:
        up_to = min(snapshot.number_before(before), snapshot.last_entry() - 1)
        signed = {owner.n: owner.signed for owner in snapshot.owners()}
        return up_to, snapshot.now(), Chains(snapshot), Lines(snapshot), signed


def _is_whole(entries: Sequence[EntryRow], up_to: int) -> bool:
    """Whether nothing of it lies behind `up_to`, nor is to come: a hold must be resolved. A payment stays for ever, so
    that it is never used again, and so do what was revoked and what was rolled up before.
    """
    if entries[0].kind in ("pay", "approve", "deny", "revoke", "unrevoke", "rollup"):
        return False
    resolved = entries[0].kind != "reserve" or any(e.kind in ("settle", "void", "expire") for e in entries)
    return resolved and entries[-1].n <= up_to


def _is_signed(entries: Sequence[EntryRow], signed: Mapping[int, int]) -> bool:
    return all(entry.place <= signed.get(entry.owner, 0) for entry in entries)


def runs(entries: Sequence[EntryRow]) -> list[list[EntryRow]]:
    """Entries by log and place, cut where others lie between."""
    cut: list[list[EntryRow]] = []
    for entry in sorted(entries, key=lambda entry: (entry.owner, entry.place)):
        if cut and (cut[-1][-1].owner, cut[-1][-1].place + 1) == (entry.owner, entry.place):
            cut[-1].append(entry)
        else:
            cut.append([entry])
    return cut


def _is_known(entry: EntryRow, chains: Chains) -> bool:
    """Whether its accounts were there when it all began. Where numbers may come late, an entry may have come later."""
    return all(n is None or n in chains for n in (entry.leaf, entry.counter))


def _sums(whole: Sequence[Sequence[EntryRow]], chains: Chains) -> Sums:
    sums = Sums()
    for first, *later in whole:
        if first.kind == "grant":
            _add(sums, chains, first.leaf, first.at, 0, 0, first.amount)
        elif first.kind == "reserve":
            charged = sum(e.amount for e in later if e.kind in ("settle", "expire"))
            charged -= sum(e.amount for e in later if e.kind in _GIVEN_BACK)
            calls = int(not any(e.kind in ("void", "annul") for e in later))
            _add(sums, chains, first.leaf, first.at, charged, calls, 0)
            _add(sums, chains, first.counter, first.at, calls * NANO, calls, 0)
        elif first.kind == "observe":
            _add(sums, chains, first.leaf, first.at, 0, 0, 0, first.amount)
    return sums


def _add(
    sums: Sums, chains: Chains, leaf: int | None, at: int, spent: int, calls: int, granted: int, observed: int = 0
) -> None:
    """Add to an account and, but for a grant, to those above it; in their windows at the instant `at`."""
    for row in chains.up(leaf)[-1:] if granted else chains.up(leaf):
        in_window = granted if row.period is not None else 0
        account = sums.accounts.setdefault(row.n, [0, 0, 0, 0])
        for place, more in enumerate((spent, calls, granted - in_window)):
            account[place] += more
        account[3] = min(MAX_NANO, account[3] + observed)
        if row.period is not None:
            stands = sums.windows.setdefault((row.n, window(row.period, at)[0]), [0, 0, 0])
            stands[0] += spent
            stands[1] += in_window
            stands[2] = min(MAX_NANO, stands[2] + observed)
