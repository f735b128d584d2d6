"""Hot lists of hotness units: entries, packets, text, register fields."""

import numpy as np
import pytest

from isotherm.core.kernels import TWINS
from isotherm.records import cxl_hmu, cxl_hmu_registers
from isotherm.records.cxl_hmu import (
    MAGIC,
    HotUnits,
    decode_stream,
    decode_words,
    packets,
    split_entries,
)
from isotherm.records.cxl_hmu_registers import Bits, epoch_fields, epoch_ns
from isotherm.records.cxl_hmu_text import decode_text, words_of_text

WIDTH = 16
#: As the documentation of the kernel's driver prints it.
PRINTED = b"""\
0 0x4a8 [0x30]: PERF_RECORD_AUXTRACE size: 0x28  offset: 0  ref: 0x1
. ... CXL_HMU data: size 40 bytes
Header 0: units: 3 counter_width 10
Header 1 : deadbeef
0000000000000283
0000000000010364
00000000000502ff

0 0x4d8 [0x18]: PERF_RECORD_FINISHED_ROUND
"""


def entries(unit: list[int], count: list[int], width: int = WIDTH) -> np.ndarray:
    """Return entries."""
    shifted = np.array(unit, np.uint64) << np.uint64(width)
    return shifted | np.array(count, np.uint64)


def rows(found: HotUnits) -> list[tuple[int, int]]:
    """Return units with their counts."""
    return list(zip(found.unit.tolist(), found.count.tolist(), strict=True))


ONE = entries([7, 9, 1 << 40], [643, 868, 0xFFFF])
TWO = entries([3], [5])


def test_packets_come_back() -> None:
    """What was put into packets is read from their bytes, in order, nothing lost."""
    words = np.concatenate([packets(ONE, WIDTH), packets(TWO, WIDTH)])
    found = decode_stream(words.astype("<u8").tobytes())
    assert [(7, 643), (9, 868), (1 << 40, 0xFFFF), (3, 5)] == rows(found)
    assert (16, 2, 0) == (found.counter_width, found.packets, found.lost)


def test_long_lists_are_several_packets() -> None:
    """A packet holds no more than the device's list does."""
    many = entries(list(range(10)), [1] * 10)
    found = decode_words(packets(many, WIDTH, most=4))
    assert (3, 10, 0) == (found.packets, len(found), found.lost)


@pytest.mark.parametrize("width", [1, 8, 16, 32, 63])
def test_any_counter_width(width: int) -> None:
    """The width says where count ends and unit begins."""
    words = entries([1], [1], width)
    unit, count = split_entries(words, width)
    assert ([1], [1]) == (unit.tolist(), count.tolist())
    found = decode_words(packets(words, width))
    assert (width, [(1, 1)]) == (found.counter_width, rows(found))


@pytest.mark.parametrize("width", [0, 64, 255])
def test_no_such_width(width: int) -> None:
    """A width of no bits, or of all, is refused."""
    with pytest.raises(ValueError, match="counter width"):
        split_entries(ONE, width)


def test_a_count_too_large_does_not_eat_the_next_packet() -> None:
    """A head that promises too much ends where the next one begins."""
    words = np.concatenate([packets(ONE, WIDTH), packets(TWO, WIDTH)])
    words[0] = 0xFFFF | WIDTH << 16
    found = decode_words(words)
    assert [(7, 643), (9, 868), (1 << 40, 0xFFFF), (3, 5)] == rows(found)


def test_a_count_too_small_loses_the_rest() -> None:
    """Words beyond what the head promised are nobody's."""
    words = np.concatenate([packets(ONE, WIDTH), packets(TWO, WIDTH)])
    words[0] = 1 | WIDTH << 16
    found = decode_words(words)
    assert ([(7, 643), (3, 5)], 2) == (rows(found), found.lost)


def test_another_width_is_lost() -> None:
    """A session has one width: a packet that says another is not believed."""
    odd = packets(entries([1, 2], [1, 1], 20), 20)
    words = np.concatenate([odd, packets(ONE, WIDTH)])
    found = decode_words(words)
    assert (3, 1, 4) == (len(found), found.packets, found.lost)
    assert (2, 5) == (len(decode_words(words, 20)), decode_words(words, 20).lost)


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        ([], 0),
        ([MAGIC], 1),
        ([5, 6, 7], 3),
        ([3 | 64 << 16, MAGIC, 1, 2, 3], 5),  # a width of 64 bits
        ([3, MAGIC, 1, 2, 3], 5),  # of none
        ([MAGIC, MAGIC, MAGIC], 3),
        ([(1 << 64) - 1] * 4, 4),
    ],
)
def test_what_is_no_packet_is_lost(words: list[int], lost: int) -> None:
    """No entry comes of it; every word is counted."""
    found = decode_words(np.array(words, np.uint64))
    assert (0, 0, lost) == (len(found), found.packets, found.lost)


def test_an_empty_packet() -> None:
    """A list without entries is a packet, too."""
    found = decode_words(np.array([0 | WIDTH << 16, MAGIC], np.uint64))
    assert (0, 1, 0) == (len(found), found.packets, found.lost)


def test_bytes_beyond_the_last_word() -> None:
    """They are one lost word."""
    found = decode_stream(packets(TWO, WIDTH).tobytes() + b"abc")
    assert ([(3, 5)], 1) == (rows(found), found.lost)


def test_parts_add_up() -> None:
    """Entries of one unit that came in two reads."""
    both = decode_words(packets(ONE, WIDTH)).then(decode_words(packets(TWO, WIDTH)))
    assert (4, 2, 16) == (len(both), both.packets, both.counter_width)
    assert 16 == both.then(HotUnits.none()).counter_width


def test_printed_text() -> None:
    """The text of perf report -D gives the entries that it shows."""
    found = decode_text(PRINTED)
    assert [(0, 0x283), (1, 0x364), (5, 0x2FF)] == rows(found)
    assert (16, 0) == (found.counter_width, found.lost)


def test_text_is_the_stream() -> None:
    """Printed and read, a stream is what it was; colours and indents aside."""
    words = np.concatenate([packets(ONE, WIDTH), packets(TWO, WIDTH)])
    lines = [f"\x1b[34m. ... CXL_HMU data: size {8 * len(words)} bytes"]
    at = 0
    while at < len(words):
        size = int(words[at]) & 0xFFFF
        lines.append(f"Header 0: units: {size:x} counter_width {WIDTH:x}")
        lines.append("Header 1 : deadbeef\x1b[m")
        lines += [f"{word:016x}" for word in words[at + 2 : at + 2 + size].tolist()]
        at += 2 + size
    got, missing = words_of_text("\n".join(lines).encode())
    assert (words.tolist(), 0) == (got.tolist(), missing)


@pytest.mark.parametrize(
    ("broken", "kept", "lost"),
    [
        (PRINTED.replace(b"0000000000010364", b"not an entry"), 1, 2),
        (PRINTED.replace(b"size 40", b"size 24"), 1, 0),
        (PRINTED.replace(b"size 40", b"size 48"), 3, 1),
        (PRINTED.replace(b"deadbeef", b"00000000"), 0, 5),
        (PRINTED.replace(b"CXL_HMU", b"CXL_"), 0, 0),
        (PRINTED[:170], 0, 3),
        (b"", 0, 0),
    ],
)
def test_broken_text(broken: bytes, kept: int, lost: int) -> None:
    """What cannot be read is counted by the size that the block says."""
    found = decode_text(broken)
    assert (kept, lost) == (len(found), found.lost)


@pytest.mark.parametrize("name", ["split", "find_heads", "gather"])
def test_kernels_equal_their_twins(name: str) -> None:
    """Streams of noise with packets in it give the same by both."""
    key = f"{cxl_hmu.__name__}.{name}"
    if key not in TWINS:
        pytest.skip("numba is off: there is nothing to compare with the twin")
    fast, twin = TWINS[key]
    rng = np.random.default_rng(3)
    for _ in range(50):
        words = rng.integers(0, 1 << 63, 200).astype(np.uint64)
        at = rng.choice(198, 20, replace=False)
        words[at] = rng.integers(0, 66, 20).astype(np.uint64) << np.uint64(16)
        words[at + 1] = MAGIC
        if name == "find_heads":
            found = [np.zeros(101, np.int64) for _ in range(2)]
            assert fast(words, found[0]) == twin(words, found[1])
        elif name == "split":
            pair = [[np.zeros(200, np.uint64) for _ in range(2)] for _ in range(2)]
            fast(words, 16, *pair[0])
            twin(words, 16, *pair[1])
            found = [np.concatenate(columns) for columns in pair]
        else:
            start, size = np.sort(at)[::4], rng.integers(0, 3, 5)
            pair = [[np.zeros(200, np.uint64) for _ in range(2)] for _ in range(2)]
            fast(words, start, size, 9, *pair[0])
            twin(words, start, size, 9, *pair[1])
            found = [np.concatenate(columns) for columns in pair]
        assert found[0].tolist() == found[1].tolist()


def test_fields_do_not_overlap() -> None:
    """No two fields of one part share a bit, and a field keeps to 64 bits."""
    fields = {k: v for k, v in vars(cxl_hmu_registers).items() if isinstance(v, Bits)}
    common = {"VERSION", "NUM_INSTANCES", "INSTANCE_LENGTH"}
    assert 40 == len(fields)
    for part in (common, set(fields) - common):
        taken: dict[int, int] = {}
        for name in part:
            field = fields[name]
            assert field.low + field.width <= 64
            mask = field.most << field.low
            assert 0 == taken.get(field.offset, 0) & mask, name
            taken[field.offset] = taken.get(field.offset, 0) | mask


def test_field_values() -> None:
    """Put and read back; what does not fit is refused."""
    field = cxl_hmu_registers.THRESHOLD
    assert 635 == field.of(field.put((1 << 64) - 1, 635))
    with pytest.raises(ValueError, match="expected 0 to"):
        field.put(0, 1 << 32)


@pytest.mark.parametrize("length_ns", [100_000, 500_000_000, 4_095_000_000_000])
def test_epochs(length_ns: int) -> None:
    """Scale and multiple give the length back; too short or long is refused."""
    assert length_ns == epoch_ns(*epoch_fields(length_ns))


@pytest.mark.parametrize("length_ns", [0, 10_000, 5_000_000_000_000])
def test_no_such_epoch(length_ns: int) -> None:
    """The registers cannot say it."""
    with pytest.raises(ValueError, match="epoch"):
        epoch_fields(length_ns)
    assert 0 == epoch_ns(0, 5) == epoch_ns(9, 5)
