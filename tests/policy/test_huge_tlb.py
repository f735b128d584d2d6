"""Expected TLB misses, against a TLB that is played; ranges weighed, twin for twin."""

import numpy as np
import pytest

from isotherm.machine.sim.huge_kernels import look_up
from isotherm.policy.cells import CELLS
from isotherm.policy.huge_ranges import APART, MISSES, RATE, TRAVELLERS, weigh
from isotherm.policy.huge_ranges import weigh_twin as weigh_in_numpy
from isotherm.policy.huge_tlb import characteristic_s, misses_per_s


@pytest.mark.parametrize("entries", [12, 96, 768])
def test_expected_misses_are_those_of_a_played_tlb(entries: int) -> None:
    """On Zipf accesses the approximation is within 3 % of least recently used."""
    pages, accesses = 4096, 400_000
    rng = np.random.default_rng(1)
    weight = 1.0 / np.arange(1, pages + 1)
    weight /= weight.sum()
    page = rng.choice(pages, accesses, p=weight).astype(np.uint32)
    tlb = np.zeros((1, entries), np.uint32)
    missed = np.zeros(2, np.int64)
    none = np.zeros(pages // 512, np.bool_)
    look_up(page[: accesses // 4], none, tlb, missed)  # fills it
    missed[:] = 0
    look_up(page[accesses // 4 :], none, tlb, missed)
    stays_s = characteristic_s(weight, np.ones(pages), entries)
    share = float(misses_per_s(weight, stays_s).sum())
    assert missed[0] / (0.75 * accesses) == pytest.approx(share, rel=0.03)


def test_nothing_misses_where_all_fits() -> None:
    """A TLB that holds every translation in use has no misses to speak of."""
    rate = np.array([3.0, 0.0])
    stays_s = characteristic_s(rate, np.array([10.0, 1e9]), 10)
    assert np.isinf(stays_s)
    assert [0.0, 0.0] == misses_per_s(rate, stays_s).tolist()


def test_a_range_is_weighed_page_by_page() -> None:
    """Its rate, misses, best tier, what pages gain apart, and where they are."""
    cell = np.zeros(1024 + 7, np.uint16)
    cell[:10] = 5  # hot
    node = np.ones(len(cell), np.uint8)
    node[100:112] = 0
    tier = np.full(256, 2, np.uint8)
    tier[0], tier[1] = 0, 1
    rate, misses = np.zeros(CELLS), np.zeros(CELLS)
    rate[0], rate[5], misses[5] = 1.0, 100.0, 7.0
    value = np.zeros((CELLS, 2))
    value[0], value[5] = (-10.0, -2.0), (-100.0, -500.0)
    goes = np.zeros((CELLS, 2), np.bool_)
    goes[5, 1] = True
    out, best = np.empty((2, 4)), np.empty(2, np.uint8)
    have = np.empty((2, 3), np.int32)
    weigh(cell, node, tier, rate, misses, value, goes, out, best, have)
    assert [1502.0, 512.0] == out[:, RATE].tolist()
    assert [70.0, 0.0] == out[:, MISSES].tolist()
    assert [4000.0, 0.0] == out[:, APART].tolist()
    assert [10.0, 0.0] == out[:, TRAVELLERS].tolist()
    assert [1, 1] == best.tolist()
    assert [[12, 500, 0], [0, 512, 0]] == have.tolist()


def test_weighing_equals_its_twin() -> None:
    """Kernel and numpy agree bit for bit on random ranges."""
    rng = np.random.default_rng(2)
    n, tiers = 5, 3
    cell = rng.integers(0, CELLS, 512 * n + 9).astype(np.uint16)
    node = rng.integers(0, 4, len(cell)).astype(np.uint8)
    tier = np.full(256, tiers, np.uint8)
    tier[:3] = 0, 1, 2
    args = (
        cell,
        node,
        tier,
        rng.random(CELLS),
        rng.random(CELLS),
        rng.normal(size=(CELLS, tiers)),
        rng.random((CELLS, tiers)) < 0.5,
    )
    results = []
    for run in (weigh, weigh_in_numpy):
        out, best = np.empty((n, 4)), np.empty(n, np.uint8)
        have = np.empty((n, tiers + 1), np.int32)
        run(*args, out, best, have)
        results.append((out, best, have))
    for one, other in zip(*results, strict=True):
        assert one.tolist() == other.tolist()
