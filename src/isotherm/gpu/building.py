"""Joins the parts of a tiered tensor: arena, backend, protocol, machine, loop."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.gpu import arena
from isotherm.gpu.backend import Backend, Geometry
from isotherm.gpu.engine import Engine
from isotherm.gpu.machine import (
    ASSUMED_HBM_BYTES_S,
    ASSUMED_HOST_BYTES_S,
    TensorMachine,
    measure,
)
from isotherm.gpu.mover import Mover
from isotherm.gpu.opening import (
    choose_backend,
    open_backend,
    rows_of,
    rows_per_page,
    slots_of,
)
from isotherm.gpu.protocol import SAFE, Rules, SlotProtocol
from isotherm.gpu.tiering import Tiering
from isotherm.topology.model import Source

#: An epoch is so many rows, or this share of the pages, whatever is more: a look at
#: counters and table costs by the page.
EPOCH_ROWS = 1 << 14
EPOCH_SHARE = 0.125

#: On a device one hit in 16 is counted: atomics on the hottest page would queue.
DEVICE_HIT_SHIFT = 4


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What ``TieredTensor.from_host`` is told of protocol and loop; see there."""

    writable: bool = False
    deterministic: bool = False
    policy: str = "isotherm"
    policy_options: Mapping[str, float] | None = None
    epoch_rows: int | None = None
    hit_shift: int | None = None
    bandwidths: tuple[float, float] | None = None
    seed: int = 1
    name: str = "tensor"
    rules: Rules = SAFE


def build(
    values: Any,
    dtype: str | None,
    row_dim: int | None,
    *,
    hbm_bytes: int | str,
    page: str | int,
    backend: str,
    min_slots: int,
    backend_options: Mapping[str, Any],
    engine: EngineOptions,
) -> tuple[Mover, Engine, NDArray[Any]]:
    """Return mover, engine and the host arena as [pages, rows_per_page, row_dim].

    The arguments are those of ``TieredTensor.from_host``.
    """
    rows, dim, kind, given = rows_of(values, dtype, row_dim)
    shape = Geometry(rows, dim, kind, 1, 0)
    shape = replace(shape, rows_per_page=rows_per_page(page, shape.row_bytes))
    slots = slots_of(hbm_bytes, shape.pages, shape.page_bytes)
    shape = replace(shape, slots=slots)
    chosen = choose_backend(backend, values)
    host = arena.allocate(shape)
    if given is None:
        arena.touch(shape, host)
    else:
        arena.fill(shape, host, given)
    device = open_backend(chosen, shape, host, min_slots=min_slots, **backend_options)
    try:
        mover = _mover(device, engine)
        tiering = _tiering(mover, engine) if device.geometry.slots else None
    except BaseException:
        device.close()  # else its memory would stay locked
        raise
    epoch_rows = engine.epoch_rows
    if epoch_rows is None:
        epoch_rows = max(EPOCH_ROWS, int(EPOCH_SHARE * shape.pages))
    return (
        mover,
        Engine(mover, tiering, epoch_rows),
        arena.elements(shape, np.asarray(device.host)),
    )


def _mover(device: Backend, options: EngineOptions) -> Mover:
    """Return the protocol on its device."""
    g = device.geometry
    protocol = SlotProtocol(
        g.pages,
        g.slots,
        writable=options.writable,
        deposits=device.deposits,
        rules=options.rules,
    )
    hit_shift = options.hit_shift
    if hit_shift is None:
        hit_shift = 0 if device.device == "cpu" else DEVICE_HIT_SHIFT
    return Mover(
        device, protocol, hit_shift=hit_shift, deterministic=options.deterministic
    )


def _tiering(mover: Mover, options: EngineOptions) -> Tiering:
    """Return the loop, with figures that were given, measured or assumed."""
    bandwidths, source = options.bandwidths, Source.CONFIGURED
    # On a CPU both arenas are as fast: it stands in for a GPU, with a GPU's figures.
    stand_in = options.deterministic or mover.backend.device == "cpu"
    if bandwidths is None and stand_in:
        bandwidths = (ASSUMED_HBM_BYTES_S, ASSUMED_HOST_BYTES_S)
        source = Source.ASSUMED
    elif bandwidths is None:
        bandwidths, source = measure(mover.backend), Source.MEASURED
    machine = TensorMachine(mover, options.name, *bandwidths, source)
    return Tiering(
        mover,
        machine,
        policy=options.policy,
        options=options.policy_options,
        seed=options.seed,
    )
