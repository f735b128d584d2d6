"""The decoder of valgrind lackey's output."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm.core.errors import TraceFormatError
from isotherm.core.kernels import BACKEND, TWINS
from isotherm.trace.lackey import decode_lackey, parse_lackey

EXAMPLE = b"""==8713== Lackey, an example Valgrind tool
==8713==
--8713-- warning: something
** 12 **

I  0401ab70,3
I  0401ab73,5
 S 1fff000778,8
 L 04035E10,4
I  0401b770,1
 M ffffffffffffffff,512
"""


def test_every_kind_of_line() -> None:
    """Loads, stores and modifies become rows; messages and instructions do not."""
    block = decode_lackey(EXAMPLE)

    assert block.address.tolist() == [0x1FFF000778, 0x4035E10, 0xFFFFFFFFFFFFFFFF]
    assert block.write.tolist() == [1, 0, 1]
    assert block.size.tolist() == [8, 4, 512]
    assert block.instruction.tolist() == [2, 2, 3]
    assert (3, len(EXAMPLE), 11) == (block.instructions, block.consumed, block.lines)


def test_a_line_without_its_newline_is_left_for_the_next_block() -> None:
    """``consumed`` stops after the last newline, for bytes and arrays alike."""
    text = b" L 1000,8\n S 20"
    address, write, size, consumed = parse_lackey(np.frombuffer(text, dtype=np.uint8))

    assert (
        address.tolist(),
        write.tolist(),
        size.tolist(),
        consumed,
    ) == ([0x1000], [0], [8], 10)


@pytest.mark.parametrize("cut", range(1, len(EXAMPLE)))
def test_blocks_cut_anywhere_give_the_same_rows(cut: int) -> None:
    """The rest of a cut line, put before the next block, loses nothing."""
    whole = parse_lackey(EXAMPLE)
    first = parse_lackey(EXAMPLE[:cut])
    second = parse_lackey(EXAMPLE[first[3] :])

    for column in range(3):
        joined = np.concatenate([first[column], second[column]])
        assert whole[column].tolist() == joined.tolist()
    assert len(EXAMPLE) == first[3] + second[3]


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"I",
        b"I 0401,3",
        b"I  ",
        b" ",
        b"  ",
        b" L",
        b" L 1000",
        b" L ,8",
        b" L 1000,",
        b" L 1000,0",
        b" L 1000,8 ",
        b" L 10g0,8",
        b" L 1000,8,8",
        b" L 00000000000000001,8",
        b" L 1000,12345",
        b" X 1000,8",
        b" L1000,8",
        b"=x",
        b"=",
    ],
)
def test_a_malformed_line_is_named(line: bytes) -> None:
    """The error counts lines from ``first_line`` and shows what was found."""
    with pytest.raises(TraceFormatError, match="line 12: expected 'I") as caught:
        decode_lackey(b"==1== x\n L 8,8\n" + line + b"\n L 9,9\n", first_line=10)

    assert caught.value.message.endswith(f"got {line.decode()!r}")


_LINE = st.one_of(
    st.tuples(
        st.sampled_from([b" L ", b" S ", b" M "]),
        st.integers(0, 2**64 - 1),
        st.integers(1, 9999),
    ).map(lambda t: t[0] + b"%08x,%d" % t[1:]),
    st.integers(0, 2**48).map(lambda a: b"I  %08x,3" % a),
    st.sampled_from([b"", b"==1== text, more", b"--1-- 5,5"]),
    st.text(alphabet=" ILSMX=-*0af,8g", max_size=12).map(str.encode),
)


@settings(deadline=None)  # the first call compiles
@given(st.lists(_LINE, max_size=12), st.booleans())
def test_kernel_and_twin_agree(lines: list[bytes], whole: bool) -> None:
    """Both fill the same rows and return the same counts, on good and bad text."""
    if BACKEND == "numpy":
        pytest.skip("the numpy backend has only the twin")
    text = np.frombuffer(b"\n".join(lines) + b"\n" * whole, dtype=np.uint8)
    results = []
    for function in TWINS["isotherm.trace.lackey._decode"]:
        columns = [
            np.zeros(len(text) + 1, dtype=kind)
            for kind in (np.uint64, np.uint8, np.uint16, np.int64)
        ]
        counts = tuple(int(count) for count in function(text, *columns))
        results.append([counts, *(column.tolist() for column in columns)])

    assert results[0] == results[1]
