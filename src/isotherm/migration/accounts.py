"""What every executor says of its moves: books and totals, under the names of old."""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGE_BYTES
from isotherm.hotness.protocol import HotnessView
from isotherm.migration.books import Books
from isotherm.migration.cost import CostModel
from isotherm.migration.holdback import HoldBack
from isotherm.migration.ledger import GainLedger
from isotherm.migration.state import MigrationState
from isotherm.migration.totals import Totals


class Accounts:
    """Shared by the executors, which set both attributes.

    Attributes:
        books: Costs, promises, comparison.
        state: The state machine.
    """

    books: Books
    state: MigrationState

    def account_epoch(self, view: HotnessView, dt_ns: int) -> None:
        """Credit an epoch to the moves that are followed; call before ``submit``."""
        self.books.account_epoch(view, dt_ns)

    def move_cost_ns(self) -> NDArray[np.float64]:
        """Return the expected cost of a page in a batch of 512, float64[nodes, nodes].

        Of fewer where batches are kept smaller.
        """
        return self.books.move_cost_ns()

    @property
    def cost(self) -> CostModel:
        """What moves cost."""
        return self.books.cost

    @property
    def ledger(self) -> GainLedger:
        """What moves promised and earned, by the tracker's word."""
        return self.books.ledger

    @property
    def hold_back(self) -> HoldBack | None:
        """What moves realised, against those held back."""
        return self.books.hold_back

    @property
    def totals(self) -> Totals:
        """What became of all wishes, with failures by errno (live: do not write)."""
        return self.state.totals

    @property
    def promoted_pages(self) -> int:
        """Pages moved to a faster tier."""
        return self.totals.promoted

    @property
    def demoted_pages(self) -> int:
        """Pages moved to a slower tier."""
        return self.totals.demoted

    @property
    def ping_pong_pages(self) -> int:
        """Pages moved back within the window."""
        return self.totals.ping_pong

    @property
    def migrated_bytes(self) -> int:
        """Bytes of all pages that moved."""
        return self.totals.applied * PAGE_BYTES

    @property
    def migration_time_ns(self) -> float:
        """Time of all batches, tried pages included."""
        return self.totals.cost_ns

    @property
    def failures(self) -> dict[int, int]:
        """Pages that did not move, per try, as ``{errno: pages}``."""
        return dict(self.totals.errno)
