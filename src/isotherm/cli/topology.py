"""``isotherm topology``: what memory a machine has, and who said so."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

EPILOGUE = """\
Examples:
  isotherm topology
  isotherm topology --json
  isotherm topology record machine.tar.gz
  isotherm topology --root machine.tar.gz --overrides corrections.toml

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
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Show a machine's memory: nodes, tiers, initiators, latency, bandwidth.

    Each figure comes with who said it: firmware, a measurement, a configuration
    file, or nobody (assumed). What nobody says is "unknown".

    Args:
        root: The machine: / for this one, or a recorded directory or tar.
        overrides: A TOML file that corrects or replaces what firmware says.
        json: Print one JSON document with raw units instead of text.
    """
    from isotherm.topology.sysfs import read_topology  # noqa: PLC0415  # --help

    if overrides is None:
        topology = read_topology(root)
    else:
        from isotherm.topology.override import (  # noqa: PLC0415  # msgspec
            apply_overrides,
            read_overrides,
        )

        given = read_overrides(overrides)
        read = None if given.mode == "replace" else read_topology(root)
        topology = apply_overrides(read, given, overrides)
    from isotherm.topology.render import as_json, render_topology  # noqa: PLC0415

    if json:
        import json as encoder  # noqa: PLC0415  # only here

        sys.stdout.write(encoder.dumps(as_json(topology), indent=2) + "\n")
    else:
        sys.stdout.write(render_topology(topology))
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
