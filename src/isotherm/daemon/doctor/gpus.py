"""GPUs: where their memory is, and who else moves pages to and from it.

Nothing is changed. Where GPU memory is a node, two of the kernel's and the driver's
own habits work against a placement: NUMA balancing moves pages to the CPUs that touch
them, and nvidia-uvm's access counters move those that a GPU reads. Both are told with
the command that stops them, whatever they are set to.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from isotherm.core.availability import Availability
from isotherm.core.errors import TopologyError
from isotherm.daemon.doctor.files import read
from isotherm.daemon.movers_hardware import UVM, UVM_PARAMETERS
from isotherm.topology.gpu_memory import GpuMemory, GpuMemoryKind, render_gpu

BALANCING: Final = "proc/sys/kernel/numa_balancing"
#: What puts memory of a coherent GPU on line as a node, from the next boot on.
AS_NODE: Final = (
    "echo options nvidia NVreg_CoherentGPUMemoryMode=numa |"
    " sudo tee /etc/modprobe.d/nvidia-memory.conf"
)


def find_gpu_facts(
    root: Path = Path("/"), load: Callable[[str], Any] | None = None
) -> Iterator[Availability]:
    """Yield a fact per GPU, and what else moves its memory; none without a GPU.

    Args:
        root: Where /proc and /sys are.
        load: Loads a library by name; None: those of this machine, if it is meant.
    """
    from isotherm.topology import nvidia  # noqa: PLC0415  # ctypes

    try:
        gpus = nvidia.find_gpus(root, load)
    except TopologyError:
        return
    for i, gpu in enumerate(gpus):
        yield Availability(
            f"gpu{i}",
            "gpu",
            gpu.movable,
            f"{gpu.address}: {render_gpu(gpu)}",
            AS_NODE if gpu.kind is GpuMemoryKind.HIDDEN else None,
        )
    if any(gpu.movable for gpu in gpus):
        yield _balancing(root)
    if gpus:
        yield from _counters(root, gpus)


def _balancing(root: Path) -> Availability:
    """Return whether NUMA balancing leaves the placement of pages alone."""
    setting = read(root, BALANCING)
    alone = not setting.number  # not there, or 0
    why = f"{setting.said}: "
    if alone:
        why += "pages stay where they are put"
    else:
        why += "the kernel moves pages to the CPUs that touch them, also off a GPU"
    command = None if alone else "sudo sysctl kernel.numa_balancing=0"
    return Availability("gpu-numa-balancing", "gpu", alone, why, command)


def _counters(root: Path, gpus: list[GpuMemory]) -> Iterator[Availability]:
    """Yield what nvidia-uvm's access counters are set to, on or off."""
    for name in UVM_PARAMETERS:
        setting = read(root, f"{UVM}/{name}")
        if setting.number is not None:
            break
    else:
        return
    node = any(gpu.movable for gpu in gpus)
    off = setting.number == 0 or (setting.number < 0 and not node)
    why = f"{setting.said}: "
    if off:
        why += "nvidia-uvm leaves pages that a GPU reads where they are"
    else:
        why += "nvidia-uvm moves pages that a GPU reads across the link"
    if setting.number < 0:
        why += " (the driver's own choice)"
    command = None if off else f"modprobe -r nvidia_uvm && modprobe nvidia_uvm {name}=0"
    yield Availability("gpu-access-counting", "gpu", off, why, command)
