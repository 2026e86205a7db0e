"""The model in proofs/: no law is broken in any of its states, each bug breaks its law, and its ledger decides as the
real rules do.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest

from proofs.explore import ENDS, Found, explore
from proofs.gateways import State, System
from proofs.ledger import ACCOUNTS, CALLS, LIMITS, Event, Ledger, apply, read
from proofs.model import LAWS, MUTATIONS, SIZES, check, mutated, say
from tests.ledgers import ROOT as PROJECT
from tolsey.ledger import books as books_module
from tolsey.ledger import events as real
from tolsey.ledger import rules
from tolsey.token.chain import Account


@cache
def explored(system: System) -> Found[State]:
    return check(system)


@pytest.mark.parametrize("system", SIZES, ids=lambda system: f"{system.asked}-{system.faults}")
def test_no_law_is_broken_in_any_state(system: System) -> None:
    found = explored(system)
    assert found.broken == (), say(system, found)
    assert found.states > 25_000
    assert found.at_rest > 300


STEPS = """
    a client asks for A | A is forwarded | A cannot be sent, or its client has gone
    the upstream serves A | the upstream serves the rest of A | A outgrows its hold
    the gateway hears that A was served | the gateway hears nothing of A in time
    gateway sends group: reserve A | gateway sends group: extend A | gateway sends group: settle A
    gateway sends group: void A | gateway sends group: settle A, reserve A | gateway has its answer
    the ledger writes group | the ledger writes group, late | group never comes
    gateway loses its answer | gateway crashes and starts again | gateway is taken for dead, and lives
    gateway finds its group and tries again | gateway finds its group and gives up
    gateway does not find its group and tries again | gateway does not find its group and gives up
    what dead owner holds expires | gateway begins anew | an operator annuls A | an operator grants to root
"""


def test_every_kind_of_step_is_taken() -> None:
    """Else a law might hold because nothing happens."""
    labels = {label for system in SIZES for label in explored(system).labels}
    taken = {re.sub(r"\b[ABC]\b", "A", re.sub(r"(, for)? \d", "", label)) for label in labels}
    assert {step.strip() for line in STEPS.strip().splitlines() for step in line.split("|")} <= taken


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_bug_breaks_its_law(name: str) -> None:
    found = check(mutated(name))
    assert MUTATIONS[name].law in found.broken, say(mutated(name), found)
    assert 3 <= len(found.trace) <= 12


def test_every_law_is_broken_by_a_bug() -> None:
    assert {mutation.law for mutation in MUTATIONS.values()} == LAWS.keys()


def test_the_way_to_a_bug_is_printed() -> None:
    command = [sys.executable, "-m", "proofs.model", "--mutation", "no-tombstone"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 1, done.stderr
    assert [re.sub(r"^ *\d+ +|  +.*", "", line) for line in done.stdout.splitlines()[2:-1]] == [
        "a client asks for A",
        "gateway 0 sends group 1: reserve A 2",
        "gateway 0 loses its answer",
        "gateway 0 does not find its group and gives up",
        "gateway 0 sends group 2: void A",
        "the ledger writes group 2",
        "gateway 0 has its answer",
        "the ledger writes group 1, late",
    ]
    assert done.stdout.splitlines()[-1].startswith("broken: NO_PHANTOM")


# --- the explorer


def counting(state: int) -> Iterator[tuple[bool, str, int]]:
    """From 0 upwards, by one or by three, to 7."""
    for by in (1, 3):
        if state + by <= 7:
            yield True, f"+{by}", state + by


def round_and_round(state: int) -> Iterator[tuple[bool, str, int]]:
    yield True, "on", (state + 1) % 3


def test_the_explorer_finds_the_shortest_way() -> None:
    found = explore(0, counting, {"BELOW_7": lambda state, _: state < 7})
    assert (found.broken, [label for label, _ in found.trace]) == (("BELOW_7",), ["+1", "+3", "+3"])


def test_the_explorer_sees_states_at_rest_and_circles() -> None:
    found = explore(0, counting, {"RESTS_AT_7": lambda state, at_rest: at_rest == (state == 7)})
    assert (found.broken, found.states, found.at_rest) == ((), 8, 1)
    assert explore(0, round_and_round, {}).broken == (ENDS,)


# --- the model's ledger and the real rules

REAL = [Account(name, "USD", None if n == 0 else "root", name, LIMITS[n]) for n, name in enumerate(ACCOUNTS)]
WORDS = {"Granted": "granted", "Shortfall": "short", "Resolved": "resolved", "Late": "late", "Unknown": "unknown"}


def books_of(ledger: Ledger) -> books_module.Books:
    """The real rules' books, as they would be at this point."""
    books = books_module.Books()
    for account, (spent, held, granted) in zip(REAL, ledger.balances, strict=True):
        books.balances[account[:2]] = books_module.Balance(account, spent, held, granted=granted)
    for call, hold in enumerate(map(read, ledger.journal)):
        if hold is None:
            continue
        chain = tuple(REAL[n][:2] for n in CALLS[call].chain)
        extended = hold.amount - CALLS[call].amount
        known = books_module.Hold(str(call), chain, hold.amount, hold.owner, 0, extended=extended)
        if hold.resolution:
            known.resolution, known.settled = real.Kind(hold.resolution), hold.settled
            known.refunded, known.annulled = hold.settled * hold.annulled, hold.annulled
        books.holds[known.id] = known
        books.balances[chain[-1]].open += not hold.resolution
    return books


def in_full(event: Event) -> real.Event:
    """An event of the model as one of the real rules."""
    kind, call, amount = event
    hold = str(call)
    match kind:
        case "reserve":
            return real.Reserve(hold, tuple(REAL[n] for n in CALLS[call].chain), amount)
        case "extend":
            return real.Extend(hold, amount)
        case "settle":
            return real.Settle(hold, amount)
        case "void":
            return real.Void(hold)
        case "expire":
            return real.Expire(hold)
    return real.Annul(hold, "an operator's")


def possible(ledger: Ledger) -> Iterator[Event]:
    """Every event that could come now, also where no gateway would send it."""
    for call, plan in enumerate(CALLS):
        hold = read(ledger.journal[call])
        yield Event("reserve", call, plan.amount)
        yield from (Event("extend", call, amount) for amount in (1, 2))
        yield from (Event("settle", call, amount) for amount in range(hold.amount + 1 if hold else 2))
        yield from (Event("void", call), Event("expire", call))
        if hold and hold.resolution == "expire" and not hold.annulled:
            yield Event("annul", call)


def reachable(*systems: System) -> set[Ledger]:
    """Every ledger that there can be in these systems."""
    ledgers = set()

    def note(state: State, _: bool) -> bool:
        ledgers.add(state.ledger._replace(groups=frozenset()))
        return True

    for system in systems:
        explore(system.start(), system.steps, {"NOTED": note})
    return ledgers


def test_the_ledger_decides_as_the_rules_do() -> None:
    said = set()
    ledgers = reachable(System("ABC", faults=0, grants=1), System("AC", faults=1), System("AB", faults=1))
    for ledger in ledgers:
        for event in possible(ledger):
            books = books_of(ledger)
            outcome = rules.apply(books, in_full(event), at=0, owner=7)
            after, (word, figure) = apply(ledger, event, 7)
            told = f"{event} on {ledger}: {outcome}"
            assert WORDS.get(type(outcome).__name__) == word, told
            if isinstance(outcome, real.Late) and outcome.kind is real.Kind.EXPIRE:
                assert figure == outcome.owner, told
            if isinstance(outcome, real.Shortfall) and outcome.limit is not None:
                assert figure <= outcome.limit - outcome.spent - outcome.held < event.amount, told
            assert [(b.spent, b.held, b.granted) for b in books.balances.values()] == list(after.balances), told
            written = after.journal[event.call][len(ledger.journal[event.call]) :]
            assert [(e.kind, e.amount) for e in books.entries] == [(e.kind, e.amount) for e in written], told
            said.add((event.kind, word))
    assert len(ledgers) > 500
    assert {word for _, word in said} == {*WORDS.values()}
    assert said >= {("extend", "short"), ("extend", "late"), ("settle", "late"), ("annul", "resolved")}
