"""Who turns the loop: a thread beside the launches, or the launches themselves."""

import threading

from isotherm.core.clock import VirtualClock
from isotherm.gpu.mover import Mover
from isotherm.gpu.source import KernelCounters
from isotherm.gpu.tiering import Tiering

#: The thread looks for answers so often while something is under way, seconds.
POLL_S = 0.0005
#: And so often while nothing is.
IDLE_S = 0.05


class Engine:
    """Ends epochs and hands out what the protocol wants next.

    It holds no tensor: one that nobody holds any more can go.

    Args:
        mover: The tensor's.
        tiering: The tensor's; None: a tensor without slots has no loop.
        epoch_rows: Rows that are launched in an epoch.
    """

    def __init__(self, mover: Mover, tiering: Tiering | None, epoch_rows: int) -> None:
        self.mover = mover
        self.tiering = tiering
        #: What launches counted; of a tensor without slots nobody decides on it.
        self.counters = (
            KernelCounters(mover, VirtualClock())
            if tiering is None
            else tiering.counters
        )
        self.error: BaseException | None = None
        self._epoch_rows = epoch_rows
        self._rows = 0
        self._reads = self._bytes = 0
        self._turning = threading.RLock()  # one step at a time
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()

    def launched(self, count: int, bytes_each: int) -> None:
        """Take note of rows or blocks that were launched."""
        self._rows += count
        self._reads += count
        self._bytes += count * bytes_each
        if self._thread is not None:
            self._wake.set()

    @property
    def bytes_each(self) -> float:
        """Bytes of a read, the mean of all so far."""
        return self._bytes / self._reads if self._reads else 0.0

    @property
    def is_due(self) -> bool:
        """Whether an epoch's rows have been launched."""
        return self._rows >= self._epoch_rows

    @property
    def runs(self) -> bool:
        """Whether the thread does."""
        return self._thread is not None and self._thread.is_alive()

    def step(self) -> None:
        """End an epoch: look, decide, begin to move."""
        with self._turning:
            self._rows = 0
            self.mover.pump()
            if self.tiering is None:
                self.counters.fetch()
            else:
                self.tiering.step()
            self.mover.pump()

    def start(self) -> None:
        """Turn by a thread of its own, unless it does already."""
        with self._turning:
            if not self.runs:  # never started, or ended by an error
                self._stop.clear()
                self._thread = threading.Thread(
                    target=self._run, name="isotherm-gpu", daemon=True
                )
                self._thread.start()

    def stop(self) -> None:
        """End the thread, if there is one, and wait for it."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            self._wake.set()
            if thread is not threading.current_thread():
                thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(IDLE_S if self.mover.is_quiet else POLL_S)
            self._wake.clear()
            try:
                self.mover.pump()
                if self.is_due:
                    self.step()
            except Exception as error:  # noqa: BLE001  # raised at the next call
                self.error = error
                return
