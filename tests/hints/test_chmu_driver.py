"""The driver on the device model, and on devices that misbehave."""

import numpy as np
import pytest

from isotherm.core.errors import UnsupportedError
from isotherm.hints.chmu_driver import TIMEOUT_NS, DeviceError, Instance, open_block
from isotherm.hints.chmu_settings import Settings
from isotherm.machine.sim.chmu import DeviceSpec, HotnessUnit
from isotherm.records import cxl_hmu_registers as reg
from isotherm.records.cxl_hmu_registers import Reporting, Tracked

EPOCH_NS = 500_000_000
BASE = reg.COMMON_BYTES
PLAIN = Settings(12, 3, EPOCH_NS)


def device(**figures) -> tuple[HotnessUnit, Instance]:
    """Return a device of 1 GiB and its driver."""
    unit = HotnessUnit(DeviceSpec(**{"memory": 1 << 30, **figures}))
    (instance,) = open_block(unit)
    return unit, instance


def touch(unit: HotnessUnit, page: np.ndarray, dt_ns: int = EPOCH_NS, write=None):
    """Access pages of device memory, spread over a stretch of time."""
    n = len(page)
    at = (np.arange(n) * dt_ns // max(1, n)).astype(np.uint64)
    write = np.zeros(n, np.uint8) if write is None else write
    unit.play(np.asarray(page).astype(np.uint64) * np.uint64(4096), at, write, dt_ns)


def times(counts: dict[int, int]) -> np.ndarray:
    """Return accesses, so many of each page, in some order."""
    page = np.repeat(list(counts), list(counts.values()))
    return np.random.default_rng(1).permutation(page)


def found(instance: Instance) -> dict[int, int]:
    """Return what the list held, by unit."""
    units = instance.drain().units
    return dict(zip(units.unit.tolist(), units.count.tolist(), strict=True))


def test_capabilities() -> None:
    """What the device is comes out of its registers."""
    _, instance = device(
        hot_list=77, unit_shifts=(8, 12, 21), down_sampling=(1, 4), postponed=True
    )
    can = instance.capabilities
    assert (77, (8, 12, 21), (1, 4)) == (
        can.hot_list_size,
        can.unit_shifts,
        can.down_sampling,
    )
    assert (100_000_000, 100_000_000_000) == (can.min_epoch_ns, can.max_epoch_ns)
    assert can.epoch_based
    assert can.always_on
    assert can.postponed
    assert can.random_down_sampling
    assert not can.fill_interrupt
    assert frozenset(Tracked) == can.tracked


def test_counts_of_an_epoch() -> None:
    """Units of at least the threshold, with their counts, once the epoch is over."""
    unit, instance = device()
    instance.configure(PLAIN)
    touch(unit, times({5: 9, 70000: 3, 7: 2}), EPOCH_NS // 2)
    assert {} == found(instance)
    touch(unit, times({5: 1, 9: 2}), EPOCH_NS // 2)
    assert {5: 10, 70000: 3} == found(instance)
    touch(unit, times({7: 2, 9: 4}))
    assert {9: 4} == found(instance), "counters begin anew"


def test_always_on() -> None:
    """A unit is listed each time that it reaches the threshold, at once."""
    unit, instance = device()
    instance.configure(Settings(12, 3, EPOCH_NS, Reporting.ALWAYS_ON))
    touch(unit, times({5: 7, 6: 2}), 1000)
    units = instance.drain().units
    assert ([5, 5], [3, 3]) == (units.unit.tolist(), units.count.tolist())
    touch(unit, times({5: 2, 6: 1}), 1000)
    assert {5: 3, 6: 3} == found(instance)


@pytest.mark.parametrize("size", [2, 3, 8, 64])
def test_the_list_wraps(size: int) -> None:
    """Head and tail go round many times; no entry comes twice or is lost."""
    unit, instance = device(hot_list=size)
    instance.configure(PLAIN)
    rng = np.random.default_rng(size)
    for _ in range(3 * size):
        pages = rng.choice(1000, rng.integers(0, size), replace=False).tolist()
        wanted = {page: 3 + page % 5 for page in pages}
        touch(unit, times(wanted) if wanted else np.empty(0, np.int64))
        assert wanted == found(instance)


def test_overflow() -> None:
    """What finds no room is dropped, and the driver is told, once."""
    unit, instance = device(hot_list=8)
    instance.configure(PLAIN)
    touch(unit, times(dict.fromkeys(range(20), 5)))
    drained = instance.drain()
    assert (7, True, 13) == (len(drained.units), drained.overflowed, unit.dropped)
    touch(unit, times({1: 5}))
    drained = instance.drain()
    assert (1, False) == (len(drained.units), drained.overflowed)


def test_overflow_does_not_starve_the_end_of_memory() -> None:
    """A full list begins elsewhere the next time: in turns all are named."""
    unit, instance = device(hot_list=8)
    instance.configure(PLAIN)
    named: set[int] = set()
    for _ in range(6):
        touch(unit, times(dict.fromkeys(range(20), 5)))
        named |= set(found(instance))
    assert set(range(20)) == named


def test_postponed_entries_come_when_there_is_room() -> None:
    """One drain gets all of them: the list fills again while it is read."""
    unit, instance = device(hot_list=8, postponed=True)
    instance.configure(PLAIN)
    wanted = {page: 3 + page for page in range(50)}
    touch(unit, times(wanted))
    drained = instance.drain()
    got = dict(
        zip(drained.units.unit.tolist(), drained.units.count.tolist(), strict=True)
    )
    assert (wanted, True, 0) == (got, drained.overflowed, unit.dropped)


def test_counters_stop_at_their_width() -> None:
    """A count is never more than fits."""
    unit, instance = device(counter_width=4)
    instance.configure(PLAIN)
    touch(unit, times({1: 100, 2: 15, 3: 14}))
    assert {1: 15, 2: 15, 3: 14} == found(instance)


@pytest.mark.parametrize("shift", [8, 12, 16])
def test_units(shift: int) -> None:
    """A unit is 2^shift bytes."""
    unit, instance = device(unit_shifts=(8, 12, 16))
    instance.configure(Settings(shift, 1, EPOCH_NS))
    address = np.array([0, 255, 256, 4096, 65535, 65536], np.uint64)
    zero = np.zeros(6, np.uint8)
    unit.play(address, np.arange(6, dtype=np.uint64), zero, EPOCH_NS)
    units, counts = np.unique(address >> np.uint64(shift), return_counts=True)
    assert dict(zip(units.tolist(), counts.tolist(), strict=True)) == found(instance)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [(Tracked.ALL, {1: 4, 2: 4}), (Tracked.READS, {1: 4}), (Tracked.WRITES, {2: 4})],
)
def test_kinds_of_requests(kind: Tracked, wanted: dict[int, int]) -> None:
    """Reads, writes, or both."""
    unit, instance = device()
    instance.configure(Settings(12, 3, EPOCH_NS, tracked=kind))
    page = times({1: 4, 2: 4})
    touch(unit, page, write=(page == 2).astype(np.uint8))
    assert wanted == found(instance)


def test_ranges() -> None:
    """Only memory whose bit is set is counted; one bit is 256 MiB."""
    unit, instance = device()
    grain = reg.BITMAP_BYTES
    instance.configure(
        Settings(12, 3, EPOCH_NS, ranges=((grain, 2 * grain), (3 * grain, 4 * grain)))
    )
    first = [0, grain // 4096, 2 * grain // 4096, 3 * grain // 4096]
    touch(unit, times(dict.fromkeys(first, 4)))
    assert {first[1]: 4, first[3]: 4} == found(instance)
    instance.configure(PLAIN)
    touch(unit, times(dict.fromkeys(first, 4)))
    assert dict.fromkeys(first, 4) == found(instance)


@pytest.mark.parametrize("random", [False, True])
def test_down_sampling(random: bool) -> None:
    """One access in 2^n is counted, regularly or drawn."""
    unit, instance = device(down_sampling=(3,))
    instance.configure(Settings(12, 3, EPOCH_NS, down_sampling=3, random=random))
    touch(unit, times({1: 8000, 2: 80}))
    got = found(instance)
    assert got[1] == pytest.approx(1000, rel=0.12)
    assert got.get(2, 0) < 30


def test_finite_counters_keep_the_hottest() -> None:
    """With a hundredth of the counters, hot units are found, never counted too high."""
    unit, instance = device(counters=64)
    instance.configure(Settings(12, 20, EPOCH_NS))
    counts = dict.fromkeys(range(1000, 7400), 1) | dict.fromkeys(range(8), 600)
    touch(unit, times(counts))
    got = found(instance)
    assert set(range(8)) == set(got)
    assert all(300 < count <= 600 for count in got.values())
    assert unit.taken > 1000


def test_a_change_begins_anew() -> None:
    """Counters, list and overflow are gone when settings change."""
    unit, instance = device(hot_list=4)
    instance.configure(PLAIN)
    touch(unit, times(dict.fromkeys(range(20), 5)))
    touch(unit, times({3: 2}), EPOCH_NS // 2)
    instance.configure(Settings(12, 2, EPOCH_NS))
    assert (0, False) == (len(instance.drain().units), instance.drain().overflowed)
    touch(unit, times({3: 1}))
    assert {} == found(instance)


def test_handshakes() -> None:
    """Enabling takes time, and the driver waits for it; disabled it counts nothing."""
    unit, instance = device()
    assert not instance.enabled
    instance.configure(PLAIN)
    assert instance.enabled
    assert unit.now_ns() >= 2 * 20_000
    instance.disable()
    assert not instance.enabled
    touch(unit, times({5: 9}), 2 * EPOCH_NS)
    assert {} == found(instance)


def test_a_drain_before_it_was_set_up() -> None:
    """The width of a counter is not known yet: nothing is read."""
    assert 0 == len(device()[1].drain().units)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (Settings(14, 3, EPOCH_NS), "unit shift: expected one of (12, 13), got 14"),
        (Settings(12, 3, 10_000_000), "epoch: expected 100000000 to"),
        (Settings(12, 0, EPOCH_NS), "threshold: expected 1 or more, got 0"),
        (Settings(12, 1 << 16, EPOCH_NS), "threshold: expected 1 to 65535"),
        (Settings(12, 3, EPOCH_NS, down_sampling=2), "down-sampling: expected 0 or"),
        (Settings(12, 3, EPOCH_NS, random=True), "random down-sampling"),
        (Settings(12, 3, EPOCH_NS, notify_at=1), "fill interrupt"),
        (Settings(12, 3, EPOCH_NS, notify_at=1024), "fill interrupt: expected 1023"),
        (Settings(12, 3, EPOCH_NS, Reporting.ALWAYS_ON), "reporting"),
    ],
)
def test_settings_that_it_has_not(settings: Settings, what: str) -> None:
    """Refused, with what was asked for and what there is."""
    _, instance = device(always_on=False)
    with pytest.raises(UnsupportedError) as caught:
        instance.configure(settings)
    assert what in caught.value.message


class Odd:
    """Registers of a device, some of which read otherwise.

    Args:
        unit: The device.
        wrong: Offsets from the block, and what they read as.
    """

    def __init__(self, unit: HotnessUnit, wrong: dict[int, int]) -> None:
        self.unit, self.wrong = unit, wrong

    def __getattr__(self, name: str):
        return getattr(self.unit, name)

    def read(self, offset: int, bits: int) -> int:
        """Return a register."""
        return self.wrong.get(offset, self.unit.read(offset, bits))


@pytest.mark.parametrize(
    ("offset", "value", "what"),
    [
        (0, (1 << 64) - 1, "gone"),
        (0, 0, "version"),
        (8, 8, "instance length"),
        (8, 0x109, "multiple of 8"),  # no register there can be read whole
        (16 + 0x18, 1 << 31, "range bitmap: expected at most"),
        (BASE + reg.CAP0, (1 << 64) - 1, "gone"),
        (BASE + reg.CAP0, 1 << 48, "hot list: expected two slots"),
        (BASE + reg.CAP1, 0, "units: expected a size"),
        (BASE + 0x10, 4, "range bitmap"),
        (BASE + 0x18, 0x74, "hot list: expected a multiple of 8"),
        (BASE + 0x18, (1 << 64) - 8, "hot list: expected a multiple of 8"),
    ],
)
def test_blocks_that_contradict_themselves(offset: int, value: int, what: str) -> None:
    """Refused before anything is written."""
    unit = HotnessUnit(DeviceSpec(1 << 30))
    with pytest.raises(DeviceError, match=what):
        open_block(Odd(unit, {offset: value}))


def test_a_block_without_instances() -> None:
    """None is there to be had."""
    assert () == open_block(Odd(HotnessUnit(DeviceSpec(1 << 30)), {0: 1}))


@pytest.mark.parametrize("step", ["disable", "reset", "enable"])
def test_operations_that_do_not_end(step: str) -> None:
    """The driver gives up after its time, and says where the device hangs."""
    unit = HotnessUnit(DeviceSpec(1 << 30), operation_ns=10 * TIMEOUT_NS)
    (instance,) = open_block(unit)
    if step == "disable":
        instance.reset = instance.enable  # nothing to disable: hangs when enabling
        with pytest.raises(DeviceError, match="enable not done in 100 ms"):
            instance.configure(PLAIN)
        with pytest.raises(DeviceError, match="disable not done in 100 ms"):
            instance.disable()
    else:
        with pytest.raises(DeviceError, match=f"{step} not done in 100 ms"):
            getattr(instance, step)()
    assert TIMEOUT_NS <= unit.now_ns() < 2.2 * TIMEOUT_NS


@pytest.mark.parametrize(
    ("register", "value", "what"),
    [
        (reg.HEAD, 0xFFFF, "head and tail below 1024, got 65535"),
        (reg.TAIL, 1024, "head and tail below 1024"),
        (reg.STATUS, (1 << 64) - 1, "gone"),
    ],
)
def test_a_device_that_breaks_while_it_counts(
    register: int, value: int, what: str
) -> None:
    """No entry is read from where there is none."""
    unit = HotnessUnit(DeviceSpec(1 << 30))
    odd = Odd(unit, {})
    (instance,) = open_block(odd)
    instance.configure(PLAIN)
    odd.wrong[BASE + register] = value
    with pytest.raises(DeviceError, match=what):
        instance.drain()


def test_a_width_that_cannot_be() -> None:
    """A counter of no bits, or of all: refused."""
    odd = Odd(HotnessUnit(DeviceSpec(1 << 30)), {})
    (instance,) = open_block(odd)
    odd.wrong[BASE + reg.STATUS] = 0
    with pytest.raises(DeviceError, match="counter width: expected 1 to 63, got 0"):
        instance.configure(PLAIN)


@pytest.mark.parametrize(
    ("offset", "bits"), [(0, 24), (4, 64), (1, 16), (reg.HEAD + 1, 16)]
)
def test_registers_are_aligned(offset: int, bits: int) -> None:
    """The model takes 8, 16, 32 or 64 bits at multiples of their size."""
    unit = HotnessUnit(DeviceSpec(1 << 30))
    with pytest.raises(ValueError, match="bits at"):
        unit.read(offset, bits)
    with pytest.raises(ValueError, match="bits at"):
        unit.write(offset, bits, 0)


def test_registers_by_any_width() -> None:
    """A register read in parts is the register."""
    unit = HotnessUnit(DeviceSpec(1 << 30))
    for offset in range(0, BASE + reg.FIXED_BYTES, 8):
        whole = unit.read(offset, 64)
        assert whole == unit.read(offset, 32) | unit.read(offset + 4, 32) << 32
        parts = sum(unit.read(offset + i, 8) << 8 * i for i in range(8))
        assert whole == parts


def test_capabilities_cannot_be_written() -> None:
    """Nor can settings be, while it counts."""
    unit, instance = device()
    before = [unit.read(BASE + at, 64) for at in range(0, 0x20, 8)]
    for at in range(0, 0x20, 8):
        unit.write(BASE + at, 64, (1 << 64) - 1)
    assert before == [unit.read(BASE + at, 64) for at in range(0, 0x20, 8)]
    instance.configure(PLAIN)
    settings = unit.read(BASE + reg.CFG1, 64)
    unit.write(BASE + reg.CFG1, 64, 0)
    assert settings == unit.read(BASE + reg.CFG1, 64)
