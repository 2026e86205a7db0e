"""Visits every state that can be reached, breadth first, so that the first violation has the shortest story."""

from collections import deque
from typing import NamedTuple

from proofs.model import INVARIANTS, WISHES, Call, State, refused_only_if_short, steps


class Found(NamedTuple):
    """How many states were visited; the invariant that fell, or None; and the steps that led there."""

    states: int
    violated: str | None = None
    trace: tuple[str, ...] = ()


def explore(broken: str = "", calls: int = len(WISHES)) -> Found:
    """Visit every state of so many calls, or as many as it takes to find one in which an invariant does not hold."""
    start = State((Call(),) * calls)
    seen: dict[State, tuple[State, str] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        for name, after in steps(state, broken):
            if not refused_only_if_short(state, after):
                return Found(len(seen), "REFUSED_ONLY_IF_SHORT", (*_story(seen, state), name))
            if after not in seen:
                seen[after] = (state, name)
                for invariant, holds in INVARIANTS.items():
                    if not holds(after):
                        return Found(len(seen), invariant, _story(seen, after))
                waiting.append(after)
    return Found(len(seen))


def _story(seen: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    story = []
    while (before := seen[state]) is not None:
        state, name = before
        story.append(name)
    return tuple(reversed(story))
