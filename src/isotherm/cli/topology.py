"""``isotherm topology``: what memory a machine has, and who said so."""

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from isotherm.records.cxl_list import Memdev
    from isotherm.topology.gpu_memory import GpuMemory
    from isotherm.topology.model import Topology

EPILOGUE = """\
Examples:
  isotherm topology
  isotherm topology --json
  isotherm topology record machine.tar.gz
  isotherm topology --root machine.tar.gz --overrides corrections.toml
  isotherm topology weights

Overhead: reads a few hundred small files under /sys once, 0.1 s.
"""

app = App(
    name="topology",
    help="Show nodes, tiers, initiators, latency and bandwidth.",
    help_epilogue=EPILOGUE,
    help_format="plaintext",
)

_LIVE = Path("/")


@app.default
def show(
    *,
    root: Path = _LIVE,
    overrides: Path | None = None,
    cxl_list: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Show a machine's memory: nodes, tiers, initiators, latency, bandwidth.

    Each figure comes with who said it: firmware, a measurement, a configuration
    file, or nobody (assumed). What nobody says is "unknown".

    Args:
        root: The machine: / for this one, or a recorded directory or tar.
        overrides: A TOML file that corrects or replaces what firmware says.
        cxl_list: What cxl list -M -H -i printed, kept in a file: CXL devices and
            their health. Without it the tool is asked about this machine.
        json: Print one JSON document with raw units instead of text.
    """
    topology = _read(root, overrides)
    from isotherm.topology.render import as_json, render_topology  # noqa: PLC0415

    devices = _cxl_devices(root, cxl_list)
    gpus = _gpus(root)
    if json:
        import json as encoder  # noqa: PLC0415  # only here

        document = as_json(topology)
        if devices:
            from isotherm.topology import cxl_devices  # noqa: PLC0415  # msgspec

            document["cxl_devices"] = [cxl_devices.as_json(d) for d in devices]
        if gpus:
            from isotherm.topology import gpu_memory  # noqa: PLC0415  # only here

            document["gpus"] = [gpu_memory.as_json(gpu) for gpu in gpus]
        sys.stdout.write(encoder.dumps(document, indent=2) + "\n")
    else:
        text = render_topology(topology) + _render_gpus(gpus) + _render_cxl(devices)
        sys.stdout.write(text)
    return 0


def _gpus(root: Path) -> "list[GpuMemory]":
    """Return the GPUs, asking this machine's libraries where it is this machine."""
    from isotherm.core.errors import TopologyError  # noqa: PLC0415  # --help
    from isotherm.topology.nvidia import find_gpus  # noqa: PLC0415  # --help

    try:
        return find_gpus(root)
    except TopologyError:  # an override that replaces all needs no tree
        return []


def _render_gpus(gpus: "list[GpuMemory]") -> str:
    if not gpus:
        return ""
    from isotherm.topology.gpu_memory import render_gpu  # noqa: PLC0415  # only here

    lines = [
        textwrap.fill(
            f"gpu{i} ({gpu.address}): {render_gpu(gpu)}",
            80,
            initial_indent="  ",
            subsequent_indent=" " * 4,
        )
        for i, gpu in enumerate(gpus)
    ]
    return "\n".join(["", "GPUs and their memory", *lines, ""])


def _read(root: Path, overrides: Path | None) -> "Topology":
    """Return a machine, as firmware and a file of overrides say."""
    from isotherm.topology.sysfs import read_topology  # noqa: PLC0415  # --help

    if overrides is None:
        return read_topology(root)
    from isotherm.topology.override import (  # noqa: PLC0415  # msgspec
        apply_overrides,
        read_overrides,
    )

    given = read_overrides(overrides)
    read = None if given.mode == "replace" else read_topology(root)
    return apply_overrides(read, given, overrides)


def _cxl_devices(root: Path, listing: Path | None) -> "tuple[Memdev, ...]":
    """Return CXL devices of a listing, or of this machine if the tool tells."""
    if listing is None and root != _LIVE:
        return ()
    from isotherm.core.errors import TopologyError  # noqa: PLC0415  # --help
    from isotherm.topology import cxl_devices  # noqa: PLC0415  # msgspec

    if listing is not None:
        return cxl_devices.read_listing(listing)
    if not cxl_devices.list_names(root):
        return ()
    try:
        return cxl_devices.ask_tool()
    except TopologyError as error:
        sys.stderr.write(f"note: {error.message}\n")
        return ()


def _render_cxl(devices: "tuple[Memdev, ...]") -> str:
    if not devices:
        return ""
    from isotherm.topology.cxl_devices import render_device  # noqa: PLC0415  # msgspec

    lines = [
        textwrap.fill(
            render_device(device),
            80,
            initial_indent=f"  {device.memdev:<8}",
            subsequent_indent=" " * 10,
        )
        for device in devices
    ]
    return "\n".join(["", "CXL memory devices", *lines, ""])


@app.command
def weights(
    *,
    root: Path = _LIVE,
    overrides: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Show the weights of weighted interleaving that the nodes' bandwidth gives.

    For memory whose accesses nobody has seen yet. Nothing is written: isotherm run
    --interleave-weights sets them while it runs.

    Args:
        root: The machine: / for this one, or a recorded directory or tar.
        overrides: A TOML file that corrects or replaces what firmware says, such as
            bandwidths that were measured.
        json: Print one JSON document with raw units instead of text.
    """
    from isotherm.topology import interleave  # noqa: PLC0415  # --help

    topology = _read(root, overrides)
    nodes = interleave.weighted_nodes(topology)
    found = interleave.derive_weights(topology, nodes)
    now = interleave.read_weights(root) if root.is_dir() else {}
    auto = interleave.read_auto(root) if root.is_dir() else None
    if json:
        import json as encoder  # noqa: PLC0415  # only here

        rows = [
            {
                "node": row.node,
                "weight": row.weight,
                "now": now.get(row.node),
                "bandwidth_mib_s": row.bandwidth_mib_s,
                "source": None if row.source is None else row.source.value,
            }
            for row in found
        ]
        document = {"weights": rows, "auto": auto}
        sys.stdout.write(encoder.dumps(document, indent=2) + "\n")
        return 0
    from isotherm.topology.render import render_weights  # noqa: PLC0415

    sys.stdout.write(render_weights(found, now, auto=auto))
    return 0


@app.command
def record(out: Path, /, *, root: Path = _LIVE) -> int:
    """Record a machine's topology in a tar that --root reads.

    It holds no host name, serial number or user.

    Args:
        out: The tar to write: .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz.
        root: The machine: / for this one, or a recorded directory or tar.
    """
    from isotherm.topology.record import record_tree  # noqa: PLC0415  # --help

    for note in record_tree(root, out):
        sys.stderr.write(f"note: {note}\n")
    return 0
