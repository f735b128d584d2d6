"""What a fixed placement costs on a machine that queues, for the bounds."""

from collections.abc import Iterator
from copy import copy
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.machine.sim.load import Load, Tally
from isotherm.policy.bounds import Counts
from isotherm.trace.stream import AccessChunk, Pace, Workload

#: Epochs that a placement is judged by, evenly over the run; fewer where the loop is
#: closed, as each of them is solved for.
EPOCHS: Final = 24
CLOSED_EPOCHS: Final = 8
#: Epochs of which it is taken who accesses, and how much is written.
MIX_EPOCHS: Final = 16
#: Nodes of a table of accesses (play.MAX_NODES).
WIDTH: Final = 8

Floats = NDArray[np.float64]


class PlacementCost:
    """The machine's own model of load, asked of some epochs of a run.

    Args:
        load: Of the machine; it is not changed.
        counts: Accesses, or stall, by epoch and page, at least one epoch.
        workload: Told apart by stream, initiator and write in the mean alone.
        pace: How its accesses become time.
    """

    def __init__(
        self, load: Load, counts: Counts, workload: Workload, pace: Pace
    ) -> None:
        self._load = copy(load)
        rows = load.rows
        none = np.zeros(rows, np.int64)
        self._load.tally = Tally(np.zeros(rows), np.zeros(rows), none, none.copy())
        self._dt_ns = pace.epoch_ns
        most = EPOCHS if load.threads is None else CLOSED_EPOCHS
        picked = np.linspace(0, len(counts) - 1, min(most, len(counts)))
        self._epochs = np.unique(picked.round().astype(np.int64))
        self._counts = counts[self._epochs]
        self._mix, per_epoch = _mix(islice(workload.epochs(pace), MIX_EPOCHS), load)
        counted = self._counts.sum(1, dtype=np.float64)
        self._scale = per_epoch / max(float(counted.mean()), 1.0)
        self.idle_ns: Floats = load.read_ns.min(0)

    @property
    def holds(self) -> bool:
        """Whether the mean mix may stand for every page's.

        It may not where what is faster for one initiator is slower for another, as a
        GPU's memory is for a CPU: there it matters which pages are whose.
        """
        who = np.unique(self._load.initiator[self._mix.sum(1) > 0])
        rank, read_ns = self._load.tier_rank, self._load.read_ns[who]
        slow, fast = read_ns[:, rank == rank.max()], read_ns[:, rank == 0]
        saved = slow.mean(1) - fast.mean(1)
        return bool((saved >= 0).all() or (saved <= 0).all())

    def accesses(self, node: NDArray[np.uint8]) -> Floats:
        """Return accesses by epoch and node, of the epochs that are looked at."""
        found = [
            np.bincount(node, row, self._load.nodes).astype(np.float64)
            for row in self._counts
        ]
        return np.stack(found) * self._scale

    def stall_ns(self, accesses: Floats) -> float:
        """Return the stall of accesses, float64[epochs, nodes]."""
        total = 0.0
        moved = np.zeros((2, self._load.nodes))
        for index, row in zip(self._epochs.tolist(), accesses, strict=True):
            counts = np.zeros((self._load.rows, 2, WIDTH), np.int64)
            asked = self._mix[:, :, None] * row
            counts[:, :, : self._load.nodes] = np.rint(asked)
            others = self._load.background_bytes(index * self._dt_ns, self._dt_ns)
            settled = self._load.settle(counts, moved, others, self._dt_ns)
            total += settled.access_ns
        return total


def _mix(chunks: Iterator[AccessChunk], load: Load) -> tuple[Floats, float]:
    """Return the share of each row and of writes, [rows, 2], and accesses an epoch."""
    found = np.zeros((load.rows, 2))
    epochs = 0
    for chunk in chunks:
        told = chunk.stream if load.streams else chunk.initiator
        row = np.zeros(len(chunk), np.int64)
        if told is not None:
            row[:] = np.where(told < load.rows, told, 0)
        row *= 2
        if chunk.write is not None:
            row += chunk.write > 0
        found += np.bincount(row, minlength=found.size).reshape(found.shape)
        epochs += 1
    total = max(1.0, float(found.sum()))
    return found / total, total / max(1, epochs)
