"""Weights of weighted interleaving for the time of a run, and the way back."""

from pathlib import Path
from typing import Any, Final

import structlog

from isotherm.core.changes import HostChanges
from isotherm.core.errors import NotPermittedError, UnsupportedError
from isotherm.daemon.rundir import WEIGHTS, RunDirectory
from isotherm.topology.interleave import (
    FOLDER,
    derive_weights,
    read_auto,
    read_weights,
    weighted_nodes,
)
from isotherm.topology.model import Topology

OFF: Final = "false"

log = structlog.get_logger()


def claim_weights(runs: RunDirectory) -> None:
    """Have the weights for ourselves, until the run ends.

    Two runs that set them would each put back what the other had set.

    Raises:
        UnsupportedError: Another run has them, ``--with-other-movers`` or not.
    """
    for taken in runs.lock((WEIGHTS,)):
        raise UnsupportedError(
            f"interleave-weights: {taken.why}",
            hint=f"{taken.command or 'end the other run'},"
            " or leave --interleave-weights out",
        )


def set_weights(
    topology: Topology, changes: HostChanges, root: Path, *, dry_run: bool
) -> dict[str, Any]:
    """Set the kernel's weights by bandwidth; return what they are and were.

    Args:
        topology: Nodes and their bandwidth.
        changes: Where it is written down.
        root: Where /sys is.
        dry_run: Write nothing.

    Raises:
        UnsupportedError: The kernel has no weights (6.9 has), or nobody says what
            bandwidth a node has.
        NotPermittedError: They may not be written.
    """
    now, auto = read_weights(root), read_auto(root)
    if not now:
        raise UnsupportedError(
            f"/{FOLDER}: no such folder, expected Linux 6.9 or later",
            hint="isotherm topology weights says what they would be",
        )
    wanted = [
        w for w in derive_weights(topology, weighted_nodes(topology)) if w.node in now
    ]
    unknown = [str(w.node) for w in wanted if w.bandwidth_mib_s is None]
    if unknown:
        raise UnsupportedError(
            f"interleave weights: bandwidth of node {', '.join(unknown)}: unknown",
            hint="say it in a file: isotherm topology weights --overrides FILE.toml",
        )
    try:
        if not dry_run:
            if auto:
                # Undone last: the kernel then works its own weights out again.
                changes.write(root / FOLDER / "auto", OFF)
            for found in wanted:
                changes.write(root / FOLDER / f"node{found.node}", found.weight)
    except PermissionError as error:
        raise NotPermittedError(
            f"/{FOLDER}: EACCES", hint="run as root; isotherm doctor lists the rest"
        ) from error
    except OSError as error:
        raise UnsupportedError(f"/{FOLDER}: {error.strerror}") from error
    weights = {str(w.node): w.weight for w in wanted}
    log.info("interleave-weights", weights=weights, set=not dry_run)
    return {
        "weights": weights,
        "before": {str(node): weight for node, weight in now.items()},
        "auto": auto,
        "set": not dry_run,
    }
