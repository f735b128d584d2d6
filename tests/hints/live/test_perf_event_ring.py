"""Buffers that somebody else writes: straddling, filling up, going wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.hints.live.perf_event_ring import Buffer

SIZE = 64  # words
HEAD, TAIL = 1024, 1032


class Writer:
    """The kernel's side of a buffer."""

    def __init__(self, dtype: type = np.uint64, start: int = 0) -> None:
        self.control = np.zeros(512, np.uint64)
        self.data = np.zeros(SIZE * 8 // np.dtype(dtype).itemsize, dtype)
        self.control[HEAD // 8] = self.control[TAIL // 8] = start
        self.buffer = Buffer(self.control, self.data, HEAD, TAIL)

    def write(self, values: np.ndarray) -> int:
        """Write what has room, and return how many that was."""
        head, tail = (int(self.control[at // 8]) for at in (HEAD, TAIL))
        used = ((head - tail) % 2**64) // self.data.itemsize
        count = min(len(values), len(self.data) - used)
        first = head % self.data.nbytes // self.data.itemsize
        at = (first + np.arange(count)) % len(self.data)
        self.data[at] = values[:count]
        self.control[HEAD // 8] = (head + count * self.data.itemsize) % 2**64
        return count


@given(
    st.lists(st.tuples(st.integers(0, 90), st.booleans()), max_size=20),
    st.sampled_from([np.uint64, np.uint8]),
    st.sampled_from([0, 8, 500, 2**64 - 256]),
)
def test_everything_comes_out_once_and_in_order(steps, dtype, start) -> None:
    """Whatever is written between reads, across the end and past 2^64."""
    writer = Writer(dtype, start)
    value, written, found = 0, [], []
    for count, read in steps:
        values = (np.arange(value, value + count) % 251).astype(dtype)
        done = writer.write(values)
        written += values[:done].tolist()
        value += count
        if read:
            found += writer.buffer.take().tolist()
    found += writer.buffer.take().tolist()
    assert written == found
    assert 0 == writer.buffer.overwritten


@pytest.mark.parametrize("head", [8 * SIZE + 8, 2**40, 2**64 - 8])
def test_a_head_that_cannot_be_gives_nothing(head: int) -> None:
    """Further ahead than the buffer is long, or behind: no word of it is believed."""
    writer = Writer()
    writer.control[HEAD // 8] = head
    assert 0 == len(writer.buffer.take())
    writer.write(np.arange(3, dtype=np.uint64))
    assert [0, 1, 2] == writer.buffer.take().tolist()
