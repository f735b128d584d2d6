"""Hotness units of a host, from fake sysfs trees and recorded AUX areas."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isotherm.core.clock import VirtualClock
from isotherm.core.errors import NotPermittedError, UnsupportedError
from isotherm.hints.batch import Look, Mechanism, RangeCounts
from isotherm.hints.chmu_settings import Settings
from isotherm.hints.live.chmu import ChmuUnits, PerfLists, event_of, find_units
from isotherm.hints.live.chmu_map import read_regions
from isotherm.hints.live.perf_event import EventSpec
from isotherm.hints.live.perf_event_pmu import read_pmu
from isotherm.records.cxl_hmu import packets
from isotherm.records.perf_ring import SampleLayout, decode_ring
from tests.hints.live.fake_pmus import one_process, pmu, write

HOST = 0x1080000000
EPOCH_NS = 500_000_000
PAGE = 4096
WIDTH = 16
#: As the posted driver names its terms.
FORMAT = {
    "epoch_type": "config:0-1",
    "access_type": "config:2-9",
    "epoch_scale": "config:10-13",
    "epoch_multiplier": "config:14-25",
    "randomized_downsampling": "config:26",
    "downsampling_factor": "config:27-34",
    "hotness_threshold": "config1:0-31",
    "hotness_granual": "config1:32-63",
    "range_base": "config2:0-31",
    "range_size": "config2:32-63",
}


def decoder(root: Path, number: int, memory: int, dpa: str = "0x0") -> str:
    """Make an endpoint decoder of a memory device; return its name."""
    devices = root / "sys/devices/pci0000"
    endpoint = devices / f"endpoint{number}"
    name = f"decoder{number}.0"
    write(endpoint / name / "dpa_resource", dpa)
    (devices / f"mem{memory}").mkdir(exist_ok=True)
    (endpoint / "uport").symlink_to(devices / f"mem{memory}")
    bus = root / "sys/bus/cxl/devices"
    bus.mkdir(parents=True, exist_ok=True)
    (bus / name).symlink_to(endpoint / name)
    return name


def region(root: Path, number: int, targets: list[str], **files: str) -> None:
    """Make a region of 1 GiB a device."""
    folder = root / f"sys/bus/cxl/devices/region{number}"
    size = len(targets) << 30
    figures = {
        "resource": f"{HOST + number * (16 << 30):#x}",
        "size": f"{size:#x}",
        "interleave_ways": str(len(targets)),
        "interleave_granularity": "1024",
        "commit": "1",
    }
    for name, text in {**figures, **files}.items():
        write(folder / name, text)
    for position, target in enumerate(targets):
        write(folder / f"target{position}", target)


def unit(root: Path, memory: int, number: int = 0) -> None:
    """Make the PMU of an instance."""
    name = f"cxl_hmu_mem{memory}.0.{number}"
    pmu(root, name, 90 + memory, format=FORMAT, plain={"cpumask": "3"})


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Return a host with one device, its unit, and a region."""
    region(tmp_path, 0, [decoder(tmp_path, 5, 0)])
    unit(tmp_path, 0)
    return tmp_path


class Areas:
    """Events whose AUX areas were recorded: each drain gives the next stretch.

    Args:
        stretches: Bytes, one element a drain; None: an open that is refused.
        refuse: Errno that opening such an event gets.
    """

    def __init__(self, *stretches: bytes, refuse=lambda spec: 0) -> None:
        self.stretches = list(stretches)
        self.opened: list[tuple[EventSpec, tuple[int, ...] | None]] = []
        self.is_open = False
        self._refuse = refuse

    def made(self, spec: EventSpec, cpus: tuple[int, ...] | None) -> "Areas":
        """Take what is to be opened."""
        self.opened.append((spec, cpus))
        return self

    def open(self) -> None:
        """Begin."""
        if code := self._refuse(self.opened[-1][0]):
            raise OSError(code, "refused")
        self.is_open = True

    def disable(self) -> None:
        """Stop."""

    def close(self) -> None:
        """Stop."""
        self.is_open = False

    def drain(self) -> list:
        """Return nothing beside the packets."""
        layout = SampleLayout.of(self.opened[-1][0].fields)
        return [decode_ring(np.empty(0, np.uint64), layout)]

    def drain_aux(self) -> dict[int, tuple[np.ndarray, int]]:
        """Return the next stretch."""
        data = self.stretches.pop(0) if self.stretches else b""
        return {3: (np.frombuffer(data, np.uint8), 0)}


class HandedOn(Areas):
    """A device that counts the same every epoch, and a kernel that hands its list on.

    As the posted driver does it: at half a list, on overflow, and the rest on stop.

    Args:
        counts: Accesses an epoch by unit; they are listed in this order.
        slots: Entries that fit into the list.
    """

    def __init__(self, counts: dict[int, int], slots: int) -> None:
        super().__init__()
        self.counts, self.slots = counts, slots
        self.held: list[tuple[int, int]] = []
        self.dropped = 0
        self._written = b""

    def _hand_on(self) -> None:
        word = np.array([u << WIDTH | n for u, n in self.held], np.uint64)
        self._written += packets(word, WIDTH).tobytes()
        self.held = []

    def epoch(self) -> None:
        """Let an epoch end."""
        threshold = self.opened[-1][0].config1 & 0xFFFFFFFF
        found = [(u, n) for u, n in self.counts.items() if n >= threshold]
        room = self.slots - len(self.held)
        self.held += found[:room]
        self.dropped = max(0, len(found) - room)
        if len(self.held) >= self.slots // 2:
            self._hand_on()

    def disable(self) -> None:
        """Write the rest of the list."""
        self._hand_on()

    def open(self) -> None:
        """Begin with an empty list."""
        super().open()
        self.held = []

    def close(self) -> None:
        """Forget what was not read."""
        super().close()
        self._written = b""

    def drain_aux(self) -> dict[int, tuple[np.ndarray, int]]:
        """Return what was written."""
        data, self._written = self._written, b""
        return {3: (np.frombuffer(data, np.uint8), 0)}

    @property
    def thresholds(self) -> list[int]:
        """With which it was opened."""
        return [spec.config1 & 0xFFFFFFFF for spec, _ in self.opened]


class Frames:
    """Page p of 1024 stands on the region's frame p."""

    refreshed = 0

    def refresh(self, pages: int) -> int:
        """Count what is asked for."""
        self.refreshed += pages
        return pages

    def frames(self, first: int, last: int) -> np.ndarray:
        """Return the frames of flat pages."""
        return np.arange(HOST // PAGE + first, HOST // PAGE + last, dtype=np.uint32)

    def flat_pages(self, frame: np.ndarray) -> np.ndarray:
        """Return the page on each frame."""
        page = frame.astype(np.int64) - HOST // PAGE
        known = (page >= 0) & (page < 1024)
        return np.where(known, page, 0xFFFFFFFF).astype(np.uint32)


def listed(units: dict[int, int]) -> bytes:
    """Return a packet."""
    word = np.array([u << WIDTH | n for u, n in units.items()], np.uint64)
    return packets(word, WIDTH).tobytes()


def opened(root: Path, areas: Areas):
    """Return the source, open, and its clock."""
    clock = VirtualClock()
    spaces, frames = one_process(), Frames()
    made = ChmuUnits(spaces, clock, frames, EPOCH_NS, root=root, make=areas.made)
    made.open()
    return made, clock


# ---- discovery


def test_regions_as_sysfs_tells_them(tmp_path: Path) -> None:
    """Devices by position, each with its part of the region."""
    names = [decoder(tmp_path, 5 + i, i, hex(i << 28)) for i in range(3)]
    region(tmp_path, 0, [names[2], names[0], names[1]])
    (found,), wrong = read_regions(tmp_path)
    assert ("region0", []) == (found.name, wrong)
    assert ["mem2", "mem0", "mem1"] == [target.memory for target in found.targets]
    windows = [target.window for target in found.targets]
    assert [0, 1, 2] == [w.position for w in windows]
    assert [2 << 28, 0, 1 << 28] == [w.device for w in windows]
    assert {(HOST, 3 << 30, 3, 1024)} == {
        (w.host, w.size, w.ways, w.granularity) for w in windows
    }


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"resource": "nonsense"}, "resource: expected a number, got 'nonsense'"),
        ({"interleave_ways": "5"}, "ways: expected one of"),
        ({"interleave_ways": "999999999"}, "interleave_ways: expected 1 to 16"),
        ({"interleave_granularity": "300"}, "granularity"),
        ({"size": "0x0"}, "size"),
        ({"target0": "../../../etc"}, "target0: expected a decoder"),
        ({"target0": ""}, "target0: expected a decoder, got ''"),
        ({"target0": "decoder99.0"}, "dpa_resource"),
    ],
)
def test_regions_that_cannot_be_read(host: Path, files: dict, what: str) -> None:
    """Left out, and said what is wrong; the others stay."""
    region(host, 1, ["decoder5.0"], **files)
    for name, text in files.items():
        write(host / f"sys/bus/cxl/devices/region1/{name}", text)
    regions, (wrong,) = read_regions(host)
    assert ["region0"] == [r.name for r in regions]
    assert wrong.startswith("region1: ")
    assert what in wrong


def test_regions_not_in_use(host: Path) -> None:
    """A region that is not committed is none; a host without CXL has none."""
    region(host, 1, ["decoder5.0"], commit="0")
    assert 1 == len(read_regions(host)[0])
    assert ([], []) == read_regions(host / "nowhere")


def test_units_by_device(host: Path) -> None:
    """Every instance; other PMUs are passed over."""
    unit(host, 0, 1)
    unit(host, 11)
    pmu(host, "cxl_hmu_odd", 1, format=FORMAT)
    pmu(host, "cpu", 4, format={})
    found = find_units(host)
    assert {"mem0": 2, "mem11": 1} == {name: len(pmus) for name, pmus in found.items()}


def test_probe(tmp_path: Path, host: Path) -> None:
    """Says what is missing: the unit, the region, or the right to open events."""
    nothing = ChmuUnits.probe(tmp_path / "nowhere")
    assert (False, "chmu") == (nothing.present, nothing.name)
    assert "no cxl_hmu_mem*" in nothing.why
    # Type 90 is no PMU of this host: the kernel says so.
    assert not ChmuUnits.probe(host).present
    assert "cxl_hmu_mem0.0.0" in ChmuUnits.probe(host).why
    (host / "sys/bus/cxl/devices/region0/resource").write_text("x")
    assert "in no region in use; region0: resource" in ChmuUnits.probe(host).why


def test_this_host_answers() -> None:
    """The probe changes nothing and gives a reason."""
    assert len(ChmuUnits.probe().why) > 10


def test_a_region_needs_all_its_units(host: Path) -> None:
    """A device without one would make its pages look cold."""
    region(host, 0, ["decoder5.0", decoder(host, 6, 1)])
    with pytest.raises(UnsupportedError, match="in no region in use"):
        opened(host, Areas())
    unit(host, 1)
    made, _ = opened(host, Areas())
    made.close()


# ---- settings


def test_event(host: Path) -> None:
    """Terms at the bits that sysfs gives; nothing is excluded, no down-sampling."""
    found = read_pmu("cxl_hmu_mem0.0.0", host)
    assert found is not None
    spec = event_of(found, Settings(12, 635, 400_000_000))
    assert 0 == spec.config & 3
    assert 6 == spec.config >> 2 & 0xFF
    scale, multiple = spec.config >> 10 & 15, spec.config >> 14 & 0xFFF
    # 400 ms, in a unit of 100 µs or 1 ms.
    assert 400_000 == multiple * {1: 100, 2: 1000}[scale]
    assert 0 == spec.config >> 26
    assert (635, 12, 0) == (spec.config1 & 0xFFFFFFFF, spec.config1 >> 32, spec.config2)
    assert (90, 1, False, False) == (
        spec.type,
        spec.period,
        spec.exclude_hv,
        spec.inherit,
    )


@pytest.mark.parametrize(
    ("formats", "what"),
    [
        ({"epoch_type": "config:0-1"}, "no 'access_type'"),
        (FORMAT | {"hotness_threshold": "config1:0-3"}, "hotness_threshold"),
    ],
)
def test_terms_that_are_missing(tmp_path: Path, formats: dict, what: str) -> None:
    """Said by name: the driver's interface may change before it is merged."""
    pmu(tmp_path, "cxl_hmu_mem0.0.0", 90, format=formats)
    found = read_pmu("cxl_hmu_mem0.0.0", tmp_path)
    assert found is not None
    with pytest.raises(UnsupportedError, match=what):
        event_of(found, Settings(12, 635, EPOCH_NS))


# ---- looking


def test_pages_of_the_process(host: Path) -> None:
    """Units become pages; what stands on no page of ours is counted."""
    areas = Areas(listed({0: 9, 1: 4, 700: 30, 5000: 8}), listed({2: 5}))
    made, clock = opened(host, areas)
    assert (3,) == areas.opened[0][1], "on the CPU that the PMU names"
    clock.advance(EPOCH_NS)
    (batch,) = made.drain()
    seen = batch.seen
    assert isinstance(seen, RangeCounts)
    assert ([0, 1, 700], [9, 4, 30]) == (seen.start.tolist(), seen.count.tolist())
    assert [[0, 1024]] == seen.watched.tolist()
    assert (False, 2.0) == (seen.complete, seen.threshold)
    assert 1 == made.untranslated
    assert Mechanism.CHMU == made.mechanism
    assert made.capability == batch.capability
    assert batch.capability.post_cache
    clock.advance(EPOCH_NS // 2)
    made.look((Look(Mechanism.CHMU, 0, 1024),))
    made.close()
    assert not areas.is_open
    made.close()


def test_no_batch_within_an_epoch(host: Path) -> None:
    """Nothing can have been listed."""
    made, clock = opened(host, Areas())
    clock.advance(EPOCH_NS // 3)
    assert () == made.drain()


def test_broken_packets_are_lost(host: Path) -> None:
    """Words that belong to none are counted."""
    made, clock = opened(host, Areas(listed({1: 4}) + b"\xff" * 16))
    clock.advance(EPOCH_NS)
    (batch,) = made.drain()
    assert (2, [4]) == (batch.lost, batch.seen.count.tolist()) or batch.lost == 1


def test_the_threshold_rises_where_the_list_overflows(host: Path) -> None:
    """No register tells: packets that are as large as can be do."""
    # The hot units are listed last, so a list that overflows has none of them.
    counts = {u: 3 + u // 8 for u in range(320)}
    areas = HandedOn(counts, 64)
    made, clock = opened(host, areas)
    seen = set()
    for _ in range(24):
        clock.advance(EPOCH_NS)
        areas.epoch()
        for batch in made.drain():
            assert isinstance(batch.seen, RangeCounts)
            seen = {*batch.seen.start.tolist()}
    assert 0 == areas.dropped
    assert {*range(288, 320)} <= seen
    assert sorted(areas.thresholds) == areas.thresholds


@pytest.mark.parametrize(
    ("first", "drains"), [(b"", 6), (listed({1: 4}), 2)], ids=["none", "at-once"]
)
def test_the_threshold_stays_while_nothing_is_known(
    host: Path, first: bytes, drains: int
) -> None:
    """A list that did not come tells nothing; one that came at once is not sparse."""
    areas = Areas(first)
    made, clock = opened(host, areas)
    for _ in range(drains):
        clock.advance(EPOCH_NS)
        made.drain()
    assert 1 == len(areas.opened)


def test_epochs_that_the_list_was_held(host: Path) -> None:
    """What comes late stands for all epochs since the last time: rates stay true."""
    areas = HandedOn(dict.fromkeys(range(11), 12), 64)
    made, clock = opened(host, areas)
    made._sources[0]._tune = False
    rates = []
    for epoch in range(9):
        clock.advance(EPOCH_NS)
        areas.epoch()
        batches = made.drain()
        assert (epoch % 3 == 2) == bool(batches)
        for batch in batches:
            assert isinstance(batch.seen, RangeCounts)
            assert 6.0 == batch.seen.threshold
            assert [epoch - 2, epoch + 1] == [
                batch.start_ns // EPOCH_NS,
                batch.end_ns // EPOCH_NS,
            ]
            rates += (batch.seen.count / batch.seen.exposure_s).tolist()
    assert [24.0] * 33 == rates


def test_a_changed_threshold_opens_the_event_anew(host: Path) -> None:
    """It falls while next to nothing is listed; what the list held is not lost."""
    areas = HandedOn(dict.fromkeys(range(32), 40), 64)
    made, clock = opened(host, areas)
    clock.advance(EPOCH_NS)
    areas.epoch()
    assert 1 == len(made.drain())
    areas.counts = {7: 9}
    counts = []
    for _ in range(4):
        clock.advance(EPOCH_NS)
        areas.epoch()
        for batch in made.drain():
            assert isinstance(batch.seen, RangeCounts)
            counts.append(
                (
                    batch.seen.start.tolist(),
                    batch.seen.count.tolist(),
                    batch.seen.exposure_s.tolist(),
                    batch.seen.threshold,
                )
            )
    assert [2, 1] == areas.thresholds
    # Three epochs of nine accesses, as counted with the threshold of then.
    assert [([7], [27.0], [1.5], 6.0)] == counts
    made.close()
    assert not areas.is_open


def test_two_devices_that_hand_on_at_other_times(host: Path) -> None:
    """Each list stands for its own epochs."""
    region(
        host,
        0,
        ["decoder5.0", decoder(host, 6, 1)],
        interleave_granularity="4096",
    )
    unit(host, 1)
    both = [HandedOn({0: 10}, 2), HandedOn({0: 10}, 4)]
    waiting, clock = list(both), VirtualClock()
    made = ChmuUnits(
        one_process(),
        clock,
        Frames(),
        EPOCH_NS,
        root=host,
        make=lambda spec, cpus: waiting.pop(0).made(spec, cpus),
    )
    made.open()
    made._sources[0]._tune = False
    found = []
    for _ in range(4):
        clock.advance(EPOCH_NS)
        for each in both:
            each.epoch()
        (batch,) = made.drain()
        assert isinstance(batch.seen, RangeCounts)
        rate = batch.seen.count / batch.seen.exposure_s
        found.append(dict(zip(batch.seen.start.tolist(), rate.tolist(), strict=True)))
    assert [{0: 20.0}, {0: 20.0, 1: 20.0}] * 2 == found
    made.close()


def test_a_unit_that_the_driver_refuses(host: Path) -> None:
    """The next nearest size is tried."""
    areas = Areas(
        listed({0: 8}), refuse=lambda spec: 22 if spec.config1 >> 32 < 13 else 0
    )
    made, clock = opened(host, areas)
    assert [12, 11, 13] == [spec.config1 >> 32 for spec, _ in areas.opened]
    clock.advance(EPOCH_NS)
    (batch,) = made.drain()
    assert [(0, 2)] == list(zip(batch.seen.start, batch.seen.end, strict=True))


def test_a_driver_that_refuses_all(host: Path) -> None:
    """The first refusal is what is told; rights are another matter."""
    with pytest.raises(UnsupportedError, match=r"cxl_hmu_mem0\.0\.0.*EINVAL"):
        opened(host, Areas(refuse=lambda spec: 22))
    with pytest.raises(NotPermittedError, match="CAP_PERFMON"):
        opened(host, Areas(refuse=lambda spec: 13))


def test_two_devices_add_up(host: Path) -> None:
    """Each has a part of every page; together they have all of it."""
    region(host, 0, ["decoder5.0", decoder(host, 6, 1)])
    unit(host, 1)
    # Granules of 1 KiB: units of 1 KiB; page p is units 2p, 2p + 1 of both.
    areas = [Areas(listed({2: 10, 3: 10})), Areas(listed({2: 10, 3: 10, 40: 7}))]
    waiting = list(areas)
    clock = VirtualClock()
    made = ChmuUnits(
        one_process(),
        clock,
        Frames(),
        EPOCH_NS,
        root=host,
        make=lambda spec, cpus: waiting.pop(0).made(spec, cpus),
    )
    made.open()
    assert [10, 10] == [a.opened[0][0].config1 >> 32 for a in areas]
    clock.advance(EPOCH_NS)
    for each in made._sources:
        each._tune = False
    (batch,) = made.drain()
    assert ([1, 20], [2, 21]) == (batch.seen.start.tolist(), batch.seen.end.tolist())
    # Of page 20 a quarter was listed, and the lists are not complete: scaled up.
    assert [40.0, 28.0] == batch.seen.count.tolist()
    made.close()


def test_lists_that_were_not_started(host: Path) -> None:
    """They have no settings and hold nothing."""
    found = read_pmu("cxl_hmu_mem0.0.0", host)
    assert found is not None
    lists = PerfLists(found, VirtualClock())
    assert 0 == len(lists.collect().units)
    with pytest.raises(UnsupportedError, match="not started"):
        _ = lists.settings
    lists.stop()
    assert replace(Settings(12, 1, EPOCH_NS), threshold=lists.most).threshold == 65535
