"""Which hint sources a run looks with: those that are there, best first.

By default only sources that change nothing in the target: no ptrace, no
userfaultfd, no split mappings. Those that do are used where ``--intrusive`` is
given for the target.
"""

from importlib import import_module
from typing import Any, Final

import structlog

from isotherm.core import privileged
from isotherm.core.availability import Availability
from isotherm.core.changes import HostChanges
from isotherm.core.errors import UnsupportedError, UsageError
from isotherm.core.suggest import did_you_mean
from isotherm.daemon.config import Config
from isotherm.daemon.source_kind import Chosen, Kind, LiveSource, Tiered, Wants
from isotherm.daemon.sources_hardware import HARDWARE, initiators_of_cpus
from isotherm.machine.linux.machine import LinuxMachine

__all__ = [
    "KINDS",
    "Chosen",
    "Kind",
    "LiveSource",
    "Tiered",
    "check_intrusive",
    "check_names",
    "choose_sources",
]

#: Blocks of eight pages put out in an epoch; for the policy reclaim in a second, as
#: many as it asks for.
PAGE_OUT_BLOCKS: Final = 32
RECLAIM_BLOCKS_S: Final = 64.0

#: Of the budget, that looking at accessed bits uses whatever the policy asks for.
HASTE: Final = 0.25

#: Those that do with what a mover may do for a session without rights. The others look
#: at the memory of the whole host, at every process on a CPU, or into a target.
UNPRIVILEGED: Final = ("damon", "hint-fault", "accessed-range", "page-out")

log = structlog.get_logger()


def _bits(module: str, reader: str, name: str, *, asks: bool) -> Kind:
    """Return a kind that reads accessed bits of single pages.

    Args:
        module: Of the reader, in ``hints.live``.
        reader: Its class.
        name: Of the kind.
        asks: Whether it asks processes to do something, and so for the processes.
    """

    def driver() -> Any:
        return getattr(import_module(f"isotherm.hints.live.{module}"), reader)

    def make(wants: Wants) -> LiveSource:
        from isotherm.hints.live.accessed_bits import (  # noqa: PLC0415  # lazily
            LiveAccessedBits,
        )

        options = {"process_of": wants.process_of} if asks else {}
        return LiveAccessedBits(
            driver()(**options),
            wants.machine.space_map,
            wants.epoch_ns,
            budget=wants.budget,
            haste=HASTE,
            now_ns=wants.machine.clock.now_ns,
        )

    return Kind(name, False, True, lambda: _fact(driver().probe()), make)


def _damon() -> Kind:
    """Return DAMON: regions of the processes' memory, and single pages in it."""

    def probe() -> Availability:
        from isotherm.hints.live.damon import DamonRegions  # noqa: PLC0415  # lazily

        return DamonRegions.probe()

    def make(wants: Wants) -> LiveSource:
        from isotherm.hints.live.damon import DamonRegions  # noqa: PLC0415  # lazily
        from isotherm.hints.live.damon_admin import DamonAdmin  # noqa: PLC0415

        return DamonRegions(
            wants.machine.space_map,
            DamonAdmin(wants.changes, 1),
            budget=wants.budget / 2,
            now_ns=wants.machine.clock.now_ns,
        )

    return Kind("damon", False, True, probe, make)


def _hint_fault() -> Kind:
    def probe() -> Availability:
        from isotherm.hints.live.page_fault import PageFaultSource  # noqa: PLC0415

        return PageFaultSource.probe()

    def make(wants: Wants) -> LiveSource:
        from isotherm.hints.live.page_fault import PageFaultSource  # noqa: PLC0415

        return PageFaultSource(
            wants.machine.space_map,
            wants.machine.clock,
            placement=wants.machine.placement,
            fast_nodes=wants.machine.topology.tiers[0].nodes,
            initiator_of_cpu=initiators_of_cpus(wants.machine.topology),
            changes=wants.changes,
        )

    return Kind("hint-fault", False, False, probe, make)


def _accessed_range() -> Kind:
    def probe() -> Availability:
        from isotherm.hints.live.accessed_range import AccessedRanges  # noqa: PLC0415

        return AccessedRanges.probe()

    def make(wants: Wants) -> LiveSource:
        from isotherm.hints.live.accessed_range import AccessedRanges  # noqa: PLC0415

        return AccessedRanges(
            wants.machine.space_map,
            budget=wants.budget / 2,
            intrusive=wants.intrusive,
            now_ns=wants.machine.clock.now_ns,
            process_of=wants.process_of,
        )

    return Kind("accessed-range", False, False, probe, make)


def _page_out() -> Kind:
    def probe() -> Availability:
        from isotherm.hints.live.page_out import PageOutSource  # noqa: PLC0415  # lazily

        return PageOutSource.probe()

    def make(wants: Wants) -> LiveSource:
        from isotherm.hints.live.page_out import PageOutSource  # noqa: PLC0415  # lazily

        reclaims, blocks = wants.config.loop.policy == "reclaim", PAGE_OUT_BLOCKS
        if reclaims:
            blocks = max(1, round(RECLAIM_BLOCKS_S * wants.config.loop.epoch_s))
        return PageOutSource(
            wants.machine.space_map,
            wants.machine.clock,
            sample_blocks=blocks,
            keep_out=reclaims,  # what nobody touches is to go out anyway
            seed=wants.config.loop.seed,
            process_of=wants.process_of,
        )

    return Kind("page-out", False, False, probe, make)


def _write_tracking() -> Kind:
    def probe() -> Availability:
        from isotherm.hints.live.write_tracking import (  # noqa: PLC0415  # lazily
            WriteTrackingSource,
        )

        return WriteTrackingSource.probe()

    def make(wants: Wants) -> LiveSource:
        from isotherm.hints.live.write_tracking import (  # noqa: PLC0415  # lazily
            WriteTrackingSource,
        )

        return WriteTrackingSource(
            wants.machine.space_map,
            wants.machine.clock,
            intrusive=wants.intrusive,
            seed=wants.config.loop.seed,
            process_of=wants.process_of,
        )

    return Kind("write-tracking", True, False, probe, make)


#: Best first: bits of every page; DAMON's regions; faults; what the hardware counts
#: and samples; what is left.
KINDS: Final = (
    _bits("idle_page", "IdlePageBits", "idle-page", asks=False),
    _bits("page_table", "PageTableBits", "page-table", asks=True),
    _damon(),
    _hint_fault(),
    *HARDWARE,
    _accessed_range(),
    _page_out(),
    _write_tracking(),
)


def choose_sources(
    machine: LinuxMachine,
    config: Config,
    changes: HostChanges,
    *,
    intrusive: bool = False,
    kinds: tuple[Kind, ...] = KINDS,
) -> tuple[Chosen, ...]:
    """Return the sources to look with; none is open yet.

    ``["auto"]`` takes the first that is there and sees enough by itself, else all
    that are there; with ``intrusive`` also those that change something in the
    target. Named ones are all taken, or refused.

    Raises:
        UsageError: A name is not known, or needs ``--intrusive``.
        UnsupportedError: A named one, or all of them, are not there.
    """
    allowed = frozenset(machine.follower.targets) if intrusive else frozenset[int]()
    wants = Wants(machine, config, changes, allowed)
    names = tuple(config.sources.use)
    kinds = _for_rights(kinds)
    if names != ("auto",):
        return tuple(_named(name, wants, kinds, intrusive=intrusive) for name in names)
    chosen: list[Chosen] = []
    missing: list[Availability] = []
    enough = False
    for kind in kinds:
        if (kind.intrusive and not intrusive) or (enough and not kind.intrusive):
            continue
        found = kind.probe()
        if not found.present:
            missing.append(found)
        elif kind.enough:
            chosen = [Chosen(kind.name, found.why, kind.make(wants))]
            enough = True
        else:
            chosen.append(Chosen(kind.name, found.why, kind.make(wants)))
    if not chosen:
        raise UnsupportedError(
            "nothing to look with: "
            + "; ".join(f"{fact.name}: {fact.why}" for fact in missing),
            hint=next((f.command for f in missing if f.command), "isotherm doctor"),
        )
    return tuple(chosen)


def check_names(
    names: tuple[str, ...], *, intrusive: bool, kinds: tuple[Kind, ...] = KINDS
) -> None:
    """Check named sources before there is a machine to look at.

    Raises:
        UsageError: A name is not known, or needs ``--intrusive``.
        UnsupportedError: One is not there.
    """
    if names != ("auto",):
        for name in names:
            _find(name, kinds, intrusive=intrusive)


def check_intrusive(
    names: tuple[str, ...], *, intrusive: bool, kinds: tuple[Kind, ...] = KINDS
) -> None:
    """Check that named sources may do what they do; the host is not asked.

    Raises:
        UsageError: One changes something in the target, which nobody has allowed.
    """
    for kind in kinds:
        if kind.name in names and kind.intrusive and not intrusive:
            raise UsageError(
                f"hints: {kind.name} changes something in the target",
                hint="--intrusive allows it",
            )


def _for_rights(kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
    """Return the kinds that a session may use; those it may not are said once."""
    if privileged.broker() is None:
        return kinds
    out = [kind.name for kind in kinds if kind.name not in UNPRIVILEGED]
    log.info("left-out", sources=out, why="they need more than --user leaves")
    return tuple(kind for kind in kinds if kind.name in UNPRIVILEGED)


def _find(
    name: str, kinds: tuple[Kind, ...], *, intrusive: bool
) -> tuple[Kind, Availability]:
    by_name = {kind.name: kind for kind in kinds}
    kind = by_name.get(name)
    if kind is None and name in {one.name for one in KINDS}:
        raise UnsupportedError(
            f"hints: {name} needs more rights than --user leaves",
            hint=f"one of {', '.join(by_name)}, or leave --user out",
        )
    if kind is None:
        raise UsageError(
            f"hints: expected {', '.join(by_name)} or auto, got {name!r}"
            f"{did_you_mean(name, by_name)}",
            hint="isotherm doctor lists what is there",
        )
    check_intrusive((name,), intrusive=intrusive, kinds=(kind,))
    found = kind.probe()
    if not found.present:
        raise UnsupportedError(f"{name}: {found.why}", hint=found.command)
    return kind, found


def _named(
    name: str, wants: Wants, kinds: tuple[Kind, ...], *, intrusive: bool
) -> Chosen:
    kind, found = _find(name, kinds, intrusive=intrusive)
    return Chosen(name, found.why, kind.make(wants))


def _fact(found: Any) -> Availability:
    """Return what a driver that is found by name says of itself."""
    assert isinstance(found, Availability)  # noqa: S101  # each driver's probe
    return found
