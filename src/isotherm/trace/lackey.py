"""Decode what ``valgrind --tool=lackey --trace-mem=yes`` prints.

One line per instruction and per data reference (lackey/lk_main.c, valgrind 3.19):

=================  ===========================================
``I  0401ab70,3``  an instruction of 3 bytes was executed
`` L 1fff000778,8``  a load
`` S 1fff000770,8``  a store
`` M 04035e10,4``  a modify: a load and a store of the same bytes
=================  ===========================================

Addresses are hexadecimal, sizes decimal bytes. Lines that begin with ``==``,
``--`` or ``**`` are valgrind's own messages and are passed over, as are empty
lines. A modify becomes one access that writes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import TraceFormatError
from isotherm.core.kernels import compiled, kernel

#: Fewest bytes that a data reference takes, newline included: `` L 0,1``.
_SHORTEST_LINE_BYTES = 7
_NEWLINE, _SPACE, _COMMA = 10, 32, 44
_LOAD, _STORE, _MODIFY, _INSTRUCTION = 76, 83, 77, 73
_COMMENT = (61, 45, 42)  # "=", "-", "*", each of them twice
_MAX_HEX_DIGITS = 16
_MAX_SIZE_DIGITS = 4


class LackeyBlock(NamedTuple):
    """The data references of one block of text, in order, as equal columns.

    Attributes:
        address: First byte touched, uint64.
        write: 1 for a store or a modify, 0 for a load, uint8.
        size: Bytes touched, uint16, 1 to 9999.
        instruction: Instructions begun in this block before the reference,
            int64, non-decreasing.
        instructions: Instructions in the whole block.
        consumed: Bytes of the block that were used: all whole lines. The rest
            is the beginning of a line and belongs before the next block.
        lines: Whole lines used, messages included.
    """

    address: NDArray[np.uint64]
    write: NDArray[np.uint8]
    size: NDArray[np.uint16]
    instruction: NDArray[np.int64]
    instructions: int
    consumed: int
    lines: int


def parse_lackey(
    block: bytes | bytearray | memoryview | NDArray[np.uint8],
) -> tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint16], int]:
    """Return (address, write, size, consumed bytes) of a block of lackey output.

    Args:
        block: Text that starts at the start of a line. The last line counts
            only when its newline is there; put what was not consumed before
            the next block.

    Returns:
        Columns as in :class:`LackeyBlock`, and the bytes used.

    Raises:
        TraceFormatError: A line is none of those above; the message counts
            lines from the start of this block.
    """
    decoded = decode_lackey(block)
    return decoded.address, decoded.write, decoded.size, decoded.consumed


def decode_lackey(
    block: bytes | bytearray | memoryview | NDArray[np.uint8], *, first_line: int = 1
) -> LackeyBlock:
    """Return the data references of a block of lackey output, and its counts.

    Args:
        block: As for :func:`parse_lackey`.
        first_line: Number of the block's first line, for the message of an error.

    Raises:
        TraceFormatError: A line is neither an instruction, nor a data
            reference, nor a message of valgrind's.
    """
    text = (
        block if isinstance(block, np.ndarray) else np.frombuffer(block, dtype=np.uint8)
    )
    capacity = len(text) // _SHORTEST_LINE_BYTES + 1
    address = np.empty(capacity, dtype=np.uint64)
    write = np.empty(capacity, dtype=np.uint8)
    size = np.empty(capacity, dtype=np.uint16)
    instruction = np.empty(capacity, dtype=np.int64)
    rows, instructions, consumed, lines, malformed = _decode(
        text, address, write, size, instruction
    )
    if malformed:
        line = bytes(text[consumed : consumed + 60]).split(b"\n", 1)[0]
        raise TraceFormatError(
            f"line {first_line + lines}: expected 'I  ADDR,SIZE' or ' L|S|M ADDR,SIZE' "
            f"as lackey prints, got {line.decode('ascii', 'backslashreplace')!r}"
        )
    return LackeyBlock(
        address[:rows],
        write[:rows],
        size[:rows],
        instruction[:rows],
        int(instructions),
        int(consumed),
        int(lines),
    )


def _decode_numpy(
    text: NDArray[np.uint8],
    address: NDArray[np.uint64],
    write: NDArray[np.uint8],
    size: NDArray[np.uint16],
    instruction: NDArray[np.int64],
) -> tuple[int, int, int, int, bool]:
    """Do what :func:`_decode` does, a column of lines at a time."""
    ends = np.flatnonzero(text == _NEWLINE)
    if not len(ends):
        return 0, 0, 0, 0, False
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts
    padded = np.concatenate([text, np.zeros(3, dtype=np.uint8)])
    # Beyond a short line these are bytes of the next one: length guards them.
    c0, c1, c2 = padded[starts], padded[starts + 1], padded[starts + 2]
    message = (length == 0) | ((length > 1) & np.isin(c0, _COMMENT) & (c0 == c1))
    fetch = (length > 3) & (c0 == _INSTRUCTION) & (c1 == _SPACE) & (c2 == _SPACE)
    data = (
        (length > 5)
        & (c0 == _SPACE)
        & np.isin(c1, (_LOAD, _STORE, _MODIFY))
        & (c2 == _SPACE)
    )
    good = message | fetch | data
    at = np.flatnonzero(data)
    begin, end = starts[at] + 3, ends[at]
    commas = np.append(np.flatnonzero(text == _COMMA), len(text))
    comma = commas[np.searchsorted(commas, begin)]
    value, hex_ok = _digits_numpy(padded, begin, comma, 16, _MAX_HEX_DIGITS)
    bytes_touched, size_ok = _digits_numpy(padded, comma + 1, end, 10, _MAX_SIZE_DIGITS)
    good[at] &= hex_ok & size_ok & (bytes_touched > 0)
    bad = np.flatnonzero(~good)
    lines = int(bad[0]) if len(bad) else len(ends)
    rows = int(np.searchsorted(at, lines))
    before = np.cumsum(fetch)
    address[:rows] = value[:rows]
    write[:rows] = c1[at[:rows]] != _LOAD
    size[:rows] = bytes_touched[:rows]
    instruction[:rows] = before[at[:rows]]
    consumed = int(starts[lines]) if len(bad) else int(ends[-1]) + 1
    return rows, int(np.sum(fetch[:lines])), consumed, lines, bool(len(bad))


def _digits_numpy(
    padded: NDArray[np.uint8],
    begin: NDArray[Any],
    end: NDArray[Any],
    base: int,
    most: int,
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return the numbers in ``[begin, end)`` of the text, and which are numbers."""
    digits = np.full(256, 255, dtype=np.uint8)
    for character in b"0123456789abcdef"[:base]:
        digits[character] = int(chr(character), 16)
    for character in b"ABCDEF" if base == 16 else b"":
        digits[character] = int(chr(character), 16)
    width = end - begin
    good = (width > 0) & (width <= most)
    value = np.zeros(len(begin), dtype=np.uint64)
    for place in range(most):
        inside = good & (place < width)
        digit = digits[padded[np.where(inside, begin + place, 0)]]
        good &= ~inside | (digit < base)
        grown = value * np.uint64(base) + digit
        value = np.where(inside, grown, value)
    return value, good


@compiled
def _digit(character: int) -> int:
    """Return the value of a hexadecimal digit, 255 for any other character."""
    if 48 <= character <= 57:
        return character - 48
    if 97 <= character <= 102:
        return character - 87
    if 65 <= character <= 70:
        return character - 55
    return 255


@kernel(twin=_decode_numpy)
def _decode(
    text: NDArray[np.uint8],
    address: NDArray[np.uint64],
    write: NDArray[np.uint8],
    size: NDArray[np.uint16],
    instruction: NDArray[np.int64],
) -> tuple[int, int, int, int, bool]:
    """Fill the columns from the whole lines of ``text``.

    Returns:
        Rows, instructions, bytes consumed, lines, and whether the line that
        begins at ``consumed`` is malformed (nothing after it was read).
    """
    rows = 0
    instructions = 0
    consumed = 0
    lines = 0
    n = len(text)
    position = 0
    while True:
        start = position
        c0 = text[start] if start < n else 0
        if c0 == _INSTRUCTION:
            while position < n and text[position] != _NEWLINE:
                position += 1
            if position == n:
                break
            if position - start < 4 or text[start + 1] != 32 or text[start + 2] != 32:
                return rows, instructions, consumed, lines, True
            instructions += 1
        elif c0 == _SPACE and start + 3 < n and text[start + 1] != _NEWLINE:
            kind = text[start + 1]
            valid = kind in (_LOAD, _STORE, _MODIFY) and text[start + 2] == _SPACE
            position = start + 2
            value = np.uint64(0)
            touched = 0
            address_digits = 0
            size_digits = 0
            in_size = False
            # The text before "position" holds no newline.
            while position < n and text[position] != _NEWLINE:
                character = text[position]
                if position == start + 2:
                    pass
                elif character == _COMMA and not in_size:
                    in_size = True
                elif in_size:
                    digit = _digit(character)
                    valid = valid and digit < 10 and size_digits < _MAX_SIZE_DIGITS
                    if valid:
                        touched = touched * 10 + digit
                    size_digits += 1
                else:
                    digit = _digit(character)
                    valid = valid and digit < 16 and address_digits < _MAX_HEX_DIGITS
                    value = (value << np.uint64(4)) | np.uint64(digit)
                    address_digits += 1
                position += 1
            if position == n:
                break
            if not valid or address_digits == 0 or touched == 0:
                return rows, instructions, consumed, lines, True
            address[rows] = value
            write[rows] = 0 if kind == _LOAD else 1
            size[rows] = touched
            instruction[rows] = instructions
            rows += 1
        else:
            while position < n and text[position] != _NEWLINE:
                position += 1
            if position == n:
                break
            message = position == start or (
                position - start > 1
                and c0 == text[start + 1]
                and (c0 == _COMMENT[0] or c0 == _COMMENT[1] or c0 == _COMMENT[2])
            )
            if not message:
                return rows, instructions, consumed, lines, True
        position += 1
        consumed = position
        lines += 1
    return rows, instructions, consumed, lines, False
