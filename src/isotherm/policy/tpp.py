"""TPP: transparent page placement, the original patch (Meta, ASPLOS 2023).

Promotion: a slow page that takes a hint fault while it is on the active list goes
up at once; one that is inactive is made active first. Demotion: kswapd keeps 2 %
of the fast node free, well above the watermarks that allocation uses.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import BLOCK_PAGES, Look, Mechanism
from isotherm.machine.protocol import SpacesChanged
from isotherm.policy.kernel_lru import ACTIVE, REFERENCED, KernelLru, Kswapd
from isotherm.policy.numa_scan import SCAN_DEFAULTS, NumaScan
from isotherm.policy.numab2 import faults_of
from isotherm.policy.options import REFERENCE_GIB, read_options, scale_of
from isotherm.policy.paths import TierPaths
from isotherm.policy.plan import Epoch, Moves, Plan, Reason, Setup
from isotherm.policy.spaces import reborn

DEFAULTS: Mapping[str, float] = {
    "reference_gib": REFERENCE_GIB,
    **SCAN_DEFAULTS,
    "demote_scale_factor": 200.0,  # 10000ths of the node
    "marks_to_activate": 1.0,
    "demotion_looks": 64.0,
    "coupled": 0.0,
}
SCALE_FACTOR_UNIT = 10_000


class Tpp:
    """Promote on the hint fault of an active page; demote ahead of need."""

    name = "tpp"
    wants = frozenset({Mechanism.HINT_FAULT, Mechanism.ACCESSED_BIT})
    uses_tracker = False

    def __init__(self, setup: Setup) -> None:
        self._o = read_options(self.name, setup, DEFAULTS)
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
        self._demoted = np.zeros(setup.pages, np.bool_)  # PG_demoted
        self._candidate_demoted = 0  # PGPROMOTE_CANDIDATE_DEMOTED

    def start(self, node: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the machine's own placement."""
        return node

    def renew(self, change: SpacesChanged) -> None:
        """Forget pages that are new memory; the footprint must stay as it is."""
        page = reborn(self.name, change, len(self._demoted))
        self._lru.born(page)
        self._demoted[page] = False

    def decide(self, epoch: Epoch) -> Plan:
        """Return the promotions of this epoch's faults, and kswapd's demotions."""
        self._lru.see(epoch.hints)
        self._lru.moved(epoch.outcome)
        self._note_demoted(epoch)
        page, _ = faults_of(epoch.hints)
        page = page[self._paths.is_lower(epoch.node[page])]
        active = (self._lru.flags[page] & ACTIVE) != 0
        self._mark_accessed(page[~active])
        page = page[active]
        self._candidate_demoted += int(np.count_nonzero(self._demoted[page]))
        dst = self._paths.freest_fast_node(epoch.usage.free_pages)
        wanted = np.zeros_like(epoch.usage.free_pages)
        wanted[dst] = len(page)
        mark = self._demote_watermark(epoch)
        wake_below = mark
        coupled = self._o["coupled"] > 0
        if coupled:
            wake_below, mark = epoch.usage.low_pages, epoch.usage.high_pages
        demotions, room, looks = self._kswapd.run(
            epoch, wake_below, mark, wanted, makes_room=not coupled
        )
        promoted = page[: int(room[dst])]
        self._scan.feedback(len(promoted), len(page) - len(promoted))
        if self._sees_faults:
            looks += self._scan.next_looks(
                epoch.now_ns, epoch.dt_ns, self._paths.lower_nodes
            )
            looks += self._poison_demoted(demotions)
        return Plan(
            Moves.concat(demotions, Moves.to(promoted, dst, Reason.HOT)),
            looks,
            notes={
                "candidates_demoted_before": self._candidate_demoted,
                "no_room": len(page) - len(promoted),
                "scan_period_ms": self._scan.period_ms,
            },
        )

    def _demote_watermark(self, epoch: Epoch) -> NDArray[np.int64]:
        """Return WMARK_DEMOTE of every node, in pages.

        ``managed * demote_scale_factor / 10000``, at least twice the high
        watermark and at most the node.
        """
        managed = epoch.usage.capacity_pages
        factor = int(self._o["demote_scale_factor"])
        mark: NDArray[np.int64] = managed * factor // SCALE_FACTOR_UNIT
        return np.minimum(np.maximum(mark, 2 * epoch.usage.high_pages), managed)

    def _mark_accessed(self, page: NDArray[np.uint32]) -> None:
        """Make pages active, or with two marks referenced first."""
        if self._o["marks_to_activate"] >= 2:
            referenced = (self._lru.flags[page] & REFERENCED) != 0
            self._lru.flags[page[~referenced]] |= REFERENCED
            page = page[referenced]
        self._lru.activate(page)

    def _note_demoted(self, epoch: Epoch) -> None:
        """Keep PG_demoted: set by a demotion, cleared by a promotion."""
        outcome = epoch.outcome
        went = outcome.errno == 0
        self._demoted[outcome.page[went]] = ~self._paths.is_fast(outcome.node[went])

    def _poison_demoted(self, demotions: Moves) -> tuple[Look, ...]:
        """Return looks that poison what is being demoted.

        The patch leaves a demoted page PROT_NONE, so that its next touch faults.
        A look is a range of whole blocks of eight pages: slow neighbours in the
        block are poisoned with it, and at most ``demotion_looks`` runs of blocks
        are asked for, the longest first; the rest waits for the scan.
        """
        looks: list[Look] = []
        limit = int(self._o["demotion_looks"])
        block = np.unique(demotions.page // BLOCK_PAGES)
        if len(block) == 0 or limit == 0:
            return ()
        breaks = np.flatnonzero(np.diff(block) > 1) + 1
        first = block[np.concatenate([[0], breaks])]
        last = block[np.concatenate([breaks - 1, [len(block) - 1]])]
        longest = np.argsort(first.astype(np.int64) - last, kind="stable")[:limit]
        pages = len(self._demoted)
        for run in np.sort(longest):
            start = int(first[run]) * BLOCK_PAGES
            end = min((int(last[run]) + 1) * BLOCK_PAGES, pages)
            looks.extend(
                Look(Mechanism.HINT_FAULT, start, end, node=node)
                for node in np.unique(demotions.node).tolist()
            )
        return tuple(looks)
