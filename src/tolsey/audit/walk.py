"""Going through the logs of a ledger, entry by entry: does each follow from the one before, and do the checkpoints have
the same?
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator

from tolsey.audit.checkpoint import Checkpoint
from tolsey.audit.seal import OPERATORS, Gap, Head, follow, genesis


class Walk:
    """One walk, over entries in the order of their logs; what is between the logs' entries does not matter.

    `gaps` are the entries that were rolled up: each must be named by a `rollup` entry, which `end` sees to.
    """

    def __init__(self, ledger: str, gaps: Iterable[Gap], checkpoints: Iterable[Checkpoint]) -> None:
        self._ledger = ledger
        self._gaps: dict[tuple[int, int], Gap] = {(gap.log, gap.first): gap for gap in gaps}
        self._named: dict[tuple[int, int], Gap] = {}
        self._unnamed = dict(self._gaps)
        self._signed: dict[int, deque[tuple[int, bytes, int]]] = {}
        self._last_signed: dict[int, int] = {}
        self.heads: dict[int, Head] = {}
        self.entries = self.rolled = 0
        self.sums: dict[tuple[str, str], list[int]] = {}
        for checkpoint in checkpoints:
            for log, head in checkpoint.logs:
                self._signed.setdefault(log, deque()).append((head.entries, head.seal, checkpoint.n))

    @property
    def unsigned(self) -> int:
        """How many entries lie behind the last checkpoint of their log."""
        return sum(head.entries - self._last_signed.get(log, 0) for log, head in self.heads.items())

    def entry(self, log: int, place: int, kind: str, note: str, body: bytes, seal: bytes) -> str | None:
        """Take the next entry of a log; return what is wrong with it, or None. After a fault the walk is over."""
        fault = self._over_gaps(log)
        if fault is not None:
            return fault
        head = self._head(log)
        due = head.entries + 1
        if place > due:
            return f"entry {due} of log {log} is missing: entry {place} stands in its place"
        if place < due:
            return f"entry {place} of log {log} is there again, behind entry {head.entries}"
        if follow(head.seal, body) != seal:
            return f"entry {place} of log {log} was changed or inserted: its seal does not fit"
        self.entries += 1
        if kind == "rollup":
            try:
                self._rolled_up(note)
            except (ValueError, TypeError, LookupError):
                return f"entry {place} of log {log} does not say what was rolled up"
        return self._reach(log, Head(place, seal))

    def _head(self, log: int) -> Head:
        head = self.heads.get(log)
        if head is None:
            head = self.heads[log] = Head(0, genesis(self._ledger, log))
        return head

    def _over_gaps(self, log: int) -> str | None:
        while True:
            head = self._head(log)
            gap = self._gaps.pop((log, head.entries + 1), None)
            if gap is None:
                return None
            if gap.before != head.seal:
                return f"entries {gap.first} to {gap.last} of log {log}, which were rolled up, do not follow"
            self.rolled += gap.last - gap.first + 1
            fault = self._reach(log, Head(gap.last, gap.after))
            if fault is not None:
                return fault

    def _reach(self, log: int, head: Head) -> str | None:
        self.heads[log] = head
        signed = self._signed.get(log)
        # Those that end among entries that were rolled up can no longer be compared.
        while signed and signed[0][0] < head.entries:
            signed.popleft()
        if not signed or signed[0][0] != head.entries:
            return None
        _, seal, n = signed.popleft()
        if seal != head.seal:
            first = self._last_signed.get(log, 0) + 1
            which = f"entry {first}" if first == head.entries else f"one of the entries {first} to {head.entries}"
            return f"{which} of log {log} was rewritten: checkpoint {n} has signed another"
        self._last_signed[log] = head.entries
        return None

    def _rolled_up(self, note: str) -> None:
        """Take note of what a `rollup` entry, whose seal fits, says that was taken out."""
        said = json.loads(note)
        for log, first, last, before, after in said["gaps"]:
            gap = Gap(log, first, last, bytes.fromhex(before), bytes.fromhex(after))
            self._named[log, first] = gap
        for id_, unit, *figures in said["sums"]:
            stands = self.sums.setdefault((id_, unit), [0, 0, 0, 0])
            for at, figure in enumerate(figures):
                stands[at] += int(figure)

    def end(self) -> Iterator[str]:
        """What is wrong once every entry was taken; the caller takes the first."""
        logs = {log for log, _ in self._gaps} | self._signed.keys() | self.heads.keys()
        for log in sorted(logs):
            fault = self._over_gaps(log)
            if fault is not None:
                yield fault
                return
            head = self.heads[log]
            if self._signed.get(log):
                place, _, n = self._signed[log][0]
                there = f"ends at entry {head.entries}" if head.entries else "is missing"
                yield f"log {log} {there}: checkpoint {n} has signed {place} entries of it"
            if not head.entries and log in self.heads:
                del self.heads[log]
        for log, first in self._gaps:
            yield f"entry {first} of log {log} is said to be rolled up, and the entries before it are missing"
        if self._named != self._unnamed:
            odd = min(self._named.items() ^ self._unnamed.items())[0]
            yield (
                f"entry {odd[1]} of log {odd[0]} was rolled up or was not: what log {OPERATORS} says of it and the"
                " list of what was rolled up differ"
            )
