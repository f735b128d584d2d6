"""Columns out of lines of text, without a Python object a line.

Fields are separated by spaces, tabs, commas or carriage returns. Each is one
letter, a hexadecimal number (with or without 0x) or a decimal number below
2**64. Lines that are empty, or that begin with one of some characters, are
passed over.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isotherm.core.kernels import compiled, kernel

_NEWLINE = 10
_KINDS = {"letter": 0, "hex": 1, "decimal": 2}
_LETTER, _HEX = 0, 1
_MAX_DECIMAL = np.uint64((1 << 64) - 1)
_TENTH = np.uint64(((1 << 64) - 1) // 10)


class Lines(NamedTuple):
    """Fields of the lines of a block, one row for every line that holds some.

    Attributes:
        values: uint64, shape (rows, fields); a letter as its ASCII code; 0 where
            a line has fewer fields.
        fields: Fields of each row, uint8.
        line: Number of each row's line within the block, from 0, int32.
        malformed: Number of the first line that fits no row, from 0; None if
            all fit. Rows are those before it.
    """

    values: NDArray[np.uint64]
    fields: NDArray[np.uint8]
    line: NDArray[np.int32]
    malformed: int | None


def parse_lines(
    text: bytes, kinds: tuple[str, ...], *, least: int = 0, skip: bytes = b""
) -> Lines:
    """Return the fields of whole lines of text.

    Args:
        text: Ends in a newline, or is empty.
        kinds: What each field is: ``letter``, ``hex`` or ``decimal``.
        least: Fewest fields of a line; 0 means all.
        skip: Characters at the start of a line that make it a comment.
    """
    data = np.frombuffer(text, np.uint8)
    lines = text.count(b"\n")
    values = np.zeros((lines, len(kinds)), np.uint64)
    fields = np.zeros(lines, np.uint8)
    line = np.zeros(lines, np.int32)
    codes = np.array([_KINDS[kind] for kind in kinds], np.uint8)
    rows, bad = _scan(
        data,
        codes,
        least or len(kinds),
        np.frombuffer(skip, np.uint8),
        values,
        fields,
        line,
    )
    return Lines(
        values[:rows], fields[:rows], line[:rows], None if bad < 0 else int(bad)
    )


@compiled
def _is_separator(character: int) -> bool:
    return character == 32 or character == 9 or character == 44 or character == 13  # noqa: PLR1714  # a set test is slow when compiled


@compiled
def _value_of(character: int) -> int:
    """Return a digit's value, 255 for what is no digit."""
    if 48 <= character <= 57:
        return character - 48
    if 97 <= character <= 102:
        return character - 87
    if 65 <= character <= 70:
        return character - 55
    return 255


def _scan_numpy(
    text: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    least: int,
    skip: NDArray[np.uint8],
    values: NDArray[np.uint64],
    fields: NDArray[np.uint8],
    line: NDArray[np.int32],
) -> tuple[int, int]:
    if not len(text):
        return 0, -1
    ends = np.flatnonzero(text == _NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1])
    solid = ~np.isin(text, (_NEWLINE, 32, 9, 44, 13))
    edge = np.diff(np.concatenate([[0], solid.astype(np.int8), [0]]))
    begin, end = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    of_line = np.searchsorted(ends, begin)
    comment = np.isin(text[starts], skip)
    keep = ~comment[of_line]
    begin, end, of_line = begin[keep], end[keep], of_line[keep]
    nr_fields = np.bincount(of_line, minlength=len(ends))
    first = np.concatenate([[0], np.cumsum(nr_fields)[:-1]])
    field = np.arange(len(begin)) - first[of_line]
    bad_line = (nr_fields > len(kinds)) | ((nr_fields > 0) & (nr_fields < least))
    kind = kinds[np.minimum(field, len(kinds) - 1)]
    number, good = _numbers_numpy(text, begin, end, kind)
    bad_line[of_line[~good]] = True
    bad = int(np.argmax(bad_line)) if bad_line.any() else -1
    stop = bad if bad >= 0 else len(ends)
    used = np.flatnonzero(nr_fields[:stop] > 0)
    row_of_line = np.zeros(len(ends), np.int64)
    row_of_line[used] = np.arange(len(used))
    take = of_line < stop
    values[row_of_line[of_line[take]], field[take]] = number[take]
    fields[: len(used)] = nr_fields[used]
    line[: len(used)] = used
    return len(used), bad


def _numbers_numpy(
    text: NDArray[np.uint8],
    begin: NDArray[np.intp],
    end: NDArray[np.intp],
    kind: NDArray[np.uint8],
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return the value of each field, and which of them are well formed."""
    digits = np.full(256, 255, np.uint8)
    for character in b"0123456789abcdefABCDEF":
        digits[character] = int(chr(character), 16)
    letter, hexadecimal = kind == _LETTER, kind == _HEX
    last = len(text) - 1
    prefixed = (
        hexadecimal
        & (end - begin > 2)
        & (text[begin] == 48)
        & ((text[np.minimum(begin + 1, last)] | 32) == 120)
    )
    start = np.where(prefixed, begin + 2, begin)
    width = end - start
    good = np.where(letter, width == 1, np.where(hexadecimal, width <= 16, width <= 20))
    value = np.where(letter, text[begin].astype(np.uint64), np.uint64(0))
    for place in range(20):
        inside = good & ~letter & (place < width)
        if not inside.any():
            break
        digit = digits[text[np.where(inside, start + place, 0)]].astype(np.uint64)
        base = np.where(hexadecimal, np.uint64(16), np.uint64(10))
        good &= ~inside | (digit < base)
        # 10 v + d overflows exactly where v > (2^64 - 1 - d) / 10.
        over = inside & ~hexadecimal & (value > (_MAX_DECIMAL - digit) // np.uint64(10))
        good &= ~over
        value = np.where(inside & good, value * base + digit, value)
    return value, good


@kernel(twin=_scan_numpy)
def _scan(
    text: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    least: int,
    skip: NDArray[np.uint8],
    values: NDArray[np.uint64],
    fields: NDArray[np.uint8],
    line: NDArray[np.int32],
) -> tuple[int, int]:
    """Fill the columns; return (rows, first malformed line or -1)."""
    rows, number, position, n = 0, 0, 0, len(text)
    while position < n:
        comment = False
        for character in skip:
            comment = comment or text[position] == character
        found = 0
        while text[position] != _NEWLINE:
            if comment or _is_separator(text[position]):
                position += 1
                continue
            if found == len(kinds):
                return rows, number
            kind = kinds[found]
            value = np.uint64(0)
            begin = position
            if kind == _LETTER:
                value = np.uint64(text[position])
                position += 1
                if text[position] != _NEWLINE and not _is_separator(text[position]):
                    return rows, number
            else:
                if (
                    kind == _HEX
                    and text[position] == 48
                    and (text[position + 1] | 32) == 120
                    and text[position + 2] != _NEWLINE
                    and not _is_separator(text[position + 2])
                ):
                    position += 2
                    begin = position
                base = np.uint64(16) if kind == _HEX else np.uint64(10)
                while text[position] != _NEWLINE and not _is_separator(text[position]):
                    digit = np.uint64(_value_of(text[position]))
                    if digit >= base:
                        return rows, number
                    if kind != _HEX and (
                        value > _TENTH or (value == _TENTH and digit > np.uint64(5))
                    ):
                        return rows, number
                    value = value * base + digit
                    position += 1
                if position - begin > (16 if kind == _HEX else 20):
                    return rows, number
            values[rows, found] = value
            found += 1
        if found > 0:
            if found < least:
                return rows, number
            fields[rows] = found
            line[rows] = number
            rows += 1
        position += 1
        number += 1
    return rows, -1
