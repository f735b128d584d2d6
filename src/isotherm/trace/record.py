"""Record a real program's page accesses, exactly.

The program runs under ``valgrind --tool=lackey --trace-mem=yes``, which prints
every load, store and modify that the program makes in user mode. The lines come
through a pipe, are decoded in blocks, pass the modelled last-level cache and go
into a trace file; neither memory nor disk holds more than one block of text.

What is seen: the data references of one process, all of its threads (valgrind
runs one at a time). What is not: instruction fetches, what the kernel touches
on the program's behalf (``read`` into a buffer), and child processes.

Time is nominal: one nanosecond for every instruction executed, unless asked for
otherwise. It orders and paces accesses; it is not how long the program would run
without valgrind.
"""

import os
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError, UnsupportedError, UsageError
from isotherm.trace.format import Provenance, TraceInfo, TraceReader, TraceWriter
from isotherm.trace.lackey import decode_lackey
from isotherm.trace.llc import LastLevelCache

#: Nominal nanoseconds that an instruction takes: a clock, not a measurement.
NS_PER_INSTRUCTION = 1
#: Accesses of one page within this time become one row with a count.
DEFAULT_QUANTUM_NS = 1000
#: Text decoded at once; some 230,000 lines.
BLOCK_BYTES = 4 << 20
#: Pipe between valgrind and us: fewer switches than the default of 64 KiB.
_PIPE_BYTES = 1 << 20
_POLL_S = 0.2
#: Time in which lackey fills a part of the pipe, at some 30 bytes a microsecond.
_FILL_S = 0.01
_GRACE_S = 5.0

#: Called after each block with references seen and accesses kept so far.
Progress = Callable[[int, int], None]


def record_command(
    command: Sequence[str],
    out: Path,
    llc_bytes: int,
    limit: int | None = None,
    progress: Progress | None = None,
    *,
    ns_per_instruction: int = NS_PER_INSTRUCTION,
    quantum_ns: int = DEFAULT_QUANTUM_NS,
    skip_instructions: int = 0,
    note: str = "",
    details: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    quiet: bool = False,
    level: int | None = None,
) -> TraceInfo:
    """Run a program and write a trace of its page accesses.

    The program reads our standard input; its standard output joins our
    standard error, so that ours stays free for data. Its exit status is in
    ``provenance.details["exit_status"]`` (minus the signal that ended it); a
    program that fails is still a recording.

    Args:
        command: The program and its arguments.
        out: The trace file, replaced when the recording is complete.
        llc_bytes: Size of the modelled cache, see
            :class:`isotherm.trace.llc.LastLevelCache`; 0 keeps every reference.
        limit: End the program after this many accesses have been kept.
        progress: Called after each block with (references seen, accesses kept).
        ns_per_instruction: Nominal time that an instruction takes. A footprint
            that stands for one a thousand times as large keeps its accesses per
            page and second when an instruction takes a thousand times as long.
        quantum_ns: Accesses of one page and kind within this much nominal time
            become one row with a count and the time at which the quantum
            begins, in page order; 0 keeps each access, in order, with its time.
        skip_instructions: Do not keep what the first so many instructions
            touch (start-up); the modelled cache sees it all the same, and
            nominal time begins after it.
        note: What a reader should know, for the provenance.
        details: Further provenance, name to text.
        cwd: Folder in which the program runs.
        quiet: Discard the program's standard output.
        level: As of `TraceWriter`.

    Returns:
        What the file says about itself.

    Raises:
        UnsupportedError: valgrind or pyarrow is not installed.
        UsageError: The program does not exist, or an argument is out of range.
        IsothermError: valgrind recorded nothing, or the disk is full.
        KeyboardInterrupt: Interrupted; no file is left behind.
    """
    cache = LastLevelCache(llc_bytes)
    for name, value in (
        ("quantum", quantum_ns),
        ("instructions to skip", skip_instructions),
    ):
        if value < 0:
            raise UsageError(f"{name}: expected >= 0, got {value}")
    if ns_per_instruction < 1:
        raise UsageError(
            f"nanoseconds per instruction: expected >= 1, got {ns_per_instruction}"
        )
    if limit is not None and limit < 1:
        raise UsageError(f"limit: expected at least 1 access, got {limit}")
    arguments = _valgrind_command(command, cwd)
    facts = dict(details or {})
    provenance = Provenance(
        command=shlex.join(command),
        tool="valgrind lackey",
        date=datetime.now(UTC).date().isoformat(),
        note=note,
        source="recorded",
        llc_bytes=llc_bytes or None,
        details=facts,
    )
    with TraceWriter(out, provenance, level=level) as writer:
        session = _Session(
            cache, writer, limit, ns_per_instruction, quantum_ns, skip_instructions
        )
        with _running(arguments, cwd, quiet=quiet) as (process, pipe):
            carry = b""
            for block in _blocks(process, pipe):
                carry = session.take(carry + block)
                if progress is not None:
                    progress(session.references, session.kept)
                if session.full:
                    break
            status = None if session.full else process.wait()
        session.finish()
        if not session.references:
            raise IsothermError(
                f"{command[0]}: valgrind recorded no data reference "
                f"(exit status {status})",
                hint=shlex.join(["valgrind", "--tool=lackey", *command]),
            )
        facts.update(session.facts(), valgrind=_version(arguments[0]))
        facts["exit_status"] = "ended at the limit" if status is None else str(status)
    return TraceReader(out).info


class _Session:
    """Decoding, filtering, folding and writing, block by block.

    Args:
        cache: Filters the references.
        writer: Takes the accesses.
        limit: Accesses to keep, None for all.
        ns_per_instruction: As for :func:`record_command`.
        quantum_ns: As for :func:`record_command`.
        skip_instructions: As for :func:`record_command`.
    """

    def __init__(
        self,
        cache: LastLevelCache,
        writer: TraceWriter,
        limit: int | None,
        ns_per_instruction: int,
        quantum_ns: int,
        skip_instructions: int,
    ) -> None:
        self._cache = cache
        self._writer = writer
        self._limit = limit
        self._skip = skip_instructions
        self._ns = ns_per_instruction
        self._quantum_ns = quantum_ns
        self._fold = Folder(quantum_ns)
        self._lines = 0
        self.instructions = 0
        self.references = 0
        self.kept = 0

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self._limit is not None and self.kept >= self._limit

    def take(self, text: bytes) -> bytes:
        """Take a block of lackey output; return the beginning of a line at its end."""
        block = decode_lackey(text, first_line=self._lines + 1)
        sent = self._cache.filter(block.address, block.write, block.size)
        executed = block.instruction[sent.source] + self.instructions
        start = (
            int(np.searchsorted(executed, self._skip, side="right"))
            if self._skip
            else 0
        )
        stop = len(executed)
        if self._limit is not None:
            stop = min(stop, start + self._limit - self.kept)
        self.kept += stop - start
        time_ns = (executed[start:stop] - self._skip) * self._ns
        self._write(
            self._fold.push(sent.page[start:stop], sent.write[start:stop], time_ns)
        )
        self._lines += block.lines
        self.instructions += block.instructions
        self.references += len(block.address)
        return text[block.consumed :]

    def finish(self) -> None:
        """Write what the last quantum still holds."""
        self._write(self._fold.flush())

    def _write(self, rows: "Folded") -> None:
        page, write, time_ns, count = rows
        self._writer.append(page, write=write, time_ns=time_ns, count=count)

    def facts(self) -> dict[str, str]:
        """Return what the provenance should say."""
        size = self._cache.size_bytes
        return {
            "time": f"nominal, {self._ns} ns for each instruction executed",
            "instructions": str(self.instructions),
            "references": str(self.references),
            "skipped_instructions": str(min(self._skip, self.instructions)),
            "quantum_ns": str(self._quantum_ns),
            "llc": "64 B lines, 16 ways, LRU, write-allocate, write-back"
            if size
            else "none",
        }


#: Columns (page, write, time_ns, count) of folded accesses.
Folded = tuple[
    NDArray[np.uint64], NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint32]
]


class Folder:
    """Folds the accesses of one page within one quantum of time into one row.

    Reads and writes stay apart. Rows carry the time at which their quantum
    begins; within one they stand in page order, which makes the file half as
    large, since the order of first access is what compresses worst.

    Args:
        quantum_ns: Length of a quantum; 0 folds nothing.
    """

    def __init__(self, quantum_ns: int) -> None:
        self._quantum_ns = quantum_ns
        self._held = (
            np.empty(0, dtype=np.uint64),
            np.empty(0, dtype=np.uint8),
            np.empty(0, dtype=np.int64),
        )

    def push(
        self,
        page: NDArray[np.uint64],
        write: NDArray[np.uint8],
        time_ns: NDArray[np.int64],
    ) -> Folded:
        """Take accesses in order, shape (n,); return the rows of whole quanta."""
        if not self._quantum_ns:
            return page, write, time_ns, np.ones(len(page), dtype=np.uint32)
        joined = (
            np.concatenate([self._held[0], page]),
            np.concatenate([self._held[1], write]),
            np.concatenate([self._held[2], time_ns // self._quantum_ns]),
        )
        ticks = joined[2]
        whole = int(np.searchsorted(ticks, ticks[-1])) if len(ticks) else 0
        self._held = (joined[0][whole:], joined[1][whole:], ticks[whole:])
        return self._folded(joined[0][:whole], joined[1][:whole], ticks[:whole])

    def flush(self) -> Folded:
        """Return the rows of the quantum that has not ended."""
        page, write, ticks = self._held
        self._held = (page[:0], write[:0], ticks[:0])
        return self._folded(page, write, ticks)

    def _folded(
        self,
        page: NDArray[np.uint64],
        write: NDArray[np.uint8],
        ticks: NDArray[np.int64],
    ) -> Folded:
        order = np.lexsort((write, page, ticks))
        new = np.ones(len(order), dtype=np.bool_)
        for column in (page, write, ticks):
            ordered = column[order]
            differs = ordered[1:] != ordered[:-1]
            new[1:] = differs if column is page else new[1:] | differs
        at = np.flatnonzero(new)
        count = np.diff(np.append(at, len(order))).astype(np.uint32)
        rows = order[at]
        return page[rows], write[rows], ticks[rows] * self._quantum_ns, count


def _valgrind_command(command: Sequence[str], cwd: Path | None) -> list[str]:
    """Return the command line up to the log's file descriptor.

    Raises:
        UsageError: There is no such program.
        UnsupportedError: There is no valgrind.
    """
    if not command:
        raise UsageError("trace record: expected a command", hint="trace record -- CMD")
    name = command[0]
    if os.sep in name:
        path = Path(cwd or ".") / name
        found = path.is_file() and os.access(path, os.X_OK)
    else:
        found = shutil.which(name) is not None
    if not found:
        raise UsageError(f"{name}: no such program")
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise UnsupportedError(
            "trace record: valgrind is not installed", hint="apt install valgrind"
        )
    return [
        valgrind,
        "--tool=lackey",
        "--trace-mem=yes",
        "--basic-counts=no",
        "--trace-children=no",
        "--child-silent-after-fork=yes",
        *command,
    ]


def _version(valgrind: str) -> str:
    """Return what ``valgrind --version`` says."""
    done = subprocess.run(
        [valgrind, "--version"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip().removeprefix("valgrind-")


@contextmanager
def _running(
    arguments: list[str], cwd: Path | None, *, quiet: bool
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start valgrind with its log in a pipe; yield it and the pipe's read end.

    Whatever happens inside, the process has ended and the pipe is closed after.
    """
    import fcntl  # noqa: PLC0415  # absent outside Unix, where there is no valgrind

    reader, writer = os.pipe()
    process = None
    try:
        with suppress(OSError):  # over the pipe-max-size sysctl: slower, no less right
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(reader, False)
        process = subprocess.Popen(
            [arguments[0], f"--log-fd={writer}", *arguments[1:]],
            stdout=subprocess.DEVNULL if quiet else 2,
            cwd=cwd,
            pass_fds=(writer,),
        )
        os.close(writer)
        writer = -1
        yield process, reader
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program if it runs: by SIGTERM, and by SIGKILL after a grace."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _blocks(process: subprocess.Popen[bytes], pipe: int) -> Iterator[bytes]:
    """Yield the log in blocks until its end.

    The end is when the pipe is closed, or when the process has ended and the
    pipe is empty: a child that outlives it may keep the pipe open.
    """
    buffer = bytearray(BLOCK_BYTES)
    view = memoryview(buffer)
    fill = 0
    while True:
        ended = process.poll() is not None
        try:
            got = os.readv(pipe, [view[fill:]])
        except BlockingIOError:
            if ended:
                break
            select.select([pipe], [], [], _POLL_S)
            continue
        if not got:
            break
        fill += got
        if fill == BLOCK_BYTES:
            yield bytes(view)
            fill = 0
        if got < _PIPE_BYTES // 4:
            # lackey writes line by line; a reader asleep is not woken by each.
            time.sleep(_FILL_S)
    if fill:
        yield bytes(view[:fill])
