"""Fields out of lines of text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.kernels import TWINS
from isotherm.records import lines as module
from isotherm.records.lines import parse_lines

KINDS = ("letter", "hex", "decimal")


def test_fields_of_each_kind() -> None:
    """A letter is its code, hexadecimal may have 0x, separators may repeat."""
    found = parse_lines(b"l 0x1f 7\r\n\n# no\ns,FF\t 8\n", KINDS, skip=b"#")
    assert [[ord("l"), 31, 7], [ord("s"), 255, 8]] == found.values.tolist()
    assert [0, 3] == found.line.tolist()
    assert found.malformed is None


def test_optional_fields() -> None:
    """A line may have fewer fields than kinds, down to ``least``; the rest is 0."""
    found = parse_lines(b"1 2\n3 4 5\n", ("decimal",) * 3, least=2)
    assert [[1, 2, 0], [3, 4, 5]] == found.values.tolist()
    assert [2, 3] == found.fields.tolist()


def test_first_malformed_line() -> None:
    """Rows end before the first line that does not fit, which is named."""
    for bad in (
        b"l 1",
        b"ll 1 2",
        b"l 1g 2",
        b"l 1 2 3",
        b"l 1 -2",
        b"l 1 0x2",
        b"l 0x 1",
    ):
        found = parse_lines(b"l 1 2\n\n" + bad + b"\nl 1 2\n", KINDS)
        assert (1, 2) == (len(found.fields), found.malformed), bad


def test_numbers_end_at_two_to_the_64() -> None:
    """2^64 - 1 is read, 2^64 is malformed, in both bases."""
    top = (1 << 64) - 1
    assert parse_lines(b"%d\n" % top, ("decimal",)).values[0, 0] == top
    assert parse_lines(b"%x\n" % top, ("hex",)).values[0, 0] == top
    assert 0 == parse_lines(b"%d\n" % (top + 1), ("decimal",)).malformed
    assert 0 == parse_lines(b"%x\n" % (top + 1), ("hex",)).malformed


ALPHABET = st.sampled_from(list(b"0159afFxXlS \t,\r\n*#-=") + [10] * 4 + [32] * 6)


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(ALPHABET, max_size=120).map(bytes),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
    st.sampled_from([b"", b"#", b"=-*"]),
)
def test_twins_agree(text: bytes, kinds: list[int], skip: bytes) -> None:
    """The compiled scan and its numpy twin give the same columns."""
    data = np.frombuffer(text + b"\n", np.uint8)
    nr_lines = data.tolist().count(10)
    answers = []
    name = f"{module.__name__}._scan"
    pair = TWINS.get(name, (module._scan, module._scan_numpy))
    for scan in pair:
        values = np.zeros((nr_lines, len(kinds)), np.uint64)
        fields = np.zeros(nr_lines, np.uint8)
        line = np.zeros(nr_lines, np.int32)
        rows, bad = scan(
            data,
            np.array(kinds, np.uint8),
            1,
            np.frombuffer(skip, np.uint8),
            values,
            fields,
            line,
        )
        answers.append(
            (
                rows,
                bad,
                values[:rows].tolist(),
                fields[:rows].tolist(),
                line[:rows].tolist(),
            )
        )
    assert answers[0] == answers[1]
