"""What a program that is told to end does first: leave nothing half-written."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

AGAIN_S: Final = 0.01  # after the signal came where no exception can leave


@contextmanager
def tidy_end() -> Iterator[None]:
    """End by way of every cleanup when SIGTERM comes while the block runs.

    The exit code is 143, as if the signal had ended the program. Python drops an
    exception that is raised in a destructor; then the signal is sent once more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before, told = signal.signal(signal.SIGTERM, _end), sys.unraisablehook

    def dropped(what: "UnraisableHookArgs") -> None:
        if not isinstance(what.exc_value, SystemExit):
            told(what)
            return
        signal.signal(signal.SIGTERM, _end)
        words = (os.getpid(), signal.SIGTERM)
        threading.Timer(AGAIN_S, os.kill, words).start()

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = told
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once: cleanups are not cut short
    raise SystemExit(128 + number)
