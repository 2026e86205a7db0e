"""An event loop whose time is a number, whose order is drawn from a seed, and whose processes can be killed.

Nothing waits: when nobody is ready the time jumps to the next timer. Of those that are ready one is drawn at random, so
that every order that asyncio allows comes up sooner or later. The same seed gives the same run.

A `Process` is what a `kill -9` ends: its tasks stop at whatever await they are at, without a `finally`. Who belongs to
it follows from the context, which tasks and callbacks inherit.
"""

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, TypeVar

_T = TypeVar("_T")


class Process:
    """Something that runs, may be stopped for a while, and may die."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead_at: float | None = None
        self.stopped_until = 0.0


OUTSIDE = Process("outside")
_PROCESS: ContextVar[Process] = ContextVar("_PROCESS", default=OUTSIDE)


class Loop(asyncio.BaseEventLoop):
    """Runs one simulation; see the module."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._draw = chance.random
        self._at = 0.0
        self._count = 0
        self._able: list[tuple[asyncio.Handle, Process]] = []
        self._later: list[tuple[float, int, asyncio.Handle, Process]] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self.errors: list[str] = []

    def time(self) -> float:
        return self._at

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._able.append((handle, _PROCESS.get() if context is None else context.get(_PROCESS, OUTSIDE)))
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        process = _PROCESS.get() if context is None else context.get(_PROCESS, OUTSIDE)
        heapq.heappush(self._later, (when, self._count, handle, process))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._at + delay, callback, *args, context=context)

    def create_task(self, coro: Any, **more: Any) -> asyncio.Task[Any]:  # noqa: ANN401 - whatever a task takes
        task = super().create_task(coro, **more)
        # Kept to the end: one that is collected runs its `finally`, and the dead run nothing.
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def spawn(self, process: Process, coro: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Begin a task of a process."""
        context = copy_context()
        context.run(_PROCESS.set, process)
        return self.create_task(coro, context=context)

    def kill(self, process: Process) -> None:
        """`kill -9`."""
        process.dead_at = self._at

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run until `main` is done."""
        asyncio._set_running_loop(self)
        try:
            task: asyncio.Task[_T] = self.create_task(main)
            while not task.done():
                self._step()
            return task.result()
        finally:
            asyncio._set_running_loop(None)
            self._end()

    def _step(self) -> None:
        later, able = self._later, self._able
        if not able:
            assert later, "nobody will ever go on"
            self._at = max(self._at, later[0][0])
        while later and later[0][0] <= self._at:
            _, _, handle, process = heapq.heappop(later)
            able.append((handle, process))
        which = int(self._draw() * len(able))
        able[which], able[-1] = able[-1], able[which]
        handle, process = able.pop()
        if process.dead_at is not None or handle.cancelled():
            return
        if process.stopped_until > self._at:
            self._count += 1
            heapq.heappush(later, (process.stopped_until, self._count, handle, process))
            return
        handle._run()

    def _end(self) -> None:
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # those who died never end
                with contextlib.suppress(BaseException):
                    task.get_coro().close()
            elif not task.cancelled():
                task.exception()
        self._able.clear()
        self._later.clear()
        self.close()
