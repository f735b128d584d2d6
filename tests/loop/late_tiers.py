"""A simulated machine whose nodes come and go by a script."""

from dataclasses import replace

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
from isotherm.topology.model import Topology
from tests.loop.scripted_spaces import ScriptedSpaces

ENODEV = 19


class LateTiers(ScriptedSpaces):
    """Hides nodes of a ``SimMachine``: they have no room, their pages no memory."""

    hidden: frozenset[int] = frozenset()

    def __init__(
        self,
        machine: SimMachine,
        spaces: tuple[Space, ...],
        absent: tuple[int, ...] = (),
    ) -> None:
        super().__init__(machine, spaces, absent)
        self._told = self.hidden
        self.topology = self._topology()

    def _topology(self) -> Topology:
        whole = self.machine.topology
        tiers = tuple(t for t in whole.tiers if not self.hidden & set(t.nodes))
        return replace(whole, tiers=tiers)

    def refresh(self) -> SpacesChanged | None:
        """Tell of nodes that have come or gone since, and of spaces."""
        change = super().refresh()
        if self._told == self.hidden:
            return change
        self._told, self.topology = self.hidden, self._topology()
        none = SpacesChanged(self.pages, np.empty((0, 2), np.int64))
        return replace(change or none, topology=self.topology)

    def placement(self) -> NDArray[np.uint8]:
        """Return the nodes of pages on nodes that are there."""
        node = super().placement()
        for hidden in self.hidden:
            node[node == hidden] = NOT_PRESENT
        return node

    def usage(self) -> Usage:
        """Return the use of nodes that are there; the others have no capacity."""
        usage, gone = self.machine.usage(), list(self.hidden)
        capacity, used = usage.capacity_pages.copy(), usage.used_pages.copy()
        capacity[gone] = used[gone] = 0
        return replace(usage, capacity_pages=capacity, used_pages=used)

    def move(self, page: NDArray[np.uint32], node: NDArray[np.uint8]) -> MoveResult:
        """Refuse moves to nodes that are not there."""
        gone = np.isin(node, list(self.hidden))
        result = super().move(page[~gone], node[~gone])
        errno = np.full(len(page), ENODEV, np.int16)
        errno[~gone] = result.errno
        return MoveResult(errno, result.cost_ns)
