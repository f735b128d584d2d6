"""Where a GPU's memory is to the kernel: a NUMA node, hidden, or across a bus.

Three machines look alike to a program that has a CUDA device:

* *node*: the GPU is coherent and its driver has put its memory on line as a node
  (POWER9 with NVLink, GH200, GB200). Linux's own calls move pages there.
* *hidden*: the GPU is coherent, but its driver keeps the memory to itself (CDMM,
  ``NVreg_CoherentGPUMemoryMode=driver``; from release 615 the driver's default).
  mbind() and move_pages() cannot reach it; kernels still read host memory directly.
* *discrete*: the memory is behind a bus, and host memory is read across it.

What decides, strongest first: the node that the driver names, what CUDA and NVML
say of a node, the driver's parameter, and how the GPU translates addresses.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from isotherm.topology.devices import Gpu
from isotherm.topology.tree import Tree

#: Module parameters of nvidia, one ``Name: value`` a line.
PARAMS: Final = "proc/driver/nvidia/params"
VERSION: Final = "proc/driver/nvidia/version"
_MODE = re.compile(r'^CoherentGPUMemoryMode:[ \t]*"?([^"\n]*?)"?[ \t]*$', re.MULTILINE)


class Addressing(StrEnum):
    """How a GPU reads memory that a program has from malloc."""

    NONE = "none"  #: not at all
    HMM = "hmm"  #: through page tables that the driver mirrors
    ATS = "ats"  #: through the CPU's own page tables: it is coherent


class GpuMemoryKind(StrEnum):
    """Where a GPU's memory is to the kernel."""

    NODE = "node"
    HIDDEN = "hidden"
    DISCRETE = "discrete"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class GpuAnswers:
    """What NVML and CUDA said of one GPU; None where they did not.

    Attributes:
        address: Its place on the PCI bus, ``0009:01:00.0``.
        name: Its name, empty if unknown.
        memory_bytes: What it has.
        addressing: ``nvmlDeviceGetAddressingMode``.
        nvml_node: ``nvmlDeviceGetNumaNodeId``.
        has_node: CU_DEVICE_ATTRIBUTE_NUMA_CONFIG is that of a node.
        cuda_node: CU_DEVICE_ATTRIBUTE_NUMA_ID.
        host_node: CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID: the CPU node nearest to it.
        host_page_tables:
            CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES.
    """

    address: str
    name: str = ""
    memory_bytes: int | None = None
    addressing: Addressing | None = None
    nvml_node: int | None = None
    has_node: bool | None = None
    cuda_node: int | None = None
    host_node: int | None = None
    host_page_tables: bool | None = None


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Where one GPU's memory is.

    Attributes:
        address: Its place on the PCI bus.
        name: Its name, empty if unknown.
        kind: Where.
        nodes: The nodes that are its memory; empty unless ``kind`` is NODE.
        host_node: The CPU node nearest to it; None if unknown.
        memory_bytes: What it has; None if unknown.
        why: What that rests on, for people.
    """

    address: str
    name: str
    kind: GpuMemoryKind
    nodes: tuple[int, ...]
    host_node: int | None
    memory_bytes: int | None
    why: str

    @property
    def movable(self) -> bool:
        """Whether move_pages() reaches it."""
        return self.kind is GpuMemoryKind.NODE


def parse_mode(params: str) -> str | None:
    """Return CoherentGPUMemoryMode of the driver's parameters, lower case.

    None where this driver has no such parameter; empty where nobody set it.

    >>> parse_mode('CoherentGPUMemoryMode: "driver"'), parse_mode("EnableMSI: 1")
    ('driver', None)
    """
    found = _MODE.search(params)
    return None if found is None else found[1].strip().lower()


def read_mode(tree: Tree) -> str | None:
    """Return the driver's CoherentGPUMemoryMode in a tree; see `parse_mode`."""
    text = tree.read(PARAMS)
    return None if text is None else parse_mode(text)


def read_answers(
    gpus: Iterable[Gpu], mode: str | None, answers: Iterable[GpuAnswers] = ()
) -> tuple[GpuMemory, ...]:
    """Return where each GPU's memory is, by address.

    Args:
        gpus: As the driver lists them.
        mode: CoherentGPUMemoryMode, as `read_mode` has it.
        answers: What NVML and CUDA said, of any of them or of others.
    """
    listed = {normal_address(gpu.address): gpu for gpu in gpus}
    told = {normal_address(answer.address): answer for answer in answers}
    return tuple(
        derive_memory(
            listed.get(address, Gpu(address, ())),
            mode,
            told.get(address, GpuAnswers(address)),
        )
        for address in sorted(listed.keys() | told.keys())
    )


def normal_address(address: str) -> str:
    """Return a PCI address as the kernel writes it.

    >>> normal_address("00000009:01:00.0"), normal_address("00010000:E1:00.0")
    ('0009:01:00.0', '10000:e1:00.0')
    """
    domain, _, rest = address.strip().lower().partition(":")
    return f"{domain.lstrip('0').rjust(4, '0')}:{rest}"


def derive_memory(gpu: Gpu, mode: str | None, told: GpuAnswers) -> GpuMemory:
    """Return where a GPU's memory is, from all that is known of it."""
    kind, nodes, why = _decide(gpu, mode, told)
    return GpuMemory(
        gpu.address,
        told.name,
        kind,
        nodes,
        told.host_node,
        told.memory_bytes,
        why,
    )


def _decide(
    gpu: Gpu, mode: str | None, told: GpuAnswers
) -> tuple[GpuMemoryKind, tuple[int, ...], str]:
    if gpu.nodes:
        nodes = ", ".join(map(str, gpu.nodes))
        why = f"numa_status names node {nodes}"
        return GpuMemoryKind.NODE, gpu.nodes, why
    if told.has_node and told.cuda_node is not None and told.cuda_node >= 0:
        why = f"CUDA's NUMA_CONFIG is a node, NUMA_ID is {told.cuda_node}"
        return GpuMemoryKind.NODE, (told.cuda_node,), why
    if told.has_node is None and told.nvml_node is not None:
        why = f"NVML names node {told.nvml_node}"
        return GpuMemoryKind.NODE, (told.nvml_node,), why
    coherent = told.addressing is Addressing.ATS or told.host_page_tables is True
    says = "NVML says ATS" if told.addressing is Addressing.ATS else ""
    if not says and coherent:
        says = "CUDA says that it uses the host's page tables"
    if mode == "driver":
        why = "CoherentGPUMemoryMode is driver (CDMM)"
        # The parameter is set on whole fleets: it says nothing of a GPU on a bus.
        if coherent:
            return GpuMemoryKind.HIDDEN, (), f"{why}, and {says}"
        if told.addressing is None and told.host_page_tables is None:
            return GpuMemoryKind.UNKNOWN, (), f"{why}; nobody says if it is coherent"
    if coherent:
        why = f"{says}, and no node is its memory: its driver keeps it (CDMM)"
        return GpuMemoryKind.HIDDEN, (), why
    if told.addressing is not None:
        why = f"NVML says {told.addressing.value} addressing: it is not coherent"
        return GpuMemoryKind.DISCRETE, (), why
    if told.host_page_tables is False:
        why = "CUDA says that it does not use the host's page tables"
        return GpuMemoryKind.DISCRETE, (), why
    why = "no node is its memory, and neither NVML nor CUDA was there to ask"
    return GpuMemoryKind.UNKNOWN, (), why


def as_json(gpu: GpuMemory) -> dict[str, object]:
    """Return a GPU's memory as builtin types."""
    return {
        "address": gpu.address,
        "name": gpu.name or None,
        "memory": gpu.kind.value,
        "nodes": list(gpu.nodes),
        "host_node": gpu.host_node,
        "memory_bytes": gpu.memory_bytes,
        "path": path_of(gpu.kind),
        "evidence": gpu.why,
    }


def path_of(kind: GpuMemoryKind) -> str | None:
    """Return how memory is tiered there: ``move-pages`` or ``tiered-tensor``."""
    if kind is GpuMemoryKind.UNKNOWN:
        return None
    return "move-pages" if kind is GpuMemoryKind.NODE else "tiered-tensor"


def render_gpu(gpu: GpuMemory) -> str:
    """Return a GPU's memory in one sentence."""
    name = f"{gpu.name}, " if gpu.name else ""
    where = {
        GpuMemoryKind.NODE: (
            f"memory is node {', '.join(map(str, gpu.nodes))}: pages move there"
        ),
        GpuMemoryKind.HIDDEN: (
            "coherent, memory hidden by its driver: no page moves there, a tiered"
            " tensor uses it"
        ),
        GpuMemoryKind.DISCRETE: (
            "memory across a bus: no page moves there, a tiered tensor uses it"
        ),
        GpuMemoryKind.UNKNOWN: "where its memory is, is unknown",
    }[gpu.kind]
    return f"{name}{where} ({gpu.why})"
