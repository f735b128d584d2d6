"""Where output goes: data to stdout, everything else to stderr."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from isotherm.core.names import printable

if TYPE_CHECKING:
    from rich.table import Table

#: Human output fits a terminal of 80 columns.
MAX_COLUMNS = 80


class _Console(Console):
    """A console that leaves a reader who has gone to `isotherm.cli.main`."""

    def on_broken_pipe(self) -> None:
        """Say so; rich would end the program with exit code 1."""
        raise BrokenPipeError

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; an error names the stream."""
        with _named("stderr" if self.stderr else "stdout"):
            super().print(*objects, **options)


@contextmanager
def _named(stream: str) -> Iterator[None]:
    """Name the stream that was written to: the system does not."""
    try:
        yield
    except OSError as error:
        error.filename = stream
        raise


def _console(*, stderr: bool) -> Console:
    """Return a console of at most 80 columns; colour only on a terminal.

    rich itself honours ``NO_COLOR`` and finds out whether it is a terminal.
    """
    console = _Console(stderr=stderr, highlight=False, soft_wrap=False)
    console.width = min(console.width, MAX_COLUMNS)
    return console


def help_console() -> Console:
    """Return the console for help and data."""
    return _console(stderr=False)


def error_console() -> Console:
    """Return the console for errors and progress."""
    return _console(stderr=True)


def print_json(value: Any) -> None:  # any JSON value
    """Print one JSON document with raw units to stdout."""
    from isotherm.observability.jsonable import encode_json  # noqa: PLC0415  # only here

    _write(encode_json(value, indent=1).decode() + "\n")


def print_text(text: str = "") -> None:
    """Print lines for people to stdout."""
    _write(printable(text) + "\n")


def _write(text: str) -> None:
    with _named("stdout"):
        sys.stdout.write(text)


def print_wrapped(text: str) -> None:
    """Print a sentence or more for people to stdout, in lines of 80 columns."""
    import textwrap  # noqa: PLC0415  # only for people

    print_text(
        textwrap.fill(text, MAX_COLUMNS, break_long_words=False, break_on_hyphens=False)
    )


def note(text: str) -> None:
    """Print a remark to stderr."""
    sys.stderr.write(printable(text) + "\n")


def tell_first_start() -> None:
    """Say on stderr that kernels will be compiled, if they never were; brings numba."""
    from isotherm.core.compiling import FIRST_START  # noqa: PLC0415  # likewise
    from isotherm.core.kernels import is_first_start  # noqa: PLC0415  # likewise

    if is_first_start():
        note(f"{FIRST_START}: that takes some seconds more")


def table(columns: Sequence[tuple[str, str]], *, title: str | None = None) -> "Table":
    """Return an empty table; columns are (heading, "left" or "right")."""
    from rich import box  # noqa: PLC0415  # only where a table is drawn
    from rich.table import Table  # noqa: PLC0415  # likewise

    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="bold",
    )
    for heading, side in columns:
        made.add_column(heading, justify="right" if side == "right" else "left")
    return made


def print_table(made: "Table") -> None:
    """Print a table to stdout; a pipe gets no blanks at the ends of lines."""
    console = help_console()
    if console.is_terminal:
        console.print(made)
        return
    with console.capture() as drawn:
        console.print(made)
    for line in drawn.get().splitlines():
        console.out(line.rstrip(), highlight=False)


class Progress(Protocol):
    """Tells how far the work is."""

    def __call__(self, done: float, total: float | None = 1.0) -> None:
        """Show ``done`` of ``total``; None: nobody knows."""
        ...


def _silent(done: float, total: float | None = 1.0) -> None:
    """Show nothing."""


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """Show a bar on stderr while the block runs, if that is a terminal."""
    console = error_console()
    if not console.is_terminal:
        yield _silent
        return
    from rich.progress import (  # noqa: PLC0415  # only on a terminal
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=1.0)

        def show(done: float, total: float | None = 1.0) -> None:
            bar.update(task, completed=done, total=total)

        yield show


#: What journald takes off the front of a line and files: sd-daemon(3).
_LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def start_logging() -> None:
    """Send structured logs to stderr: lines, or JSON where journald reads them."""
    import logging  # noqa: PLC0415  # only when a verb runs

    import structlog  # noqa: PLC0415  # likewise

    last: Any = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), pad_event_to=0
    )
    if is_journal(os.environ.get("JOURNAL_STREAM", "")):
        last = _render_for_journal
    structlog.configure(
        processors=[structlog.processors.add_log_level, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def is_journal(name: str) -> bool:
    """Return whether stderr is the stream that systemd.exec(5) names: DEVICE:INODE."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return name == f"{found.st_dev}:{found.st_ino}"


def _render_for_journal(logger: object, name: str, event: dict[str, Any]) -> str:
    """Return one line of JSON with its level in front."""
    import json  # noqa: PLC0415  # only here

    level = _LEVELS.get(event["level"], 6)
    return f"<{level}>{json.dumps(event, default=_plain)}"


def _plain(value: Any) -> Any:
    """Return numpy's values as what they hold, others in words: a log never fails."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
