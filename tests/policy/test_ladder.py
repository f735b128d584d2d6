"""Trades over several boundaries: chains, and tiers that are skipped."""

from pathlib import Path

import numpy as np
import pytest

from isotherm.lab.simulate import SimulationSpec, simulate
from isotherm.policy.balance import Balance
from isotherm.policy.cells import CELLS
from isotherm.policy.ladder import Ladder, Rung, climb
from isotherm.policy.plan import Moves, Reason

RATE = np.zeros(CELLS)


def rungs(*advantage):
    """Return boundaries at which cells have these advantages; a move costs 1."""
    out = []
    for row in advantage:
        every = np.zeros(CELLS)
        every[: len(row)] = row
        out.append(Rung(every, 1.0, RATE, Balance(), loses=False))
    return out


class Board:
    """Pages on three tiers, page i in cell i; nodes are tiers."""

    def __init__(self, bench, node, capacity, kept=0):
        self.table = bench(node, capacity, tiers=((0,), (1,), (2,)))
        pages = len(node)
        self.cell = np.arange(pages, dtype=np.uint16)
        population = np.zeros((CELLS, 3), np.int64)
        population[np.arange(pages), node] = 1
        free = np.array(capacity) - population.sum(0)
        tier = np.full(256, 3, np.uint8)
        tier[:3] = 0, 1, 2
        self.ladder = Ladder(
            self.table.epoch(),
            self.cell,
            tier,
            population,
            np.append(free, 0),
            np.array([0, kept, 0, 0]),
        )

    def climb(self, rungs, limit=100):
        """Return where pages end, by page, and the plan."""

        def pick(node, b, up, down):
            up_page, down_page = np.flatnonzero(up), np.flatnonzero(down)
            assert (node[up_page] == b + 1).all()
            assert (node[down_page] == b).all()
            return Moves.concat(
                Moves.to(down_page, b + 1, Reason.MAKES_ROOM, 0.0),
                Moves.to(up_page, b, Reason.PAYS, 5.0),
            )

        moves = climb(self.ladder, rungs, limit, pick)
        return dict(zip(moves.page.tolist(), moves.node.tolist(), strict=True)), moves


def test_a_page_that_pays_twice_skips_a_tier(bench) -> None:
    """Page 2 goes from the third tier to the first; what it pushes out, one down."""
    board = Board(bench, [0, 1, 2], [1, 1, 3])
    found, moves = board.climb(rungs([0, 4, 9], [9, 1, 9]))
    assert {2: 0, 0: 1, 1: 2} == found
    assert {2: 10.0} == {
        page: gain
        for page, gain in zip(moves.page.tolist(), moves.gain_ns.tolist(), strict=True)
        if gain > 0
    }


def test_what_is_pushed_out_goes_on(bench) -> None:
    """Page 0 is the worst of both upper tiers: it goes down to the third at once."""
    board = Board(bench, [0, 1, 2], [1, 1, 3])
    found, _ = board.climb(rungs([0, 9, 0], [0, 9, 5]))
    assert {0: 2, 1: 0, 2: 1} == found


def test_a_chain_that_ends_where_it_began_is_no_move(bench) -> None:
    """Page 2 rises and would be put out again: it stays."""
    board = Board(bench, [0, 1, 2], [1, 1, 3])
    board.ladder.take(Moves.to(np.array([2]), 1, Reason.PAYS, 1.0))
    board.ladder.take(Moves.to(np.array([2]), 2, Reason.MAKES_ROOM, 0.0))
    assert 0 == len(board.ladder.moves())


def test_full_tiers_keep_a_page_for_exchange(bench) -> None:
    """A swap of two full tiers brings the least valuable page of the lower one down."""
    board = Board(bench, [0, 1, 1, 2], [1, 2, 4], kept=1)
    found, _ = board.climb(rungs([0, 9, 1, 0], [9, 9, 1, 0]))
    assert {1: 0, 0: 1, 2: 2} == found


def test_no_more_moves_than_allowed(bench) -> None:
    """Two moves at most: one exchange, at the slowest boundary first."""
    board = Board(bench, [0, 1, 2], [1, 1, 3], kept=1)
    found, _ = board.climb(rungs([0, 4, 9], [9, 1, 9]), limit=2)
    assert {1: 2, 2: 1} == found


THREE_TIERS = Path(__file__).parents[2] / "benchmarks/machines/dram-cxl-zram.toml"


@pytest.mark.slow
def test_pages_of_two_full_tiers_change_places() -> None:
    """DRAM and CXL full, zram large: hot pages of CXL get into DRAM."""
    spec = SimulationSpec(
        "isotherm", "gups", str(THREE_TIERS), fast_ratio=0.2, pages=4096,
        accesses=4096 * 600,
    )  # fmt: skip
    found = simulate(spec)
    assert {} == found["failed_moves"]
    assert found["fast_share"] > 0.7
