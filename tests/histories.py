"""Histories of concurrent calls, and whether some order of them explains what each client saw (linearizability).

Wing and Gong's search, with Lowe's memory of the states that were tried: of the operations that may come next (no other
one that is still to come had returned before it was invoked) take one whose result fits, and go on; go back where none
does. What the ledger does of itself, a settle that is written some time after the answer, is an inner step and may come
at any moment.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Purse = tuple[str, ...]
"""The names of the accounts of a chain, root first."""


class Stand(NamedTuple):
    """One account."""

    spent: int = 0
    held: int = 0
    calls: int = 0


@dataclass(frozen=True)
class State:
    """The ledger: where the accounts stand, and how many holds are open of each kind (chain, held, cost)."""

    accounts: tuple[tuple[str, Stand], ...] = ()
    open: tuple[tuple[tuple[Purse, int, int], int], ...] = ()

    def of(self, name: str) -> Stand:
        return dict(self.accounts).get(name, Stand())

    def moved(self, purse: Purse, spent: int, held: int, calls: int) -> dict[str, Stand]:
        stands = dict(self.accounts)
        for name in purse:
            before = stands.get(name, Stand())
            stands[name] = Stand(before.spent + spent, before.held + held, before.calls + calls)
        return stands

    def opened(self, purse: Purse, amount: int, cost: int) -> "State":
        """A hold more. It will settle at `cost`; one of -1 is voided."""
        holds = dict(self.open)
        kind = (purse, amount, cost)
        holds[kind] = holds.get(kind, 0) + 1
        return _state(self.moved(purse, 0, amount, 0), holds)

    def settled(self) -> Iterator["State"]:
        """What one settle or void may make of it."""
        for kind, count in self.open:
            purse, amount, cost = kind
            holds = {**dict(self.open), kind: count - 1}
            yield _state(self.moved(purse, max(cost, 0), -amount, int(cost >= 0)), holds)


def _state(stands: dict[str, Stand], holds: dict[tuple[Purse, int, int], int]) -> State:
    return State(tuple(sorted(stands.items())), tuple(sorted((kind, n) for kind, n in holds.items() if n)))


@dataclass(frozen=True)
class Operation:
    """What a client asked for and saw. `fits` is the state after it, or None where its result fits no such moment."""

    invoked: float
    returned: float
    what: str
    fits: Callable[[State], State | None]


def granted(
    limits: dict[str, int], purse: Purse, amount: int, *, cost: int, left: int | None = None
) -> Callable[[State], State | None]:
    """A call that was let through. `left` is the least that it was told to be left on its chain, if it was told; a
    `cost` of -1 is a void.
    """

    def fits(state: State) -> State | None:
        after = state.opened(purse, amount, cost)
        least = min(limits[name] - after.of(name).spent - after.of(name).held for name in purse)
        return after if least >= 0 and left in (None, least) else None

    return fits


def short(
    limits: dict[str, int], purse: Purse, amount: int, name: str, spent: int, held: int
) -> Callable[[State], State | None]:
    """A call that was refused: the first account that could not pay, and how it stood."""

    def fits(state: State) -> State | None:
        for account in purse:
            stands = state.of(account)
            if stands.spent + stands.held + amount > limits[account]:
                return state if (account, stands.spent, stands.held) == (name, spent, held) else None
        return None

    return fits


def read(seen: dict[str, Stand]) -> Callable[[State], State | None]:
    """Accounts that were read together."""

    def fits(state: State) -> State | None:
        return state if all(state.of(name) == stand for name, stand in seen.items()) else None

    return fits


def order_of(history: Sequence[Operation]) -> list[str] | None:
    """An order that explains a history, with the inner steps left out; None if there is none."""
    ops = sorted(history, key=lambda op: op.invoked)
    everything = (1 << len(ops)) - 1
    seen: set[tuple[int, State]] = set()
    stack: list[tuple[int, State, tuple[int, ...]]] = [(0, State(), ())]
    while stack:
        done, state, order = stack.pop()
        if done == everything:
            return [ops[n].what for n in order]
        if (done, state) in seen:
            continue
        seen.add((done, state))
        # Inner steps are tried last: most results fit without.
        stack += [(done, after, order) for after in state.settled()]
        for n in _next(ops, done):
            after = ops[n].fits(state)
            if after is not None:
                stack.append((done | 1 << n, after, (*order, n)))
    return None


def _next(ops: Sequence[Operation], done: int) -> list[int]:
    """Those that may come next."""
    waiting = [n for n in range(len(ops)) if not done >> n & 1]
    first_back = min(ops[n].returned for n in waiting)
    return [n for n in waiting if ops[n].invoked <= first_back]
