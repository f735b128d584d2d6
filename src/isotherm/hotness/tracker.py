"""The tracker: one Gamma filter a page, one recent rate a region, four bytes in all.

State a page: 2 bytes of filter, 1 byte of look history; a block of eight pages:
2 of its last look, 2 of decayed samples, 1 of region rate, 2 of time stamp, 1 of
how unlike it is to its left neighbour.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.columns import grown
from isotherm.core.units import NS_PER_S
from isotherm.hints.batch import (
    BLOCK_PAGES,
    AccessedBits,
    FaultDelays,
    HintBatch,
    LiveMechanism,
    Mechanism,
    RegionCounts,
    Samples,
)
from isotherm.hotness import evidence, regions
from isotherm.hotness.bursts import BurstGuard
from isotherm.hotness.fronts import Fronts
from isotherm.hotness.incoming import check, first_rate
from isotherm.hotness.initiators import InitiatorShares
from isotherm.hotness.ranges import Columns, Counted, CountEvidence
from isotherm.hotness.readers import BitReaders
from isotherm.hotness.single_pages import (
    add_faults,
    see_bits,
    spread_checks,
    unlike_whole,
)
from isotherm.hotness.stall import StallWeights
from isotherm.hotness.view import TrackerView
from isotherm.machine.protocol import SpacesChanged

TURN_BLOCKS = 1 << 18  # 2 Mi pages an epoch: some 10 ns a page, 4 % of a core
PRIOR_SHAPE = 0.5  # a0 of the prior Gamma: half an access (docs/reference/hotness.md)
HALF_LIFE_S = 60.0  # of a page's filter; 24 to 120 s change mean regret by < 0.01
LOOKS_KEPT = 6  # half-life in looks, at least: where looks are rare they last
REGION_HALF_LIFE_S = 0.5  # at least; a region is not forgotten before its next look
REGION_BLOCKS = 8  # 64 pages
REACH = 0.9  # bond of two blocks of one region: evidence reaches some 10 blocks
EDGE_SCALE = 1.0  # excess unlikeness of a true edge, at least
REGION_SAMPLES = 4.0  # expected in a region of mean rate before it is believed
TRUSTED = 0.5  # bits that are trusted less are no evidence of rates
ENOUGH_SAMPLES = 2.0  # of a page, kept at a time, to do without bits
SPARSE = frozenset(LiveMechanism)  # these look at a few pages drawn at random
OLDEST = 1 << 15  # epochs: no block is older; its evidence has gone long before
SWEEPS = 1 << 13  # every block's age is seen to in so many epochs
REVISIT_S = 2.0  # without accessed bits, every page decays about so often


#: A salt is a signed word: seeds from 2^43 on lose their upper bits.
SALT_MASK = (1 << 63) - 1
#: Evidence that an epoch leaves, at least, however long it is: a weight is its inverse.
LEAST_KEPT = 1e-30


def stretch(blocks: int, epoch: int) -> tuple[int, int]:
    """Return which blocks' regions and cells are worked out anew in an epoch.

    All of them while that is cheap. Memory of many million pages is worked
    through in turns: the cost of an epoch stays bounded at any size.

    Args:
        blocks: Blocks of eight pages.
        epoch: Epochs so far.
    """
    turns = max(1, -(-blocks // TURN_BLOCKS))
    turn = epoch % turns
    return blocks * turn // turns, blocks * (turn + 1) // turns


class GammaTracker:
    """Fuses all hints into rates.

    Args:
        pages: Length of the flat page index, >= 0.
        epoch_ns: Length of an epoch.
        mechanisms: What evidence to expect.
        seed: For stochastic rounding.
        half_life_s: Of a page's evidence.
        region_half_life_s: Of a region's, at least.
        region_blocks: Blocks of eight pages in a region.
        weigh_stall: Keep what accesses stall, where a source tells.
    """

    def __init__(
        self,
        pages: int,
        epoch_ns: int,
        mechanisms: frozenset[Mechanism | LiveMechanism],
        seed: int = 1,
        *,
        half_life_s: float = HALF_LIFE_S,
        region_half_life_s: float = REGION_HALF_LIFE_S,
        region_blocks: int = REGION_BLOCKS,
        weigh_stall: bool = True,
    ) -> None:
        self.pages = pages
        self.blocks = -(-pages // BLOCK_PAGES)
        self.epoch_s = epoch_ns / NS_PER_S
        self._has_bits = Mechanism.ACCESSED_BIT in mechanisms
        self._few_pages = self._all_pages = False
        self._seed = seed
        self._half_life_s = half_life_s
        self._region_half_life_s = region_half_life_s
        self._window = region_blocks
        self.reference: float | None = None  # accesses per page per second, fixed
        self.mean_rate = 0.0
        self.code = np.zeros(pages, np.uint16)
        self.history = np.zeros(pages, np.uint8)
        self.looked = np.zeros(self.blocks, np.uint16)
        self.samples = np.zeros(self.blocks, np.uint16)
        self.region = np.zeros(self.blocks, np.uint8)
        self.stamp = np.zeros(self.blocks, np.uint16)
        self.edge = np.zeros(self.blocks, np.uint8)
        self._unlike = np.zeros((2, regions.CLASSES))
        self.initiators = InitiatorShares(self.blocks)
        self.stall = StallWeights(self.blocks) if weigh_stall else None
        self._bursts = BurstGuard()
        self._readers = BitReaders()
        self._counts = CountEvidence()
        self._counted: Counted | None = None  # of this update
        self._counted_epochs = 0
        self._fronts = Fronts(pages, seed)
        self.ahead = np.empty((0, 2), np.int64)
        self._access_rate: float | None = None
        self._epoch = 0
        self._fresh = (0, self.blocks)
        self._salt = seed << 20 & SALT_MASK
        self._sampling_period: float | None = None
        self._revisit_epochs = max(1, round(REVISIT_S / self.epoch_s))

    @property
    def fresh_blocks(self) -> tuple[int, int]:
        """Blocks whose region was worked out in the last update, [first, last)."""
        return self._fresh

    @property
    def sweep_worth_watching(self) -> bool:
        """Whether a sweep is about that may be worth moving out of the way of."""
        return self._fronts.are_worth_watching

    @property
    def futile_share(self) -> float:
        """Share of the accesses in sweeps over everything, left alone, [0, 1]."""
        return self._fronts.futile_share

    @property
    def bits_trust(self) -> float:
        """How far accessed bits show where the accesses go, in [0, 1]."""
        return self._bursts.trust

    @property
    def counted_share(self) -> float:
        """Accesses that devices count over those that rates are of; 1: unknown."""
        return self._counts.share

    @property
    def bytes_per_page(self) -> float:
        """State kept for a page, all of it."""
        columns = (self.code, self.history, self.looked, self.samples, self.region)
        total = sum(c.nbytes for c in columns) + self.stamp.nbytes + self.edge.nbytes
        total += self.initiators.nbytes + (self.stall.nbytes if self.stall else 0)
        return total / max(1, self.pages)

    def renew(self, change: SpacesChanged) -> None:
        """Put renewed pages back to the prior; make room for new ones.

        A block that a renewed range shares with other pages loses its last look and
        its samples; those pages keep their filters.
        """
        pages = max(self.pages, change.pages)
        code, region = self._prior()
        self.pages, self.blocks = pages, -(-pages // BLOCK_PAGES)
        self.code = grown(self.code, pages, code)
        self.history = grown(self.history, pages)
        self.looked = grown(self.looked, self.blocks)
        self.samples = grown(self.samples, self.blocks)
        self.region = grown(self.region, self.blocks, region)
        self.stamp = grown(self.stamp, self.blocks, self._epoch & 0xFFFF)
        self.edge = grown(self.edge, self.blocks)
        for start, end in change.renewed.tolist():
            self.code[start:end] = code
            self.history[start:end] = 0
            touched = slice(start // BLOCK_PAGES, -(-end // BLOCK_PAGES))
            self.looked[touched] = regions.NO_LOOK
            self.samples[touched] = 0
            self.region[touched] = region
            self.edge[touched] = 0
            whole = end // BLOCK_PAGES if end < pages else self.blocks
            self.stamp[-(-start // BLOCK_PAGES) : whole] = self._epoch & 0xFFFF
        self.initiators.renew(self.blocks, change)
        if self.stall is not None:
            self.stall.renew(self.blocks, change)
        self._fronts.renew(pages)

    def doubt(self, trust: float) -> None:
        """Believe what is known of pages less: what was hot may be so no more.

        Args:
            trust: How far it still holds, in [0, 1]; 1: the rates stay, but what
                comes next counts as much as all that was.
        """
        self.code[:] = evidence.doubted(self.code, self._prior()[0], trust)

    def update(
        self, batches: tuple[HintBatch, ...], now_ns: int, access_rate: float | None
    ) -> TrackerView:
        """Fuse one epoch's evidence; see the protocol.

        Raises:
            ValueError: A batch names a page beyond the flat index.
        """
        for batch in batches:
            check(batch, self.pages)
        self._epoch += 1
        keep = max(LEAST_KEPT, 0.5 ** (self.epoch_s / self._half_life_s))
        self.initiators.fade(keep, self.epoch_s)
        if self.stall is not None:
            self.stall.fade(keep)
        if self.reference is None:
            self._begin(batches, access_rate)
        self._follow_mean(access_rate)
        self._access_rate = access_rate
        b0 = PRIOR_SHAPE * self._unit() / max(self.mean_rate, 1e-12)
        bits = [b for b in batches if isinstance(b.seen, AccessedBits)]
        self._counted = self._counts.add(batches, self._columns())
        for batch in batches:
            if isinstance(batch.seen, Samples):
                self._add_samples(batch.seen)
            elif isinstance(batch.seen, FaultDelays):
                late = batch.seen
                self.initiators.add(late.page, late.initiator)
                counted = self._counted
                if counted is not None:
                    late = counted.faults_left(late)
                add_faults(self.code, self.history, late, self._unit(), self._next_salt)
            elif isinstance(batch.seen, RegionCounts):
                self._add_regions(batch.seen, b0)
        self._follow_fronts(batches)
        self._keep_ages()
        for batch in bits:
            if isinstance(batch.seen, AccessedBits):
                self._add_owners(batch.seen)
                seen = self._readers.own(batch, batch.seen)
                self._look_at_bits(seen, b0, sparse=batch.source in SPARSE)
        if not self._has_looks(bits):
            self._look_in_turn(b0)
        self._region_rates()
        if self.stall is not None:
            self.stall.refresh(*self._fresh)
        if access_rate is None:
            self._estimate_mean()
        self._counted = None
        return TrackerView(self)

    def forget_accessors(self) -> None:
        """Forget who accesses what, and nothing else: threads have been moved."""
        self.initiators.clear()

    def _add_owners(self, seen: AccessedBits) -> None:
        """Count who accesses what bits have shown to be accessed."""
        if seen.initiator is not None:
            used = np.flatnonzero(seen.bits)
            page = seen.block[used] * np.uint32(BLOCK_PAGES)
            self.initiators.add(page, seen.initiator[used])

    # ---- units: rates are kept relative to the reference rate

    def _unit(self) -> float:
        return self.reference or 1.0

    def _begin(self, batches: tuple[HintBatch, ...], access_rate: float | None) -> None:
        """Fix the reference rate: the first mean that anybody knows."""
        rate = access_rate
        if not rate:
            rate = first_rate(batches, self.pages, self.epoch_s)
        if not rate:
            rate = 1.0
        self.reference = rate
        self.mean_rate = rate
        self.code[:], self.region[:] = self._prior()

    def _prior(self) -> tuple[int, int]:
        """Return the filter and region codes of a page that nothing is known of."""
        mean = np.ones(1) * max(self.mean_rate, 1e-12) / self._unit()
        if self.reference is None:
            mean = np.ones(1)
        middle = np.array([(1 << 17) | (1 << 52)], np.uint64)
        code = evidence.pack_array(mean, PRIOR_SHAPE / mean, middle)
        return int(code[0]), int(regions.region_code_array(mean)[0])

    def _follow_mean(self, access_rate: float | None) -> None:
        if access_rate is not None and access_rate > 0:
            self.mean_rate += 0.1 * (access_rate - self.mean_rate)

    def _estimate_mean(self) -> None:
        """Without a counting PMU the filters themselves give the mean."""
        if self.pages == 0:
            return
        stride = max(1, self.pages // 65536)
        mean, _ = evidence.unpack_array(self.code[::stride])
        self.mean_rate = max(float(mean.mean()) * self._unit(), 0.05 * self.mean_rate)

    def _has_looks(self, batches: list[HintBatch]) -> bool:
        """Return whether looks at whole memory are to be waited for.

        Pages drawn at random do not make memory as a whole decay; where they are
        all that comes, every block decays in its turn.
        """
        for batch in batches:
            self._few_pages = self._few_pages or batch.source in SPARSE
            self._all_pages = self._all_pages or batch.source not in SPARSE
        return self._has_bits and (self._all_pages or not self._few_pages)

    # ---- evidence

    def _next_salt(self, count: int) -> int:
        salt = self._salt
        self._salt = self._salt + count + 1 & SALT_MASK
        return salt

    def _region_half_life(self) -> float:
        return max(self._region_half_life_s, self._revisit_s / BLOCK_PAGES)

    def _sample_half_life(self) -> float:
        """Return how long samples count for a region: until there are a few."""
        if self._sampling_period is None:
            return self._region_half_life()
        per_s = self._window * BLOCK_PAGES * self.mean_rate / self._sampling_period
        enough_s = REGION_SAMPLES / max(per_s, 1e-9)
        bits = self._has_bits and not self._samples_do
        longest_s = self._region_half_life() if bits else self._half_life_s
        return min(max(self._region_half_life(), enough_s), longest_s)

    @property
    def _revisit_s(self) -> float:
        return self._revisit_epochs * self.epoch_s

    @property
    def _samples_do(self) -> bool:
        """Whether bits that are not to be trusted can be done without."""
        if (
            self._sampling_period is None
            or self.bits_trust >= TRUSTED
            or self._fronts.are_about
        ):
            return False
        per_page = self._half_life_s / np.log(2.0) * self.mean_rate
        return bool(per_page / self._sampling_period >= ENOUGH_SAMPLES)

    def _look_at_bits(self, seen: AccessedBits, b0: float, *, sparse: bool) -> None:
        if sparse or seen.writes_only:
            self._see_pages(seen)
            return
        whole = seen.whole_blocks(self.pages)
        if not seen.opening:
            self._bursts.follow(whole, self.code, self.history, self._access_rate)
        interval = whole.interval_s.astype(np.float64) * self._unit()
        if self._samples_do:
            interval[:] = 0.0
            self.looked[whole.block] = regions.NO_LOOK
        left = region = None
        if self._counted is not None:
            if not seen.opening:
                region = self._counted.looks(whole.block, whole.bits, interval)
            left = self._counted.bits_left(whole, interval)
            interval = interval if left is None else left.interval
        self._look(
            whole.block, b0, whole.bits, interval, opening=seen.opening, region=region
        )
        if left is not None:
            left.see(self._columns())
        rest = unlike_whole(seen, whole)
        if rest is not None:
            self._decay(rest.block, b0)
            self._see_pages(rest, looks=not seen.opening)

    def _look_in_turn(self, b0: float) -> None:
        """Let a stripe of blocks decay; counts, where there are any, are its look."""
        counted, stripes = self._counted, self._revisit_epochs
        at = self._epoch
        if counted is not None:  # they may come every second epoch only
            at = self._counted_epochs = self._counted_epochs + 1
        every = counted is not None and counted.is_coarse
        stripe = np.arange(
            0 if every else at % stripes,
            self.blocks,
            1 if every else stripes,
            dtype=np.uint32,
        )
        region = None if counted is None else counted.looks(stripe)
        self._look(stripe, b0, region=region)
        if every:
            self._revisit_epochs = stripes

    def _columns(self) -> Columns:
        """Return what counts go into."""
        turns = max(1, -(-self.blocks // TURN_BLOCKS))
        mean = max(self.mean_rate, 1e-12) / self._unit()
        return Columns(
            self.code,
            self.history,
            self._unit(),
            mean,
            turns,
            self._epoch % turns,
            self._next_salt,
        )

    def _decay(self, block: NDArray[np.uint32], b0: float) -> None:
        """Decay blocks and give them the exposure of sampling; no history."""
        revisit_epochs = self._revisit_epochs
        nothing = np.zeros(len(block), np.uint8)
        self._look(block, b0, nothing, np.zeros(len(block)), opening=True)
        self._revisit_epochs = revisit_epochs

    def _see_pages(self, seen: AccessedBits, *, looks: bool = False) -> None:
        see_bits(
            self.code, self.history, seen, self._unit(), self._next_salt, looks=looks
        )

    def _keep_ages(self) -> None:
        """Let no block grow so old that its stamp of 16 bits comes round again."""
        sweep = self._epoch % SWEEPS
        first = self.blocks * sweep // SWEEPS
        stamp = self.stamp[first : self.blocks * (sweep + 1) // SWEEPS]
        age = (self._epoch - stamp.astype(np.int64)) & 0xFFFF
        stamp[age > OLDEST] = (self._epoch - OLDEST) & 0xFFFF

    def _look(
        self,
        block: NDArray[np.uint32],
        b0: float,
        bits: NDArray[np.uint8] | None = None,
        interval: NDArray[np.float64] | None = None,
        *,
        opening: bool = False,
        region: tuple[NDArray[np.uint8], NDArray[np.float64]] | None = None,
    ) -> None:
        """Decay blocks and fuse a look at them; without bits, only decay.

        Args:
            block: uint32[n].
            b0: Exposure of the prior.
            bits: Accessed bits of their pages.
            interval: What the bits cover, reference periods.
            opening: Whether the bits open a window.
            region: Bits and interval that neighbourhoods take instead; None: the
                same.
        """
        if not len(block):
            return
        age = (self._epoch - self.stamp[block].astype(np.int64)) & 0xFFFF
        self._revisit_epochs = max(1, -(-self.blocks // len(block)))
        half_life_s = max(self._half_life_s, LOOKS_KEPT * self._revisit_s)
        rho = np.exp2(-age * self.epoch_s / half_life_s)
        rho_samples = np.exp2(-age * self.epoch_s / self._sample_half_life())
        sampled = np.zeros(len(block))
        if self._sampling_period is not None:
            sampled += age * (self.epoch_s / self._sampling_period * self._unit())
        kind = evidence.NO_BITS
        if bits is None or interval is None:
            bits, interval = np.zeros(len(block), np.uint8), np.zeros(len(block))
        else:
            kind = evidence.OPENING if opening else evidence.BITS
        salt = self._next_salt(1)
        evidence.look(
            self.code,
            self.history,
            block,
            bits,
            interval,
            rho,
            sampled,
            kind,
            PRIOR_SHAPE,
            b0,
            salt,
        )
        self.stamp[block] = self._epoch & 0xFFFF
        if region is None:
            region = bits, np.zeros(len(block)) if opening else interval
        regions.look_blocks(
            self.looked,
            self.samples,
            self.edge,
            self.stamp,
            self._epoch,
            block,
            *region,
            rho_samples,
            self._unlike,
            salt,
        )

    def _add_samples(self, seen: Samples) -> None:
        self._sampling_period = seen.period
        if not len(seen.page):
            return
        none = np.zeros(len(seen.page))
        salt = self._next_salt(len(seen.page))
        evidence.add_events(self.code, self.history, seen.page, 1.0, none, salt)
        # A block's samples decay by the age of its last look: those that came since
        # are counted up by that, so that a sample weighs 1 when it comes.
        stamp = self.stamp[seen.page >> 3].astype(np.int64)
        age_s = ((self._epoch - stamp) & 0xFFFF) * self.epoch_s
        grown = np.exp2(np.minimum(age_s / self._sample_half_life(), 16.0))
        regions.add_to_blocks(self.samples, seen.page, grown, salt)
        if seen.initiator is not None:
            self.initiators.add(seen.page, seen.initiator)
        if self.stall is not None:
            self.stall.add(seen)

    def _follow_fronts(self, batches: tuple[HintBatch, ...]) -> None:
        if self._sampling_period is not None:  # samples have come, now or before
            sampled = [b.seen.page for b in batches if isinstance(b.seen, Samples)]
            self._fronts.add(*sampled)
            self.ahead = self._fronts.advance()

    def _add_regions(self, seen: RegionCounts, b0: float) -> None:
        """Let a region's checks be the look of its blocks; they decay first."""
        block, code = spread_checks(seen, self.blocks, self._unit(), self._next_salt(1))
        self._decay(np.unique(block).astype(np.uint32), b0)
        self.looked[block] = code

    def _region_rates(self) -> None:
        ages = np.arange(min(1024, 4 * self._revisit_epochs + 64))
        age_s = ages * self.epoch_s
        half_life_s = self._sample_half_life()
        sampled = 0.0
        if self._sampling_period is not None:
            gathered = 1.0 - 2.0 ** (-self._epoch * self.epoch_s / half_life_s)
            seconds = gathered * half_life_s / np.log(2.0)
            sampled = seconds / self._sampling_period * self._unit()
        self._unlike *= 0.99
        compared = self._unlike[1].sum() / max(1, self.blocks)
        first, last = self._fresh = stretch(self.blocks, self._epoch)
        bond = regions.bonds(self._unlike, compared, REACH, EDGE_SCALE)
        regions.region_rates(
            self.looked,
            self.samples,
            self.edge,
            self.stamp,
            self._epoch,
            np.exp2(-age_s / self._region_half_life()),
            np.exp2(-age_s / half_life_s),
            sampled,
            bond,
            PRIOR_SHAPE * self._unit() / max(self.mean_rate, 1e-12),
            self.mean_rate / self._unit(),
            first,
            last,
            self.region,
        )
