"""Routes that never match, or only in part, since an earlier one takes their calls."""

from collections.abc import Sequence
from typing import Protocol

from tolsey.call import Pattern
from tolsey.config_lines import shown


class Matching(Protocol):
    """A route, as far as it is matched."""

    @property
    def pattern(self) -> Pattern:
        """Its paths."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Its methods."""

    @property
    def line(self) -> int | None:
        """Where it stands in the file."""


def overlaps(routes: Sequence[Matching], file: str) -> tuple[str, ...]:
    """A warning for each route that can never match, or only in part, since an earlier one takes its calls.
    A special route before a general one is how routes are meant to be written, and no reason for a warning.
    """
    warnings = []
    for number, route in enumerate(routes):
        left = set(route.methods)
        crossed = False
        for earlier in routes[:number]:
            both = left & ({*earlier.methods, "HEAD"} if "GET" in earlier.methods else set(earlier.methods))
            what = ""
            if both and route.pattern.within(earlier.pattern):
                left -= both
                what = f"{', '.join(sorted(both))} never reaches it" if left else "it never matches"
            elif both and not crossed and not earlier.pattern.within(route.pattern):
                crossed = meets(route.pattern, earlier.pattern)
                what = "some of its paths never reach it" if crossed else ""
            if what:
                first = f"{shown(earlier.pattern.text)} in line {earlier.line} comes first"
                warnings.append(f"{file}:{route.line}: route[{number}] {shown(route.pattern.text)}: {what}: {first}")
    return tuple(warnings)


def meets(one: Pattern, other: Pattern) -> bool:
    """Whether some path is meant by both patterns (queries are not looked at)."""
    short, long = sorted((one, other), key=lambda pattern: len(pattern.segments))
    for a, b in zip(short.segments, long.segments, strict=False):
        if a != b and (a is not None or b == "") and (b is not None or a == ""):
            return False
    size = len(short.segments)
    if size < len(long.segments):
        return short.rest and (size == 0 or long.segments[size] != "")
    return short.rest == long.rest or size == 0
