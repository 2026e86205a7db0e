"""The hash chain over the entries of one log.

A log is what one owner wrote, in the order in which it was committed (RULES.md L10). An entry's body is its content in
canonical JSON, the whole chain of accounts with their budgets included; its seal is
SHA-256(seal of the entry before ‖ SHA-256(body)). So whoever has a seal and the digests of the bodies behind it can
come to every later seal, without being shown those bodies.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple

from tolsey.audit.canonical import canonical, quote
from tolsey.ledger.windows import SECOND
from tolsey.token.caveats import format_time
from tolsey.units import format_nano

OPERATORS: Final = 0
"""The log of everything that no gateway process wrote: commands, the supervisor, the admin API."""

EMPTY: Final = sha256()
"""Of nothing yet, to be copied: to make a new one costs more than to hash a body with it."""


class Head(NamedTuple):
    """How far a log has come: how many entries it has had, and the seal of the last."""

    entries: int
    seal: bytes


class Gap(NamedTuple):
    """Entries of a log that were rolled up: from place `first` to `last`, the seal before and that of the last."""

    log: int
    first: int
    last: int
    before: bytes
    after: bytes


def stamp(at: int) -> str:
    """An instant as RFC 3339, UTC, with all nine decimals."""
    return f"{_second(at // SECOND)}.{at % SECOND:09d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return format_time(seconds * SECOND)[:-1]


def genesis(ledger: str, log: int) -> bytes:
    """The seal before the first entry of a log."""
    return sha256(canonical({"ledger": ledger, "log": log})).digest()


def follow(before: bytes, body: bytes) -> bytes:
    """The seal of an entry behind one whose seal is `before`."""
    digest = EMPTY.copy()
    digest.update(body)
    return follow_digest(before, digest.digest())


def follow_digest(before: bytes, digest: bytes) -> bytes:
    """The same by the digest of the body."""
    seal = EMPTY.copy()
    seal.update(before + digest)
    return seal.digest()


def account_text(id_: str, label: str | None, limit: int | None, period: str | None, unit: str) -> str:
    """One account of a chain, in canonical JSON; `limit` is in nano-units."""
    budget = "null" if limit is None else quote(f"{format_nano(limit)} {unit}" + (f"/{period}" if period else ""))
    return f'{{"budget":{budget},"id":{quote(id_)},"label":{_text(label)}}}'


def chain_text(accounts: Iterable[str]) -> str:
    """A chain of accounts, root first, each as `account_text` has it."""
    return f"[{','.join(accounts)}]"


NO_CHAIN: Final = chain_text(())


def body(
    log: int,
    place: int,
    at: str,
    kind: str,
    hold: str | None,
    chain: str,
    counters: str,
    unit: str | None,
    amount: int,
    until: int | None,
    config: str | None,
    note: str,
) -> bytes:
    """The body of the entry at `place` (from 1 on) in `log`. `at` is a `stamp`, `until` nanoseconds, `amount` in
    nano-units of `unit`; `chain` is the money's, `counters` that of who counts the calls, `config` the generation.
    """
    return beginning(at, chain, counters, amount, config) + end(log, place, kind, hold, unit, until, note)


def beginning(at: str, chain: str, counters: str, amount: int, config: str | None) -> bytes:
    """A `body` up to its hold, with `amount` in nano-units. Many entries of a group have it in common, so that it can
    be written and hashed once for all of them.
    """
    # By hand, as it is in the way of every call; so is the end.
    before, behind = _frame(amount, chain, config, counters)
    return f"{before}{at}{behind}".encode()


def end(log: int, place: int, kind: str, hold: str | None, unit: str | None, until: int | None, note: str) -> bytes:
    """A `body` from its hold on, with `until` in nanoseconds."""
    until_text = "null" if until is None else _until(until)
    return (
        f'{"null" if hold is None else quote(hold)},"kind":"{kind}","log":{log},"note":{quote(note)}'
        f',"place":{place},"unit":{_text(unit)},"until":{until_text}}}'
    ).encode()


@lru_cache(maxsize=1024)
def _frame(amount: int, chain: str, config: str | None, counters: str) -> tuple[str, str]:
    """What is the same in the beginnings of many bodies: all up to the time, and from there on."""
    return (
        f'{{"amount":"{format_nano(amount)}","at":"',
        f'","chain":{chain},"config":{_text(config)},"counters":{counters},"hold":',
    )


@lru_cache(maxsize=64)
def _until(until: int) -> str:
    return quote(stamp(until))


def _text(value: str | None) -> str:
    return "null" if value is None else quote(value)


def unit_of(kind: str, unit: str | None) -> str | None:
    """The unit of an entry's amount, whose account is in `unit`: what was paid is in sat whatever it opened."""
    return "sat" if kind == "pay" else unit


def rolled_note(by: str, entries: int, gaps: Sequence[Gap], sums: Sequence[tuple[str, str, Sequence[int]]]) -> str:
    """The note of a `rollup` entry: what went, and what it adds up to. `sums` has for each account its id, its unit,
    and how much it had spent, calls, granted, observed.
    """
    return canonical(
        {
            "by": by,
            "entries": entries,
            "gaps": [[gap.log, gap.first, gap.last, gap.before.hex(), gap.after.hex()] for gap in gaps],
            "sums": [[id_, unit, *map(str, figures)] for id_, unit, figures in sums],
        }
    ).decode()
