"""CXL memory devices: whether they are well."""

from collections.abc import Iterator
from pathlib import Path

from isotherm.core.availability import Availability
from isotherm.core.errors import TopologyError
from isotherm.topology.cxl_devices import Run, ask_tool, list_names, render_device


def find_devices(
    root: Path = Path("/"), run: Run | None = None
) -> Iterator[Availability]:
    """Yield a fact per CXL memory device of this machine; none where it has none.

    Args:
        root: Where /sys is; the tool is asked about this machine.
        run: Runs the tool; None: the installed one.
    """
    names = list_names(root)
    if not names:
        return
    try:
        told = {device.memdev: device for device in ask_tool(run)}
    except TopologyError as error:
        for name in names:
            yield Availability(name, "device", True, error.message, error.hint)
        return
    for name in names:
        device = told.get(name)
        if device is None:
            yield Availability(name, "device", False, "cxl list does not name it")
            continue
        command = None if device.enabled else f"cxl enable-memdev {name}"
        yield Availability(
            name, "device", device.enabled, render_device(device), command
        )
