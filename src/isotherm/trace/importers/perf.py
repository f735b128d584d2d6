"""Memory samples that ``perf script`` or ``perf mem report -D`` printed."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import TraceFormatError
from isotherm.records.perf_script import PerfScript, Sample
from isotherm.trace.importers.rows import MAX_NS, ImportOptions, Rows
from isotherm.trace.source import ByteSource

#: Bits of a raw page number that hold the page; a 64-bit address has no more.
SPACE_SHIFT = 52
_MAX_SPACES = 1 << (64 - SPACE_SHIFT)
_KERNEL = np.uint64(1 << 63)


def read_perf(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield one access for each sample that has an address.

    Where the lines give process and thread (``pid/tid``), each process is its own
    address space: the n-th to appear adds ``n << 52`` to its page numbers, the
    first none. Kernel addresses are shared. Samples with address 0 are counted and
    passed over. Samples that perf printed out of order get the time of the one
    before.

    Raises:
        TraceFormatError: A line is no sample, or lacks what the first ones had.
    """
    state = _State(source, options)
    for block in source.blocks():
        yield from state.take(block.text, block.line)
    state.finish()


class _State:
    def __init__(self, source: ByteSource, options: ImportOptions) -> None:
        self._source = source
        self._options = options
        self._decoder = PerfScript()
        self._spaces: dict[int, int] = {}
        self._has_time: bool | None = None
        self._has_write = False
        self._last_ns = 0
        self.unaddressed = self.reordered = self.unknown = 0

    def take(self, text: bytes, first: int) -> Iterator[Rows]:
        samples: list[Sample] = []
        for index, line in enumerate(text[:-1].split(b"\n")):
            try:
                sample = self._decoder.decode(line)
            except ValueError as error:
                shown = ascii(line.decode("ascii", "backslashreplace"))
                raise self._fail(first + index, shown, f"{error}") from error
            if sample is None:
                continue
            if sample.address == 0:
                self.unaddressed += 1
                continue
            if self._has_time is None:
                self._has_time = sample.time_ns is not None
                self._has_write = sample.write is not None
            if self._has_time != (sample.time_ns is not None):
                wanted = "a time" if self._has_time else "no time"
                raise self._fail(first + index, repr(sample), f"{wanted}, as above")
            if sample.time_ns is not None and sample.time_ns > MAX_NS:
                raise self._fail(first + index, sample.time_ns, "a time below 2^63 ns")
            samples.append(sample)
        if samples:
            yield self._rows(samples, first)

    def _fail(self, line: int, found: object, expected: str) -> TraceFormatError:
        return self._source.fail(f"line {line}", found, expected)

    def _rows(self, samples: list[Sample], first: int) -> Rows:
        address = np.array([s.address for s in samples], np.uint64)
        page = address >> self._options.shift
        space = np.array([self._space(s.process, first) for s in samples], np.uint64)
        space[address >= _KERNEL] = 0
        page |= space << np.uint64(SPACE_SHIFT)
        write: NDArray[np.uint8] | None = None
        if self._has_write:
            self.unknown += sum(s.write is None for s in samples)
            write = np.array([bool(s.write) for s in samples], np.uint8)
        times: NDArray[np.int64] | None = None
        if self._has_time:
            raw = np.array([s.time_ns for s in samples], np.int64)
            if not self._last_ns:
                self._last_ns = int(raw[0])
            times = np.maximum(np.maximum.accumulate(raw), self._last_ns)
            self.reordered += int(np.count_nonzero(raw < times))
            self._last_ns = int(times[-1])
        return Rows(page, write=write, time_ns=times)

    def _space(self, process: int | None, line: int) -> int:
        if process is None:
            return 0
        space = self._spaces.setdefault(process, len(self._spaces))
        if space >= _MAX_SPACES:
            raise self._fail(
                line,
                "too many processes",
                f"at most {_MAX_SPACES}: perf script --pid PID",
            )
        return space

    def finish(self) -> None:
        try:
            self._decoder.finish()
        except ValueError as error:
            raise self._source.fail("last line", "no more", f"{error}") from error
        details = self._options.details
        details["samples_without_address"] = str(self.unaddressed)
        if self.reordered:
            details["samples_out_of_order"] = str(self.reordered)
        if self.unknown:
            details["samples_of_unknown_operation"] = f"{self.unknown}, as reads"
        if len(self._spaces) > 1:
            details["processes"] = ",".join(str(pid) for pid in self._spaces)
