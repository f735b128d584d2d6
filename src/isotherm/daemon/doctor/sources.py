"""Hint sources: every live driver is asked; signals beside them are looked for."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from isotherm.core.availability import Availability
from isotherm.core.errors import IsothermError
from isotherm.daemon.doctor.files import entries, read
from isotherm.daemon.doctor.kernel import Kernel

#: PMUs whose samples carry an address (drivers of perf_event), and their names.
SAMPLING_PMUS: Final = {
    "cpu": "PEBS on Intel",
    "cpu_core": "PEBS on Intel",
    "ibs_op": "IBS on AMD",
    "arm_spe_0": "SPE on Arm",
}


def find_sources(kernel: Kernel, root: Path = Path("/")) -> list[Availability]:
    """Return every hint source, present or not.

    Args:
        kernel: What is known of the kernel.
        root: Where /proc and /sys are, for what is read here; drivers probe
            this host.
    """
    import isotherm.hints.live as drivers  # noqa: PLC0415  # numpy and more

    found = [
        _asked(name, driver)
        for module in _modules(drivers)
        for name, driver in _drivers(module)
    ]
    found.sort(key=lambda fact: fact.name)
    return [*found, _hardware(root), _pressure(kernel, root)]


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for info in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{info.name}")


def _drivers(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the classes of a module that can be probed and are its own."""
    for name, value in inspect.getmembers(module, inspect.isclass):
        if value.__module__ == module.__name__ and hasattr(value, "probe"):
            yield name, value


def _asked(name: str, driver: Any) -> Availability:
    try:
        fact: Availability = driver.probe()
    except (IsothermError, OSError) as error:
        return Availability(name, "source", False, f"probe failed: {error}")
    return fact


def _hardware(root: Path) -> Availability:
    base = "sys/bus/event_source/devices"
    present = [name for name in entries(root, base) if name in SAMPLING_PMUS]
    if not present:
        why = f"/{base}: no PMU that samples addresses (virtual machines rarely have)"
    else:
        why = ", ".join(f"{name} ({SAMPLING_PMUS[name]})" for name in present)
        why += " is there; ibs, pebs and spe say whether it can be used"
    return Availability("hardware-samples", "source", False, why)


def _pressure(kernel: Kernel, root: Path) -> Availability:
    reading = read(root, "proc/pressure/memory")
    command = None
    if reading.text is not None:
        return Availability("pressure", "source", True, "/proc/pressure/memory")
    why = f"{reading.said}: the brake goes without it"
    if not kernel.lacks("PSI"):
        why += "; psi=1 on the kernel's command line turns it on"
    return Availability("pressure", "source", False, why, command)
