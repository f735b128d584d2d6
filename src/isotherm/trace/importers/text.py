"""Addresses or ids, one reference a line: SPEC, ramulator, LIRS, lackey."""

from collections.abc import Iterator

import numpy as np

from isotherm.records.lines import parse_lines
from isotherm.trace.importers.rows import (
    ImportOptions,
    Rows,
    fail_line,
    parsed_blocks,
    spread_pages,
)
from isotherm.trace.source import ByteSource

_LOAD, _STORE, _MODIFY, _FETCH = ord("L"), ord("S"), ord("M"), ord("I")
_LOWER = np.uint64(32)


def read_spec(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield the references of ``l|s 0xADDR n`` lines.

    ``n``, the instructions since the last reference, is not kept: it is no time.

    Raises:
        TraceFormatError: A line has another form.
    """
    expected = "'l|s 0xADDR N', such as 'l 0x1fffff58 1'"
    for block in source.blocks():
        lines = parse_lines(block.text, ("letter", "hex", "decimal"), skip=b"#")
        operation = lines.values[:, 0] | _LOWER
        wrong = (operation != ord("l")) & (operation != ord("s"))
        if wrong.any():
            index = int(lines.line[np.argmax(wrong)])
            raise fail_line(source, block.text, block.line, index, expected)
        if lines.malformed is not None:
            raise fail_line(source, block.text, block.line, lines.malformed, expected)
        yield Rows(
            lines.values[:, 1] >> options.shift,
            write=(operation == ord("s")).astype(np.uint8),
        )


def read_ramulator(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield the references of ``N READ [WRITE-BACK]`` lines, addresses decimal.

    A line is one read and, where a third number stands, a write after it; each
    is a reference.

    Raises:
        TraceFormatError: A line has another form.
    """
    expected = "'N READ-ADDRESS [WRITE-BACK-ADDRESS]', such as '9 89618496'"
    kinds = ("decimal", "decimal", "decimal")
    for lines, _ in parsed_blocks(source, kinds, expected, least=2, skip=b"#"):
        page = lines.values[:, 1:] >> options.shift
        write = np.tile(np.array([0, 1], np.uint8), (len(page), 1))
        here = np.ones(page.shape, np.bool_)
        here[:, 1] = lines.fields == 3
        yield Rows(page[here], write=write[here])


def read_lirs(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield the block ids of a file with one a line; lines with ``*`` are passed over.

    Raises:
        TraceFormatError: A line has another form.
    """
    expected = "a block number, such as '2819', or '*'"
    for lines, _ in parsed_blocks(source, ("decimal",), expected, skip=b"*#"):
        yield Rows(lines.values[:, 0])


def read_lackey(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield the data references of ``valgrind --tool=lackey --trace-mem=yes``.

    A modify is a load, then a store. An access that crosses pages touches each.
    Instruction fetches are passed over.

    Raises:
        TraceFormatError: A line has another form.
    """
    expected = "' L|S|M ADDR,SIZE' or 'I  ADDR,SIZE', such as ' L 1fff000778,8'"
    fetches = 0
    for block in source.blocks():
        lines = parse_lines(block.text, ("letter", "hex", "decimal"), skip=b"=-*")
        operation, address, size = lines.values.T
        most = np.uint64(1 << 16)  # the widest access valgrind prints is 512 bytes
        wrong = ~np.isin(operation, (_LOAD, _STORE, _MODIFY, _FETCH))
        wrong |= (size == 0) | (size > most) | (address + size < address)
        if wrong.any():
            index = int(lines.line[np.argmax(wrong)])
            raise fail_line(source, block.text, block.line, index, expected)
        if lines.malformed is not None:
            raise fail_line(source, block.text, block.line, lines.malformed, expected)
        data = operation != _FETCH
        fetches += len(data) - int(np.count_nonzero(data))
        operation, address, size = operation[data], address[data], size[data]
        times = np.where(operation == _MODIFY, 2, 1)
        write = np.repeat(operation != _LOAD, times).astype(np.uint8)
        # The first of a modify's two rows is its load.
        starts = np.cumsum(times) - times
        write[starts[operation == _MODIFY]] = 0
        first = np.repeat(address >> options.shift, times)
        last = np.repeat((address + size - np.uint64(1)) >> options.shift, times)
        page, (write,) = spread_pages(first, last, write)
        yield Rows(page, write=write)
    options.details["instruction_fetches_skipped"] = str(fetches)
