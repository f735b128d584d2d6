"""The life of a tensor: who may use it, what ends it, and in which order."""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.gpu.backend import DeviceFailedError
from isotherm.gpu.engine import Engine
from isotherm.gpu.indices import RowIndexError
from isotherm.gpu.mover import Mover


class Life:
    """Knows whether a tensor can be used, and remembers what ended it.

    Args:
        owner: The tensor: when nobody holds it any more, or the interpreter ends, it
            is closed.
        mover: Its protocol and backend.
        engine: Who turns its loop.

    Attributes:
        failed: What ended it; None: it works.
        close: Closes it; may be called again.
    """

    def __init__(self, owner: object, mover: Mover, engine: Engine) -> None:
        self._mover, self._engine = mover, engine
        self._pid = os.getpid()
        self.failed: str | None = None
        self.close = weakref.finalize(owner, _close, mover, engine, self._pid)

    def check(self) -> None:
        """Raise unless the tensor can be used, by this process, now."""
        if os.getpid() != self._pid:
            raise UnsupportedError(
                f"tensor: made by process {self._pid}, used by its child {os.getpid()}:"
                " a device's context is not inherited",
                hint="make it in the child, or start the child with spawn",
            )
        if self.failed is not None:
            raise DeviceFailedError(self.failed)
        if not self.close.alive:
            raise UsageError("tensor: it was closed")
        error, self._engine.error = self._engine.error, None
        if error is not None:
            self._fail(error)
            raise error

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Mark the tensor as failed where the device does."""
        try:
            yield
        except DeviceFailedError as error:
            self._fail(error)
            raise DeviceFailedError(
                self.failed or error.message, hint=error.hint
            ) from error

    def _fail(self, error: BaseException) -> None:
        """Remember what ended it, with the pages that may have been lost."""
        if not isinstance(error, DeviceFailedError):
            return
        dirty = self._mover.possibly_dirty()
        lost = "no page was dirty"
        if len(dirty):
            shown = ", ".join(map(str, dirty[:8].tolist()))
            more = ", ..." if len(dirty) > 8 else ""
            lost = f"{len(dirty)} pages may be older on the host: {shown}{more}"
        self.failed = f"{error.message}; the host arena holds the tensor: {lost}"

    def raise_noticed(self) -> None:
        """Raise what launches before were found to have asked for.

        Raises:
            RowIndexError: An index was outside.
        """
        bad = self._engine.counters.take_bad()
        if bad is not None:
            count, index = bad
            rows = self._mover.backend.geometry.rows
            raise RowIndexError(
                f"index: {count} outside 0 to {rows - 1}, one of them {index};"
                " row 0 was read",
                hint='check="sync" says at which call',
            )


def _close(mover: Mover, engine: Engine, pid: int) -> None:
    """Stop deciding, wait for the device, unlock, free: in that order."""
    if os.getpid() != pid:
        return  # a child: nothing here is its own
    engine.stop()
    mover.backend.close()
