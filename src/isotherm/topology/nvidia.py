"""Ask NVIDIA's libraries, where they are, what a GPU's memory is to the kernel.

NVML (libnvidia-ml.so.1) and CUDA's driver library (libcuda.so.1), through ctypes:
both come with the driver and need no toolkit. Only questions are asked; no context
is made on a GPU. A library that is not there, a function that it lacks and an answer
"not supported" are all the same: nobody says.

Numbers are those of nvml.h and cuda.h.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from isotherm.topology.devices import read_gpus
from isotherm.topology.gpu_memory import (
    Addressing,
    GpuAnswers,
    GpuMemory,
    normal_address,
    read_answers,
    read_mode,
)
from isotherm.topology.tree import open_tree

NVML: Final = "libnvidia-ml.so.1"
CUDA: Final = "libcuda.so.1"

#: nvmlDeviceAddressingModeType_t.
_ADDRESSING: Final = {0: Addressing.NONE, 1: Addressing.HMM, 2: Addressing.ATS}
_NAME_BYTES: Final = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
_MOST_GPUS: Final = 256

# CUdevice_attribute
_HOST_PAGE_TABLES: Final = 100
_NUMA_CONFIG: Final = 130
_NUMA_ID: Final = 131
_HOST_NUMA_ID: Final = 134
_PCI_BYTES: Final = 32

Load = Callable[[str], Any]


class _PciInfo(ctypes.Structure):
    """nvmlPciInfo_v3_t."""

    _fields_ = (
        ("busIdLegacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("pciDeviceId", ctypes.c_uint),
        ("pciSubSystemId", ctypes.c_uint),
        ("busId", ctypes.c_char * 32),
    )


class _AddressingMode(ctypes.Structure):
    """nvmlDeviceAddressingMode_v1_t; its version is its size and 1 << 24."""

    _fields_ = (("version", ctypes.c_uint), ("value", ctypes.c_uint))


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def find_gpus(root: Path = Path("/"), load: Load | None = None) -> list[GpuMemory]:
    """Return the GPUs of a machine and where their memory is, by address.

    Args:
        root: ``/`` for this machine, whose libraries are asked too; or a recorded
            directory or tar, where the driver's files alone speak.
        load: Loads a library by name; None: those of this machine, if it is meant.

    Raises:
        TopologyError: There is no such tree.
    """
    tree = open_tree(root)
    if load is None and root == Path("/"):
        load = ctypes.CDLL
    answers = [] if load is None else ask(load)
    return list(read_answers(read_gpus(tree), read_mode(tree), answers))


def ask(load: Load = ctypes.CDLL) -> list[GpuAnswers]:
    """Return what NVML and CUDA say of each GPU; of none where neither is there."""
    told = _ask_nvml(load)
    for address, values in _ask_cuda(load).items():
        told.setdefault(address, {}).update(values)
    return [GpuAnswers(address, **told[address]) for address in sorted(told)]


def _library(load: Load, name: str) -> Any:
    try:
        return load(name)
    except OSError:
        return None


def _call(library: Any, name: str, *arguments: Any) -> bool:
    """Call a function; return whether it is there and succeeded (0 in both)."""
    try:
        function = getattr(library, name)
    except AttributeError:
        return False  # a driver older than the function
    return int(function(*arguments)) == 0


# ---- NVML


def _ask_nvml(load: Load) -> dict[str, dict[str, Any]]:
    library = _library(load, NVML)
    if library is None or not _call(library, "nvmlInit_v2"):
        return {}
    told: dict[str, dict[str, Any]] = {}
    try:
        count = ctypes.c_uint()
        if not _call(library, "nvmlDeviceGetCount_v2", ctypes.byref(count)):
            return {}
        for index in range(min(count.value, _MOST_GPUS)):
            device = ctypes.c_void_p()
            at = (ctypes.c_uint(index), ctypes.byref(device))
            if _call(library, "nvmlDeviceGetHandleByIndex_v2", *at):
                address, values = _ask_device(library, device)
                if address:
                    told[address] = values
    finally:
        _call(library, "nvmlShutdown")
    return told


def _ask_device(library: Any, device: ctypes.c_void_p) -> tuple[str, dict[str, Any]]:
    place = _PciInfo()
    if not _call(library, "nvmlDeviceGetPciInfo_v3", device, ctypes.byref(place)):
        return "", {}
    values: dict[str, Any] = {}
    name = ctypes.create_string_buffer(_NAME_BYTES)
    size = ctypes.c_uint(_NAME_BYTES)
    if _call(library, "nvmlDeviceGetName", device, name, size):
        values["name"] = name.value.decode(errors="replace")
    memory = _Memory()
    if _call(library, "nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory)):
        values["memory_bytes"] = int(memory.total)
    mode = _AddressingMode()
    mode.version = ctypes.sizeof(mode) | 1 << 24
    if _call(library, "nvmlDeviceGetAddressingMode", device, ctypes.byref(mode)):
        values["addressing"] = _ADDRESSING.get(mode.value)
    node = ctypes.c_uint()
    if _call(library, "nvmlDeviceGetNumaNodeId", device, ctypes.byref(node)):
        values["nvml_node"] = int(node.value)
    return normal_address(place.busId.decode(errors="replace")), values


# ---- CUDA


def _ask_cuda(load: Load) -> dict[str, dict[str, Any]]:
    library = _library(load, CUDA)
    if library is None or not _call(library, "cuInit", ctypes.c_uint(0)):
        return {}
    count = ctypes.c_int()
    if not _call(library, "cuDeviceGetCount", ctypes.byref(count)):
        return {}
    told: dict[str, dict[str, Any]] = {}
    for index in range(min(count.value, _MOST_GPUS)):
        device = ctypes.c_int()
        at = (ctypes.byref(device), ctypes.c_int(index))
        if not _call(library, "cuDeviceGet", *at):
            continue
        place = ctypes.create_string_buffer(_PCI_BYTES)
        size = ctypes.c_int(_PCI_BYTES)
        if not _call(library, "cuDeviceGetPCIBusId", place, size, device):
            continue
        values: dict[str, Any] = {}
        config = _attribute(library, device, _NUMA_CONFIG)
        tables = _attribute(library, device, _HOST_PAGE_TABLES)
        if config is not None:
            values["has_node"] = config == 1  # CU_DEVICE_NUMA_CONFIG_NUMA_NODE
        if tables is not None:
            values["host_page_tables"] = tables != 0
        for key, attribute in (("cuda_node", _NUMA_ID), ("host_node", _HOST_NUMA_ID)):
            node = _attribute(library, device, attribute)
            if node is not None and node >= 0:  # -1: none
                values[key] = node
        told[normal_address(place.value.decode(errors="replace"))] = values
    return told


def _attribute(library: Any, device: ctypes.c_int, number: int) -> int | None:
    value = ctypes.c_int()
    arguments = (ctypes.byref(value), ctypes.c_int(number), device)
    there = _call(library, "cuDeviceGetAttribute", *arguments)
    return int(value.value) if there else None
