"""A perf.data file as the samples of a simulation."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from isotherm.core.errors import TraceFormatError, UsageError
from isotherm.core.units import PAGE_BYTES
from isotherm.hints.recorded_samples import RecordedProcesses, RecordedSamples
from isotherm.machine.sim.machine import SimMachine
from isotherm.records.perf_data import PerfData
from isotherm.trace.format import TraceReader
from isotherm.trace.importers.perf_data import is_perf_data, open_seekable
from isotherm.trace.info import TraceInfo
from isotherm.trace.source import ByteSource
from isotherm.trace.stream import Workload
from isotherm.workloads.recorded import parse_window

PREFIX: Final = "perf.data:"
#: Formats of traces whose accesses are samples.
_SAMPLED: Final = frozenset({"perf-data", "perf"})
_HINT: Final = "--workload FILE takes the same recording, or a trace of the same run"


class Recording:
    """A recording as the source of samples, and what became of it.

    Args:
        path: The perf.data file, plain or compressed.
        machine: Whose time it follows.
        workload: A trace that kept its page numbers, with times.
        rate: The simulation's; None: the trace's own times.
        window: Which part of the trace is simulated, ``K/N``.

    Raises:
        UsageError: The workload has no page numbers to find the samples in, or the
            simulation does not keep the recording's times.
        TraceFormatError: The file is none.
    """

    def __init__(
        self,
        path: Path,
        machine: SimMachine,
        workload: Workload,
        rate: float | None,
        window: str = "1/1",
    ) -> None:
        what = f"hints {PREFIX}{path}"
        info = getattr(workload, "info", None)
        raw = None
        if isinstance(info, TraceInfo):
            raw = TraceReader(Path(info.path)).raw_pages()
        if raw is None or not isinstance(info, TraceInfo):
            raise UsageError(
                f"{what}: workload {workload.name} has no page numbers of its own",
                hint=_HINT,
            )
        if rate is not None:
            raise UsageError(
                f"{what}: samples come at their own times, got a rate of {rate:g}",
                hint="leave --rate out",
            )
        provenance = info.provenance
        if provenance.page_bytes < PAGE_BYTES:
            raise UsageError(
                f"{what}: expected a trace of pages of at least {PAGE_BYTES} bytes,"
                f" got {provenance.page_bytes}"
            )
        part, parts = parse_window(window)
        self._path = path
        with ExitStack() as stack:
            source = stack.enter_context(ByteSource(path))
            head = source.peek(8)
            if not is_perf_data(head):
                raise TraceFormatError(
                    f"{path}: starts with {head!r}, expected a perf.data file"
                )
            self._data = PerfData(open_seekable(source, stack), str(path))
            self._stack = stack.pop_all()
        #: Where samples come from.
        self.source = RecordedSamples(
            self._data,
            RecordedProcesses(raw, provenance.page_bytes),
            machine.clock.now_ns,
            begin_ns=((info.duration_ns or -1) + 1) * (part - 1) // parts,
            each_is_access=provenance.source in _SAMPLED,
            sample_ns=machine.spec.costs.sample_ns,
        )

    def close(self) -> None:
        """Close the file; may be called again."""
        self._stack.close()

    def report(self) -> dict[str, Any]:
        """Return what became of the samples so far, as JSON values."""
        translate = self.source.translate
        missed = translate.unknown + translate.foreign + translate.devices
        return {
            "file": str(self._path),
            "samples": self.source.read,
            "filtered": self.source.filtered,
            "of_no_page": missed,
            "lost": self._data.lost,
        }
