"""Hotness units of this host's CXL devices, through perf.

The kernel's driver (posted in November 2024, not merged when this was written)
makes every instance a PMU, ``cxl_hmu_mem<X>.<unit>.<instance>``. It drains the hot
list by interrupt and writes it as packets to an AUX area. What it leaves to the one
who asks:

* the unit is always named: the driver's default is one size too large;
* down-sampling is never asked for: what its bits mean is disputed, and a device
  that says it wrongly makes the driver refuse;
* the threshold stays below what the counter can hold: the driver does not see to it;
* a change means to begin anew: starting resets the counters. The rest of the list is
  written when the event stops, and read before it is closed;
* it hands on when the list is half full or has overflowed, and tells neither how
  long the list is nor that it overflowed: both are learned from the packets.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from isotherm.core.availability import Availability
from isotherm.core.clock import Clock
from isotherm.core.errors import UnsupportedError
from isotherm.hints.batch import HintBatch, Look, Mechanism
from isotherm.hints.capability import Capability
from isotherm.hints.chmu import FIRST_THRESHOLD, ChmuSource, Device, choose_unit
from isotherm.hints.chmu_driver import Drained
from isotherm.hints.chmu_ranges import FrameTable
from isotherm.hints.chmu_settings import Settings
from isotherm.hints.live.chmu_map import Region, read_regions
from isotherm.hints.live.perf_event import EventSpec
from isotherm.hints.live.perf_event_cpu import CpuEvents, refusal, try_event
from isotherm.hints.live.perf_event_pmu import Pmu, pmu_names, read_pmu
from isotherm.machine.linux.spaces import SpaceMap
from isotherm.records.cxl_hmu import HotUnits, decode_stream
from isotherm.records.cxl_hmu_registers import Tracked, epoch_fields
from isotherm.records.perf_fields import Field
from isotherm.records.perf_ring import RingRecords

NAME: Final = "chmu"
#: 16 MiB, as perf record takes: 2 million entries.
AUX_PAGES: Final = 4096
DATA_PAGES: Final = 8
#: Sizes of unit to try where the driver refuses the one wanted; sysfs tells none.
UNITS: Final = tuple(range(8, 22))
#: Of the epoch: devices may have a least epoch; the driver does not tell it.
LEAST_EPOCH_NS: Final = 100_000_000
#: A page of the frame map, read anew; the budget gives a quarter to it.
REFRESH_NS: Final = 50
_NAME: Final = re.compile(r"cxl_hmu_(mem\d+)\.(\d+)\.(\d+)")


class AuxEvents(Protocol):
    """An event with an AUX area: `CpuEvents`, or what stands in for it."""

    def open(self) -> None:
        """Begin."""
        ...

    def drain(self) -> list[RingRecords]:
        """Return what came beside the packets."""
        ...

    def drain_aux(self) -> dict[int, tuple[NDArray[np.uint8], int]]:
        """Return the bytes, by CPU, and where in the area they began."""
        ...

    def disable(self) -> None:
        """Stop, so that what the PMU still holds is written."""
        ...

    def close(self) -> None:
        """Stop and forget; may be called again."""
        ...


class RefreshedFrames(FrameTable, Protocol):
    """A frame map that is read anew in turns."""

    def refresh(self, pages: int) -> int:
        """Read the entries of so many pages."""
        ...


_NOTHING: Final = Drained(HotUnits.none(), overflowed=False)
MakeEvents = Callable[[EventSpec, tuple[int, ...] | None], AuxEvents]


def _make_events(spec: EventSpec, cpus: tuple[int, ...] | None) -> AuxEvents:
    return CpuEvents(spec, cpus, data_pages=DATA_PAGES, aux_pages=AUX_PAGES)


def find_units(root: Path = Path("/")) -> dict[str, list[Pmu]]:
    """Return the PMUs of hotness units by memory device, ``mem0``."""
    found: dict[str, list[Pmu]] = {}
    for name in pmu_names(root):
        match = _NAME.fullmatch(name)
        pmu = read_pmu(name, root) if match else None
        if match and pmu is not None:
            found.setdefault(match[1], []).append(pmu)
    return found


def event_of(pmu: Pmu, settings: Settings) -> EventSpec:
    """Return the event of an instance.

    Raises:
        UnsupportedError: The PMU has not the terms, or a value does not fit.
    """
    scale, multiple = epoch_fields(settings.epoch_ns)
    terms = {
        "epoch_type": 0,
        "access_type": int(settings.tracked),
        "epoch_scale": scale,
        "epoch_multiplier": multiple,
        "hotness_threshold": settings.threshold,
        "hotness_granual": settings.unit_shift,
    }
    try:
        config, config1, config2, config3 = pmu.encode(**terms)
    except KeyError as error:
        raise UnsupportedError(f"{pmu.name}/format: no {error}") from error
    except ValueError as error:
        raise UnsupportedError(f"{pmu.name}: {error}") from error
    # The PMU refuses every exclude bit.
    return EventSpec(
        pmu.type,
        config,
        Field.TIME,
        config1=config1,
        config2=config2,
        config3=config3,
        exclude_hv=False,
        inherit=False,
    )


class PerfLists:
    """The hot lists of one instance, as the kernel hands them on.

    Args:
        pmu: The instance.
        clock: The machine's.
        make: Makes the event.
    """

    in_lumps: Final = True

    def __init__(self, pmu: Pmu, clock: Clock, make: MakeEvents = _make_events) -> None:
        self._pmu = pmu
        self._clock = clock
        self._make = make
        self._events: AuxEvents | None = None
        self._settings: Settings | None = None
        self._began_ns = 0
        self._width = 0
        self._largest = 0  # entries of a packet
        self._met = 0  # packets as large
        self._rest = _NOTHING
        self.damaged = 0  #: times that the area was cut short

    @property
    def settings(self) -> Settings:
        """How it counts now."""
        if self._settings is None:
            raise UnsupportedError(f"{self._pmu.name}: it was not started")
        return self._settings

    @property
    def most(self) -> int:
        """Largest threshold: as far as counters are known to reach."""
        return (1 << (self._width or 16)) - 1

    @property
    def list_size(self) -> int:
        """Entries that fit into its list, as far as packets tell; 0: nothing is known.

        A packet is at least half a list, so the largest is doubled. Where it has come
        again with just as many entries, it is taken for a full list: one that
        overflows gives the same number every time.
        """
        return self._largest if self._met > 1 else 2 * self._largest

    def start(self, settings: Settings) -> None:
        """Count from nothing with these settings; what was not collected is dropped.

        Raises:
            NotPermittedError: Events of a whole CPU may not be opened.
            UnsupportedError: The kernel refuses.
        """
        self.stop()
        self._rest = _NOTHING
        events = self._make(event_of(self._pmu, settings), self._cpus())
        try:
            events.open()
        except OSError as error:
            raise refusal(self._pmu.name, error) from error
        self._events, self._settings = events, settings
        self._began_ns = self._clock.now_ns()

    def _cpus(self) -> tuple[int, ...] | None:
        return None if self._pmu.cpus is None else self._pmu.cpus[:1]

    def stop(self) -> None:
        """Stop counting and keep what the list still held; may be called again."""
        events = self._events
        if events is None:
            return
        try:
            whole = self.collect()
            events.disable()
            rest = self._read(events)
        finally:
            self._events = None
            events.close()
        self._rest = whole.then(rest)

    def collect(self) -> Drained:
        """Return what was listed since the last call."""
        if self._events is None:
            rest, self._rest = self._rest, _NOTHING
            return rest
        found = self._read(self._events)
        # Not of a packet that was written because the event stopped: it may be short.
        for size in found.units.sizes.tolist():
            if size > self._largest:
                self._largest, self._met = size, 0
            self._met += size == self._largest
        return found

    def _read(self, events: AuxEvents) -> Drained:
        """Return what the area holds."""
        units = HotUnits.none()
        for data, _ in events.drain_aux().values():
            units = units.then(decode_stream(data, self._width or None))
            self._width = self._width or units.counter_width
        beside = events.drain()
        damaged = sum(r.aux_damaged + r.missing for r in beside)
        self.damaged += damaged
        return Drained(
            replace(units, lost=units.lost + damaged), overflowed=damaged > 0
        )

    def counted_ns(self) -> int:
        """Return for how long it has counted since it was started."""
        return self._clock.now_ns() - self._began_ns


@dataclass(frozen=True, slots=True)
class _Now:
    """The machine's time and size, as the source asks for them."""

    spaces: SpaceMap
    clock: Clock

    @property
    def pages(self) -> int:
        return self.spaces.pages

    def now_ns(self) -> int:
        return self.clock.now_ns()


class ChmuUnits:
    """The hotness units of all devices that are part of the host's memory.

    Args:
        spaces: Which flat page is whose.
        clock: The machine's, CLOCK_MONOTONIC.
        frames: Which flat page is on a frame.
        epoch_ns: Length of the loop's epochs; devices count in as long ones.
        budget: CPU time that this may take, of one CPU.
        root: Root of the host's files.
        make: Makes the events.
    """

    mechanism: Final = Mechanism.CHMU

    def __init__(
        self,
        spaces: SpaceMap,
        clock: Clock,
        frames: RefreshedFrames,
        epoch_ns: int,
        *,
        budget: float = 0.02,
        root: Path = Path("/"),
        make: MakeEvents = _make_events,
    ) -> None:
        self._now = _Now(spaces, clock)
        self._frames = frames
        self._epoch_ns = max(epoch_ns, LEAST_EPOCH_NS)
        self._refresh = max(512, int(budget / 4 * epoch_ns / REFRESH_NS))
        self._make = make
        self._plan = plan_units(root)
        if not self._plan:
            raise UnsupportedError(self.probe(root).why)
        self._sources: tuple[ChmuSource, ...] = ()
        self.capability = Capability(
            unit_pages=0, post_cache=True, sees_prefetch=True, thresholded=True
        )

    @staticmethod
    def probe(root: Path = Path("/")) -> Availability:
        """Say whether there are hotness units that watch memory of this host."""
        units = find_units(root)
        if not units:
            why = (
                "/sys/bus/event_source/devices: no cxl_hmu_mem*: "
                "no CXL device with a hotness unit, or a kernel without its driver"
            )
            return Availability(NAME, "source", present=False, why=why)
        plan = plan_units(root)
        if not plan:
            why = f"{', '.join(sorted(units))}: hotness units, but in no region in use"
            wrong = read_regions(root)[1]
            why += "".join(f"; {text}" for text in wrong)
            return Availability(NAME, "source", present=False, why=why)
        watched = plan[0][1][0]
        try:
            event = event_of(watched, _first_settings(LEAST_EPOCH_NS, 12))
        except UnsupportedError as error:
            return Availability(NAME, "source", present=False, why=error.message)
        names = ", ".join(pmu.name for _, pmus in plan for pmu in pmus)
        return try_event(NAME, event, names)

    def open(self) -> None:
        """Begin to count, region by region.

        Raises:
            NotPermittedError: Events of a whole CPU may not be opened.
            UnsupportedError: The kernel refuses every size of unit.
        """
        made: list[ChmuSource] = []
        try:
            made += (self._open_region(region, pmus) for region, pmus in self._plan)
        except BaseException:
            for source in made:
                source.close()
            raise
        self._sources = tuple(made)
        self.capability = made[0].capability

    def _open_region(self, region: Region, pmus: Sequence[Pmu]) -> ChmuSource:
        devices = [
            Device(PerfLists(pmu, self._now.clock, self._make), target.window)
            for pmu, target in zip(pmus, region.targets, strict=True)
        ]
        wanted = choose_unit(UNITS, devices[0].window)
        order = sorted(UNITS, key=lambda shift: (abs(shift - wanted), shift))
        refused: UnsupportedError | None = None
        for shift in order:
            settings = _first_settings(self._epoch_ns, shift)
            try:
                return ChmuSource(devices, self._frames, self._now, settings)
            except UnsupportedError as error:
                for device in devices:
                    device.lists.stop()
                refused = refused or error
        raise refused or UnsupportedError(f"{region.name}: no unit")

    @property
    def frames(self) -> RefreshedFrames:
        """The map of frames."""
        return self._frames

    @property
    def untranslated(self) -> int:
        """Frames that were listed and that no managed page stands on, so far."""
        return sum(source.untranslated for source in self._sources)

    def close(self) -> None:
        """Stop counting; may be called again."""
        for source in self._sources:
            source.close()
        self._sources = ()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self, looks: tuple[Look, ...]) -> None:
        """Count on: devices watch all of their memory."""

    def drain(self) -> tuple[HintBatch, ...]:
        """Return a batch for each region in which an epoch has ended."""
        began = time.thread_time_ns()
        self._frames.refresh(self._refresh)
        batches = tuple(b for source in self._sources for b in source.drain())
        spent_ns = float(time.thread_time_ns() - began)
        if not batches:
            return ()
        first = replace(batches[0], background_ns=spent_ns)
        return (first, *batches[1:])


def plan_units(root: Path) -> list[tuple[Region, list[Pmu]]]:
    """Return the regions all of whose devices have a hotness unit, with those.

    Of several units of a device the first is used.
    """
    units = find_units(root)
    return [
        (region, [units[target.memory][0] for target in region.targets])
        for region in read_regions(root)[0]
        if all(target.memory in units for target in region.targets)
    ]


def _first_settings(epoch_ns: int, shift: int) -> Settings:
    return Settings(shift, FIRST_THRESHOLD, epoch_ns, tracked=Tracked.ALL)
