"""Data sources: fields in their places, and the physical address before them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.records.data_source import (
    NOTHING_KNOWN,
    DataSource,
    Level,
    Op,
    PhysicalNodes,
    Where,
    where_of,
)

BLOCK = 128 << 20
NODES = PhysicalNodes.of_blocks({0: np.array([0, 1, 4]), 2: np.array([2, 3, 9])}, BLOCK)


def word(
    op: Op, level: Level, *, remote: int = 0, hops: int = 0, region: int = 0
) -> int:
    """Return a word of data source as the kernel packs it."""
    return op | level << 33 | remote << 37 | hops << 43 | region << 46


@given(
    st.sampled_from(Op),
    st.sampled_from(Level),
    st.integers(0, 1),
    st.integers(0, 7),
    st.integers(0, 31),
)
def test_fields_come_out_as_they_went_in(op, level, remote, hops, region) -> None:
    """Every field has its bits and takes none of its neighbours'."""
    noise = (3 << 24) | (0x7F << 26) | (3 << 38) | (7 << 40) | (0x1FFF << 51)
    packed = word(op, level, remote=remote, hops=hops, region=region) | noise
    got = DataSource.of(np.array([packed], np.uint64))
    found = (got.op, got.level, got.remote, got.hops, got.region)
    assert [op, level, remote, hops, region] == [int(column[0]) for column in found]


def test_nothing_known_is_no_load_and_nowhere() -> None:
    """The word that perf gives without data says neither operation nor memory."""
    got = np.array([NOTHING_KNOWN], np.uint64)
    assert not DataSource.of(got).is_memory.any()
    assert [Where.UNKNOWN] == where_of(got).tolist()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (word(Op.LOAD, Level.L3), Where.CACHE),
        (word(Op.LOAD, Level.LINE_FILL_BUFFER), Where.CACHE),
        (word(Op.LOAD, Level.RAM), Where.LOCAL),
        (word(Op.LOAD, Level.RAM, remote=1, hops=3), Where.REMOTE),
        (word(Op.LOAD, Level.CXL), Where.CXL),
        (word(Op.LOAD, Level.PMEM), Where.PMEM),
        (word(Op.LOAD, Level.UNCACHED), Where.OTHER),
        (word(Op.STORE, Level.NA), Where.UNKNOWN),
        (Op.LOAD | (0x02 | 0x80) << 5, Where.LOCAL),  # before Linux 4.12
        (Op.LOAD | (0x02 | 0x200) << 5, Where.REMOTE),
        (Op.LOAD | (0x02 | 0x08) << 5, Where.CACHE),
        (Op.LOAD | (0x04 | 0x08) << 5, Where.UNKNOWN),  # a miss of L1, no more
        # Of Intel's table (pebs_data_source[]): what a load that missed L3 may say.
        (0x02 | 0x04 << 5 | 1 << 19 | 3 << 33, Where.UNKNOWN),  # 0x00: "ukn L3"
        (0x02 | 0x102 << 5 | 3 << 33 | 1 << 37, Where.REMOTE),  # 0x0b
        (0x02 | 0x82 << 5 | 3 << 33, Where.LOCAL),
        (0x02 | 0x42 << 5 | 2 << 19 | 3 << 33, Where.CACHE),  # 0x04: L3 hit
        (0x02 | 0x402 << 5 | 1 << 37 | 3 << 33, Where.CACHE),  # another's cache
        (0x02 | 0x12 << 5 | 12 << 33, Where.CACHE),  # 0x02: line fill buffer
    ],
)
def test_levels_name_a_kind_of_memory(given: int, expected: Where) -> None:
    """What answered decides, by the newer field or by the older one."""
    assert [expected] == where_of(np.array([given], np.uint64)).tolist()


def test_blocks_join_to_ranges() -> None:
    """Neighbours of one node are one range; holes belong to nobody."""
    assert [0, 2 * BLOCK, 4 * BLOCK, 9 * BLOCK] == NODES.start.tolist()
    inside = np.array([0, 2 * BLOCK - 1, 2 * BLOCK, 5 * BLOCK, 10 * BLOCK], np.uint64)
    assert [0, 0, 2, -1, -1] == NODES.node_of(inside).tolist()
    nothing = PhysicalNodes.of_blocks({}, BLOCK)
    assert [-1] == nothing.node_of(np.array([1], np.uint64)).tolist()
