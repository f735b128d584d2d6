"""Pages with known rates, and what each mechanism would see of them."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from isotherm.hints.batch import (
    AccessedBits,
    FaultDelays,
    HintBatch,
    RegionCounts,
    Samples,
)

EPOCH_S = 0.5
EPOCH_NS = 500_000_000


def batch(seen) -> HintBatch:
    """Return a batch of an epoch that nobody pays for."""
    return HintBatch("test", 0, EPOCH_NS, seen)


@dataclass
class Memory:
    """Pages that are accessed as Poisson streams, in accesses per second."""

    rate: np.ndarray
    seed: int = 1
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        """Seed the chance."""
        self.rng = np.random.default_rng(self.seed)

    @property
    def mean(self) -> float:
        """Mean rate, as a counting PMU would tell."""
        return float(self.rate.mean())

    def samples(self, period: float, initiator: int | None = None) -> HintBatch:
        """Return the samples of one epoch."""
        n = self.rng.poisson(self.rate * EPOCH_S / period)
        page = np.repeat(np.arange(len(n)), n).astype(np.uint32)
        self.rng.shuffle(page)
        who = None if initiator is None else np.full(len(page), initiator, np.uint8)
        return batch(Samples(page, None, who, period))

    def bits(
        self, interval_s: float, stripes: int = 1, stripe: int = 0, *, opening=False
    ) -> HintBatch:
        """Return accessed bits that were gathered over an interval."""
        blocks = -(-len(self.rate) // 8)
        rate = np.zeros(blocks * 8)
        rate[: len(self.rate)] = self.rate
        hit = self.rng.random(blocks * 8) < -np.expm1(-rate * interval_s)
        bits = np.packbits(hit, bitorder="little")
        block = np.arange(stripe, blocks, stripes, dtype=np.uint32)
        seen = AccessedBits(
            block,
            bits[block],
            np.full(len(block), interval_s, np.float32),
            opening=opening,
        )
        return batch(seen)

    def faults(self, patience_s: float) -> HintBatch:
        """Return hint faults of pages that are all poisoned once."""
        delay = self.rng.exponential(1.0 / self.rate)
        hit = np.flatnonzero(delay <= patience_s).astype(np.uint32)
        silent = np.flatnonzero(delay > patience_s).astype(np.uint32)
        return batch(
            FaultDelays(
                hit,
                delay[hit].astype(np.float32),
                np.zeros(len(hit), np.uint8),
                np.full(len(hit), 255, np.uint8),
                silent,
                np.full(len(silent), patience_s, np.float32),
            )
        )

    def regions(self, size: int, checks: int, interval_s: float) -> HintBatch:
        """Return region counts: one page of each region is checked at a time."""
        start = np.arange(0, len(self.rate), size)
        page = start[:, None] + self.rng.integers(0, size, (len(start), checks))
        page = np.minimum(page, len(self.rate) - 1)
        hit = self.rng.random(page.shape) < -np.expm1(-self.rate[page] * interval_s)
        return batch(
            RegionCounts(
                start.astype(np.uint32),
                np.minimum(start + size, len(self.rate)).astype(np.uint32),
                hit.sum(1).astype(np.uint32),
                np.zeros(len(start), np.uint32),
                checks,
                interval_s,
            )
        )


@pytest.fixture
def memory():
    """Return a maker of memories: ``memory(rates, seed=1)``."""
    return Memory
