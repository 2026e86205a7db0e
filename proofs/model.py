"""The ledger's laws, checked in every state that a small system can reach: see docs/proofs.md.

`python -m proofs.model` explores it as it should be; with `--mutation NAME` a bug is built in, and the shortest way to
a broken law is printed.
"""

import argparse
from functools import cache
from typing import NamedTuple

from proofs.explore import Found, Law, explore
from proofs.gateways import NOT_SENT, State, System
from proofs.ledger import ACCOUNTS, LIMITS, RESOLUTIONS, Ledger, read, stands


def law_2(s: State, at_rest: bool) -> bool:
    """Spent + held <= limit, for every account at every instant."""
    return _within_limits(s.ledger)


def entries_equal_balances(s: State, at_rest: bool) -> bool:
    """Every balance is what the journal adds up to."""
    return _adds_up(s.ledger)


def resolved_once(s: State, at_rest: bool) -> bool:
    """A hold is reserved once and resolved at most once, whatever is repeated."""
    return all(map(_once, s.ledger.journal))


def forwarded_is_on_disk(s: State, at_rest: bool) -> bool:
    """A call that was forwarded has its reserve in the journal."""
    return all(served == NOT_SENT or entries for served, entries in zip(s.served, s.ledger.journal, strict=True))


def served_is_charged(s: State, at_rest: bool) -> bool:
    """What the upstream served is held, and later charged, unless an operator annulled it."""
    for served, entries in zip(s.served, s.ledger.journal, strict=True):
        hold = read(entries)
        if served > 0 and not (
            hold and (hold.annulled or served <= (hold.charged if hold.resolution else hold.amount))
        ):
            return False
    return True


def no_phantom(s: State, at_rest: bool) -> bool:
    """When everything that is due has been done, nothing is held."""
    return not at_rest or not any(held for _, held, _ in s.ledger.balances)


def refused_only_if_short(s: State, at_rest: bool) -> bool:
    """A shortfall is answered only where, by the journal, the money was not there when it was decided."""
    for gateway in s.gateways:
        if gateway.group and gateway.answer:
            for event, outcome in zip(gateway.group.events, gateway.answer, strict=True):
                if outcome.word == "short" and outcome.figure >= event.amount:
                    return False
    return True


@cache
def _within_limits(ledger: Ledger) -> bool:
    accounts = zip(ledger.balances, LIMITS, strict=True)
    return all(min(spent, held) >= 0 and spent + held <= limit + granted for (spent, held, granted), limit in accounts)


@cache
def _adds_up(ledger: Ledger) -> bool:
    sums = [(*stands(ledger.journal, account), ledger.grants[account]) for account in range(len(ACCOUNTS))]
    return sums == list(ledger.balances)


@cache
def _once(entries: tuple[tuple[str, int, int], ...]) -> bool:
    kinds = [kind for kind, _, _ in entries]
    return not kinds or (kinds.count("reserve") == 1 and sum(kind in RESOLUTIONS for kind in kinds) <= 1)


LAWS: dict[str, Law[State]] = {
    law.__name__.upper(): law
    for law in (
        law_2,
        entries_equal_balances,
        resolved_once,
        forwarded_is_on_disk,
        served_is_charged,
        no_phantom,
        refused_only_if_short,
    )
}
"""By name. LAW_1 is about tokens; no token is in this model (tests/test_law_1.py)."""

SIZES = (System("AB", faults=2), System("AC", faults=2), System("ABC", faults=0, grants=1))
"""What is explored, to the last state."""

THOROUGH = (System("ABC", faults=1), System("AB", faults=3), System("AC", faults=3))
"""What takes minutes."""


class Mutation(NamedTuple):
    """A bug, the law that must find it, and how many faults that takes."""

    law: str
    faults: int
    bug: str


MUTATIONS = {
    "forward-before-commit": Mutation(
        "FORWARDED_IS_ON_DISK", 0, "a call is forwarded while its group is being written"
    ),
    "void-after-sending": Mutation("SERVED_IS_CHARGED", 0, "a call of which nothing was heard is taken for not served"),
    "expire-as-void": Mutation("SERVED_IS_CHARGED", 1, "the holds of a dead owner are given back"),
    "settle-without-fence": Mutation("RESOLVED_ONCE", 1, "a settle goes through although the hold was expired"),
    "retry-reserves-again": Mutation("RESOLVED_ONCE", 1, "a hold id that is known is held once more"),
    "no-tombstone": Mutation("NO_PHANTOM", 1, "a group that is not found after a lost answer may still be written"),
    "void-only-if-found": Mutation("NO_PHANTOM", 2, "giving up, the void is left out if the last try was not written"),
    "sweep-once": Mutation("NO_PHANTOM", 1, "a dead owner whose holds were expired is never looked at again"),
    "parent-only": Mutation("ENTRIES_EQUAL_BALANCES", 0, "a reserve is added to the first account of the chain alone"),
    "check-leaf-only": Mutation("LAW_2", 0, "a reserve is compared with the last limit of the chain alone"),
    "extend-unchecked": Mutation("LAW_2", 0, "an extension is not compared with the limits"),
    "decide-before-the-lock": Mutation("LAW_2", 0, "balances are read when the group is sent, not when it is written"),
    "refuse-the-last-coin": Mutation("REFUSED_ONLY_IF_SHORT", 0, "an amount is refused that would just fit"),
}


def check(system: System) -> Found[State]:
    """Explore a system under all laws."""
    return explore(system.start(), system.steps, LAWS)


def mutated(name: str) -> System:
    """A system with a bug built in."""
    return System("ABC", MUTATIONS[name].faults, bug=name)


def say(system: System, found: Found[State]) -> str:
    """An exploration in words, with the way to what is broken."""
    size = f"calls {', '.join(system.asked)}, faults {system.faults}, grants {system.grants}"
    lines = [f"{size}: {found.states:,} states ({found.at_rest:,} at rest), {found.steps:,} steps"]
    for number, (label, state) in enumerate(found.trace, 1):
        accounts = zip(ACCOUNTS, state.ledger.balances, LIMITS, strict=True)
        shown = "  ".join(f"{name} {b.spent}+{b.held}/{limit + b.granted}" for name, b, limit in accounts)
        lines.append(f"{number:3}  {label:60}  {shown}")
    return "\n".join([*lines, *(f"broken: {law}. {_text(law)}" for law in found.broken)])


def _text(law: str) -> str:
    return f"{LAWS[law].__doc__}" if law in LAWS else "The steps that are due go round for ever."


def main() -> int:
    """Explore and print; return 1 if a law is broken."""
    parser = argparse.ArgumentParser(prog="python -m proofs.model", description="Check the ledger's laws on a model.")
    parser.add_argument("--mutation", choices=MUTATIONS, help="build a bug in, and show how it breaks a law")
    parser.add_argument("--thorough", action="store_true", help="larger sizes as well, for minutes")
    given = parser.parse_args()
    if given.mutation:
        print(f"{given.mutation}: {MUTATIONS[given.mutation].bug}")
        print(say(system := mutated(given.mutation), check(system)))
        return 1
    states = 0
    for system in (*SIZES, *(THOROUGH if given.thorough else ())):
        found = check(system)
        print(say(system, found), flush=True)
        if found.broken:
            return 1
        states += found.states
    for law in LAWS:
        print(f"{law}: {_text(law)}")
    print(f"OK: {len(LAWS)} laws hold in all {states:,} states")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
