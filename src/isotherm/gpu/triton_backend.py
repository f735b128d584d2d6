"""The device in Triton: the kernels of ``triton_kernels`` behind the seam.

On CUDA they are compiled; with ``TRITON_INTERPRET=1``, set before the first import of
triton, the same source runs on CPU tensors, slowly, for tests.

Not for CUDA graphs: a launch takes an epoch and records an event, by which slots are
given back; a replay of its kernels would have neither.
"""

import numpy as np
from numpy.typing import NDArray

from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.gpu.backend import Geometry
from isotherm.gpu.torch_backend import TorchBackend
from isotherm.gpu.torch_device import Device
from isotherm.gpu.triton_steps import (
    APART_BYTES,
    PROGRAMS,
    TritonSteps,
    interpreted,
)

MODES = ("fused", "split", "split-sorted")


def create(
    geometry: Geometry,
    host: NDArray[np.uint8],
    *,
    device: str | Device | None = None,
    zero_copy: bool = True,
    mode: str = "fused",
    count: bool = True,
    programs: int = PROGRAMS,
    apart_bytes: int = APART_BYTES,
) -> TorchBackend:
    """Return a device whose kernels are Triton's.

    Args:
        geometry: The shape.
        host: The host arena, uint8[pages, page_bytes], C-contiguous.
        device: As for ``torch_backend.create``.
        zero_copy: As there.
        mode: ``fused``: one kernel reads slots and host; ``split``: hits on all
            processors, misses on ``programs`` of them beside it, for work that
            shares the device; ``split-sorted``: misses in the order of addresses.
        count: False: nothing is counted, for measurements without a policy.
        programs: Of copies and of misses in split mode.
        apart_bytes: Rows from so many bytes on are looked up before they are read, by
            a kernel of its own.

    Raises:
        UnsupportedError: The CPU without the interpreter.
        HbmExhaustedError: There is no memory for the slots.
    """
    if mode not in MODES:
        raise UsageError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    opened = device if isinstance(device, Device) else Device(device)
    if not opened.cuda and not interpreted():
        raise UnsupportedError(
            "triton: the CPU is served by the interpreter alone",
            hint="set TRITON_INTERPRET=1 before triton is imported",
        )
    steps = TritonSteps(mode, count=count, programs=programs, apart_bytes=apart_bytes)
    try:
        made = TorchBackend(geometry, host, opened, steps, zero_copy)
    except BaseException:
        if opened is not device:
            opened.close()
        raise
    made.shares_device = opened is device
    return made
