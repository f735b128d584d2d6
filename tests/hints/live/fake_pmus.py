"""sysfs of machines that are not on the desk, and events that replay records."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isotherm.hints.live.perf_event import EventSpec
from isotherm.machine.linux.spaces import SpaceMap
from isotherm.records.perf_fields import Field, SampleLayout, Shape
from isotherm.records.perf_ring import RingRecords, decode_ring
from tests.records.samples import sample

BLOCK = 128 << 20
#: Cycles in a nanosecond of the fake machines.
GHZ = 2.5
MEMORY = (
    Field.IP
    | Field.TID
    | Field.TIME
    | Field.ADDR
    | Field.CPU
    | Field.PERIOD
    | Field.WEIGHT_STRUCT
    | Field.DATA_SRC
    | Field.PHYS_ADDR
)
#: The process that is managed, its first virtual page, and its pages.
PID, FIRST, PAGES = 77, 0x10000, 1024
#: Levels and operations of a data source.
RAM, CXL, L2, NA = 13, 9, 2, 15
LOAD, STORE, NO_OP = 2, 4, 1


def one_process() -> SpaceMap:
    """Return one process with 1024 pages."""
    made = SpaceMap()
    made.update(PID, np.array([[FIRST, FIRST + PAGES]]))
    return made


def memory_sample(
    page: int,
    *,
    op: int = LOAD,
    level: int = RAM,
    frame: int | None = None,
    pid: int = PID,
    time: int = 0,
    cycles: int = 500,
    cpu: int = 0,
    period: int = 262144,
) -> bytes:
    """Return a sample of an access to a page of the managed process."""
    row = {
        Field.TID: pid | pid << 32,
        Field.TIME: time,
        Field.ADDR: (FIRST + page) << 12 | 0x40,
        Field.CPU: cpu,
        Field.PERIOD: period,
        Field.WEIGHT_STRUCT: cycles | 900 << 32,
        Field.DATA_SRC: op | level << 33,
        Field.PHYS_ADDR: 0 if frame == 0 else (frame or page + 1) << 12 | 0x40,
    }
    return sample(MEMORY, row)


def write(path: Path, text: str) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def machine(root: Path, blocks: dict[int, Sequence[int]]) -> Path:
    """Make the files of a machine whose nodes have these blocks of memory."""
    write(root / "sys/devices/system/memory/block_size_bytes", f"{BLOCK:x}")
    for node, numbers in blocks.items():
        for number in numbers:
            folder = root / f"sys/devices/system/node/node{node}/memory{number}"
            folder.mkdir(parents=True)
    khz = str(int(GHZ * 1e6))
    write(root / "sys/devices/system/cpu/cpu0/cpufreq/base_frequency", khz)
    return root


def pmu(root: Path, name: str, kind: int, **files: dict[str, str]) -> None:
    """Make a PMU: folders of files, and files beside its type as ``plain``."""
    folder = root / "sys/bus/event_source/devices" / name
    write(folder / "type", str(kind))
    for group, entries in files.items():
        for entry, text in entries.items():
            inside = folder if group == "plain" else folder / group
            write(inside / entry, text)


def zen4(root: Path, *, misses_only: bool = True) -> Path:
    """Make an AMD host; before Zen 4 IBS cannot drop cache hits."""
    machine(root, {0: (0, 1), 1: (2, 3)})
    form = {"cnt_ctl": "config:19", "rand_en": "config:57"}
    if misses_only:
        form["l3missonly"] = "config:16"
    pmu(root, "ibs_op", 11, format=form)
    pmu(root, "cpu", 4, format={"event": "config:0-7,32-35"})
    return root


def sapphire_rapids(root: Path, *, leader: bool = True) -> Path:
    """Make an Intel host; some want a leader before a latency event."""
    machine(root, {0: (0, 1), 1: (2, 3)})
    form = {"event": "config:0-7", "umask": "config:8-15", "ldlat": "config1:0-15"}
    events = {"mem-loads": "event=0xcd,umask=0x1,ldlat=3"}
    if leader:
        events["mem-loads-aux"] = "event=0x03,umask=0x82"
    pmu(root, "cpu", 4, format=form, events=events, caps={"max_precise": "3"})
    return root


def neoverse(root: Path) -> Path:
    """Make an Arm host with SPE on CPUs 0 and 1."""
    machine(root, {0: (0, 1), 1: (2, 3)})
    form = {
        "ts_enable": "config:0",
        "pa_enable": "config:1",
        "jitter": "config:16",
        "load_filter": "config:33",
        "store_filter": "config:34",
        "min_latency": "config2:0-11",
    }
    pmu(
        root,
        "arm_spe_0",
        8,
        format=form,
        caps={"min_interval": "1024"},
        plain={"cpumask": "0-1"},
    )
    midr = "sys/devices/system/cpu/cpu0/regs/identification/midr_el1"
    write(root / midr, "0x00000000410fd0c1")
    return root


class Replayed:
    """Events that were recorded: each drain gives the next stretch of a ring.

    Args:
        stretches: Bytes of rings, one list a drain, one element a CPU.
        areas: Bytes of AUX areas, likewise by CPU.
    """

    def __init__(
        self,
        stretches: list[list[bytes]] | None = None,
        areas: list[dict[int, bytes]] | None = None,
    ) -> None:
        self.stretches = stretches or []
        self.areas = areas or []
        self.spec: EventSpec
        self.leader: EventSpec | None = None
        self.cpus: tuple[int, ...] | None = None
        self.periods: list[int] = []
        self.is_open = False
        self._at: dict[int, int] = {}

    def made(
        self,
        spec: EventSpec,
        cpus: tuple[int, ...] | None,
        leader: EventSpec | None = None,
    ) -> "Replayed":
        """Stand in for the class of events."""
        self.spec, self.cpus, self.leader = spec, cpus, leader
        return self

    def open(self) -> None:
        """Begin."""
        self.is_open = True

    def close(self) -> None:
        """Stop."""
        self.is_open = False

    def set_period(self, period: int) -> bool:
        """Note the period."""
        self.periods.append(period)
        return True

    def drain(self) -> list[RingRecords]:
        """Return the next stretch."""
        layout = SampleLayout.of(self.spec.fields, Shape())
        rings = self.stretches.pop(0) if self.stretches else []
        return [decode_ring(np.frombuffer(r, np.uint64), layout) for r in rings]

    def drain_aux(self) -> dict[int, tuple[np.ndarray, int]]:
        """Return the next bytes of each area, and where they began."""
        found = {}
        for cpu, data in (self.areas.pop(0) if self.areas else {}).items():
            found[cpu] = (np.frombuffer(data, np.uint8), self._at.get(cpu, 0))
            self._at[cpu] = found[cpu][1] + len(data)
        return found
