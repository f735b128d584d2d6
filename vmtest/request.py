"""What to run, where, and within which limits."""

import re
from dataclasses import dataclass
from pathlib import Path

from vmtest.errors import GuestError
from vmtest.layout import Layout
from vmtest.qemu import Share

OUT_IN_GUEST = Path("/run/vmtest/out")


@dataclass(frozen=True, slots=True)
class Request:
    """One guest.

    Attributes:
        command: Program and arguments.
        layout: The memory that the guest sees.
        kernel: A name of ``KERNELS``.
        cpus: Virtual CPUs, divided evenly among the nodes that have some.
        folder: The command's working directory.
        shares: Folders that the guest may write to, under the same path.
        out: A folder here that the guest finds as ``$VMTEST_OUT``, or None.
        environment: Names and values of more variables for the command.
        modules: More kernel modules to load.
        kernel_arguments: More for the kernel's command line.
        console: A file for the kernel's messages, or None.
        tick_ms: How often emulated address translations are dropped; 0: never.
        cgroup: Whether the command gets a control group of its own.
        late: Leave the CXL device to the command.
        limit_s: For all of it, boot included.
        accelerator: ``tcg``, ``kvm`` or ``auto``.
        system: A name of ``SYSTEMS``: it boots this with its own first process
            instead of sharing this machine's root. None: this machine's.
        offered: Debian packages that apt can install in that system.
        verbose: Say the command line, and when the guest does what.
    """

    command: tuple[str, ...]
    layout: Layout
    kernel: str = "6.12"
    cpus: int = 2
    folder: Path = Path("/")
    shares: tuple[Path, ...] = ()
    out: Path | None = None
    environment: tuple[tuple[str, str], ...] = ()
    modules: tuple[str, ...] = ()
    kernel_arguments: str = ""
    console: Path | None = None
    tick_ms: float = 5
    cgroup: bool = False
    late: bool = False
    limit_s: float = 300
    accelerator: str = "tcg"
    system: str | None = None
    offered: tuple[str, ...] = ()
    verbose: bool = False


def resolve_shares(request: Request, numba: Path) -> list[Share]:
    """Return all folders that the guest may write to.

    Raises:
        GuestError: One is no folder, or has a name that QEMU cannot take.
    """
    pairs = [(folder.resolve(), folder.resolve()) for folder in request.shares]
    if request.system is None:
        pairs.append((numba.resolve(), numba.resolve()))
    if request.out is not None:
        request.out.mkdir(parents=True, exist_ok=True)
        pairs.append((request.out.resolve(), OUT_IN_GUEST))
    for host, _ in pairs:
        if not host.is_dir():
            raise GuestError(f"{host}: cannot be shared: not a folder")
        if re.search(r"[\s,]", str(host)):
            raise GuestError(f"{host}: cannot be shared: a space or comma in its name")
    return [Share(host, guest) for host, guest in pairs]
