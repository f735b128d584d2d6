"""A live host opened for a run."""

import msgspec
import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.daemon.config import BudgetConfig, Config, LoopConfig
from isotherm.daemon.host import check_tiers, placement_ns
from isotherm.topology.model import MemoryKind, Node, Source, Tier, Topology


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


def test_a_sole_tier_is_enough_where_a_node_may_come() -> None:
    """A device that is onlined late is waited for; a host without one is refused."""

    def topology(*bytes_of_node: int) -> Topology:
        nodes = tuple(
            Node(at, MemoryKind.DRAM, Source.FIRMWARE, size)
            for at, size in enumerate(bytes_of_node)
        )
        tiers = (Tier(4, None, (0,), Source.FIRMWARE),)
        return Topology(nodes, tiers, (), (), {})

    check_tiers(topology(1 << 30, 0))
    with pytest.raises(UnsupportedError, match="one memory tier"):
        check_tiers(topology(1 << 30))
