"""From a plan to moved pages: a state machine without I/O, and an executor with it."""

from isotherm.migration.cost import CostModel, CostPrior
from isotherm.migration.engine import MigrationEngine, derive_tier_rank
from isotherm.migration.events import (
    BatchDone,
    Event,
    MoveBatch,
    PlanArrived,
    Renewed,
    Tick,
)
from isotherm.migration.ledger import Account, GainLedger
from isotherm.migration.state import MigrationState
from isotherm.migration.totals import Totals

__all__ = [
    "Account",
    "BatchDone",
    "CostModel",
    "CostPrior",
    "Event",
    "GainLedger",
    "MigrationEngine",
    "MigrationState",
    "MoveBatch",
    "PlanArrived",
    "Renewed",
    "Tick",
    "Totals",
    "derive_tier_rank",
]
