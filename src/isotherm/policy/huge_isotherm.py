"""Isotherm with huge pages as one more consumer of the same evidence and price."""

from dataclasses import replace

from isotherm.core.errors import UnsupportedError
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.huge_market import HugeMarket
from isotherm.policy.huge_moves import whole_moves
from isotherm.policy.huge_pages import PageSizes
from isotherm.policy.isotherm import Isotherm
from isotherm.policy.market import Market
from isotherm.policy.plan import Epoch, Plan, Setup
from isotherm.topology.model import Topology


class HugeIsotherm(Isotherm):
    """Isotherm that moves huge pages whole, and collapses and splits where it pays.

    Without ``Epoch.huge`` it is isotherm.

    Args:
        setup: As for isotherm.
        mode: One of ``huge_pages.MODES``.

    Raises:
        UsageError: The setup names an option that isotherm lacks, or no such mode.
        UnsupportedError: There are tenants: their markets trade small pages.
    """

    def __init__(self, setup: Setup, mode: str = "priced") -> None:
        self.sizes = PageSizes(setup.pages, mode)
        super().__init__(setup)

    def _take_tiers(self, topology: Topology) -> None:
        super()._take_tiers(topology)
        inner = self._market
        if type(inner) is not Market:
            raise UnsupportedError(
                "huge pages: the markets of tenants trade small pages",
                hint="run without tenants, or without huge pages",
            )
        self._huge = HugeMarket(
            inner, self._tier, self._tiers, self.sizes, self._epoch_s
        )
        self._market = self._huge  # type: ignore[assignment]  # trades as one does

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that have a new owner or none; make room for new ones."""
        self.sizes.renew(change)
        super().renew(change)

    def decide(self, epoch: Epoch) -> Plan:
        """Return the moves that pay, whole huge pages among them, and page sizes."""
        if epoch.huge is None:
            return super().decide(epoch)
        self.sizes.observe(epoch.huge, epoch.resized, epoch.now_ns)
        self._huge.changes = self._huge.changes.none()
        plan = super().decide(epoch)
        moves = whole_moves(plan.moves, epoch, epoch.huge.huge, self._tier, self._tiers)
        return replace(plan, moves=moves, sizes=self._huge.changes)
