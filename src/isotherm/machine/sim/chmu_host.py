"""The hotness units of a simulated machine: where its pages are in device memory.

The slow node's memory is a region of the host's address space, dealt out to the
node's devices. A page that is on the node has a frame there; one that leaves gives
it back, one that comes takes the frame that was given back last.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.units import PAGE_BYTES
from isotherm.machine.sim.chmu import DeviceSpec, HotnessUnit
from isotherm.machine.sim.chmu_spec import HotnessUnitSpec
from isotherm.machine.sim.llc import NO_SLOT, LineCache
from isotherm.machine.sim.machine import SimMachine
from isotherm.trace.stream import AccessChunk

#: First frame of the region: 64 GiB. Frame 0 is nobody's.
FIRST_FRAME: Final = 1 << 24
#: Regions are multiples of 256 MiB.
GRAIN: Final = 256 << 20
NO_PAGE: Final = 0xFFFFFFFF

Slots = NDArray[np.uint32]


class Frames:
    """Frames of the pages on one node.

    Args:
        machine: Whose pages.
        node: Which node.
        seed: For the order of frames; None: frames follow pages.
    """

    def __init__(self, machine: SimMachine, node: int, seed: int | None = 1) -> None:
        self._machine = machine
        self._node = node
        frames = machine.pages
        order = np.arange(frames, dtype=np.uint32)
        if seed is not None:
            np.random.default_rng([seed, 0xF4]).shuffle(order)
        self._free = order[::-1].copy()  # a stack: the last one is taken first
        self._nr_free = frames
        self.slot = np.full(machine.pages, NO_SLOT, np.uint32)
        self._page = np.full(frames, NO_PAGE, np.uint32)

    @property
    def nr(self) -> int:
        """Number of frames."""
        return len(self._page)

    def follow(self) -> None:
        """Give frames to pages that have come, take them from those that left."""
        here = self._machine.placement() == self._node
        had = self.slot != NO_SLOT
        left = np.flatnonzero(had & ~here)
        slot = self.slot[left]
        self._free[self._nr_free : self._nr_free + len(slot)] = slot
        self._nr_free += len(slot)
        self._page[slot] = NO_PAGE
        self.slot[left] = NO_SLOT
        came = np.flatnonzero(here & ~had)
        self._nr_free -= len(came)
        slot = self._free[self._nr_free : self._nr_free + len(came)][::-1]
        self.slot[came] = slot
        self._page[slot] = came

    def frames(self, first: int, last: int) -> Slots:
        """Return the frames of flat pages ``[first, last)``, uint32; 0: elsewhere."""
        slot = self.slot[first:last]
        frame = slot + np.uint32(FIRST_FRAME)
        frame[slot == NO_SLOT] = 0
        return frame

    def flat_pages(self, frame: NDArray[np.uint64]) -> Slots:
        """Return the flat page on each frame, or NO_PAGE, uint32[n]."""
        at = frame.astype(np.int64) - FIRST_FRAME
        there = (at >= 0) & (at < len(self._page))
        found = np.full(len(frame), NO_PAGE, np.uint32)
        found[there] = self._page[at[there]]
        return found


class SimHotness:
    """The devices of a node, fed by the machine's accesses.

    Args:
        machine: Whose accesses; its pages must have been placed.
        spec: What the devices are.
        epoch_ns: Length of the machine's epochs.
        seed: For the order of frames; None: frames follow pages.
    """

    def __init__(
        self,
        machine: SimMachine,
        spec: HotnessUnitSpec,
        epoch_ns: int,
        seed: int | None = 1,
    ) -> None:
        self.spec = spec
        self.epoch_ns = epoch_ns
        self._machine = machine
        self._began_ns = machine.clock.now_ns()
        self.frames = Frames(machine, spec.node, seed)
        footprint = machine.pages * PAGE_BYTES
        share = footprint / (machine.spec.reference_gib * (1 << 30))
        self.cache = LineCache(int(spec.llc_mib * (1 << 20) * share), spec.llc_ways)
        grain = GRAIN * spec.ways
        self.size = -(-self.frames.nr * PAGE_BYTES // grain) * grain
        device = DeviceSpec(
            memory=self.size // spec.ways,
            counters=spec.counters,
            counter_width=spec.counter_width,
            hot_list=spec.hot_list,
            unit_shifts=tuple(sorted(b.bit_length() - 1 for b in spec.unit_bytes)),
            down_sampling=tuple(spec.down_sampling),
            min_epoch_ns=round(spec.min_epoch_s * 1e9),
            max_epoch_ns=round(spec.max_epoch_s * 1e9),
            epoch_based="epoch" in spec.modes,
            always_on="always-on" in spec.modes,
            postponed=spec.postponed,
        )
        self.devices = tuple(HotnessUnit(device) for _ in range(spec.ways))
        machine.observers.append(self.observe)

    @property
    def pages(self) -> int:
        """Length of the flat page index."""
        return self._machine.pages

    def now_ns(self) -> int:
        """Return the machine's time."""
        return self._machine.clock.now_ns()

    def observe(self, chunk: AccessChunk) -> None:
        """See the accesses of an epoch pass by."""
        self.frames.follow()
        at, address = self.cache.filter(chunk.page, self.frames.slot)
        if chunk.time_ns is None:
            step = self.epoch_ns / max(1, len(chunk))
            offset = (at * step).astype(np.uint64)
        else:
            offset = (chunk.time_ns[at] - self._began_ns).astype(np.uint64)
        write = np.zeros(len(at), np.uint8)
        if chunk.write is not None:
            write = chunk.write[at]
        grain, ways = np.uint64(self.spec.granularity), np.uint64(self.spec.ways)
        granule = address // grain
        own = granule // ways * grain + address % grain
        position = granule % ways
        for i, device in enumerate(self.devices):
            mine = position == i
            device.play(own[mine], offset[mine], write[mine], self.epoch_ns)
        self._began_ns += self.epoch_ns
