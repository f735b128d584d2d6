"""Hotness units of CXL devices as a hint source: hot lists into counts of ranges.

A source drains the lists of the devices of one region of host memory, adds up what
they say of each page, and chooses the threshold so that the lists are neither full
nor empty: a list that overflows says nothing of what it left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

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
        """Entries that fit into its list between two drains; 0: not known yet."""
        ...

    @property
    def in_lumps(self) -> bool:
        """Whether a drain may bring nothing although the list holds entries.

        The kernel hands a list on when it is half full. What comes then is of all
        epochs since the last time.
        """
        ...

    @property
    def most(self) -> int:
        """Largest threshold."""
        ...

    def start(self, settings: Settings) -> None:
        """Count from nothing with these settings."""
        ...

    def stop(self) -> None:
        """Stop counting; may be called again.

        What the list holds may still be collected.
        """
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

    in_lumps: Final = False

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
        # Epochs of each device that batches have told of.
        self._told = [0] * len(self.devices)
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
        waited = self._waited(drained)
        wanted = (
            self._wanted(drained, waited) if self._tune else self.settings.threshold
        )
        changed = wanted != self._settings.threshold
        if changed:
            drained = [
                one.then(_rest(device.lists)) if device.lists.in_lumps else one
                for device, one in zip(self.devices, drained, strict=True)
            ]
            waited = self._waited(drained)
        batches = self._batches(drained, waited)
        if changed and (batches or self._in_lumps):
            self._settings = replace(self._settings, threshold=wanted)
            for device in self.devices:
                device.lists.start(self._settings)
            self._told, self._told_ns = [0] * len(self.devices), 0
        return batches

    @property
    def _in_lumps(self) -> bool:
        return any(device.lists.in_lumps for device in self.devices)

    def _batches(
        self, drained: list[Drained], waited: list[int]
    ) -> tuple[HintBatch, ...]:
        """Return what was drained as a batch; none while an epoch lasts.

        Args:
            drained: Of each device.
            waited: Epochs since each device's last delivery.
        """
        entries = self.entries = sum(len(one.units) for one in drained)
        exposure_s, epochs = self._exposure(drained, waited)
        capability, settings = self.capability, self._settings
        if exposure_s <= 0:
            return ()
        overflowed = any(one.overflowed for one in drained)
        self.overflows += overflowed
        magnitude = settings.reporting is Reporting.EPOCH
        listed = [
            Listed(
                device.window,
                one.units.unit,
                _over(one.units.count, epochs, own if magnitude else epochs),
                self._exact and not one.overflowed and one.units.lost == 0,
            )
            for device, one, own in zip(self.devices, drained, waited, strict=True)
        ]
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
        return (batch,)

    def _waited(self, drained: list[Drained]) -> list[int]:
        """Return the epochs that ended since each device last handed on its list."""
        waited = []
        for device, one, told in zip(self.devices, drained, self._told, strict=True):
            epochs = device.lists.counted_ns() // self._settings.epoch_ns - told
            # Its clock may be a little ahead of ours.
            waited.append(max(epochs, 1 if len(one.units) else 0))
        if not self._in_lumps:  # all are read at once
            waited = [max(waited)] * len(waited)
        return waited

    def _exposure(self, drained: list[Drained], waited: list[int]) -> tuple[float, int]:
        """Return the seconds that this drain stands for, and how many epochs.

        A list that comes in lumps and has not come tells nothing: its epochs are of
        its next delivery.
        """
        if self._settings.reporting is not Reporting.EPOCH:
            counted_ns = self.devices[0].lists.counted_ns()
            since_ns, self._told_ns = counted_ns - self._told_ns, counted_ns
            return since_ns / NS_PER_S, 1
        epochs = 0
        for at, (device, one) in enumerate(zip(self.devices, drained, strict=True)):
            came = len(one.units) or one.units.lost or one.overflowed
            if came or not device.lists.in_lumps:
                self._told[at] += waited[at]
                epochs = max(epochs, waited[at])
        return epochs * self._settings.epoch_ns / NS_PER_S, epochs

    def _wanted(self, drained: list[Drained], waited: list[int]) -> int:
        """Return a higher threshold where a list is full, a lower where all are empty.

        Args:
            drained: Of each device.
            waited: Epochs since each device's last delivery.
        """
        lists = [device.lists for device in self.devices]
        fills = [
            _fill(each, len(one.units), epochs)
            for each, one, epochs in zip(lists, drained, waited, strict=True)
        ]
        now = wanted = self._settings.threshold
        if any(one.overflowed for one in drained) or max(fills) > FULL:
            counts = np.concatenate([one.units.count for one in drained])
            wanted = max(now + 1, int(np.median(counts)) if len(counts) else 0)
            if self._settings.reporting is not Reporting.EPOCH:
                wanted = 2 * now
        elif max(fills) < SPARSE:
            wanted = max(1, now * 3 // 4)
        return min(wanted, *(each.most for each in lists))


def _fill(lists: HotLists, entries: int, epochs: int) -> float:
    """Return the share of a list that an epoch fills; between, where none is known."""
    if not lists.in_lumps:
        return entries / lists.list_size
    if lists.list_size == 0 or epochs == 0:
        return (FULL + SPARSE) / 2
    if entries == 0:  # less than half a list in all these
        return 0.5 / epochs
    return entries / epochs / lists.list_size


def _rest(lists: HotLists) -> Drained:
    """Stop a list, and return what it still held."""
    lists.stop()
    return lists.collect()


def _over(count: NDArray[np.uint64], epochs: int, own: int) -> NDArray[np.uint64]:
    """Return counts of a device's own epochs as of the batch's."""
    if own in (0, epochs):
        return count
    return count * np.uint64(epochs) // np.uint64(own)


class Machine(Protocol):
    """What the source needs of a machine."""

    @property
    def pages(self) -> int:
        """Length of the flat page index."""
        ...

    def now_ns(self) -> int:
        """Return the machine's time."""
        ...
