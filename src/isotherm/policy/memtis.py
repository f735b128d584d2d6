"""MEMTIS (SOSP 2023): a histogram of sample counts sets the threshold.

Steps as in the authors' kernel (htmm_core.c, htmm_sampler.c, htmm_migrater.c) for
base pages: the hottest pages that fit into the fast tier are the hot set, whatever
their counts; a warm band between hot and cold is left alone.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel
from isotherm.hints.batch import Mechanism, Samples
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.numa_scan import NS_PER_MS
from isotherm.policy.options import PAGES_PER_MIB, REFERENCE_GIB, read_options, scale_of
from isotherm.policy.paths import TierPaths, moves_to
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup
from isotherm.policy.spaces import reborn

DEFAULTS: Mapping[str, float] = {
    "reference_gib": REFERENCE_GIB,
    "thres_hot": 1.0,
    "cooling_period": 2_000_000.0,  # samples
    "adaptation_period": 100_000.0,  # samples
    "migration_period_ms": 500.0,
    "headroom": 0.03,
    "headroom_min_mb": 100.0,
    "headroom_max_mb": 1500.0,
    "warm_share": 0.75,
}
BINS = 16
SAMPLE = 512  # a sample of a base page counts as much as one per subpage of a THP

# Cells of the state word table, int64.
CLOCK, SINCE_COOLING, SINCE_ADAPTATION, HOT, WARM, JUST_COOLED, NR_HOT = range(7)

Counts = NDArray[np.uint32]
Words = NDArray[np.int64]


def bin_of_twin(count: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return ``min(15, floor(log2(count + 1)))``, exactly."""
    _, exponent = np.frexp(count.astype(np.float64) + 1)
    bins: NDArray[np.uint8] = np.minimum(exponent - 1, BINS - 1).astype(np.uint8)
    return bins


@compiled
def _bin(count: int | np.integer) -> int:
    """Return the bin of one count."""
    k = 0
    n = np.int64(count) + 1
    while n > 1 and k < 15:
        n >>= 1
        k += 1
    return k


@compiled
def adapt_threshold(hist: Words, limit: int, warm_pages: int, state: Words) -> None:
    """Set the hot and the warm threshold (docs/reference/policies.md, MEMTIS).

    Args:
        hist: Pages per bin, int64[16].
        limit: Pages that fit: fast pages less headroom.
        warm_pages: Below so many hot pages the warm band is one bin wide.
        state: Changed: HOT, WARM, JUST_COOLED, NR_HOT.
    """
    nr_hot = 0
    first = BINS
    while first > 0 and nr_hot + hist[first - 1] <= limit:
        first -= 1
        nr_hot += hist[first]
    first = min(max(first, 1), BINS - 1)
    floor = state[HOT]
    if state[JUST_COOLED] != 0:
        floor = max(floor - 1, 1)
    state[HOT] = max(first, floor)
    state[JUST_COOLED] = 0
    state[NR_HOT] = nr_hot
    state[WARM] = state[HOT]
    if nr_hot < warm_pages:
        state[WARM] = max(state[HOT] - 1, 1)


def take_samples_twin(
    page: NDArray[np.uint32],
    count: Counts,
    cooled: NDArray[np.int32],
    hist: Words,
    state: Words,
    cooling: int,
    adaptation: int,
    limit: int,
    warm_pages: int,
) -> None:
    """Twin of `take_samples`."""
    for p in page.tolist():
        old = _bin(int(count[p]))
        missed = int(state[CLOCK]) - int(cooled[p])
        if missed == 0:
            hist[old] -= 1
        now = (int(count[p]) >> min(missed, 31)) + SAMPLE
        count[p] = now
        cooled[p] = state[CLOCK]
        hist[_bin(now)] += 1
        state[SINCE_COOLING] += 1
        state[SINCE_ADAPTATION] += 1
        if state[SINCE_COOLING] >= cooling:
            state[SINCE_COOLING] = 0
            state[CLOCK] += 1
            state[JUST_COOLED] = 1
            hist[:] = 0
        if state[SINCE_ADAPTATION] >= adaptation:
            state[SINCE_ADAPTATION] = 0
            adapt_threshold(hist, limit, warm_pages, state)


@kernel(twin=take_samples_twin)
def take_samples(
    page: NDArray[np.uint32],
    count: Counts,
    cooled: NDArray[np.int32],
    hist: Words,
    state: Words,
    cooling: int,
    adaptation: int,
    limit: int,
    warm_pages: int,
) -> None:
    """Take samples in order: count, cool, adapt (docs/reference/policies.md, MEMTIS).

    Args:
        page: Flat pages sampled, uint32[n].
        count: 512 per sample, halved by each cooling, uint32[pages], changed.
        cooled: Cooling clock at the page's last visit, int32[pages], changed.
        hist: Pages per bin that are up to date, int64[16], changed.
        state: The state words, int64[7], changed.
        cooling: Samples between two coolings.
        adaptation: Samples between two adaptations of the threshold.
        limit: Pages that fit: fast pages less headroom.
        warm_pages: Below so many hot pages the warm band is one bin wide.
    """
    for i in range(page.size):
        p = page[i]
        missed = state[CLOCK] - np.int64(cooled[p])
        if missed == 0:
            hist[_bin(count[p])] -= 1
        now = (np.int64(count[p]) >> min(missed, 31)) + SAMPLE
        count[p] = now
        cooled[p] = state[CLOCK]
        hist[_bin(now)] += 1
        state[SINCE_COOLING] += 1
        state[SINCE_ADAPTATION] += 1
        if state[SINCE_COOLING] >= cooling:
            state[SINCE_COOLING] = 0
            state[CLOCK] += 1
            state[JUST_COOLED] = 1
            hist[:] = 0
        if state[SINCE_ADAPTATION] >= adaptation:
            state[SINCE_ADAPTATION] = 0
            adapt_threshold(hist, limit, warm_pages, state)


class Memtis:
    """The hottest pages that fit, by a histogram; warm pages stay."""

    name = "memtis"
    wants = frozenset({Mechanism.SAMPLING})
    uses_tracker = False

    def __init__(self, setup: Setup) -> None:
        o = self._o = read_options(self.name, setup, DEFAULTS)
        scale = scale_of(setup.pages, o["reference_gib"])
        self._paths = TierPaths(setup.topology)
        self._cooling = max(1, int(o["cooling_period"] * scale))
        self._adaptation = max(1, int(o["adaptation_period"] * scale))
        self._fast_nodes = np.array(self._paths.fast_nodes)
        self._fast_pages = int(setup.capacity_pages[self._fast_nodes].sum())
        mib = PAGES_PER_MIB * scale
        low, high = o["headroom_min_mb"] * mib, o["headroom_max_mb"] * mib
        headroom = min(max(self._fast_pages * o["headroom"], low), high)
        self._headroom = min(int(headroom), self._fast_pages)
        self._warm_pages = int(o["warm_share"] * self._fast_pages)
        self._count: Counts = np.zeros(setup.pages, np.uint32)
        self._cooled = np.zeros(setup.pages, np.int32)
        self._hist = np.zeros(BINS, np.int64)
        self._hist[0] = setup.pages
        self._state = np.zeros(7, np.int64)
        self._state[HOT] = self._state[WARM] = max(1, int(o["thres_hot"]))
        self._rebuilt = 0  # cooling clock that every page has caught up with
        self._on_hot_list = np.zeros(setup.pages, np.bool_)
        self._stamp = np.zeros(setup.pages, np.int64)  # order of joining a list
        self._next = 1
        self._since_migration_ns = 0

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the machine's own placement."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that are new memory; the footprint must stay as it is."""
        page = reborn(self.name, change, len(self._count))
        self._rebuild()
        self._hist -= np.bincount(bin_of_twin(self._count[page]), minlength=BINS)
        self._hist[0] += len(page)
        self._count[page] = 0
        self._on_hot_list[page] = False
        self._joined(page)

    def decide(self, epoch: Epoch) -> Plan:
        """Return what kmigraterd of both tiers moves, once per migration period."""
        for batch in epoch.hints:
            if isinstance(batch.seen, Samples):
                take_samples(
                    batch.seen.page,
                    self._count,
                    self._cooled,
                    self._hist,
                    self._state,
                    self._cooling,
                    self._adaptation,
                    self._fast_pages - self._headroom,
                    self._warm_pages,
                )
        self._joined(epoch.outcome.page[epoch.outcome.errno == 0])
        self._since_migration_ns += epoch.dt_ns
        moves = Moves.none()
        if self._since_migration_ns >= self._o["migration_period_ms"] * NS_PER_MS:
            self._since_migration_ns = 0
            self._rebuild()
            moves = self._migrate(epoch)
        return Plan(
            moves,
            notes={
                "hot_threshold": int(self._state[HOT]),
                "warm_threshold": int(self._state[WARM]),
                "hot_pages": int(self._on_hot_list.sum()),
                "cooling_clock": int(self._state[CLOCK]),
            },
        )

    def _joined(self, page: NDArray[np.integer]) -> None:
        self._stamp[page] = self._next + np.arange(len(page))
        self._next += len(page)

    def _rebuild(self) -> None:
        """Bring every page up to the cooling clock, and back into the histogram."""
        clock = int(self._state[CLOCK])
        if clock == self._rebuilt:
            return
        missed = np.minimum(clock - self._cooled, 31).astype(np.uint32)
        self._count >>= missed
        self._cooled[:] = clock
        self._hist[:] = np.bincount(bin_of_twin(self._count), minlength=BINS)
        self._rebuilt = clock

    def _migrate(self, epoch: Epoch) -> Moves:
        """Demote what must make room, then promote while there is some.

        Peers' steps 5 and 6.
        """
        bins = bin_of_twin(self._count)
        hot = bins >= self._state[HOT]
        self._joined(np.flatnonzero(hot != self._on_hot_list))
        self._on_hot_list = hot
        usage = epoch.usage
        up = np.flatnonzero(hot & self._paths.is_lower(epoch.node))
        used = int(usage.used_pages[self._fast_nodes].sum())
        limit = int(usage.capacity_pages[self._fast_nodes].sum()) - self._headroom
        need = max(0, used + len(up) - limit)
        is_fast = self._paths.is_fast(epoch.node)
        cold = np.flatnonzero(is_fast & (bins < self._state[WARM]) & ~hot)
        cold = cold[np.argsort(self._stamp[cold], kind="stable")][:need]
        if len(cold) < need:
            self._state[WARM] = self._state[HOT]  # for the next round
        room = usage.free_pages.copy()
        to = self._paths.below(0, len(cold), room)
        cold = cold[: len(to)]
        up = up[np.argsort(self._stamp[up], kind="stable")]
        up = up[: max(0, limit - used + len(cold))]
        gone = np.bincount(epoch.node[cold], minlength=256)
        room[self._fast_nodes] += gone[self._fast_nodes]
        at = self._paths.spread(len(up), self._fast_nodes, room)
        return Moves.concat(
            moves_to(cold, to, Reason.COLD), moves_to(up[: len(at)], at, Reason.HOT)
        )
