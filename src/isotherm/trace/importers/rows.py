"""What every importer yields, and the checks that all of them share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import TraceFormatError
from isotherm.core.units import PAGE_BYTES
from isotherm.records.lines import Lines, parse_lines
from isotherm.trace.source import ByteSource

#: int64 nanoseconds end in the year 2262; later times are taken for garbage.
MAX_NS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Rows:
    """Accesses in order, pages as the source numbers them; None: not known.

    Attributes:
        page: Raw page numbers, uint64.
        write: 1 for a write.
        initiator: Index, 255 unknown.
        time_ns: Source time, any origin, non-decreasing from chunk to chunk.
        count: Accesses that a row stands for.
    """

    page: NDArray[np.uint64]
    write: NDArray[np.uint8] | None = None
    initiator: NDArray[np.uint8] | None = None
    time_ns: NDArray[np.int64] | None = None
    count: NDArray[np.uint32] | None = None


@dataclass(slots=True)
class ImportOptions:
    """What an importer is told, and what it has to say.

    Attributes:
        page_bytes: Bytes of a page, a power of two.
        details: Filled by the importer: what was skipped or assumed.
    """

    page_bytes: int = PAGE_BYTES
    details: dict[str, str] = field(default_factory=dict)

    @property
    def shift(self) -> np.uint64:
        """Return log2 of ``page_bytes``."""
        return np.uint64(self.page_bytes.bit_length() - 1)


#: Reads a source to its end.
Importer = Callable[[ByteSource, ImportOptions], Iterator[Rows]]


def parsed_blocks(
    source: ByteSource,
    kinds: tuple[str, ...],
    expected: str,
    *,
    least: int = 0,
    skip: bytes = b"",
) -> Iterator[tuple[Lines, int]]:
    """Yield (fields, first line number) of every block of a text file.

    Raises:
        TraceFormatError: A line does not fit; ``expected`` says what would.
    """
    for block in source.blocks():
        lines = parse_lines(block.text, kinds, least=least, skip=skip)
        if lines.malformed is not None:
            raise fail_line(source, block.text, block.line, lines.malformed, expected)
        if len(lines.fields):
            yield lines, block.line


def fail_line(
    source: ByteSource, text: bytes, first: int, index: int, expected: str
) -> TraceFormatError:
    """Return the error for line ``index`` of a block that starts at line ``first``."""
    start = 0
    for _ in range(index):
        start = text.index(b"\n", start) + 1
    found = text[start : start + 200].split(b"\n", 1)[0]
    return source.fail(
        f"line {first + index}",
        repr(found.decode("ascii", "backslashreplace")),
        expected,
    )


def check_times(
    source: ByteSource,
    times: NDArray[np.int64],
    last_ns: int,
    place: str | Callable[[int], str],
    first: int,
    step: int = 1,
) -> int:
    """Return the last time, having seen that times start after ``last_ns`` and rise.

    Args:
        source: Where they come from.
        times: Times, shape (n,).
        last_ns: Last time before.
        place: What the message counts, such as ``row``; or its words for a number.
        first: Number of the first of them.
        step: By which the number rises from one to the next.

    Raises:
        TraceFormatError: One goes back, or is negative.
    """
    if not len(times):
        return last_ns
    before = np.concatenate([[last_ns], times[:-1]])
    if np.any(times < before):
        at = int(np.argmax(times < before))
        number = first + at * step
        where = place(number) if callable(place) else f"{place} {number}"
        if times[at] < 0:
            raise source.fail(where, f"time {int(times[at])} ns", "a time >= 0")
        raise source.fail(
            where,
            f"time {int(times[at])} ns after {int(before[at])} ns",
            "times that do not go back",
        )
    return int(times[-1])


def spread_pages(
    first: NDArray[np.uint64], last: NDArray[np.uint64], *columns: NDArray[Any]
) -> tuple[NDArray[np.uint64], tuple[NDArray[Any], ...]]:
    """Return a row for each page from ``first`` to ``last``, other columns repeated."""
    extra = (last - first).astype(np.int64)
    if not extra.any():
        return first, columns
    times = extra + 1
    ends = np.cumsum(times)
    offset = np.arange(int(ends[-1])) - np.repeat(ends - times, times)
    page = np.repeat(first, times) + offset.astype(np.uint64)
    return page, tuple(np.repeat(column, times) for column in columns)
