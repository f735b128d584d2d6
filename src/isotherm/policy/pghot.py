"""pghot: a record per page of who was hit lately and how often, and kmigrated.

mm/pghot.c of the patch set (v7, v8 of 2026, not merged). Hint faults, or samples of
the hardware, write a small record for each page of the slower nodes; a second hit
within the window makes the page ready, and kmigrated, a thread of each slower node,
promotes what is ready, under the threshold and the rate limit of NUMA balancing.
What makes room is kswapd, as in ``numab2``.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import Mechanism, Samples
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.numa_scan import NS_PER_MS
from isotherm.policy.numab2 import DEFAULTS as NUMAB2_DEFAULTS
from isotherm.policy.numab2 import Numab2, faults_of
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup
from isotherm.policy.spaces import reborn

#: Of the default record of a byte: five bits of time in units of 128 jiffies, two
#: of frequency. The precise one of four bytes: 14 bits of milliseconds and three.
BUCKET_MS, PRECISE_BUCKET_MS = 128, 1
TIME_BITS, PRECISE_TIME_BITS = 5, 14
MAX_FREQUENCY, PRECISE_MAX_FREQUENCY = 3, 7
#: The precise record's window, and so kmigrated's threshold with it.
PRECISE_WINDOW_MS = 5000.0


class PgHot(Numab2):
    """Promote what was hit twice within the window."""

    name = "pghot"
    wants = frozenset({Mechanism.HINT_FAULT, Mechanism.ACCESSED_BIT})
    defaults: Mapping[str, float] = {
        **NUMAB2_DEFAULTS,
        "hot_threshold_ms": 3000.0,  # kmigrated's reference threshold: the window
        "window_ms": 3000.0,  # vm.pghot_promote_freq_window_ms; 5000 with precise
        "freq_threshold": 2.0,  # vm.pghot_freq_threshold
        "precise": 0.0,
    }

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        precise = self._o["precise"] > 0
        if precise:
            for name in ("window_ms", "hot_threshold_ms"):
                self._o[name] = float(setup.options.get(name, PRECISE_WINDOW_MS))
            self._default_ms = self._o["hot_threshold_ms"]
        self._bucket_ms = PRECISE_BUCKET_MS if precise else BUCKET_MS
        self._mask = (1 << (PRECISE_TIME_BITS if precise else TIME_BITS)) - 1
        self._most = PRECISE_MAX_FREQUENCY if precise else MAX_FREQUENCY
        self._last = np.zeros(setup.pages, np.uint16)  # bucket of the last hit
        self._frequency = np.zeros(setup.pages, np.uint8)  # 0: no record

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that are new memory; the footprint must stay as it is."""
        super().renew(change)
        self._frequency[reborn(self.name, change, len(self._frequency))] = 0

    def decide(self, epoch: Epoch) -> Plan:
        """Return what kmigrated promotes, and kswapd's demotions."""
        self._lru.see(epoch.hints)
        self._lru.moved(epoch.outcome)
        page, hits = self._hits(epoch)
        slow = self._paths.is_lower(epoch.node[page])
        now = epoch.now_ns // NS_PER_MS // self._bucket_ms
        self._record(page[slow], hits[slow], now)
        return self._promote(epoch, now)

    def _hits(self, epoch: Epoch) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return pages that were hit, each once, and how often."""
        page, _ = faults_of(epoch.hints)
        return page, np.ones(len(page), np.int64)

    def _record(
        self, page: NDArray[np.uint32], hits: NDArray[np.int64], now: int
    ) -> None:
        """Write the records: one more within the window, else the first."""
        recent = self._since_ms(page, now) <= self._o["window_ms"]
        old = np.where(recent, self._frequency[page], 0)
        self._frequency[page] = np.minimum(old + hits, self._most)
        self._last[page] = now & self._mask

    def _since_ms(self, page: NDArray[np.integer], now: int) -> NDArray[np.int64]:
        """Return the time since the last hit as the record tells it: wrapped."""
        gap = (now - self._last[page].astype(np.int64)) & self._mask
        since: NDArray[np.int64] = gap * self._bucket_ms
        return since

    def _promote(self, epoch: Epoch, now: int) -> Plan:
        """Walk the records in the order of pages (kmigrated)."""
        ready = np.flatnonzero(self._frequency >= self._o["freq_threshold"])
        ready = ready[self._paths.is_lower(epoch.node[ready])]
        since_s = (self._since_ms(ready, now) / 1000).astype(np.float32)
        self._frequency[ready] = 0
        dst = self._paths.freest_fast_node(epoch.usage.free_pages)
        page = self._hot_enough(epoch, dst, ready.astype(np.uint32), since_s)
        wanted = np.zeros_like(epoch.usage.free_pages)
        wanted[dst] = len(page)
        demotions, room, looks = self._kswapd.run(
            epoch, epoch.usage.low_pages, epoch.usage.promo_pages, wanted
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
                "ready": len(ready),
                "threshold_ms": self._threshold_ms or self._default_ms,
                "no_room": len(page) - len(promoted),
            },
        )


class PgHotSampled(PgHot):
    """pghot on hints of the hardware (AMD's IBS memory profiler) for hint faults."""

    name = "pghot-hw"
    wants = frozenset({Mechanism.SAMPLING, Mechanism.ACCESSED_BIT})

    def _hits(self, epoch: Epoch) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        seen = [b.seen.page for b in epoch.hints if isinstance(b.seen, Samples)]
        page, hits = np.unique(
            np.concatenate([np.empty(0, np.uint32), *seen]), return_counts=True
        )
        return page.astype(np.uint32), hits.astype(np.int64)
