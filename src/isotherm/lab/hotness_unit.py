"""The hotness units of a simulated machine as a hint source."""

from collections.abc import Callable

from isotherm.core.errors import UnsupportedError
from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.hints.chmu import (
    FIRST_THRESHOLD,
    ChmuSource,
    Device,
    RegisterLists,
    choose_unit,
)
from isotherm.hints.chmu_driver import RegisterAccess
from isotherm.hints.chmu_settings import Settings
from isotherm.hints.interleave import Window
from isotherm.machine.sim.chmu_host import FIRST_FRAME, SimHotness
from isotherm.machine.sim.machine import SimMachine
from isotherm.records.cxl_hmu_registers import Reporting


def simulated_chmu(
    machine: SimMachine, epoch_ns: int, seed: int | None = 1
) -> ChmuSource:
    """Return a source that drives the machine's hotness units by their registers.

    Args:
        machine: With its pages placed.
        epoch_ns: Length of the machine's epochs; the devices count in epochs of the
            same length where they can.
        seed: For the order of frames; None: frames follow pages.

    Raises:
        UnsupportedError: The machine has no hotness unit.
    """
    return simulated_devices(machine, epoch_ns, seed)[1]


def simulated_devices(
    machine: SimMachine,
    epoch_ns: int,
    seed: int | None = 1,
    make_lists: Callable[[RegisterAccess], RegisterLists] = RegisterLists,
) -> tuple[SimHotness, ChmuSource]:
    """Return the machine's hotness units and a source that drives them.

    Args:
        machine: As for `simulated_chmu`.
        epoch_ns: As there.
        seed: As there.
        make_lists: How a device's lists are reached.

    Raises:
        UnsupportedError: The machine has no hotness unit.
    """
    spec = machine.spec.hotness_unit
    if spec is None:
        raise UnsupportedError(
            f"machine {machine.spec.name}: no CXL hotness unit",
            hint="leave chmu out of --hints, or take a machine that has one: dram-cxl",
        )
    host = SimHotness(machine, spec, epoch_ns, seed)
    lists = [make_lists(unit) for unit in host.devices]
    region = (FIRST_FRAME * PAGE_BYTES, host.size, spec.ways, spec.granularity)
    devices = [Device(one, Window(*region, at)) for at, one in enumerate(lists)]
    shifts = lists[0].capabilities.unit_shifts
    low, high = round(spec.min_epoch_s * NS_PER_S), round(spec.max_epoch_s * NS_PER_S)
    settings = Settings(
        unit_shift=choose_unit(shifts, devices[0].window),
        threshold=FIRST_THRESHOLD,
        epoch_ns=min(max(epoch_ns, low), high),
        reporting=Reporting.EPOCH if spec.modes[0] == "epoch" else Reporting.ALWAYS_ON,
        down_sampling=spec.down_sampling[0] if spec.down_sampling else 0,
        random=bool(spec.down_sampling),
    )
    return host, ChmuSource(
        devices,
        host.frames,
        host,
        settings,
        exact=spec.counters == 0,
        entry_ns=spec.entry_ns,
    )
