"""Hotness units of CXL devices as a hint source: hot lists into counts of ranges.

A source drains the lists of the devices of one region of host memory, adds up what
they say of each page, and chooses the threshold so that the lists are neither full
nor empty: a list that overflows says nothing of what it left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from isotherm.core.errors import UnsupportedError
from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.hints.batch import HintBatch, Look, Mechanism, RangeCounts
from isotherm.hints.capability import Capability
from isotherm.hints.chmu_driver import Drained, Instance, RegisterAccess, open_block
from isotherm.hints.chmu_ranges import (
    FrameTable,
    Listed,
    is_shared,
    to_ranges,
    units_a_page,
    watched_pages,
)
from isotherm.hints.chmu_settings import Capabilities, Settings
from isotherm.hints.interleave import Window
from isotherm.records.cxl_hmu_registers import Reporting, Tracked

#: Of a list's slots: between these shares the threshold stays as it is.
FULL: Final = 0.9
SPARSE: Final = 0.25
FIRST_THRESHOLD: Final = 2
#: Registers that a drain reads and writes beside the entries.
DRAIN_REGISTERS: Final = 6


class HotLists(Protocol):
    """One instance of a device, however it is reached."""

    @property
    def settings(self) -> Settings:
        """How it counts now."""
        ...

    @property
    def list_size(self) -> int:
        """Entries that fit into its list between two drains."""
        ...

    @property
    def most(self) -> int:
        """Largest threshold."""
        ...

    def start(self, settings: Settings) -> None:
        """Count from nothing with these settings."""
        ...

    def stop(self) -> None:
        """Stop counting; may be called again."""
        ...

    def collect(self) -> Drained:
        """Return what was listed since the last call."""
        ...

    def counted_ns(self) -> int:
        """Return for how long it has counted since it was started."""
        ...


class RegisterLists:
    """An instance reached through its registers.

    Args:
        access: The registers of its block.
        number: Of the instance.

    Raises:
        DeviceError: The block is not there or contradicts itself.
        UnsupportedError: It has no such instance.
    """

    def __init__(self, access: RegisterAccess, number: int = 0) -> None:
        instances = open_block(access)
        if number >= len(instances):
            raise UnsupportedError(
                f"chmu: instance: expected below {len(instances)}, got {number}"
            )
        self._access = access
        self.instance: Instance = instances[number]

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return self.instance.capabilities

    @property
    def settings(self) -> Settings:
        """How it counts now."""
        if self.instance.settings is None:
            raise UnsupportedError(f"{self.instance.name}: it was not started")
        return self.instance.settings

    @property
    def list_size(self) -> int:
        """Entries that fit into its list."""
        return self.capabilities.hot_list_size - 1

    @property
    def most(self) -> int:
        """Largest threshold."""
        return (1 << min(32, self.instance.counter_width)) - 1

    def start(self, settings: Settings) -> None:
        """Count from nothing with these settings."""
        self.instance.configure(settings)

    def stop(self) -> None:
        """Stop counting."""
        self.instance.disable()

    def collect(self) -> Drained:
        """Return what was listed since the last call."""
        return self.instance.drain()

    def counted_ns(self) -> int:
        """Return for how long it has counted since it was started."""
        return self._access.now_ns() - self.instance.enabled_ns


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a region.

    Attributes:
        lists: Its hot lists.
        window: Where its memory stands in the host.
    """

    lists: HotLists
    window: Window


def choose_unit(shifts: Sequence[int], window: Window) -> int:
    """Return the size of unit, as a shift, that names pages best.

    A page, where a page is whole on a device; a granule or less, where it is not:
    such a unit is of one page only. Where the device has none of these, its smallest.

    >>> choose_unit((12, 13, 21), Window(0, 1 << 30))
    12
    >>> choose_unit((8, 10, 12), Window(0, 1 << 30, 4, 1024))
    10
    """
    page = PAGE_BYTES.bit_length() - 1
    best = page
    if window.ways > 1:
        best = min(page, window.granularity.bit_length() - 1)
    fitting = [shift for shift in shifts if shift <= best]
    if best == page and page not in fitting:
        above = [shift for shift in shifts if shift > page]
        return min(above) if above else max(fitting)
    return max(fitting) if fitting else min(shifts)


class ChmuSource:
    """The hotness units of the devices of one region.

    Args:
        devices: At least one; all of one region, counting alike.
        table: Which page stands on which frame.
        pages: Returns the length of the flat page index.
        now_ns: Returns the machine's time.
        settings: How to count at first.
        exact: The devices have a counter for every unit, so that a list which did
            not overflow is complete. No register says so.
        tune: Follow the lists' fill with the threshold.
        entry_ns: Time to read an entry, on a CPU of the daemon's.
    """

    mechanism = Mechanism.CHMU

    def __init__(
        self,
        devices: Sequence[Device],
        table: FrameTable,
        clock: "Machine",
        settings: Settings,
        *,
        exact: bool = False,
        tune: bool = True,
        entry_ns: float = 0.0,
    ) -> None:
        self.devices = tuple(devices)
        self._table = table
        self._clock = clock
        self._exact = exact
        self._tune = tune
        self._entry_ns = entry_ns
        self._settings = settings
        self._told = 0  # epochs of the devices that batches have told of
        self._told_ns = 0
        self._start_ns = clock.now_ns()
        self.untranslated = 0  #: frames listed that no managed page stands on
        self.entries = 0  #: in the lists at the last drain
        self.overflows = 0  #: drains that found a list overflowed
        for device in self.devices:
            device.lists.start(settings)

    @property
    def capability(self) -> Capability:
        """What its observations stand for."""
        kind, window = self._settings.tracked, self.devices[0].window
        reads = kind not in (Tracked.WRITES, Tracked.NON_TEE_WRITES)
        writes = kind not in (Tracked.READS, Tracked.NON_TEE_READS)
        shift = self._settings.unit_shift
        unit = max(1, (1 << shift) // PAGE_BYTES)
        if (1 << shift) > window.granularity and window.ways > 1:
            unit = 0
        return Capability(
            unit_pages=unit,
            post_cache=True,
            sees_reads=reads,
            sees_writes=writes,
            sees_prefetch=True,
            thresholded=True,
            clears=True,
        )

    @property
    def settings(self) -> Settings:
        """How the devices count now."""
        return self._settings

    def look(self, looks: tuple[Look, ...]) -> None:
        """Count on: a device watches all of its memory."""

    def close(self) -> None:
        """Stop counting; may be called again."""
        for device in self.devices:
            device.lists.stop()

    def drain(self) -> tuple[HintBatch, ...]:
        """Return one batch, or none while an epoch of the devices lasts."""
        drained = [device.lists.collect() for device in self.devices]
        entries = self.entries = sum(len(one.units) for one in drained)
        exposure_s, epochs = self._exposure(entries)
        capability, settings = self.capability, self._settings
        if exposure_s <= 0:
            return ()
        overflowed = any(one.overflowed for one in drained)
        self.overflows += overflowed
        listed = [
            Listed(
                device.window,
                one.units.unit,
                one.units.count,
                self._exact and not one.overflowed and one.units.lost == 0,
            )
            for device, one in zip(self.devices, drained, strict=True)
        ]
        magnitude = settings.reporting is Reporting.EPOCH
        shift, factor = settings.unit_shift, 1 << settings.down_sampling
        found = to_ranges(listed, shift, self._table, merge=magnitude)
        self.untranslated += found.unknown
        window = self.devices[0].window
        share = 1.0
        if is_shared(window, shift):
            share = min(1.0, len(self.devices) / window.ways)
        threshold = settings.threshold * units_a_page(window, shift)
        windows = tuple(device.window for device in self.devices)
        seen = RangeCounts(
            found.start,
            found.end,
            found.count * np.float32(factor),
            np.full(len(found.start), exposure_s, np.float32),
            watched_pages(self._table, self._clock.pages, windows),
            float(threshold * factor * (epochs if magnitude else 1)),
            all(one.complete for one in listed),
            share / factor,
            magnitude,
        )
        lost = sum(one.units.lost for one in drained) + found.beyond
        start_ns, self._start_ns = self._start_ns, self._clock.now_ns()
        registers = entries + DRAIN_REGISTERS * len(self.devices)
        batch = HintBatch(
            self.mechanism.value,
            start_ns,
            self._start_ns,
            seen,
            lost,
            background_ns=registers * self._entry_ns,
            capability=capability,
        )
        if self._tune:
            self._follow_fill(drained, overflowed=overflowed)
        return (batch,)

    def _exposure(self, entries: int) -> tuple[float, int]:
        """Return the seconds that this drain stands for, and how many epochs."""
        counted_ns = self.devices[0].lists.counted_ns()
        if self._settings.reporting is not Reporting.EPOCH:
            since_ns, self._told_ns = counted_ns - self._told_ns, counted_ns
            return since_ns / NS_PER_S, 1
        ended = counted_ns // self._settings.epoch_ns
        epochs, self._told = ended - self._told, ended
        if entries and epochs == 0:  # its clock is a little ahead of ours
            epochs, self._told = 1, ended + 1
        return max(0, epochs) * self._settings.epoch_ns / NS_PER_S, max(0, epochs)

    def _follow_fill(self, drained: list[Drained], *, overflowed: bool) -> None:
        """Raise the threshold where a list is full, lower it where it is empty."""
        lists = [device.lists for device in self.devices]
        fill = max(
            len(one.units) / each.list_size
            for one, each in zip(drained, lists, strict=True)
        )
        now = self._settings.threshold
        wanted = now
        if overflowed or fill > FULL:
            counts = np.concatenate([one.units.count for one in drained])
            wanted = max(now + 1, int(np.median(counts)))
            if self._settings.reporting is not Reporting.EPOCH:
                wanted = 2 * now
        elif fill < SPARSE:
            wanted = max(1, now * 3 // 4)
        wanted = min(wanted, *(each.most for each in lists))
        if wanted != now:
            self._settings = replace(self._settings, threshold=wanted)
            for each in lists:
                each.start(self._settings)
            self._told = self._told_ns = 0


class Machine(Protocol):
    """What the source needs of a machine."""

    @property
    def pages(self) -> int:
        """Length of the flat page index."""
        ...

    def now_ns(self) -> int:
        """Return the machine's time."""
        ...
