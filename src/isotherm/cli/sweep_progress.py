"""How far a sweep is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from isotherm.cli.output import error_console, progress_bar

#: Seconds between two lines where there is no terminal, such as in a batch job.
LINE_EVERY_S: Final = 30.0


class ProgressLines:
    """Tells of runs done, their pace and the time left, a line at a time.

    Runs that were finished before the first call say nothing about the pace.

    Args:
        what: Begins every line.
        file: Where to.
        clock: Seconds.
        every_s: Seconds between two lines.
    """

    def __init__(
        self,
        what: str,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = LINE_EVERY_S,
    ) -> None:
        self._what = what
        self._file = file or sys.stderr
        self._clock = clock
        self._every_s = every_s
        self._began = self._told = clock()
        self._kept: float | None = None

    def __call__(self, done: float, total: float | None = 1.0) -> None:
        """Tell, unless it was told a moment ago."""
        now = self._clock()
        if self._kept is None:
            self._kept = done
        if total is None or now - self._told < self._every_s:
            return
        self._told = now
        text = f"{self._what}: {done:.0f} of {total:.0f} runs"
        made = done - self._kept
        if made > 0:
            pace = made / (now - self._began)
            text += f", {pace:.3g} a second, {(total - done) / pace:.0f} s left"
        self._file.write(text + "\n")
        self._file.flush()


@contextmanager
def sweep_progress(what: str) -> Iterator[Callable[[float, float | None], None]]:
    """Show on stderr how many runs are done while the block runs."""
    if not error_console().is_terminal:
        yield ProgressLines(what)
        return
    with progress_bar(what) as bar:
        yield bar
