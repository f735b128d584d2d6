"""Which hint sources a run looks with: those that are there, best first.

By default only sources that change nothing in the target: no ptrace, no
userfaultfd, no split mappings. Those that do are used where ``--intrusive`` is
given for the target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from isotherm.core.availability import Availability
from isotherm.core.changes import HostChanges
from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.core.units import NS_PER_S
from isotherm.daemon.config import Config
from isotherm.hints.batch import HintSource
from isotherm.machine.linux.machine import LinuxMachine

log = structlog.get_logger()


class LiveSource(HintSource, Protocol):
    """A hint source on a live host."""

    def open(self) -> None:
        """Begin to look."""
        ...

    def close(self) -> None:
        """Stop, and leave nothing behind; may be called again."""
        ...


@dataclass(slots=True)
class Chosen:
    """A source that a run looks with.

    Attributes:
        name: As ``isotherm doctor`` names it.
        why: Why it was chosen, or what was found.
        source: The driver.
    """

    name: str
    why: str
    source: LiveSource

    def open(self) -> None:
        """Begin to look."""
        self.source.open()

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self.source.close()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"name": self.name, "mechanism": self.source.mechanism.value}


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of source.

    Attributes:
        name: As ``isotherm doctor`` names it.
        intrusive: Whether it changes something in the target.
        enough: Whether it sees every page's accesses, so that no other is needed.
        probe: Says whether it is there.
        make: Builds it.
    """

    name: str
    intrusive: bool
    enough: bool
    probe: Callable[[], Availability]
    make: Callable[[LinuxMachine, Config, HostChanges], LiveSource]


def _probe_page_table() -> Availability:
    from isotherm.hints.live.page_table import PageTableBits  # noqa: PLC0415

    return PageTableBits.probe()


def _make_page_table(
    machine: LinuxMachine, config: Config, changes: HostChanges
) -> LiveSource:
    from isotherm.hints.live.accessed_bits import LiveAccessedBits  # noqa: PLC0415
    from isotherm.hints.live.page_table import PageTableBits  # noqa: PLC0415

    return LiveAccessedBits(
        PageTableBits(),
        machine.space_map,
        round(config.loop.epoch_s * NS_PER_S),
        budget=config.budget.cpu_percent / 100,
        now_ns=machine.clock.now_ns,
    )


def _probe_hint_fault() -> Availability:
    from isotherm.hints.live.page_fault import PageFaultSource  # noqa: PLC0415

    return PageFaultSource.probe()


def _make_hint_fault(
    machine: LinuxMachine, config: Config, changes: HostChanges
) -> LiveSource:
    from isotherm.hints.live.page_fault import PageFaultSource  # noqa: PLC0415

    return PageFaultSource(
        machine.space_map,
        machine.clock,
        placement=machine.placement,
        fast_nodes=machine.topology.tiers[0].nodes,
        changes=changes,
    )


def _probe_page_out() -> Availability:
    from isotherm.hints.live.page_out import PageOutSource  # noqa: PLC0415

    return PageOutSource.probe()


def _make_page_out(
    machine: LinuxMachine, config: Config, changes: HostChanges
) -> LiveSource:
    from isotherm.hints.live.page_out import PageOutSource  # noqa: PLC0415

    return PageOutSource(machine.space_map, machine.clock, seed=config.loop.seed)


#: Best first: bits of every page; DAMON's regions; faults; a sample put out.
KINDS: Final = (
    _Kind("page-table", False, True, _probe_page_table, _make_page_table),
    _Kind("hint-fault", False, False, _probe_hint_fault, _make_hint_fault),
    _Kind("page-out", False, False, _probe_page_out, _make_page_out),
)


def choose_sources(
    machine: LinuxMachine,
    config: Config,
    changes: HostChanges,
    *,
    intrusive: bool = False,
    kinds: tuple[_Kind, ...] = KINDS,
) -> tuple[Chosen, ...]:
    """Return the sources to look with; none is open yet.

    ``["auto"]`` takes the first that is there and sees enough by itself, else all
    that are there. Named ones are all taken, or refused.

    Raises:
        UsageError: A name is not known, or needs ``--intrusive``.
        UnsupportedError: A named one, or all of them, are not there.
    """
    wanted = config.sources.use
    if tuple(wanted) != ("auto",):
        return tuple(
            _named(name, machine, config, changes, intrusive, kinds) for name in wanted
        )
    chosen: list[Chosen] = []
    missing: list[Availability] = []
    for kind in kinds:
        if kind.intrusive and not intrusive:
            continue
        found = kind.probe()
        if not found.present:
            missing.append(found)
            continue
        if kind.enough:
            return (Chosen(kind.name, found.why, kind.make(machine, config, changes)),)
        chosen.append(Chosen(kind.name, found.why, kind.make(machine, config, changes)))
    if not chosen:
        raise UnsupportedError(
            "nothing to look with: "
            + "; ".join(f"{fact.name}: {fact.why}" for fact in missing),
            hint=next((f.command for f in missing if f.command), "isotherm doctor"),
        )
    return tuple(chosen)


def _named(
    name: str,
    machine: LinuxMachine,
    config: Config,
    changes: HostChanges,
    intrusive: bool,
    kinds: tuple[_Kind, ...],
) -> Chosen:
    by_name = {kind.name: kind for kind in kinds}
    kind = by_name.get(name)
    if kind is None:
        raise UsageError(
            f"hints: expected {', '.join(by_name)} or auto, got {name!r}"
            f"{did_you_mean(name, by_name)}",
            hint="isotherm doctor lists what is there",
        )
    if kind.intrusive and not intrusive:
        raise UsageError(
            f"hints: {name} changes something in the target",
            hint="--intrusive allows it",
        )
    found = kind.probe()
    if not found.present:
        raise UnsupportedError(f"{name}: {found.why}", hint=found.command)
    return Chosen(name, found.why, kind.make(machine, config, changes))
