"""The gate between plan and engine: dry runs, held-back moves, the brake's share."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from isotherm.daemon.trial import Trial
from isotherm.hints.batch import Mechanism
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.plan import Epoch, Moves, Plan, Policy


class Gate:
    """A policy that lets through what may be made of another's plans.

    Args:
        inner: Who decides.
        trial: Holds moves back.
        dry_run: Let nothing through.
        rank: Tier of every node, 0 the fastest.
    """

    def __init__(
        self,
        inner: Policy,
        trial: Trial,
        rank: NDArray[np.integer],
        *,
        dry_run: bool = False,
    ) -> None:
        self.inner = inner
        self._trial = trial
        self._rank = np.full(256, 255, np.int64)
        self._rank[: len(rank)] = rank
        self._dry_run = dry_run
        #: What the brake lets through, in [0, 1].
        self.share = 1.0
        #: The last plan as it was decided.
        self.wished = Moves.none()

    @property
    def name(self) -> str:
        """The name of who decides."""
        return self.inner.name

    @property
    def wants(self) -> frozenset[Mechanism]:
        """What the one who decides wants."""
        return self.inner.wants

    @property
    def uses_tracker(self) -> bool:
        """Whether the one who decides needs a tracker."""
        return self.inner.uses_tracker

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Start from where the pages are."""
        return self.inner.start(node)

    def renew(self, change: SpacesChanged) -> None:
        """Pass it on."""
        self._trial.renew(change)
        self.inner.renew(change)

    def replace_inner(self, make: Callable[[], Policy]) -> None:
        """Put another policy in the place of the one who decides."""
        self.inner = make()

    def decide(self, epoch: Epoch) -> Plan:
        """Return the plan with the moves that may be made."""
        plan = self.inner.decide(epoch)
        self.wished = moves = plan.moves
        if self._dry_run or self.share <= 0:
            moves = Moves.none()
        elif len(moves):
            allowed = self._trial.choose(moves, epoch.node, epoch.now_ns)
            moves = moves.take(np.flatnonzero(allowed))
            if self.share < 1:
                moves = self._best(moves, epoch)
        return plan if moves is plan.moves else replace(plan, moves=moves)

    def _best(self, moves: Moves, epoch: Epoch) -> Moves:
        """Return the share that may go, the best of each direction.

        Of what the quota would have let go, not of what was wished for.
        """
        down = self._rank[moves.node] > self._rank[epoch.node[moves.page]]
        limit = min(len(moves), epoch.move_limit_pages)
        keep = np.zeros(len(moves), np.bool_)
        for direction in (False, True):
            row = np.flatnonzero(down == direction)
            most = ceil(self.share * limit * len(row) / max(1, len(moves)))
            keep[row[:most]] = True
        return moves.take(np.flatnonzero(keep))
