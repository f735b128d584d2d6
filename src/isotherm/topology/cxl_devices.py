"""CXL memory devices of this machine and their health, by the ``cxl`` tool.

The kernel has mailbox commands for it and no files: the tool asks, as root.
"""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from isotherm.core.errors import TopologyError
from isotherm.core.units import render_bytes
from isotherm.records.cxl_list import Memdev, parse_cxl_list

COMMAND: Final = ("cxl", "list", "-M", "-H", "-i")
DEVICES: Final = "sys/bus/cxl/devices"
#: The tool asks every device through its mailbox, which may take 2 s a command.
TIMEOUT_S: Final = 10.0

#: Runs a command and returns what it printed.
Run = Callable[[Sequence[str]], str]


def list_names(root: Path) -> tuple[str, ...]:
    """Return the memory devices that a machine has, ``mem0``..., by number."""
    try:
        names = [entry.name for entry in (root / DEVICES).iterdir()]
    except OSError:
        return ()
    found = [n for n in names if n.startswith("mem") and n[3:].isdigit()]
    return tuple(sorted(found, key=lambda name: int(name[3:])))


def ask_tool(run: Run | None = None) -> tuple[Memdev, ...]:
    """Return what the tool says of this machine's devices.

    Raises:
        TopologyError: It is not installed, failed, or said something else.
    """
    if run is None:
        if shutil.which(COMMAND[0]) is None:
            raise TopologyError(
                "cxl: not installed; it tells the health of CXL devices",
                hint="apt-get install ndctl, or your distribution's package of it",
            )
        run = _run
    try:
        text = run(COMMAND)
    except (OSError, subprocess.SubprocessError) as error:
        raise TopologyError(
            f"{' '.join(COMMAND)}: {error}", hint="run it as root to see why"
        ) from error
    try:
        return parse_cxl_list(text)
    except ValueError as error:
        raise TopologyError(f"{' '.join(COMMAND)}: {error}") from error


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    # Without a device the tool says so on stderr and prints an empty list.
    return done.stdout.strip() or "[]"


def read_listing(path: Path) -> tuple[Memdev, ...]:
    """Return the devices of a file that the tool's output was kept in.

    Raises:
        TopologyError: It cannot be read, or is no such listing.
    """
    try:
        return parse_cxl_list(path.read_bytes())
    except OSError as error:
        raise TopologyError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise TopologyError(
            f"{path}: {error}", hint=f"{' '.join(COMMAND)} > {path}"
        ) from error


def render_device(device: Memdev) -> str:
    """Return a device in words: size, node, state, health."""
    parts = []
    sizes = ((device.ram_size, "volatile"), (device.pmem_size, "persistent"))
    parts += [f"{render_bytes(size)} {kind}" for size, kind in sizes if size]
    if device.numa_node is not None and device.numa_node >= 0:
        parts.append(f"node {device.numa_node}")
    if not device.enabled:
        parts.append("disabled")
    health = device.health
    if health is None:
        return ", ".join([*parts, "health unknown"])
    if health.media_normal:
        parts.append("media normal")
    if health.life_used_percent is not None:
        parts.append(f"life {health.life_used_percent} % used")
    if health.degrees is not None:
        parts.append(f"{health.degrees} °C")
    if health.dirty_shutdowns:
        parts.append(f"{health.dirty_shutdowns} dirty shutdowns")
    return ", ".join([*parts, *health.troubles])


def as_json(device: Memdev) -> dict[str, object]:
    """Return a device as plain values; what nobody says is null."""
    health = device.health
    return {
        "name": device.memdev,
        "ram_bytes": device.ram_size,
        "pmem_bytes": device.pmem_size,
        "node": device.numa_node,
        "host": device.host,
        "enabled": device.enabled,
        "health": None
        if health is None
        else {name: getattr(health, name) for name in health.__struct_fields__}
        | {"temperature": health.degrees, "troubles": list(health.troubles)},
    }
