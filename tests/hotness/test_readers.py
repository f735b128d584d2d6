"""Two readers of one accessed bit: what one has cleared the other cannot see."""

import numpy as np
import pytest

from isotherm.hints.batch import AccessedBits, HintBatch
from isotherm.hints.capability import Capability
from isotherm.hotness.readers import BitReaders

CLEARS = Capability(clears=True)
S = 1_000_000_000


def look(source, end_s, interval_s, capability=CLEARS):
    """Return a batch of one block."""
    seen = AccessedBits(
        np.zeros(1, np.uint32),
        np.zeros(1, np.uint8),
        np.full(1, interval_s, np.float32),
    )
    return HintBatch(source, 0, int(end_s * S), seen, capability=capability)


def intervals(*batches):
    """Return what is left of the interval of each, in order."""
    readers = BitReaders()
    return [float(readers.own(b, b.seen).interval_s[0]) for b in batches]


def test_one_reader_is_believed():
    """Windows and long looks of one source are its own."""
    found = intervals(look("a", 1, 1.0), look("a", 2, 1.0), look("a", 4, 2.0))
    assert [1.0, 1.0, 2.0] == pytest.approx(found)


def test_a_clear_bit_says_nothing_of_the_time_before_another_look():
    """The interval begins with the other's last look."""
    found = intervals(look("a", 1, 1.0), look("b", 1.5, 1.5), look("a", 2, 1.0))
    assert [1.0, 0.5, 0.5] == pytest.approx(found)


def test_readers_with_a_view_of_their_own_do_not_matter():
    """What clears nothing is neither cut nor cuts."""
    own = Capability()
    found = intervals(look("a", 1, 1.0), look("b", 2, 2.0, own), look("a", 3, 2.0))
    assert [1.0, 2.0, 2.0] == pytest.approx(found)


def test_two_looks_at_once_leave_the_second_nothing():
    """An interval of nothing is unknown, and tells nothing."""
    assert [1.0, 0.0] == intervals(look("a", 1, 1.0), look("b", 1, 1.0))
