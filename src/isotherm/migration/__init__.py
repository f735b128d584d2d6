"""From a plan to moved pages: a state machine without I/O, and executors with it."""

from isotherm.migration.background import BackgroundEngine
from isotherm.migration.cost import CostModel, CostPrior
from isotherm.migration.engine import MigrationEngine
from isotherm.migration.events import (
    BatchDone,
    Event,
    Limited,
    MoveBatch,
    PlanArrived,
    Renewed,
    Throttled,
    Tick,
)
from isotherm.migration.holdback import Comparison, HoldBack
from isotherm.migration.ledger import Account, GainLedger
from isotherm.migration.protocol import Engine
from isotherm.migration.ranks import derive_tier_rank
from isotherm.migration.state import MigrationState
from isotherm.migration.totals import Totals

__all__ = [
    "Account",
    "BackgroundEngine",
    "BatchDone",
    "Comparison",
    "CostModel",
    "CostPrior",
    "Engine",
    "Event",
    "GainLedger",
    "HoldBack",
    "Limited",
    "MigrationEngine",
    "MigrationState",
    "MoveBatch",
    "PlanArrived",
    "Renewed",
    "Throttled",
    "Tick",
    "Totals",
    "derive_tier_rank",
]
