"""Entries of Power10's hot-cold tables: floating counts and fields in their places."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isotherm.records.hca import decode_hca, looks_right

FIELDS = (16, 3, 1, 12, 7, 5, 5, 5, 5, 5)


def entry(*values: int) -> int:
    """Return the word of an entry, first field uppermost."""
    word = 0
    for value, width in zip(values, FIELDS, strict=True):
        word = word << width | value
    return word


@given(st.tuples(*(st.integers(0, (1 << w) - 1) for w in FIELDS)))
def test_fields_come_out_as_they_went_in(values) -> None:
    """Counts are mantissa shifted by twice the exponent; the score is the kernel's."""
    table = decode_hca(entry(*values).to_bytes(8, "big"))
    count = (values[0] & 0xFFF) << 2 * (values[0] >> 12)
    previous = (values[3] & 0xFF) << 2 * (values[3] >> 8)
    assert (count, previous) == (table.count[0], table.previous[0])
    assert values[1:3] == (table.age[0], table.generation[0])
    assert values[4] == table.timelog[0]
    assert list(values[5:]) == table.socket[:, 0].tolist()
    assert previous + count / (values[1] + 1) == table.score[0]


def test_other_orders() -> None:
    """Bytes and fields may stand the other way round."""
    swapped = entry(5, 1, 0, 9, 3, 1, 0, 0, 0, 0).to_bytes(8, "little")
    assert [5.0] == decode_hca(swapped, big_endian=False).count.tolist()
    low_first = (5 | 2 << 16 | 7 << 20).to_bytes(8, "big")
    table = decode_hca(low_first, upper_first=False)
    assert (5.0, 2, 7.0) == (table.count[0], table.age[0], table.previous[0])


def test_an_entry_that_is_not_whole_is_left() -> None:
    """A page is never made of half an entry."""
    assert 2 == len(decode_hca(bytes(23)).count)
    assert 0 == len(decode_hca(b"").score)


def test_a_table_read_the_wrong_way_round_is_told() -> None:
    """Sockets that there are not give it away."""
    rng = np.random.default_rng(1)
    words = [
        entry(int(c), 1, 0, 200, 90, int(s), 1, 0, 1, 0)
        for c, s in zip(
            rng.integers(1, 4000, 500), rng.integers(0, 2, 500), strict=True
        )
    ]
    data = b"".join(w.to_bytes(8, "big") for w in words)
    assert looks_right(decode_hca(data), 2)
    assert not looks_right(decode_hca(data, big_endian=False), 2)
    assert not looks_right(decode_hca(data, upper_first=False), 2)
    assert looks_right(decode_hca(bytes(800)), 2)
