"""A simulated machine whose spaces come, grow and go by a script."""

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.protocol import (
    NOT_PRESENT,
    MoveResult,
    Space,
    SpacesChanged,
    Usage,
)
from isotherm.machine.sim.machine import SimMachine

ENOENT = 2


class ScriptedSpaces:
    """Shows a part of a ``SimMachine`` as the spaces that are there now.

    A flat page that no space holds has no memory, and a page of a space that was
    not touched yet neither.

    Args:
        machine: Has as many pages as there will ever be.
        spaces: At the start.
        absent: Pages of spaces that have no memory until they are given some.
    """

    def __init__(
        self,
        machine: SimMachine,
        spaces: tuple[Space, ...],
        absent: tuple[int, ...] = (),
    ) -> None:
        self.machine = machine
        self.clock, self.topology = machine.clock, machine.topology
        self.parallelism = machine.parallelism
        self.latency_ns = machine.latency_ns
        self.spaces = spaces
        self.pages = max((s.base + s.pages for s in spaces), default=0)
        self.absent = set(absent)
        #: What each refresh makes of the spaces, next first.
        self.script: list[tuple[Space, ...]] = []
        self.strangers: list[int] = []

    def refresh(self) -> SpacesChanged | None:
        """Take the next spaces; ranges that were given up or taken are renewed."""
        if not self.script:
            return None
        before, self.spaces = self.spaces, self.script.pop(0)
        old, new = self._owner(before), self._owner(self.spaces)
        self.pages = max(self.pages, *(s.base + s.pages for s in self.spaces), 0)
        changed = np.flatnonzero(old[: self.pages] != new[: self.pages])
        if len(changed) == 0:
            return SpacesChanged(self.pages, np.empty((0, 2), np.int64))
        cut = np.flatnonzero(np.diff(changed) > 1)
        first = changed[np.concatenate([[0], cut + 1])]
        last = changed[np.concatenate([cut, [len(changed) - 1]])]
        return SpacesChanged(
            self.pages, np.stack([first, last + 1], 1).astype(np.int64)
        )

    def _owner(self, spaces: tuple[Space, ...]) -> NDArray[np.object_]:
        owner = np.full(self.machine.pages, None, object)
        for space in spaces:
            owner[space.base : space.base + space.pages] = space.owner
        return owner

    def placement(self) -> NDArray[np.uint8]:
        """Return the nodes of pages that are there."""
        node = self.machine.placement()[: self.pages].copy()
        held = self._owner(self.spaces)[: self.pages] != None  # noqa: E711  # per item
        node[~held] = NOT_PRESENT
        node[[page for page in self.absent if page < self.pages]] = NOT_PRESENT
        return node

    def usage(self) -> Usage:
        """Return the simulated machine's, other owners' pages included."""
        return self.machine.usage()

    def access_rate(self) -> float | None:
        """Return None: nobody counts."""
        return None

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Move pages that are there; note the others."""
        there = self.placement()[page] != NOT_PRESENT
        self.strangers += page[~there].tolist()
        errno = np.full(len(page), ENOENT, np.int16)
        result = self.machine.move(page[there], node[there])
        errno[there] = result.errno
        return MoveResult(errno, result.cost_ns)
