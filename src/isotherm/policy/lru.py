"""The fastest tier as a cache: every miss brings a page in, the oldest leaves."""

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import Mechanism
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.options import read_options
from isotherm.policy.plan import Epoch, Plan, Setup
from isotherm.policy.spaces import refuse_renewal


class Lru:
    """Exact least recently used, run by the machine access by access.

    No host could afford it, and moving on every miss is dear; it stands here as
    the textbook's answer and as a check against other simulators.
    """

    name = "lru"
    wants: frozenset[Mechanism] = frozenset()
    uses_tracker = False
    demand_fill = "lru"  #: the machine runs the fastest tier as a cache

    def __init__(self, setup: Setup) -> None:
        read_options(self.name, setup, {})

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the machine's own placement; the cache starts empty all the same."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Refuse: its state is for one footprint."""
        refuse_renewal(self.name)

    def decide(self, epoch: Epoch) -> Plan:
        """Plan nothing: the machine runs the cache."""
        return Plan()
