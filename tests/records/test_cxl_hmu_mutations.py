"""Malformed hot lists in volume: every word is accounted for, no page is invented."""

import numpy as np
import pytest

from isotherm.core.errors import IsothermError
from isotherm.hints.chmu_driver import MOST_ROUNDS, TIMEOUT_NS, open_block
from isotherm.hints.chmu_ranges import Listed, to_ranges
from isotherm.hints.chmu_settings import Settings
from isotherm.hints.interleave import Window
from isotherm.machine.sim.chmu import DeviceSpec, HotnessUnit
from isotherm.records import cxl_hmu_registers as reg
from isotherm.records.cxl_hmu import MAGIC, decode_stream, decode_words, packets
from isotherm.records.cxl_hmu_text import decode_text, words_of_text
from tests.records.mutation import SEEDS, batches, volume

WIDTH = 16
RNG = np.random.default_rng(11)
UNITS = 1 << 12  # of the device; entries of valid inputs lie below


def words_of(entries: int) -> np.ndarray:
    """Return a packet with so many entries."""
    unit = RNG.integers(0, UNITS, entries).astype(np.uint64)
    count = RNG.integers(1, 1 << WIDTH, entries).astype(np.uint64)
    return packets(unit << np.uint64(WIDTH) | count, WIDTH) if entries else HEAD


HEAD = np.array([WIDTH << 16, MAGIC], np.uint64)  # of a packet without entries
VALID = [words_of(n) for n in (0, 1, 2, 3, 5, 8, 11)] + [
    np.concatenate([words_of(3), words_of(2)])
]
STREAMS = [words.astype("<u8").tobytes() for words in VALID]


def printed(words: np.ndarray) -> bytes:
    """Return a stream as perf prints it."""
    lines = [f". ... CXL_HMU data: size {8 * len(words)} bytes"]
    at = 0
    while at < len(words):
        size = int(words[at]) & 0xFFFF
        lines += [
            f"Header 0: units: {size:x} counter_width {WIDTH:x}",
            "Header 1 : deadbeef",
            *(f"{word:016x}" for word in words[at + 2 : at + 2 + size].tolist()),
        ]
        at += 2 + size
    return "\n".join([*lines, "", ""]).encode()


class Table:
    """Frames 16 to 4111 hold flat pages 0 to 4095."""

    def flat_pages(self, frame: np.ndarray) -> np.ndarray:
        """Return the page on each frame."""
        page = frame.astype(np.int64) - 16
        known = (page >= 0) & (page < UNITS)
        return np.where(known, page, 0xFFFFFFFF).astype(np.uint32)

    def frames(self, first: int, last: int) -> np.ndarray:
        """Return the frames of flat pages."""
        return np.arange(first + 16, last + 16, dtype=np.uint32)


@pytest.mark.parametrize("seed", SEEDS)
def test_streams(seed: int) -> None:
    """Words are heads, entries or lost; what was whole comes through."""
    window = Window(16 * 4096, UNITS * 4096)
    for batch in batches(STREAMS, volume(40_000) // len(SEEDS) + 1, seed):
        whole = -(-batch.length // 8) * 8  # so that no row is out of step
        inside = np.arange(batch.data.shape[1])[None, :] < whole[:, None]
        stream = batch.data[inside]
        words = stream.view("<u8")
        found = decode_stream(stream, WIDTH)
        name = f"seed {batch.seed}, batch {batch.number}"
        assert len(words) == 2 * found.packets + len(found) + found.lost, name
        # No head is taken for an entry, nothing comes that was not in the stream.
        entry = found.unit << np.uint64(WIDTH) | found.count
        assert np.isin(entry, words).all(), name
        # Of inputs that nothing was done to every entry is there.
        kept: dict[int, int] = {}
        for origin in batch.origin[~batch.changed].tolist():
            kept[origin] = kept.get(origin, 0) + 1
        expected = np.concatenate(
            [np.repeat(decode_words(VALID[k]).unit, n) for k, n in kept.items()]
        )
        most = UNITS
        got = np.bincount(found.unit[found.unit < most].astype(int), minlength=most)
        assert (got >= np.bincount(expected.astype(int), minlength=most)).all(), name
        # What the device does not have is counted, and becomes no page.
        listed = Listed(window, found.unit, found.count, complete=True)
        ranges = to_ranges([listed], 12, Table(), merge=True)
        assert int((found.unit >= UNITS).sum()) == ranges.beyond, name
        assert (ranges.end <= UNITS).all(), name


def test_single_inputs() -> None:
    """One at a time, with any width: nothing is lost to a neighbour."""
    count = volume(40_000) // 40
    for batch in batches(STREAMS, count, SEEDS[0], rows=1000):
        for row in range(len(batch)):
            one = batch.one(row)
            found = decode_stream(one)
            words = -(-len(one) // 8)
            accounted = 2 * found.packets + len(found) + found.lost
            assert words == accounted, batch.name(row)


@pytest.mark.parametrize("seed", SEEDS)
def test_texts(seed: int) -> None:
    """Every word that a block promises is there or missing; digits stay digits."""
    texts = [printed(words) for words in VALID]
    for batch in batches(texts, volume(8000) // len(SEEDS) + 1, seed, rows=4096):
        text = batch.stream().tobytes()
        words, missing = words_of_text(text)
        name = f"seed {batch.seed}, batch {batch.number}"
        assert missing >= 0, name
        found = decode_text(text, WIDTH)
        accounted = 2 * found.packets + len(found) + found.lost
        assert len(words) + missing == accounted, name
        unchanged = int((~batch.changed).sum())
        assert found.packets >= unchanged, name


class Broken:
    """Registers of which some have changed; time passes by itself."""

    def __init__(self, unit: HotnessUnit, wrong: dict[int, int]) -> None:
        self.unit, self.wrong = unit, wrong

    def read(self, offset: int, bits: int) -> int:
        """Return a register, changed or not."""
        value = self.unit.read(offset, bits) if offset < 1 << 20 else (1 << 64) - 1
        return (value ^ self.wrong.get(offset, 0)) & ((1 << bits) - 1)

    def write(self, offset: int, bits: int, value: int) -> None:
        """Write a register."""
        self.unit.write(offset, bits, value)

    def read_words(self, offset: int, words: int) -> np.ndarray:
        """Return words, never more than a list may have."""
        assert words < 1 << 16
        return np.array(
            [self.read(offset + 8 * i, 64) for i in range(words)], np.uint64
        )

    def now_ns(self) -> int:
        """Return the time."""
        return self.unit.now_ns()

    def wait_ns(self, delay_ns: int) -> None:
        """Let time pass, faster than the driver asks."""
        self.unit.wait_ns(delay_ns + TIMEOUT_NS // 8)


def test_registers() -> None:
    """A device with changed registers is refused or driven; the driver never hangs."""
    rng = np.random.default_rng(SEEDS[0])
    offsets = [0, 8, *(16 + at for at in range(0, reg.FIXED_BYTES, 8))]
    offsets += [reg.COMMON_BYTES + reg.HEAD, reg.COMMON_BYTES + reg.TAIL]
    driven = refused = 0
    for _ in range(max(300, volume(300) // 1000)):
        unit = HotnessUnit(DeviceSpec(1 << 28, hot_list=16), operation_ns=1)
        wrong = {}
        for at in rng.choice(offsets, rng.integers(1, 4)).tolist():
            wrong[at] = 1 << int(rng.integers(0, 64)) | 1 << int(rng.integers(0, 64))
        try:
            for instance in open_block(Broken(unit, wrong))[:2]:
                shift = instance.capabilities.unit_shifts[0]
                instance.configure(Settings(shift, 2, 500_000_000))
                address = np.repeat(np.arange(12, dtype=np.uint64) << np.uint64(13), 3)
                at_ns = np.arange(36, dtype=np.uint64)
                unit.play(address, at_ns, np.zeros(36, np.uint8), 500_000_000)
                units = instance.drain().units
                assert len(units) < 1 << 16
                driven += 1
        except IsothermError:
            refused += 1
    assert driven > 0
    assert refused > 0


IMAGE_BASE = reg.COMMON_BYTES
LIST_AT, LIST_SIZE = 0x78, 9


def image() -> bytes:
    """Return the registers of a block with one instance, whose list has entries."""
    words = np.zeros((IMAGE_BASE + LIST_AT) // 8 + LIST_SIZE, np.uint64)

    def put(base: int, *fields: tuple[reg.Bits, int]) -> None:
        for field, value in fields:
            at = (base + field.offset) // 8
            words[at] = field.put(int(words[at]), value)

    put(0, (reg.VERSION, 1), (reg.NUM_INSTANCES, 1), (reg.INSTANCE_LENGTH, 0x200))
    put(
        IMAGE_BASE,
        (reg.CAP_TRACKED, 0x3F),
        (reg.CAP_MIN_EPOCH_SCALE, 1),
        (reg.CAP_MIN_EPOCH_MULTIPLE, 1),
        (reg.CAP_MAX_EPOCH_SCALE, 5),
        (reg.CAP_MAX_EPOCH_MULTIPLE, 100),
        (reg.CAP_HOT_LIST_SIZE, LIST_SIZE),
        (reg.CAP_UNIT_SIZES, 1 << 4),
        (reg.CAP_EPOCH_BASED, 1),
        (reg.CAP_BITMAP_OFFSET, reg.FIXED_BYTES),
        (reg.CAP_HOT_LIST_OFFSET, LIST_AT),
        (reg.COUNTER_WIDTH, WIDTH),
        (reg.Bits(reg.HEAD & ~7, 8 * (reg.HEAD & 7), 16), 7),
        (reg.Bits(reg.HEAD & ~7, 8 * (reg.TAIL & 7), 16), 4),
    )
    first = (IMAGE_BASE + LIST_AT) // 8
    unit = np.arange(LIST_SIZE, dtype=np.uint64)
    words[first:] = unit << np.uint64(WIDTH) | np.uint64(5)
    return words.astype("<u8").tobytes()


class Image:
    """Registers as bytes; enabling works, all else stays as it is."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.now = self.asked = 0
        self.given: list[np.ndarray] = []

    def read(self, offset: int, bits: int) -> int:
        """Return a register; beyond the bytes there is no device."""
        size = bits // 8
        if offset + size > len(self.data):
            return (1 << bits) - 1
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, bits: int, value: int) -> None:
        """Write a register that is there; what enables has its effect."""
        size = bits // 8
        if offset + size <= len(self.data):
            self.data[offset : offset + size] = value.to_bytes(size, "little")
        if offset == IMAGE_BASE + reg.CFG0:
            at = IMAGE_BASE + reg.STATUS
            status = self.read(at, 64)
            self.write(at, 64, reg.ENABLED.put(status, reg.ENABLE.of(value)))

    def read_words(self, offset: int, words: int) -> np.ndarray:
        """Return words, never more than a list may have."""
        self.asked += words
        there = bytes(self.data[offset : offset + 8 * words])
        there += b"\xff" * (8 * words - len(there))
        self.given.append(np.frombuffer(there, "<u8"))
        return self.given[-1]

    def now_ns(self) -> int:
        """Return the time."""
        return self.now

    def wait_ns(self, delay_ns: int) -> None:
        """Let time pass, faster than the driver asks."""
        self.now += delay_ns + TIMEOUT_NS // 4


#: Of so many inputs one is set up and started, too.
STARTED = 16


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_register_blocks(seed: int) -> None:
    """Capabilities and list of a damaged block: refused, or drained within bounds."""
    settings = Settings(12, 2, 500_000_000)
    drained = refused = entries = 0
    for batch in batches([image()], volume(16_000) // len(SEEDS), seed):
        for row in range(len(batch)):
            data = batch.one(row)
            access = Image(data)
            try:
                instances = open_block(access)
                if not instances:
                    continue
                instance = instances[0]
                if row % STARTED == 0:
                    instance.configure(settings)
                else:
                    instance.counter_width = WIDTH
                units = instance.drain().units
            except IsothermError:
                refused += 1
                continue
            drained += 1
            entries += len(units)
            size = instance.capabilities.hot_list_size
            assert len(units) == access.asked, batch.name(row)
            assert access.asked < size * MOST_ROUNDS, batch.name(row)
            if len(units) and row % 37 == 0:
                given = np.concatenate(access.given)
                entry = units.unit << np.uint64(units.counter_width) | units.count
                assert (entry == given).all(), batch.name(row)
    assert drained
    assert refused
    assert entries
