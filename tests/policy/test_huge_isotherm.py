"""Isotherm with huge pages: whole ones in every plan, counts that add up."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from isotherm.core.errors import UsageError
from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.machine.sim.huge_machine import HugeSimMachine
from isotherm.machine.sim.spec import load_machine
from isotherm.observability.recorder import Recorder
from isotherm.policy.cells import AHEAD, CELLS
from isotherm.policy.huge_isotherm import HugeIsotherm
from isotherm.policy.huge_market import HugeMarket
from isotherm.policy.huge_pages import PageSizes
from isotherm.policy.market import Market
from isotherm.policy.plan import Epoch, Moves, Setup

PAGES = 8192
SPEC = SimulationSpec(
    "isotherm",
    "silo",
    fast_ratio=0.25,
    pages=PAGES,
    accesses=2_000_000,
    sampling_period=200,
)


class Plans(Recorder):
    """Keeps the moves of every plan."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[Moves] = []
        self.resized: list[int] = []

    def epoch(self, **columns: Any) -> None:
        """Keep the plan."""
        self.moves.append(columns["plan_moves"])
        self.resized.append(len(columns["resized"]))
        super().epoch(**columns)


def a_setup(machine: HugeSimMachine) -> Setup:
    """Return a setup of a machine."""
    return Setup(
        pages=machine.pages,
        topology=machine.topology,
        capacity_pages=machine.capacity,
        epoch_ns=500_000_000,
        seed=1,
        hints=HugeIsotherm.wants,
    )


def test_every_plan_moves_whole_huge_pages() -> None:
    """With all ranges huge for good, a plan has all 512 pages of one or none."""
    plans = Plans()
    result = simulate(replace(SPEC, huge_pages="never-split"), recorder=plans)
    assert result["huge_pages"]["whole_moves"] > 0
    ranges = PAGES // 512
    for moves in plans.moves:
        count = np.bincount(moves.page // 512, minlength=ranges)
        assert {0, 512} >= set(count.tolist())


def test_changes_are_recorded_in_the_epoch_in_which_they_were_made() -> None:
    """What the recorder was told adds up to the result's figures."""
    plans = Plans()
    result = simulate(replace(SPEC, huge_pages="always-split"), recorder=plans)
    assert sum(plans.resized) == result["huge_pages"]["splits"]


def test_a_huge_page_counts_as_pages_of_the_cell_nearest_to_its_mean() -> None:
    """No page is lost or counted twice; small ones stay in their cells."""
    machine = HugeSimMachine(load_machine("dram-cxl"), 3 * 512, 0.5)
    machine.place(np.ones(3 * 512, np.uint8))
    tier = np.full(256, 2, np.uint8)
    tier[:2] = 0, 1
    market = HugeMarket(
        Market(machine.topology, tier, 0.5), tier, 2, PageSizes(3 * 512), 0.5
    )
    rate = np.zeros(CELLS)
    rate[:AHEAD] = np.arange(AHEAD)
    cell = np.zeros(3 * 512, np.uint16)
    cell[:256], cell[256:512] = 10, 20  # the first range is at 15 on average
    cell[512:] = 40
    population = np.zeros((CELLS, 2), np.int64)
    population[10, 1] = population[20, 1] = 256
    population[40, 1] = 1024
    epoch = Epoch(
        index=0,
        now_ns=0,
        dt_ns=1,
        topology=machine.topology,
        usage=machine.usage(),
        node=machine.placement(),
        latency_ns=machine.latency_ns(),
        move_cost_ns=machine.move_cost_ns(),
    )
    huge = np.array([True, False, False])
    joint, together = market._join(epoch, cell, rate, population, huge)
    assert {15} == set(joint[:512].tolist())
    assert {40} == set(joint[512:].tolist())
    assert [[0, 512], [0, 1024]] == together[[15, 40]].tolist()
    assert population.sum() == together.sum()
    assert {10, 20} == set(cell[:512].tolist())  # the policy's own stay as they are


def test_an_unknown_mode_is_refused() -> None:
    """Before anything is set up."""
    machine = HugeSimMachine(load_machine("dram-cxl"), 1024, 0.5)
    with pytest.raises(UsageError, match="huge pages: expected priced"):
        HugeIsotherm(a_setup(machine), "at random")
