"""What an access stalls its program, by region: its weight.

Two pages with the same rate are not worth the same: the misses of a pointer chase
are waited for one by one, those of a sweep several at a time, and many accesses hit
a cache and wait for nothing. A sample that tells how long the processor waited is
evidence of its page's *stall weight*, waited over latency: 1 where every access
waits in full. A region's weight is the mean of its samples, drawn to the mean of
the huge page around it, and that to the mean of all.

Policies see weights relative to the mean access's, in eighths of an octave: what is
to be added to the code of a rate.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isotherm.core.columns import grown
from isotherm.core.kernels import kernel
from isotherm.hints.batch import Samples
from isotherm.hotness.initiators import MOST_WEIGHT
from isotherm.hotness.latency import sample_weights
from isotherm.machine.protocol import SpacesChanged

REGION_PAGES = 64
REGIONS_A_GROUP = 8  # a huge page
REGION_BLOCKS = 8
DOUBT = 8.0  # samples that the mean around a region, or a group, weighs as much as
STEPS = 8  # of a shift, per octave
MOST_SHIFT = 96  # twelve octaves either way: all that a rate's code can say
LEAST_MEAN = 1e-6  # of the weights: less would be no access that waits at all

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StallView:
    """Weights of regions, for one update.

    Attributes:
        shift: Weight over the mean access's, in eighths of an octave as minifloats
            count them (`shift_of`), int8[blocks].
        mean: Mean weight of an access, (0, 1].
        grain: What a sample's weight is divided by to be evidence: mean of squares
            over mean, so that a sum of weights spreads like a count.
    """

    shift: NDArray[np.int8]
    mean: float
    grain: float

    def evidence(self, weight: Floats, exposure: float) -> tuple[Floats, float]:
        """Return samples as counts, and the exposure that belongs to them.

        Counts over exposure is a rate in accesses of mean weight. A count's
        variance is its mean, as that of a Poisson variable is.

        Args:
            weight: Of every sample, float64[n].
            exposure: Of the samples if each counted 1.
        """
        return weight / self.grain, exposure * self.mean / self.grain

    def relative(self, page: NDArray[np.integer]) -> Floats:
        """Return the weight of pages over the mean access's, float64[n]."""
        return ratio_of(self.shift[page.astype(np.int64) >> 3])


def shift_of(ratio: Floats) -> NDArray[np.int8]:
    """Return ratios > 0 as shifts: exponent and three bits of mantissa, rounded.

    >>> shift_of(np.array([0.25, 1.0, 2.0, 3.0])).tolist()
    [-16, 0, 8, 12]
    """
    bits = ratio.astype(np.float32).view(np.int32).astype(np.int64)
    shift = ((bits + (1 << 19)) >> 20) - (127 << 3)
    near: NDArray[np.int8] = np.clip(shift, -MOST_SHIFT, MOST_SHIFT).astype(np.int8)
    return near


def ratio_of(shift: NDArray[np.int8]) -> Floats:
    """Return the ratios of shifts.

    >>> ratio_of(np.array([-16, 0, 8, 12], np.int8)).tolist()
    [0.25, 1.0, 2.0, 3.0]
    """
    code = shift.astype(np.int32) + np.int32(127 << 3)
    return (code << 20).astype(np.int32).view(np.float32).astype(np.float64)


def add_weights_twin(
    page: NDArray[np.uint32],
    weight: Floats,
    grown_by: float,
    sums: NDArray[np.float32],
) -> None:
    """Numpy twin of `add_weights`."""
    region = page.astype(np.int64) // REGION_PAGES
    np.add.at(sums[:, 0], region, (grown_by * weight).astype(np.float32))
    np.add.at(sums[:, 1], region, np.float32(grown_by))


@kernel(twin=add_weights_twin)
def add_weights(
    page: NDArray[np.uint32],
    weight: Floats,
    grown_by: float,
    sums: NDArray[np.float32],
) -> None:
    """Add samples to their regions.

    Args:
        page: Flat pages, uint32[n].
        weight: Stall weights, float64[n].
        grown_by: What a sample counts now: more than those before it.
        sums: Weights and samples of every region, float32[regions, 2], added to.
    """
    one = np.float32(grown_by)
    for i in range(page.size):
        region = np.int64(page[i]) // REGION_PAGES
        sums[region, 0] += np.float32(grown_by * weight[i])
        sums[region, 1] += one


def region_shifts_twin(
    sums: NDArray[np.float32],
    scale: float,
    mean: float,
    first: int,
    last: int,
    shift: NDArray[np.int8],
) -> None:
    """Numpy twin of `region_shifts`."""
    blocks = len(shift)
    for group in range(first, last):
        low = group * REGIONS_A_GROUP
        own = sums[low : low + REGIONS_A_GROUP].astype(np.float64) * scale
        weight = count = 0.0
        for w, n in own.tolist():
            weight, count = weight + w, count + n
        around = (weight + DOUBT * mean) / (count + DOUBT)
        found = (own[:, 0] + DOUBT * around) / (own[:, 1] + DOUBT)
        found = np.maximum(found / mean, 2.0**-12)
        begin = low * REGION_BLOCKS
        end = min(blocks, begin + len(own) * REGION_BLOCKS)
        shift[begin:end] = np.repeat(shift_of(found), REGION_BLOCKS)[: end - begin]


@kernel(twin=region_shifts_twin)
def region_shifts(
    sums: NDArray[np.float32],
    scale: float,
    mean: float,
    first: int,
    last: int,
    shift: NDArray[np.int8],
) -> None:
    """Write the shifts of the blocks of groups ``[first, last)``.

    Args:
        sums: Weights and samples, float32[regions, 2].
        scale: What the sums count for now.
        mean: Mean weight of an access, > 0.
        first: First group of eight regions.
        last: One past the last.
        shift: int8[blocks], written.
    """
    blocks = shift.size
    bits = np.empty(1, np.float32)
    for group in range(first, last):
        low = group * REGIONS_A_GROUP
        high = min(low + REGIONS_A_GROUP, sums.shape[0])
        weight = 0.0
        count = 0.0
        for region in range(low, high):
            weight += np.float64(sums[region, 0]) * scale
            count += np.float64(sums[region, 1]) * scale
        around = (weight + DOUBT * mean) / (count + DOUBT)
        for region in range(low, high):
            own = np.float64(sums[region, 0]) * scale + DOUBT * around
            found = own / (np.float64(sums[region, 1]) * scale + DOUBT)
            bits[0] = np.float32(max(found / mean, 2.0**-12))
            code = int(bits.view(np.int32)[0])
            step = ((code + (1 << 19)) >> 20) - (127 << 3)
            step = min(max(step, -MOST_SHIFT), MOST_SHIFT)
            for block in range(
                region * REGION_BLOCKS, min((region + 1) * REGION_BLOCKS, blocks)
            ):
                shift[block] = step


class StallWeights:
    """Weights by region; takes memory once a source tells what accesses wait.

    Args:
        blocks: Blocks of eight pages.
    """

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._grown = 1.0
        self._sums: NDArray[np.float32] | None = None
        self._shift = np.zeros(0, np.int8)
        self._weight = self._square = self._count = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._shift.nbytes + (0 if self._sums is None else self._sums.nbytes)

    @property
    def view(self) -> StallView | None:
        """The weights as they are; None where nothing is known of any."""
        if self._sums is None or self._weight <= 0:
            return None
        return StallView(self._shift, self._mean, self._square / self._weight)

    @property
    def _mean(self) -> float:
        return max(self._weight / self._count, LEAST_MEAN)

    @property
    def _groups(self) -> int:
        return -(-self._blocks // (REGION_BLOCKS * REGIONS_A_GROUP))

    def add(self, seen: Samples) -> None:
        """Add samples, where they tell what they waited."""
        weight = sample_weights(seen)
        if weight is None or not len(weight):
            return
        page = seen.page
        told = ~np.isnan(weight)
        if not told.all():
            page, weight = page[told], weight[told]
        if self._sums is None:
            self._sums = np.zeros((-(-self._blocks // REGION_BLOCKS), 2), np.float32)
            self._shift = np.zeros(self._blocks, np.int8)
        add_weights(page, weight, self._grown, self._sums)
        self._weight += float(weight.sum())
        self._square += float(weight @ weight)
        self._count += len(weight)

    def fade(self, keep: float) -> None:
        """Let what was added weigh so much less, in (0, 1], than what is to come."""
        self._weight *= keep
        self._square *= keep
        self._count *= keep
        self._grown /= keep
        if self._grown > MOST_WEIGHT:
            if self._sums is not None:
                self._sums /= np.float32(self._grown)
            self._grown = 1.0

    def refresh(self, first: int, last: int) -> None:
        """Work out the weights of blocks ``[first, last)`` anew."""
        if self._sums is None or self._weight <= 0:
            return
        group = REGION_BLOCKS * REGIONS_A_GROUP
        region_shifts(
            self._sums,
            1.0 / self._grown,
            self._mean,
            first // group,
            min(self._groups, -(-last // group)),
            self._shift,
        )

    def renew(self, blocks: int, change: SpacesChanged) -> None:
        """Forget the weights of renewed pages; make room for new ones."""
        self._blocks = blocks
        if self._sums is None:
            return
        self._sums = grown(self._sums, -(-blocks // REGION_BLOCKS))
        self._shift = grown(self._shift, blocks)
        for start, end in change.renewed.tolist():
            self._sums[start // REGION_PAGES : -(-end // REGION_PAGES)] = 0
            self._shift[start // 8 : -(-end // 8)] = 0
