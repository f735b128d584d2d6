"""What runs of one access stream share: the workload, and its counts for bounds.

A worker of a sweep keeps the stream of its last run, decoded traces in files that
all workers of the host map (``trace_cache``). Runs are told nothing of it: their
accesses are the same, bit for bit.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from isotherm.lab.future import workload_future
from isotherm.lab.simulate import DEFAULT_PAGES, SimulationSpec
from isotherm.lab.trace_cache import SweepFolder, TraceCache, remove_folder
from isotherm.policy.bounds import KnownFuture
from isotherm.policy.registry import NEEDS_FUTURE
from isotherm.trace.stream import Pace, Workload
from isotherm.workloads.recorded import parse_window
from isotherm.workloads.registry import WORKLOADS, make_workload

#: Counts of a stream are kept up to this size; larger ones are made for each run.
FUTURE_BYTES: Final = 256 << 20

Stream = tuple[str, int, int, tuple[tuple[str, Any], ...], int | None]


class Streams:
    """The streams of a sweep, for one process.

    Args:
        token: Of the sweep, as of ``SweepFolder``.
        limit_bytes: Of decoded traces on this host; 0: traces are decoded for
            every run.
    """

    def __init__(self, token: str, limit_bytes: int) -> None:
        self.token = token
        self._limit_bytes = limit_bytes
        self._folder: SweepFolder | None = None  # made for the first trace
        self._cache: TraceCache | None = None
        # A generator may reuse its arrays: each thread has a stream of its own.
        self._mine = threading.local()

    @property
    def decoded(self) -> int:
        """Traces that this process has decoded into the folder so far."""
        return 0 if self._cache is None else self._cache.decoded

    def workload(self, spec: SimulationSpec) -> Workload:
        """Return the workload of a run.

        Raises:
            UsageError: No such workload, or a value out of range.
            TraceFormatError: A trace that cannot be read.
        """
        stream = _stream_of(spec)
        if getattr(self._mine, "stream", None) != stream:
            self._mine.workload = self._open(spec)
            self._mine.stream, self._mine.future = stream, None
        workload: Workload = self._mine.workload
        return workload

    def future(self, spec: SimulationSpec) -> KnownFuture | None:
        """Return the counts of a run's stream; None if its policy needs none."""
        if spec.policy not in NEEDS_FUTURE:
            return None
        workload, pace = self.workload(spec), spec.pace
        kept: tuple[Pace, KnownFuture] | None = self._mine.future
        if kept is not None and kept[0] == pace:
            return kept[1]
        self._mine.future = None
        future = workload_future(workload, pace)
        if future.counts.nbytes <= FUTURE_BYTES:
            self._mine.future = pace, future
        return future

    def close(self) -> None:
        """Let go of the folder."""
        self._mine = threading.local()
        if self._folder is not None:
            self._folder.release()

    def _open(self, spec: SimulationSpec) -> Workload:
        path = _trace_path(spec.workload)
        window = _window(spec.workload_options)
        if self._limit_bytes and path is not None and window is not None:
            workload = self._traces().open(path, spec.accesses, window)
            if workload is not None:
                return workload
        return make_workload(
            spec.workload,
            spec.pages or DEFAULT_PAGES,
            spec.seed,
            spec.workload_options or None,
        )

    def _traces(self) -> TraceCache:
        with _lock:
            if self._cache is None:
                self._folder = SweepFolder(self.token)
                self._cache = TraceCache(self._folder.path, self._limit_bytes)
            return self._cache


def _stream_of(spec: SimulationSpec) -> Stream:
    """Return what specs of one stream have in common."""
    options = tuple(sorted(spec.workload_options.items()))
    if _trace_path(spec.workload) is not None:
        return spec.workload, 0, 0, options, spec.accesses
    return spec.workload, spec.pages or DEFAULT_PAGES, spec.seed, options, None


def _trace_path(workload: str) -> Path | None:
    """Return the file of a trace; None of a generator, or of nothing known."""
    if workload in WORKLOADS or workload.endswith(".toml"):
        return None
    path = Path(workload)
    if path.exists():
        return path
    from isotherm.data import list_traces, trace_path  # noqa: PLC0415  # few need it

    return trace_path(workload) if workload in list_traces() else None


def _window(options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the part of a trace; None if there are options that it has not."""
    if set(options) - {"window"}:
        return None
    return parse_window(str(options.get("window", "1/1")))


# ---- the streams of this process

_current: Streams | None = None
_lock: Final = threading.Lock()


def enter(token: str, limit_bytes: int) -> Streams:
    """Return the streams of a sweep; those of an earlier one are let go."""
    global _current  # noqa: PLW0603  # one a process: a worker has no other place
    with _lock:
        if _current is None or _current.token != token:
            if _current is not None:
                _current.close()
            _current = Streams(token, limit_bytes)
        return _current


def leave(token: str) -> None:
    """End a sweep in this process, and remove what it kept on this host."""
    global _current  # noqa: PLW0603  # as above
    with _lock:
        if _current is not None and _current.token == token:
            _current.close()
            _current = None
    remove_folder(token)


def current() -> Streams | None:
    """Return the streams of the sweep that this process works for."""
    return _current
