"""The seam to the loop: what carries out plans."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from isotherm.hotness.protocol import HotnessView
from isotherm.machine.protocol import HugePages, SpacesChanged, Usage
from isotherm.policy.plan import Moves, Outcome
from isotherm.policy.sizes import SizeChanges


class Engine(Protocol):
    """Carries out plans; at once, or beside the loop."""

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that have a new owner or none; make room for new ones."""
        ...

    def collect(self) -> Outcome:
        """Return the moves that ended since the last call.

        Those that ``submit`` returned are not among them, nor are pages renewed on
        the way.
        """
        ...

    def account_epoch(self, view: HotnessView, dt_ns: int) -> None:
        """Credit an epoch to the moves that are followed."""
        ...

    def move_cost_ns(self) -> NDArray[np.float64]:
        """Return the expected cost of a page in a batch, float64[nodes, nodes]."""
        ...

    def usable(self, usage: Usage) -> Usage:
        """Return a machine's usage as far as plans may count on it."""
        ...

    def move_limit_pages(self) -> int:
        """Return how many moves of a plan made now can be carried out."""
        ...

    def submit(self, moves: Moves, dt_ns: int) -> Outcome:
        """Take a plan; what the last one wished and was not started is void.

        Args:
            moves: Wishes.
            dt_ns: Length of an epoch: the time to carry them out in.

        Returns:
            What was carried out before this returned.
        """
        ...

    def throttle(self, share: float) -> None:
        """Go on at a share of the quota: 1 all of it, 0 nothing starts."""
        ...

    def close(self) -> bool:
        """Start nothing more; return whether nothing is on the way any more."""
        ...


class Resizer(Protocol):
    """Changes page sizes, at once."""

    @property
    def done(self) -> SizeChanges:
        """The changes that the last call of ``resize`` made."""
        ...

    def look(self) -> HugePages:
        """Return which memory is huge, with costs as they were measured."""
        ...

    def resize(self, changes: SizeChanges) -> Outcome:
        """Carry out changes; return the pages that moved to another node."""
        ...
