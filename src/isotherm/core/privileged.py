"""What an unprivileged process asks of a privileged one, and where it asks.

A process that may do everything itself has no broker: ``broker()`` is None, and the
few places that need a right make their system call there and then. A process that
has given its rights up (``isotherm run --user``) has one, installed once and before
anything else: the same places ask it. These places are ``machine.linux.process``,
``machine.linux.perf_open``, ``machine.linux.pagemap`` (its own pages), ``core.changes``
and ``machine.linux.affinity``.
"""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # who only restores a journal needs no arrays
    import numpy as np
    from numpy.typing import NDArray


class Broker(Protocol):
    """Who does what needs a right. Each raises OSError with the errno of a refusal."""

    # -- processes; a handle stands for one process, whatever becomes of its number --

    def admit(self, pid: int) -> tuple[int, int, int]:
        """Open a managed process; return handle, pidfd and start in clock ticks."""
        ...

    def release(self, handle: int) -> None:
        """Give a handle back."""
        ...

    def read(self, handle: int, name: str) -> bytes:
        """Return a file of its ``/proc`` directory."""
        ...

    def open(self, handle: int, name: str, flags: int) -> int:
        """Return a descriptor of a file of its ``/proc`` directory."""
        ...

    def clear_refs(self, handle: int, what: int) -> None:
        """Clear accessed or soft-dirty bits, as a digit says."""
        ...

    def move_pages(
        self,
        handle: int,
        address: "NDArray[np.uint64]",
        node: "NDArray[np.int32] | None",
        flags: int,
    ) -> "tuple[int, NDArray[np.int32]]":
        """Move pages or ask where they are; result or -errno, and status int32[n]."""
        ...

    def madvise(
        self,
        handle: int,
        start: "NDArray[np.uint64]",
        size: "NDArray[np.uint64]",
        advice: int,
    ) -> int:
        """Give advice about ranges in bytes; return bytes advised, or -errno."""
        ...

    def touch(self, handle: int, address: "NDArray[np.uint64]") -> int:
        """Fault pages in; return how many are there, or -errno."""
        ...

    def shares_memory(self, pid: int, other: int) -> bool:
        """Return whether two processes have one address space."""
        ...

    def run_on(self, handle: int, tid: int | None, cpus: Collection[int]) -> int:
        """Have threads run on CPUs; see ``machine.linux.affinity.run_on``.

        What was set last it knows itself.
        """
        ...

    # -- events and files of the kernel --

    def open_event(self, attr: bytes, tid: int, cpu: int, group: int) -> int:
        """Return the descriptor of a perf event."""
        ...

    def own_pagemap(self) -> int:
        """Return a descriptor of the pagemap of who asks, which shows frames."""
        ...

    def read_file(self, path: Path) -> str:
        """Return what a file of the kernel says."""
        ...

    def write_file(self, path: Path, value: str) -> None:
        """Write a file of the kernel, without a note of what it said."""
        ...

    # -- changes, written down where they are made --

    def change(self, path: Path, value: str) -> bool:
        """Write a file of the kernel and its old value to the journal."""
        ...

    def made(self, kind: str, facts: dict[str, Any]) -> None:
        """Note a change that is not a file write."""
        ...

    def restore(self, kind: str | None) -> list[str]:
        """Undo changes; return what was done."""
        ...

    # -- the run --

    def lock(self, pids: Collection[int]) -> list[dict[str, Any]]:
        """Lock processes; return who holds those that are taken."""
        ...

    def unlock(self, pids: Collection[int]) -> None:
        """Give locks back."""
        ...

    def notify(self, state: str) -> None:
        """Tell the service manager."""
        ...


_broker: Broker | None = None


def broker() -> Broker | None:
    """Return who has the rights; None: this process has what rights there are."""
    return _broker


def install(to: Broker | None) -> None:
    """Have everything that needs a right ask there from now on."""
    global _broker  # noqa: PLW0603  # of the process, as its credentials are
    _broker = to


@contextlib.contextmanager
def asking(of: Broker | None) -> Iterator[None]:
    """Ask there for a while; for tests and measurements."""
    before = _broker
    install(of)
    try:
        yield
    finally:
        install(before)


def read_kernel_text(path: Path) -> str:
    """Return what a file of the kernel says, whoever may read it.

    Raises:
        OSError: It cannot be read.
    """
    return path.read_text() if _broker is None else _broker.read_file(path)
