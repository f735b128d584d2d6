"""Hint sources in the hardware: units of CXL devices, samples of processors, counters.

None is enough by itself: a device sees its own memory, a processor's samples only
what is accessed often, Power10's engines what they watch.
"""

from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isotherm.core.availability import Availability
from isotherm.daemon.source_kind import Kind, LiveSource, Wants
from isotherm.topology.model import InitiatorKind, Topology

_UNKNOWN: Final = 255


def _chmu() -> Kind:
    """Return hotness units of CXL devices: only memory that is on them."""

    def probe() -> Availability:
        from isotherm.hints.live.chmu import ChmuUnits  # noqa: PLC0415  # lazily

        return ChmuUnits.probe()

    def make(wants: Wants) -> LiveSource:
        from isotherm.hints.live.chmu import ChmuUnits  # noqa: PLC0415  # lazily
        from isotherm.hints.live.frame_map import FrameMap  # noqa: PLC0415

        return ChmuUnits(
            wants.machine.space_map,
            wants.machine.clock,
            FrameMap(wants.machine.space_map),
            wants.epoch_ns,
            budget=wants.budget,
        )

    return Kind("chmu", False, False, probe, make)


def _samples(name: str, driver: str, *, translates: bool) -> Kind:
    """Return a kind that samples accesses on every CPU.

    Args:
        name: Of the kind and of its module in ``hints.live``.
        driver: Its class.
        translates: Whether its samples may name no process, so that their physical
            addresses must be translated.
    """

    def load() -> Any:
        return getattr(import_module(f"isotherm.hints.live.{name}"), driver)

    def probe() -> Availability:
        found: Availability = load().probe()
        return found

    def make(wants: Wants) -> LiveSource:
        from isotherm.hints.live.frame_map import FrameMap  # noqa: PLC0415  # lazily

        machine = wants.machine
        made: LiveSource = load()(
            machine.space_map,
            machine.clock,
            budget=wants.budget,
            frames=FrameMap(machine.space_map) if translates else None,
            initiator_of_cpu=initiators_of_cpus(machine.topology),
        )
        return made

    return Kind(name, False, False, probe, make)


def _hca() -> Kind:
    """Return Power10's hot-cold counters: only memory that an engine watches."""

    def probe() -> Availability:
        from isotherm.hints.live.hca import HcaSource  # noqa: PLC0415  # lazily

        return HcaSource.probe()

    def make(wants: Wants) -> LiveSource:
        from isotherm.hints.live.frame_map import FrameMap  # noqa: PLC0415  # lazily
        from isotherm.hints.live.hca import HcaSource  # noqa: PLC0415

        machine = wants.machine
        return HcaSource(
            machine.space_map,
            machine.clock,
            FrameMap(machine.space_map),
            budget=wants.budget,
        )

    return Kind("hca", False, False, probe, make)


def initiators_of_cpus(topology: Topology) -> NDArray[np.uint8] | None:
    """Return the initiator of every CPU, 255 unknown, uint8; None if none is known.

    >>> initiators_of_cpus(Topology((), (), (), (), {})) is None
    True
    """
    of_node = {
        initiator.node: initiator.id
        for initiator in topology.initiators
        if initiator.kind is InitiatorKind.CPU and initiator.node is not None
    }
    pairs = [
        (cpu, of_node[node.id])
        for node in topology.nodes
        for cpu in node.cpus
        if node.id in of_node
    ]
    if not pairs:
        return None
    found = np.full(1 + max(cpu for cpu, _ in pairs), _UNKNOWN, np.uint8)
    for cpu, initiator in pairs:
        found[cpu] = initiator
    return found


#: Best first. IBS and PEBS name the process; SPE's records may not.
HARDWARE: Final = (
    _chmu(),
    _samples("ibs", "IbsSource", translates=False),
    _samples("pebs", "PebsSource", translates=False),
    _samples("spe", "SpeSource", translates=True),
    _hca(),
)
