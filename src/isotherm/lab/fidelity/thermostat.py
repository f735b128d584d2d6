"""Thermostat: cold pages found by counting accesses to a few, at a bounded loss.

Each period some pages are poisoned, and every access to them is counted. Of these
the coldest go to slow memory as long as their accesses together stay below their part
of the budget. Slow pages stay poisoned: if their accesses exceed the budget, the
hottest of them come back. The budget is what may be slow at the degradation wanted.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.lab.fidelity.far_memory import draw_rates
from isotherm.lab.fidelity.published import Measured, Published, read_published

JOBS: Final = 12
PAGES: Final = 4096
PERIODS: Final = 120
PERIOD_MIN: Final = 0.5
#: Periods before the placement is settled: every page has been sampled.
SETTLED: Final = 90


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program got: mean share of pages in slow memory, degradation."""

    slow_share: float
    degradation: float


def play(published: Published, *, quick: bool, seed: int) -> Measured:
    """Return the largest slow share of the jobs, and their mean degradation."""
    rng = np.random.default_rng([seed, 0x7E])
    fleet = read_published("far-memory")
    outcomes = [
        outcome_of(published, draw_rates(fleet, PAGES, rng), rng)
        for _ in range(4 if quick else JOBS)
    ]
    return {
        ("slow share", "programs", "most"): max(o.slow_share for o in outcomes),
        ("degradation", "programs", "mean"): float(
            np.mean([o.degradation for o in outcomes])
        ),
    }


def outcome_of(
    published: Published, rate_per_min: NDArray[np.float64], rng: np.random.Generator
) -> Outcome:
    """Play one program, of so many accesses a minute to each page."""
    constants = published.constants
    extra_ns = constants["slow_ns"] - constants["fast_ns"]
    per_access_ns = constants["fast_ns"] / constants["memory_bound"]
    budget = constants["degradation"] * per_access_ns / extra_ns
    slow = np.zeros(len(rate_per_min), np.bool_)
    shares, lost = [], []
    for index in range(PERIODS):
        counts = rng.poisson(rate_per_min * PERIOD_MIN)
        total = int(counts.sum())
        if index >= SETTLED:
            shares.append(float(slow.mean()))
            lost.append(int(counts[slow].sum()) / total * extra_ns / per_access_ns)
        slow = _classify(slow, counts, budget * total, constants["sampled"], rng)
    return Outcome(float(np.mean(shares)), float(np.mean(lost)))


def _classify(
    slow: NDArray[np.bool_],
    counts: NDArray[np.int64],
    budget: float,
    sampled: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Return which pages are slow after a period with these counts."""
    slow = slow.copy()
    chosen = np.flatnonzero((rng.random(len(slow)) < sampled) & ~slow)
    chosen = chosen[np.argsort(counts[chosen], kind="stable")]
    slow[chosen[np.cumsum(counts[chosen]) <= sampled * budget]] = True
    cold = np.flatnonzero(slow)
    cold = cold[np.argsort(-counts[cold], kind="stable")]
    left = int(counts[cold].sum()) - np.cumsum(counts[cold])
    if int(counts[cold].sum()) > budget:
        back = int(np.argmax(left <= budget)) + 1
        slow[cold[:back]] = False
    return slow
