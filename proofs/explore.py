"""Every state that a system can reach, breadth first, so that the first way to a broken law is a shortest one."""

import gc
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)

Step = tuple[bool, str, S]
"""Whether it is due (it comes if nothing else does), what is done, and the state after it."""

Law = Callable[[S, bool], bool]
"""Whether a law holds in a state. The flag says that the state is at rest: no step is due in it."""

ENDS: Final = "ENDS"
"""Broken where due steps could go round for ever: then laws about states at rest would say nothing."""


class Found(NamedTuple, Generic[S]):
    """What was seen, and the laws that the last state of `trace` breaks, if any. `labels` are of all steps taken."""

    states: int
    steps: int
    at_rest: int
    labels: frozenset[str]
    broken: tuple[str, ...] = ()
    trace: tuple[tuple[str, S], ...] = ()


def explore(start: S, steps: Callable[[S], Iterator[Step[S]]], laws: Mapping[str, Law[S]]) -> Found[S]:
    """Check every law in every state that can be reached from `start`, until one is broken."""
    gc.disable()  # Millions of tuples, none of them garbage: looking for some takes a quarter of the time.
    try:
        return _explore(start, steps, laws)
    finally:
        gc.enable()


def _explore(start: S, steps: Callable[[S], Iterator[Step[S]]], laws: Mapping[str, Law[S]]) -> Found[S]:
    states = [start]
    index = {start: 0}
    origins = [(0, "")]
    onward: list[int] = []
    labels: set[str] = set()
    taken = at_rest = 0
    broken: tuple[str, ...] = ()
    for n, state in enumerate(states):  # It grows as it is walked.
        due_step = -1
        for due, label, after in steps(state):
            taken += 1
            labels.add(label)
            number = index.setdefault(after, len(states))
            if number == len(states):
                states.append(after)
                origins.append((n, label))
            if due:
                due_step = number
        onward.append(due_step)
        at_rest += due_step < 0
        broken = tuple(name for name, holds in laws.items() if not holds(state, due_step < 0))
        if broken:
            break
    last = len(onward) - 1
    if not broken and (circle := _circle(onward)) is not None:
        broken, last = (ENDS,), circle
    trace = []
    while broken and last:
        trace.append((origins[last][1], states[last]))
        last = origins[last][0]
    return Found(len(states), taken, at_rest, frozenset(labels), broken, tuple(reversed(trace)))


def _circle(onward: list[int]) -> int | None:
    """A state from which taking the due step that was noted of each state never ends (-1), or None."""
    ends = bytearray(len(onward))
    for n in range(len(onward)):
        path: dict[int, None] = {}
        at = n
        while at >= 0 and not ends[at]:
            if at in path:
                return at
            path[at] = None
            at = onward[at]
        for each in path:
            ends[each] = 1
    return None
