"""First touch: a page stays where it was born."""

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import Mechanism
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.options import read_options
from isotherm.policy.plan import Epoch, Plan, Setup


class FirstTouch:
    """Linux without tiering: allocation fills the nearest node, nothing moves after.

    Where pages are born is the machine's business (``--placement``).
    """

    name = "first-touch"
    wants: frozenset[Mechanism] = frozenset()
    uses_tracker = False

    def __init__(self, setup: Setup) -> None:
        read_options(self.name, setup, {})

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the machine's own placement."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Do nothing: no page is remembered."""

    def decide(self, epoch: Epoch) -> Plan:
        """Return an empty plan."""
        return Plan()
