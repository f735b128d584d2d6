"""Samples that perf recorded elsewhere, handed out again as time goes on.

``perf record -d`` and ``perf mem record`` leave a perf.data file with the address of
every sample. Here it drives the tracker as the hardware would: an epoch gets the
samples whose times fall into it. The pages are those of a trace of the same
processes, at best of the same recording.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isotherm.hints.batch import HintBatch, Look, Mechanism, Samples
from isotherm.hints.capability import Capability
from isotherm.hints.live.perf_event_samples import Accesses, Translator, only_memory
from isotherm.machine.linux.spaces import NO_PAGE
from isotherm.records.data_source import DataSource, Op, PhysicalNodes, where_of
from isotherm.records.perf_data import PerfData
from isotherm.records.perf_fields import Field
from isotherm.records.perf_file_samples import COLUMNS, FileSamples, rows_of
from isotherm.records.perf_file_spe import ARM_SPE, read_spe
from isotherm.records.spe import Column, Present

NAME: Final = "perf.data"
#: Bits of a trace's page numbers that hold the page; those above, the process.
SPACE_SHIFT: Final = 52


class RecordedProcesses:
    """The processes of a recording, in the page numbers of a trace.

    The n-th process to appear has ``n << 52`` added to its page numbers, the first
    none: as the importer of perf.data numbers them.

    Args:
        raw_page: The trace's own number of every page, uint64[pages].
        page_bytes: Bytes of its pages, at least 4096.
    """

    def __init__(self, raw_page: NDArray[np.uint64], page_bytes: int = 4096) -> None:
        self._order = np.argsort(raw_page, kind="stable")
        self._raw = raw_page[self._order]
        self._shift = np.uint64(page_bytes.bit_length() - 13)
        self._space: dict[int, int] = {}

    def meet(self, pid: NDArray[np.int32]) -> None:
        """Take note of processes that appear."""
        for one in np.unique(pid).tolist():
            self._space.setdefault(one, len(self._space))

    def pids(self) -> tuple[int, ...]:
        """Return the processes that have appeared."""
        return tuple(self._space)

    def flat_pages(self, pid: int, vpage: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Return the trace's page of each virtual page of 4 KiB, NO_PAGE if none."""
        wanted = vpage >> self._shift
        wanted |= np.uint64(self._space[pid]) << np.uint64(SPACE_SHIFT)
        at = np.searchsorted(self._raw, wanted)
        at[at == len(self._raw)] = 0
        there = self._raw[at] == wanted
        return np.where(there, self._order[at], NO_PAGE).astype(np.uint32)


class RecordedSamples:
    """Samples of a perf.data file, an epoch at a time.

    Args:
        data: The recording, not read yet.
        processes: Whose pages they are.
        now_ns: The machine's time; the first sample with an address is at 0.
        begin_ns: Where in the recording the machine's time begins.
        each_is_access: Every sample stands for one access, as in a workload that
            was made of them; else for the period that was recorded.
        sample_ns: Time that a sample took from the application.
    """

    mechanism: Final = Mechanism.SAMPLING

    def __init__(
        self,
        data: PerfData,
        processes: RecordedProcesses,
        now_ns: Callable[[], int],
        *,
        begin_ns: int = 0,
        each_is_access: bool = False,
        sample_ns: float = 0.0,
    ) -> None:
        self._data = data
        self._processes = processes
        self._now_ns = now_ns
        self._each_is_access = each_is_access
        self._sample_ns = sample_ns
        features = data.features
        node = features.node_of_cpu()
        initiator = np.where((node >= 0) & (node < 255), node, 255).astype(np.uint8)
        nodes = PhysicalNodes.of_blocks(
            features.blocks_of_node, max(1, features.block_bytes)
        )
        #: Finds pages; says what was of no page of the trace.
        self.translate = Translator(
            processes, nodes, initiator_of_cpu=initiator if len(initiator) else None
        )
        self.capability = Capability(
            post_cache=not each_is_access,
            knows_initiator=self.translate.knows_initiator,
        )
        self._chunks: Iterator[FileSamples] = all_samples(data)
        self._held: FileSamples | None = None
        self._zero_ns: int | None = None
        self._begin_ns = begin_ns
        self._start_ns = now_ns()
        self._lost = 0
        #: Samples read so far; of them, those that no memory answered.
        self.read = self.filtered = 0

    def look(self, looks: tuple[Look, ...]) -> None:
        """Do nothing: it was recorded as it was recorded."""

    def drain(self) -> tuple[HintBatch, ...]:
        """Return a batch for each event that has samples, or an empty one."""
        began = time.thread_time_ns()
        start_ns, self._start_ns = self._start_ns, self._now_ns()
        parts = list(self._until(self._begin_ns + self._start_ns))
        numbers = np.unique(np.concatenate([np.zeros(1, np.uint16), *_events(parts)]))
        lost, self._lost = self._data.lost - self._lost, self._data.lost
        batches = []
        for number in numbers.tolist():
            mine = [rows_of(p, np.flatnonzero(p.event == number)) for p in parts]
            seen, recorded, count, unknown = self._of_event(number, mine)
            if not count and number:
                continue
            batches.append(
                HintBatch(
                    NAME,
                    start_ns,
                    self._start_ns,
                    seen,
                    lost=unknown + (lost if number == 0 else 0),
                    application_ns=count * self._sample_ns * seen.period / recorded,
                    background_ns=0.0,
                    capability=self.capability,
                )
            )
        #: What reading took here; no part of what is simulated.
        self.spent_ns = time.thread_time_ns() - began
        return tuple(batches)

    def _until(self, end_ns: int) -> Iterator[FileSamples]:
        """Yield the samples with an address that came before a time."""
        while True:
            held, self._held = self._held, None
            if held is None:
                held = next(self._chunks, None)
                if held is None:
                    return
                held = rows_of(held, np.flatnonzero(held.column(Field.ADDR)))
                self._processes.meet(held.pid)
                if not len(held):
                    continue
                if self._zero_ns is None:
                    self._zero_ns = int(held.column(Field.TIME)[0])
            stop = self._zero_ns or 0
            times = held.column(Field.TIME)
            first, last = np.searchsorted(
                times, np.array([stop + self._begin_ns, stop + end_ns], np.uint64)
            ).tolist()
            if last > first:
                self.read += last - first
                yield rows_of(held, slice(first, last))
            if last < len(held):
                self._held = rows_of(held, slice(last, None))
                return

    def _of_event(
        self, number: int, parts: list[FileSamples]
    ) -> tuple[Samples, float, int, int]:
        """Return samples of one event, their recorded period, how many, and lost."""
        attr = self._data.events[number].attr
        made, times, periods = [], [], []
        for samples in parts:
            word = samples.column(Field.DATA_SRC)
            source = DataSource.of(word)
            accesses = Accesses(
                samples.pid,
                samples.column(Field.ADDR),
                samples.column(Field.PHYS_ADDR),
                samples.cpu,
                source.is_store,
                samples.weight,
                where_of(word),
            )
            kept = np.ones(len(samples), np.bool_)
            if not self._each_is_access:
                kept = only_memory(accesses.where)
                self.filtered += int(len(kept) - kept.sum())
            made.append(accesses.rows(kept))
            times.append(samples.column(Field.TIME)[kept])
            periods.append(samples.column(Field.PERIOD)[kept])
        accesses = Accesses.joined(made, times)
        told = np.concatenate([np.empty(0, np.uint64), *periods])
        recorded = float(told.mean()) if len(told) else 0.0
        if recorded <= 0:  # the samples do not say
            recorded = 1.0 if attr.frequency else float(max(1, attr.period))
        period = 1.0 if self._each_is_access else recorded
        seen, unknown = self.translate.samples(accesses, period)
        return seen, recorded, len(accesses), unknown


def all_samples(data: PerfData) -> Iterator[FileSamples]:
    """Yield the samples of a file, and then Arm's SPE records as samples.

    A file has addresses in the ones or in the others. Where the data were found is
    not told of SPE records: the data sources of its makers differ.
    """
    yield from data.samples()
    if not data.aux or data.aux_type != ARM_SPE:
        return
    found = read_spe(data)
    spe = found.columns
    present = spe[Column.PRESENT]
    columns = np.zeros((len(COLUMNS), spe.shape[1]), np.uint64)

    def put(name: Field, values: NDArray[np.uint64]) -> None:
        columns[COLUMNS.index(name)] = values

    known = present & np.uint64(Present.VIRTUAL) != 0
    thread = spe[Column.CONTEXT] & np.uint64(0xFFFFFFFF)
    process = found.pid.astype(np.uint32).astype(np.uint64)
    put(Field.TID, process | thread << np.uint64(32))
    put(Field.TIME, spe[Column.TIME])
    put(Field.ADDR, np.where(known, spe[Column.VIRTUAL], np.uint64(0)))
    put(Field.CPU, found.cpu.astype(np.uint32).astype(np.uint64))
    put(Field.WEIGHT, spe[Column.TOTAL])
    store = spe[Column.OP] & np.uint64(1)
    put(Field.DATA_SRC, np.where(store > 0, np.uint64(Op.STORE), np.uint64(Op.LOAD)))
    put(Field.PHYS_ADDR, spe[Column.PHYSICAL])
    yield FileSamples(columns, np.full(spe.shape[1], _sampler(data), np.uint16))


def _sampler(data: PerfData) -> int:
    """Return which event of a file wrote the AUX data: it has its own type of PMU."""
    types = [event.attr.type for event in data.events]
    return types.index(max(types))


def _events(parts: list[FileSamples]) -> list[NDArray[np.uint16]]:
    return [part.event for part in parts]
