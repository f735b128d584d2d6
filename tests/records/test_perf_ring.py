"""Records of a perf ring, built here byte by byte, come out as columns."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import TWINS
from isotherm.records import perf_ring as pr
from isotherm.records.perf_ring import Field, SampleLayout, decode_ring

TYPE = Field.IP | Field.TID | Field.TIME | Field.ADDR | Field.CPU | Field.PERIOD
LAYOUT = SampleLayout.of(TYPE)


def record(kind: int, body: bytes, misc: int = 2) -> bytes:
    """Return a record with its header."""
    return struct.pack("<IHH", kind, misc, 8 + len(body)) + body


def sample(n: int, more: bytes = b"", misc: int = 2) -> bytes:
    """Return the n-th sample of LAYOUT."""
    body = struct.pack("<QiiQQIIQ", n, 7, 8, 1000 + n, n << 12, n % 3, 0, 1)
    return record(pr.RECORD_SAMPLE, body + more, misc)


def words(data: bytes) -> np.ndarray:
    """Return bytes as the decoder takes them."""
    return np.frombuffer(data, np.uint64)


def test_eighty_byte_sample_has_every_field_in_its_place() -> None:
    """The record of a memory sample, as PEBS and IBS give it, has ten words."""
    kind = TYPE | Field.WEIGHT | Field.DATA_SRC | Field.PHYS_ADDR
    layout = SampleLayout.of(kind)
    body = struct.pack("<QiiQQIIQQQQ", 1, 2, 3, 4, 5, 6, 0, 7, 8, 9, 10)
    got = decode_ring(words(record(pr.RECORD_SAMPLE, body)), layout)
    assert 80 == 8 * layout.words
    fields = (Field.IP, Field.TIME, Field.ADDR, Field.PERIOD, Field.WEIGHT)
    assert [1, 4, 5, 7, 8] == [int(got.column(f)[0]) for f in fields]
    more = (Field.DATA_SRC, Field.PHYS_ADDR)
    assert [9, 10] == [int(got.column(f)[0]) for f in more]
    assert (2, 3, 6) == (int(got.pid[0]), int(got.tid[0]), int(got.cpu[0]))


def test_identifier_and_ids_keep_their_order() -> None:
    """IDENTIFIER comes first, ID after ADDR, whatever their bits are."""
    layout = SampleLayout.of(Field.ID | Field.ADDR | Field.IDENTIFIER | Field.CGROUP)
    assert (Field.IDENTIFIER, Field.ADDR, Field.ID, Field.CGROUP) == layout.fields


def test_fields_after_a_variable_one_are_not_read() -> None:
    """What stands behind RAW has no fixed place and is refused by name."""
    layout = SampleLayout.of(Field.ADDR | Field.RAW | Field.PHYS_ADDR)
    data = record(pr.RECORD_SAMPLE, struct.pack("<QIIQ", 5, 12, 0, 0))
    got = decode_ring(words(data * 2), layout)
    assert [5, 5] == got.column(Field.ADDR).tolist()
    with pytest.raises(KeyError):
        got.column(Field.PHYS_ADDR)


def test_lost_records_among_samples_are_counted() -> None:
    """LOST and LOST_SAMPLES say how many, THROTTLE how often; none is a sample."""
    lost = record(pr.RECORD_LOST, struct.pack("<QQ", 99, 41))
    few = record(pr.RECORD_LOST_SAMPLES, struct.pack("<Q", 2))
    slow = record(pr.RECORD_THROTTLE, bytes(24))
    again = record(pr.RECORD_UNTHROTTLE, bytes(24))
    comm = record(3, bytes(16))
    data = sample(0) + lost + sample(1) + few + slow + again + comm + sample(2)
    got = decode_ring(words(data), LAYOUT)
    assert (43, 1, 1, 0) == (got.lost, got.throttled, got.other, got.broken_words)
    assert [0, 4096, 8192] == got.column(Field.ADDR).tolist()


@pytest.mark.parametrize("broken", [bytes(8), sample(9)[:16], b"\x09\0\0\0\2\0\x0c\0"])
def test_a_broken_end_is_left_out_and_counted(broken: bytes) -> None:
    """No size, a record cut off, a size that is no multiple of eight: stop there."""
    got = decode_ring(words(sample(1) + broken), LAYOUT)
    assert 1 == len(got)
    assert len(broken) // 8 == got.broken_words


pieces = st.one_of(
    st.integers(1, 200).map(lambda n: b"".join(sample(i) for i in range(n))),
    st.integers(0, 5).map(lambda n: sample(n, misc=n)),
    st.integers(1, 3).map(lambda n: sample(n, bytes(8 * n))),
    st.integers(0, 9).map(lambda n: record(2, struct.pack("<QQ", 1, n))),
    st.integers(0, 3).map(lambda n: record(pr.RECORD_SAMPLE, bytes(8 * n))),
    st.sampled_from([record(5, bytes(24)), record(3, bytes(8)), bytes(8)]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(pieces, max_size=12), st.integers(0, 6))
def test_kernel_equals_its_twin(parts: list[bytes], cut: int) -> None:
    """Equal-sized and mixed records, whole or cut off: the same columns and counts."""
    data = b"".join(parts)
    data = data[: max(0, len(data) - 8 * cut)]
    found = []
    pair = TWINS.get("isotherm.records.perf_ring.walk", (pr.walk_twin,) * 2)
    for function in pair:
        columns = np.zeros((len(LAYOUT.slot), len(data) // 8 + 1), np.uint64)
        tally = np.zeros(pr.TALLIES, np.int64)
        rows = function(
            words(data), LAYOUT.slot, LAYOUT.words, LAYOUT.words, columns, tally
        )
        found.append((rows, columns.tolist(), tally.tolist()))
    assert found[0] == found[1]
