"""The gate between policy and engine: keeps the plan, lets nothing through when dry."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import Mechanism
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.plan import Epoch, Moves, Plan, Policy
from isotherm.policy.sizes import SizeChanges


class Gate:
    """A policy that decides as another does.

    Args:
        inner: Who decides.
        dry_run: Let no move through.
    """

    def __init__(self, inner: Policy, *, dry_run: bool = False) -> None:
        #: Who decides; may be replaced between epochs.
        self.inner = inner
        self._dry_run = dry_run
        #: What the brake lets through, in [0, 1]; the engine keeps to it.
        self.share = 1.0
        #: The moves of the last plan as they were decided.
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
        self.inner.renew(change)

    def decide(self, epoch: Epoch) -> Plan:
        """Return the plan, without moves and changes of size in a dry run."""
        plan = self.inner.decide(epoch)
        self.wished = plan.moves
        if not self._dry_run:
            return plan
        return replace(plan, moves=Moves.none(), sizes=SizeChanges.none())
