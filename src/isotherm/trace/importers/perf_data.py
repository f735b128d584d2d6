"""perf.data files: sampled accesses of ``perf record -d`` and ``perf mem record``.

Arm's SPE leaves no samples but AUX data, which are decoded instead.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import TraceFormatError
from isotherm.records.data_source import DataSource
from isotherm.records.perf_data import PerfData
from isotherm.records.perf_fields import Field
from isotherm.records.perf_file_samples import FileSamples
from isotherm.records.perf_file_spe import ARM_SPE, read_spe
from isotherm.records.spe import Column, Present
from isotherm.trace.importers.rows import MAX_NS, ImportOptions, Rows
from isotherm.trace.source import ByteSource

#: Bits of a raw page number that hold the page, as in the importer of perf's text.
SPACE_SHIFT: Final = 52
_MOST_SPACES: Final = 1 << (64 - SPACE_SHIFT)
_KERNEL: Final = np.uint64(1 << 63)
_COPY_BYTES: Final = 1 << 20
_MAGIC: Final = (b"PERFILE2", b"2ELIFREP", b"PERFFILE")


def is_perf_data(head: bytes) -> bool:
    """Return whether a file begins as perf.data does, of any version."""
    return head.startswith(_MAGIC)


def read_perf_data(source: ByteSource, options: ImportOptions) -> Iterator[Rows]:
    """Yield one access for each sample that has an address, in order of time.

    Each process is its own address space: the n-th to appear adds ``n << 52`` to
    its page numbers, the first none. Kernel addresses are shared. Nodes of the CPUs
    are the initiators, where the file knows them.

    Raises:
        TraceFormatError: It is no such file, or has more than 4096 processes.
    """
    with ExitStack() as stack:
        file = open_seekable(source, stack)
        data = PerfData(file, str(source.path))
        yield from _Import(data, source, options).rows()


def open_seekable(source: ByteSource, stack: ExitStack) -> BinaryIO:
    """Return a file itself, or what it decompresses to; closed with the stack."""
    if source.compression is None:
        return stack.enter_context(source.path.open("rb"))
    spool = cast("BinaryIO", stack.enter_context(tempfile.TemporaryFile()))  # noqa: SIM115  # the stack closes it
    while piece := source.read(_COPY_BYTES):
        spool.write(piece)
    spool.seek(0)
    return spool


class _Import:
    def __init__(
        self, data: PerfData, source: ByteSource, options: ImportOptions
    ) -> None:
        self._data = data
        self._source = source
        self._options = options
        self._node = data.features.node_of_cpu()
        self._spaces: dict[int, int] = {}
        self._unaddressed = self._no_access = self._reordered = 0
        self._last_ns = 0

    def rows(self) -> Iterator[Rows]:
        for samples in self._data.samples():
            yield self._of_samples(samples)
        if self._data.aux and self._data.aux_type == ARM_SPE:
            yield from self._of_spe()
        elif self._data.aux:
            kind = self._data.aux_type
            self._options.details["aux_data_passed_over"] = f"of tracer {kind}"
        self._tell()

    def _of_samples(self, samples: FileSamples) -> Rows:
        address = samples.column(Field.ADDR)
        word = samples.column(Field.DATA_SRC)
        source = DataSource.of(word)
        known = address != 0
        self._unaddressed += int((~known).sum())
        time_ns = samples.column(Field.TIME)[known]
        if len(time_ns) and int(time_ns.max()) > MAX_NS:
            raise self._data.fail("samples", int(time_ns.max()), "times below 2^63 ns")
        return self._rows(
            address[known],
            samples.pid[known],
            time_ns.astype(np.int64),
            source.is_store[known],
            self._who(samples.cpu[known]),
        )

    def _of_spe(self) -> Iterator[Rows]:
        """Yield records of AUX data, those of all buffers by time."""
        found = read_spe(self._data)
        known = found.columns[Column.PRESENT] & np.uint64(Present.VIRTUAL) != 0
        self._unaddressed += int((~known).sum())
        columns, cpu = found.columns[:, known], found.cpu[known]
        if found.broken_bytes:
            self._options.details["aux_bytes_unreadable"] = str(found.broken_bytes)
        if not len(cpu):
            return
        if not found.in_ns:
            self._options.details["times"] = "ticks of the timer, in order, not in ns"
        time_ns = np.minimum(columns[Column.TIME], np.uint64(MAX_NS)).astype(np.int64)
        yield self._rows(
            columns[Column.VIRTUAL],
            found.pid[known],
            time_ns,
            (columns[Column.OP] & np.uint64(1)).astype(np.uint8),
            self._who(cpu),
        )

    def _rows(
        self,
        address: NDArray[np.uint64],
        pid: NDArray[np.int32],
        time_ns: NDArray[np.int64],
        write: NDArray[np.uint8],
        who: NDArray[np.uint8] | None,
    ) -> Rows:
        space = np.zeros(len(address), np.uint64)
        for one in np.unique(pid).tolist():
            space[pid == one] = self._space(one)
        space[address >= _KERNEL] = 0
        page = (address >> self._options.shift) | space << np.uint64(SPACE_SHIFT)
        # Rounds bound how late a sample may come; a damaged file keeps to nothing.
        rising = np.maximum(np.maximum.accumulate(time_ns), self._last_ns)
        self._reordered += int((time_ns < rising).sum())
        self._last_ns = int(rising[-1]) if len(rising) else self._last_ns
        return Rows(page, write=write, initiator=who, time_ns=rising)

    def _space(self, pid: int) -> int:
        space = self._spaces.setdefault(pid, len(self._spaces))
        if space >= _MOST_SPACES:
            raise TraceFormatError(
                f"{self._source.path}: more than {_MOST_SPACES} processes",
                hint="record fewer: perf record --pid PID",
            )
        return space

    def _who(self, cpu: NDArray[np.int32]) -> NDArray[np.uint8] | None:
        if not len(self._node):
            return None
        who = np.full(len(cpu), 255, np.uint8)
        inside = (cpu >= 0) & (cpu < len(self._node))
        node = self._node[cpu[inside]]
        who[inside] = np.where((node >= 0) & (node < 255), node, 255)
        return who

    def _tell(self) -> None:
        """Say what the trace does not hold."""
        details, data = self._options.details, self._data
        details["samples_without_address"] = str(self._unaddressed)
        details["samples_lost"] = str(data.lost)
        if self._reordered:
            details["samples_out_of_order"] = str(self._reordered)
        if data.events:
            names = dict.fromkeys(data.event_name(i) for i in range(len(data.events)))
            details["events"] = ", ".join(names)
        if data.features.cmdline:
            details["recorded_by"] = " ".join(data.features.cmdline)[:400]
        if len(self._spaces) > 1:
            details["processes"] = ",".join(str(pid) for pid in self._spaces)
