"""How far a long command has come: on a terminal, on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tolsey.cli.output import on_terminal

Tell = Callable[[int, int], None]
"""Say how many of how many are done."""


@contextmanager
def progress(text: str) -> Iterator[Tell]:
    """A bar that is there while the block runs. Elsewhere than on a terminal there is none."""
    if not on_terminal(sys.stderr):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(escape(text), total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
