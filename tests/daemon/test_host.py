"""A live host opened for a run."""

import msgspec
import pytest

from isotherm.daemon.config import BudgetConfig, Config, LoopConfig
from isotherm.daemon.host import placement_ns


@pytest.mark.parametrize(
    ("epoch_s", "cpu_percent", "expected_ms"),
    [(1.0, 2.0, 2.0), (4.0, 2.0, 8.0), (1.0, 100.0, 100.0)],
)
def test_reading_where_pages_are_follows_the_cpu_budget(
    epoch_s: float, cpu_percent: float, expected_ms: float
) -> None:
    """A daemon that may take more finds the pages of a new process sooner."""
    config = msgspec.structs.replace(
        Config(),
        loop=LoopConfig(epoch_s=epoch_s),
        budget=BudgetConfig(cpu_percent=cpu_percent),
    )

    assert expected_ms * 1e6 == pytest.approx(placement_ns(config))
