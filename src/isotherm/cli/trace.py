"""``isotherm trace``: import other tools' traces, record a program, look at one."""

import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from isotherm.cli.output import note, print_json, print_text, progress_bar
from isotherm.cli.termination import tidy_end

if TYPE_CHECKING:
    from isotherm.trace.info import TraceInfo

EPILOGUE = """\
Examples:
  isotherm trace import spec2000-gcc.trace.gz gcc.parquet
  isotherm trace import samples.txt hot.parquet --format perf
  isotherm trace import big.csv big.parquet --page-bytes 2MiB --json
  isotherm trace info gcc.parquet
  isotherm trace record sort.parquet --llc 8MiB -- sort -n numbers.txt
  isotherm trace record db.parquet --pid 4242 --duration 300 --interval 2

Overhead: import reads a few million text lines a second on one core and keeps
24 to 48 bytes a distinct page. record -- PROGRAM slows it 100 times and more;
record --pid takes at most 2 % of a core, and 16 bytes a page.
"""

app = App(name="trace", help_epilogue=EPILOGUE, help_format="plaintext")

_Json = Annotated[bool, Parameter(name="--json", negative=())]


@app.command(name="import")
def import_(
    source: Path,
    out: Path,
    /,
    *,
    format: str = "auto",  # noqa: A002  # the option's name
    page_bytes: str = "4096",
    json: _Json = False,
) -> int:
    """Turn another tool's trace into a trace file.

    gzip, xz, zstd, bzip2 and zlib are decoded on the way. Nothing is left behind
    when the input turns out to be malformed.

    Parameters
    ----------
    source
        The foreign file.
    out
        The trace file to write, replaced if it exists.
    format
        auto, or one of csv, damo, lackey, libcachesim-csv, lirs, mooncake,
        mooncake-serving, oracle-general, parquet, perf, ramulator, spec.
    page_bytes
        Bytes of a page; addresses are divided by it. 4096, 64KiB, 2MiB, ...
    json
        Print one JSON document with raw units.
    """
    from isotherm.core.units import parse_size  # noqa: PLC0415  # --help is quick
    from isotherm.trace.importing import import_trace  # noqa: PLC0415  # as above

    size = parse_size(page_bytes)
    with progress_bar(f"import {source.name}") as show:

        def progress(done: int, total: int | None) -> None:
            show(done, total or done or 1)

        words = ["isotherm", "trace", "import", str(source), str(out)]
        if format != "auto":
            words += ["--format", format]
        if size != 4096:
            words += ["--page-bytes", page_bytes]
        with tidy_end():
            info = import_trace(
                source,
                out,
                form=format,
                page_bytes=size,
                command=shlex.join(words),
                progress=progress,
            )
    _show(info, json=json)
    return 0


@app.command
def info(file: Path, /, *, json: _Json = False) -> int:
    """Show what a trace file holds: footprint, accesses, time, provenance.

    Parameters
    ----------
    file
        A trace file: Parquet or Arrow IPC.
    json
        Print one JSON document with raw units.
    """
    from isotherm.trace.format import TraceReader  # noqa: PLC0415  # --help is quick

    _show(TraceReader(file).info, json=json)
    return 0


@app.command
def record(
    out: Path,
    /,
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    llc: str | None = None,
    accesses: int | None = None,
    pid: Annotated[
        list[int] | None, Parameter(consume_multiple=True, negative=())
    ] = None,
    duration: float | None = None,
    interval: float | None = None,
    hints: str | None = None,
    intrusive: Annotated[bool, Parameter(negative=())] = False,
    json: _Json = False,
) -> int:
    """Record what memory a program touches: exactly, or while it runs as usual.

    A program after -- runs under valgrind, and every access is recorded through a
    modelled cache. With --pid, running processes are looked at through the hint
    sources of this host, and accesses are synthesised from estimated rates;
    Ctrl-C ends that early and keeps the file.

    Parameters
    ----------
    out
        The trace file to write.
    command
        The program and its arguments, after --.
    llc
        Size of the modelled last-level cache (default 8MiB); 0 records every
        reference.
    accesses
        End the program after this many recorded accesses.
    pid
        Record these running processes and their children instead.
    duration
        Seconds to record --pid; 0: until Ctrl-C or the end of the processes
        (default 60).
    interval
        Seconds that one estimate stands for (default 1).
    hints
        Comma list of sources for --pid (default: the best that is there).
    intrusive
        Allow sources that change something in the processes.
    json
        Print one JSON document with raw units.
    """
    from isotherm.core.errors import UsageError  # noqa: PLC0415  # --help is quick

    if bool(command) == bool(pid):
        raise UsageError(
            "trace record: expected a program after --, or --pid",
            hint="isotherm trace record OUT.parquet --llc 8MiB -- ls -l",
        )
    live = {"duration": duration, "interval": interval, "hints": hints}
    exact = {"llc": llc, "accesses": accesses}
    wrong = [
        name for name, value in (exact if pid else live).items() if value is not None
    ]
    if wrong:
        what = "a program" if pid else "--pid"
        raise UsageError(f"--{wrong[0]}: only for {what}")
    if pid:
        found = _record_live(out, pid, duration, interval, hints, intrusive=intrusive)
    else:
        found = _record_exactly(out, command, llc or "8MiB", accesses)
    _show(found, json=json)
    return 0


def _record_exactly(
    out: Path, command: tuple[str, ...], llc: str, accesses: int | None
) -> "TraceInfo":
    from isotherm.core.units import parse_size  # noqa: PLC0415  # --help is quick
    from isotherm.trace.record import record_command  # noqa: PLC0415  # as above

    with _counter(f"record {Path(command[0]).name}") as show:
        size = parse_size(llc)
        with tidy_end():
            found = record_command(list(command), out, size, accesses, show)
    status = found.provenance.details.get("exit_status", "0")
    if status not in ("0", "ended at the limit"):
        note(f"note: {command[0]} ended with exit status {status}")
    return found


def _record_live(
    out: Path,
    pids: list[int],
    duration: float | None,
    interval: float | None,
    hints: str | None,
    *,
    intrusive: bool,
) -> "TraceInfo":
    from isotherm.cli.output import start_logging  # noqa: PLC0415  # --help is quick
    from isotherm.daemon.trace_record import (  # noqa: PLC0415  # as above
        Wanted,
        record_processes,
    )

    start_logging()
    seconds = 60.0 if duration is None else duration
    names = ["auto"] if hints is None else [word.strip() for word in hints.split(",")]
    wanted = Wanted(
        tuple(dict.fromkeys(pids)),
        out,
        seconds or None,
        1.0 if interval is None else interval,
        tuple(names),
        intrusive,
    )
    with progress_bar(f"record {out.name}") as show:
        return record_processes(wanted, lambda done, _: show(done, wanted.duration_s))


def _counter(
    what: str,
) -> AbstractContextManager[Callable[[int, int], None] | None]:
    """Show references seen and accesses kept on stderr, where that is a terminal."""
    from contextlib import contextmanager  # noqa: PLC0415  # only here

    @contextmanager
    def shown() -> Any:
        if not sys.stderr.isatty():
            yield None
            return
        from isotherm.cli.output import error_console  # noqa: PLC0415  # only here

        with error_console().status(what) as status:
            yield lambda seen, kept: status.update(
                f"{what}: {seen:,} references, {kept:,} kept"
            )

    return shown()


def _show(found: "TraceInfo", *, json: bool) -> None:
    """Print what a trace holds, as JSON or as lines for people."""
    if json:
        print_json(found.to_json())
        return
    from isotherm.core.units import render_bytes, render_ns  # noqa: PLC0415  # as above

    origin = found.provenance
    footprint = render_bytes(found.pages * found.page_bytes)
    lines = {
        "file": f"{found.path} ({render_bytes(found.file_bytes)})",
        "accesses": f"{found.accesses:,} in {found.rows:,} rows",
        "footprint": f"{found.pages:,} pages of {render_bytes(found.page_bytes)}, "
        f"{footprint}",
        "writes": "unknown"
        if found.writes is None
        else f"{found.writes:,} ({found.writes / max(found.accesses, 1):.1%})",
        "duration": "unknown (order only; give a --rate)"
        if found.duration_ns is None
        else render_ns(found.duration_ns),
        "columns": ", ".join(("page", *found.columns)),
        "source": " ".join(x for x in (origin.source, origin.source_file) if x),
        "tool": origin.tool,
        "command": origin.command,
        "date": origin.date,
        "cache": "" if origin.llc_bytes is None else render_bytes(origin.llc_bytes),
        "note": origin.note,
    }
    details = {name.replace("_", " "): text for name, text in origin.details.items()}
    lines |= {name: text for name, text in details.items() if name not in lines}
    width = min(max(len(name) for name in lines), 24)
    for name, text in lines.items():
        if text:
            print_text(f"{name:<{width}}  {text}")
