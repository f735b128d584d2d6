"""Launches as tasks of small steps: all at once, or one at a time in any order.

A kernel of the numpy backend is a generator: what stands between two ``yield`` is
one step. Run at once, it is a function call. Held by a ``Stepper``, it waits in
its lane, so that a test can run steps of readers, writers and the mover in any
order that a device could choose.
"""

from collections.abc import Generator
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")

#: A kernel: yields between steps, returns its answer.
Kernel = Generator[None, None, T]


class Task(Generic[T]):
    """One launch or operation under way.

    Args:
        kernel: Its steps.
        lane: Tasks of one lane run in the order they came.
        after: Tasks that must have ended before it starts.
    """

    def __init__(
        self, kernel: Kernel[T], lane: int = 0, after: tuple["Task[Any]", ...] = ()
    ) -> None:
        self.lane = lane
        self._kernel = kernel
        self._after = after
        self._ended = False
        self._answer: T | None = None

    def done(self) -> bool:
        """Return whether it has ended."""
        return self._ended

    def may_step(self) -> bool:
        """Return whether it is not over and what it waits for is."""
        self._after = tuple(task for task in self._after if not task.done())
        return not self._ended and not self._after

    def step(self) -> None:
        """Run one step."""
        try:
            next(self._kernel)
        except StopIteration as end:
            self._answer = end.value
            self._ended = True

    def result(self) -> T:
        """Run what it waits for, then what is left of it; return its answer."""
        while not self._ended:
            for task in self._after:
                task.result()
            self.step()
        return cast("T", self._answer)


class Stepper:
    """Holds tasks until they are stepped. Lane 0 is the mover's."""

    def __init__(self) -> None:
        self._lanes: dict[int, list[Task[Any]]] = {}

    def add(
        self, kernel: Kernel[T], lane: int, after: tuple[Task[Any], ...]
    ) -> Task[T]:
        """Return a task at the end of a lane."""
        queue = self._lanes.setdefault(lane, [])
        task = Task(kernel, lane, (*after, *queue[-1:]))
        queue.append(task)
        return task

    def lanes(self) -> list[int]:
        """Return the lanes that can make a step now, ascending."""
        for lane, queue in list(self._lanes.items()):
            self._lanes[lane] = [task for task in queue if not task.done()]
        return sorted(
            lane for lane, queue in self._lanes.items() if queue and queue[0].may_step()
        )

    def step(self, lane: int) -> None:
        """Run one step of the first task of a lane."""
        self._lanes[lane][0].step()

    def run(self) -> None:
        """Run everything to its end, lane by lane."""
        while lanes := self.lanes():
            for lane in lanes:
                self._lanes[lane][0].result()
