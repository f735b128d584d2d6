"""Waiting for the end of an epoch, a signal, or the end of a process."""

import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Self

#: Stop managing, restore, and let a command that was started go on: what
#: ``isotherm stop`` sends.
STOP_SIGNAL = signal.SIGUSR1


class Waiter:
    """Takes signals while it is entered, and waits without polling.

    ``signal`` is the first of SIGINT, SIGTERM or the stop signal that came, None
    before. Python's own handlers are put back on exit.

    Args:
        pidfd: Of a process whose end also ends one wait; None: of none.
        reloads: SIGHUP asks for the configuration to be read again; else it ends.
    """

    def __init__(self, pidfd: int | None = None, *, reloads: bool = False) -> None:
        self.signal: signal.Signals | None = None
        #: Called in the handler of a signal that asks for the end: it may take no
        #: lock. None: nothing goes on that has to end before the next wait.
        self.halt: Callable[[], None] | None = None
        self._reloads, self._hung_up = reloads, False
        self._pidfd = pidfd
        self._poll = select.poll()
        self._old: dict[signal.Signals, object] = {}
        self._pipe: tuple[int, int] | None = None
        self._old_wakeup = -1

    def watch(self, pidfd: int) -> None:
        """Let the end of this process end one wait, too."""
        self._pidfd = pidfd
        self._poll.register(pidfd, select.POLLIN)

    def __enter__(self) -> Self:
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._pipe[0], select.POLLIN)
        if self._pidfd is not None:
            self._poll.register(self._pidfd, select.POLLIN)
        self._old_wakeup = signal.set_wakeup_fd(
            self._pipe[1], warn_on_full_buffer=False
        )
        taken = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, STOP_SIGNAL)
        for number in taken:
            self._old[number] = signal.signal(number, self._take)
        # Those that came before there was somebody to take them (daemon.split).
        signal.pthread_sigmask(signal.SIG_UNBLOCK, taken)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it came
        signal.set_wakeup_fd(self._old_wakeup)
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None

    def take_reload(self) -> bool:
        """Return whether SIGHUP has come since the last call."""
        asked, self._hung_up = self._hung_up, False
        return asked

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self._reloads:
            self._hung_up = True
        elif self.signal is None:
            self.signal = signal.Signals(number)
            if self.halt is not None:
                self.halt()

    def wait(self, seconds: float) -> bool:
        """Wait so long; return True when a signal came first.

        The wait in which the watched process ends is over then, without a signal:
        there may be others to go on for. Later waits are as long as they are asked.
        """
        until = time.monotonic() + seconds
        while self.signal is None:
            left = until - time.monotonic()
            ready = self._poll.poll(max(0, min(left, 3600)) * 1000)
            for file, _ in ready:
                if file == self._pidfd:
                    self._poll.unregister(file)
                    self._pidfd = None
                    return self.signal is not None
                if self._pipe is not None and file == self._pipe[0]:
                    os.read(file, 64)
            if not ready and left <= 0:
                return False
        return True
