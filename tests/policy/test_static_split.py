"""The best fixed placement where nodes queue."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.policy.bounds import KnownFuture, StaticOracle
from isotherm.policy.static_split import best_split


@dataclass
class Queues:
    """Latency of a node grows with its accesses: L (1 + slope A)."""

    heat: np.ndarray
    slope: np.ndarray
    idle_ns: np.ndarray = field(default_factory=lambda: np.array([100.0, 250.0]))

    def accesses(self, node):
        """One epoch."""
        return np.bincount(node, self.heat, len(self.idle_ns))[None, :]

    def stall_ns(self, accesses):
        """Accesses times loaded latency."""
        loaded = self.idle_ns * (1 + self.slope * accesses)
        return float((accesses * loaded).sum())


def test_accesses_are_shared_out_as_marginal_costs_say() -> None:
    """100 (1 + 2 s A) = 250 + 2 * 250 s' B: checked against every split there is."""
    heat = np.arange(200.0, 0.0, -1.0)
    cost = Queues(heat, np.array([2e-4, 1e-5]))
    start = np.zeros(200, np.uint8)
    found = best_split([start], heat, np.array([200, 200]), cost, None)
    every = np.linspace(0, heat.sum(), 2001)
    best = min(cost.stall_ns(np.array([[a, heat.sum() - a]])) for a in every)
    assert best == pytest.approx(cost.stall_ns(cost.accesses(found)), rel=1e-3)


def test_room_is_kept() -> None:
    """However the steps round, no node gets more than it holds."""
    heat = np.arange(101.0, 0.0, -1.0)
    cost = Queues(heat, np.array([1e-5, 1e-3]))
    start = np.ones(101, np.uint8)
    found = best_split([start], heat, np.array([40, 101]), cost, None)
    assert 40 >= np.count_nonzero(found == 0)
    assert cost.stall_ns(cost.accesses(found)) < cost.stall_ns(cost.accesses(start))


def test_without_load_hottest_first_stays(bench) -> None:
    """No queueing: the oracle's own placement, though a run's cost is known."""
    table = bench([1, 1, 1], [1, 3])
    counts = np.array([[1, 9, 5]], np.uint16)
    cost = Queues(counts[0].astype(float), np.zeros(2))
    known = KnownFuture(counts, run=cost)
    assert [1, 0, 1] == StaticOracle(table.setup(), known).start(table.node).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["kv-cache", "stream"])
def test_the_oracle_is_no_worse_than_never_moving(workload) -> None:
    """Pages that are hot at different times fill a narrow link by turns."""
    runs = {
        policy: simulate(
            SimulationSpec(
                policy, workload, "dram-pmem", fast_ratio=0.5, pages=4096,
                accesses=4096 * 600,
            )
        )["slowdown"]
        for policy in ("static-oracle", "first-touch")
    }  # fmt: skip
    assert runs["static-oracle"] < 1.02 * runs["first-touch"]
