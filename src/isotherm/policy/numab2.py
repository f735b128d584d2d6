"""NUMA balancing in memory-tiering mode (numa_balancing = 2), as in Linux 6.3.

kernel/sched/fair.c, mm/mprotect.c, mm/migrate.c, mm/vmscan.c. Slow pages are
poisoned; one that is touched soon enough after that is promoted, at once. What
makes room is kswapd.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import FaultDelays, HintBatch, Mechanism
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.kernel_lru import PAGES_PER_GIB, KernelLru, Kswapd
from isotherm.policy.numa_scan import NS_PER_MS, SCAN_DEFAULTS, NumaScan
from isotherm.policy.options import PAGES_PER_MIB, REFERENCE_GIB, read_options, scale_of
from isotherm.policy.paths import TierPaths
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup
from isotherm.policy.spaces import reborn

DEFAULTS: Mapping[str, float] = {
    "reference_gib": REFERENCE_GIB,
    **SCAN_DEFAULTS,
    "hot_threshold_ms": 1000.0,
    "promote_rate_limit_mb_s": 65_536.0,
    "bypass_gib": 1.0,
    "time_bits": 21.0,  # LAST_CPUPID_SHIFT with the NR_CPUS of a distribution
}
ADJUST_STEPS = 16  # NUMA_MIGRATION_ADJUST_STEPS
TIME_BUCKET_BITS = 12  # the time field always spans at least 4096 ms
RATE_WINDOW_MS = 1000


def faults_of(
    hints: Iterable[HintBatch],
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Return pages that faulted, in order, each once, and their delays in seconds."""
    seen = [b.seen for b in hints if isinstance(b.seen, FaultDelays)]
    if not seen:
        return np.empty(0, np.uint32), np.empty(0, np.float32)
    page = np.concatenate([s.page for s in seen])
    delay_s = np.concatenate([s.delay_s for s in seen])
    _, first = np.unique(page, return_index=True)
    first.sort()
    return page[first], delay_s[first]


class Numab2:
    """Promote on a hint fault whose delay is below an adaptive threshold."""

    name = "numab2"
    wants = frozenset({Mechanism.HINT_FAULT, Mechanism.ACCESSED_BIT})
    uses_tracker = False
    defaults = DEFAULTS

    def __init__(self, setup: Setup) -> None:
        self._o = read_options(self.name, setup, self.defaults)
        scale = scale_of(setup.pages, self._o["reference_gib"])
        self._paths = TierPaths(setup.topology)
        self._scan = NumaScan(setup.pages, self._o, scale)
        self._lru = KernelLru(setup.pages, scale)
        self._kswapd = Kswapd(
            self._lru,
            self._paths,
            setup.pages,
            sees_bits=Mechanism.ACCESSED_BIT in setup.hints,
        )
        self._sees_faults = Mechanism.HINT_FAULT in setup.hints
        self._scale = scale
        pages_per_s = self._o["promote_rate_limit_mb_s"] * PAGES_PER_MIB * scale
        self._rate_limit_pages = max(1, int(pages_per_s))  # per second
        self._default_ms = self._o["hot_threshold_ms"]
        self._threshold_ms = 0.0  # 0: not set, the default rules (nbp_threshold)
        self._adjusted_ns = 0  # nbp_th_start
        self._adjusted_candidates = 0  # nbp_th_nr_cand
        self._window_ns = 0  # nbp_rl_start
        self._window_candidates = 0  # nbp_rl_nr_cand
        self._candidates = 0  # PGPROMOTE_CANDIDATE

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the machine's own placement."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that are new memory; the footprint must stay as it is."""
        self._lru.born(reborn(self.name, change, len(self._lru.flags)))

    def decide(self, epoch: Epoch) -> Plan:
        """Return the promotions of this epoch's faults, and kswapd's demotions."""
        self._lru.see(epoch.hints)
        self._lru.moved(epoch.outcome)
        page, delay_s = faults_of(epoch.hints)
        slow = self._paths.is_lower(epoch.node[page])
        page, delay_s = page[slow], delay_s[slow]
        dst = self._paths.freest_fast_node(epoch.usage.free_pages)
        page = self._hot_enough(epoch, dst, page, delay_s)
        usage = epoch.usage
        wanted = np.zeros_like(usage.free_pages)
        wanted[dst] = len(page)
        demotions, room, looks = self._kswapd.run(
            epoch, usage.low_pages, usage.promo_pages, wanted
        )
        promoted = page[: int(room[dst])]
        self._scan.feedback(len(promoted), len(page) - len(promoted))
        if self._sees_faults:
            looks += self._scan.next_looks(
                epoch.now_ns, epoch.dt_ns, self._paths.lower_nodes
            )
        return Plan(
            Moves.concat(demotions, Moves.to(promoted, dst, Reason.HOT)),
            looks,
            notes={
                "threshold_ms": self._threshold_ms or self._default_ms,
                "candidates": self._candidates,
                "no_room": len(page) - len(promoted),
                "scan_period_ms": self._scan.period_ms,
            },
        )

    def _hot_enough(
        self,
        epoch: Epoch,
        dst: int,
        page: NDArray[np.uint32],
        delay_s: NDArray[np.float32],
    ) -> NDArray[np.uint32]:
        """Return the pages that should_numa_migrate_memory() lets through."""
        bypassing = self._bypass(epoch, dst, len(page))
        if bypassing:
            self._threshold_ms = 0.0
        if bypassing == len(page):
            return page
        self._adjust_threshold(epoch.now_ns)
        threshold_ms = self._threshold_ms or self._default_ms
        candidate = page[bypassing:][
            self._latency_ms(delay_s[bypassing:]) < threshold_ms
        ]
        if epoch.now_ns - self._window_ns >= RATE_WINDOW_MS * NS_PER_MS:
            self._window_ns = epoch.now_ns
            self._window_candidates = self._candidates
        used = self._candidates - self._window_candidates
        self._candidates += len(candidate)
        within = candidate[: max(0, self._rate_limit_pages - used)]
        return np.concatenate([page[:bypassing], within])

    def _bypass(self, epoch: Epoch, dst: int, count: int) -> int:
        """Return how many faults find so much free memory that all are promoted."""
        usage = epoch.usage
        present = int(usage.capacity_pages[dst])
        gib = self._o["bypass_gib"] * PAGES_PER_GIB * self._scale
        mark = int(usage.promo_pages[dst]) + max(int(gib), present // 16)
        return min(count, max(0, int(usage.free_pages[dst]) - mark))

    def _adjust_threshold(self, now_ns: int) -> None:
        """Steer candidates towards the rate limit, once per longest scan period."""
        window_ms = self._o["scan_period_max_ms"]
        if now_ns - self._adjusted_ns <= window_ms * NS_PER_MS:
            return
        expected = self._rate_limit_pages * window_ms * NS_PER_MS / NS_PER_S
        found = self._candidates - self._adjusted_candidates
        unit_ms = self._default_ms * 2 / ADJUST_STEPS
        threshold_ms = self._threshold_ms or self._default_ms
        if found > expected * 1.1:
            threshold_ms = max(threshold_ms - unit_ms, unit_ms)
        elif found < expected * 0.9:
            threshold_ms = min(threshold_ms + unit_ms, self._default_ms * 2)
        self._threshold_ms = threshold_ms
        self._adjusted_ns = now_ns
        self._adjusted_candidates = self._candidates

    def _latency_ms(self, delay_s: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return delays as the kernel reads them: in ms, and wrapped.

        The time shares the page's cpupid field; of its ``time_bits`` the lowest
        stands for as many ms as it takes to span 4096 ms.
        """
        bits = max(1, int(self._o["time_bits"]))
        bucket = max(0, TIME_BUCKET_BITS - bits)
        ms = (delay_s.astype(np.float64) * 1000).astype(np.int64)
        wrapped: NDArray[np.int64] = ((ms >> bucket) << bucket) % (1 << (bits + bucket))
        return wrapped
