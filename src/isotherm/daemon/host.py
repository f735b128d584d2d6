"""A live host opened for one run: machine, hint sources, engine."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import structlog

from isotherm.core.changes import HostChanges
from isotherm.core.descriptors import as_many_as_allowed
from isotherm.core.errors import UnsupportedError
from isotherm.core.units import NS_PER_S, PAGE_BYTES
from isotherm.daemon.budget import choose_unit, state_bytes
from isotherm.daemon.canary import OUTSIDE, Canary
from isotherm.daemon.coarse import CoarseMachine, CoarseSource
from isotherm.daemon.config import Config
from isotherm.daemon.cpu_live import OwnersNamed, Sockets
from isotherm.daemon.service import Grain, RunEngine, Service
from isotherm.daemon.sources import Chosen, Tiered, choose_sources
from isotherm.hints.batch import HintSource
from isotherm.loop.epoch import Step
from isotherm.machine.linux.machine import LinuxMachine
from isotherm.machine.linux.mappings import MappingPolicy
from isotherm.machine.linux.targets.follow import (
    Claims,
    EventKind,
    Follower,
    TargetEvent,
)
from isotherm.machine.protocol import Machine
from isotherm.migration.background import BackgroundEngine
from isotherm.topology.model import Topology

#: Of the CPU budget, for reading where pages are.
PLACEMENT_SHARE: Final = 0.1

log = structlog.get_logger()


@dataclass(slots=True)
class Host:
    """What a run works with; closed with the context that gave it.

    Attributes:
        machine: The host.
        chosen: The hint sources that are open.
        config: Settings.
        unit: Pages in a unit of what is above the machine.
        engine: The engine that was made last.
        waits: Somebody may come where nobody is: pods.
    """

    machine: LinuxMachine
    chosen: tuple[Chosen, ...]
    config: Config
    dry_run: bool = False
    unit: int = 1
    engine: BackgroundEngine | None = None
    waits: bool = False
    refused: list[str] = field(default_factory=list)
    sockets: Sockets = field(init=False)

    def __post_init__(self) -> None:
        self.sockets = Sockets(self.machine)

    @property
    def sources(self) -> tuple[HintSource, ...]:
        """The open hint sources, in units."""
        plain: list[HintSource] = [chosen.source for chosen in self.chosen]
        if self.unit > 1:
            plain = [CoarseSource(one.source, self.unit) for one in self.chosen]
        if not self.sockets.matter:
            return tuple(plain)
        machine, sockets = self.machine, self.sockets
        return tuple(OwnersNamed(one, machine, sockets, self.unit) for one in plain)

    @property
    def units(self) -> Machine:
        """The machine in units."""
        machine = self.machine
        return machine if self.unit == 1 else CoarseMachine(machine, self.unit)

    @property
    def grain(self) -> Grain:
        """Machine and sources in units."""
        return Grain(self.units, self.sources, self.unit)

    def pids(self) -> tuple[int, ...]:
        """Return the managed processes, ascending."""
        return tuple(sorted(self.machine.follower.targets))

    def alive(self) -> bool:
        """Return whether anything is left to manage; an empty cgroup may fill."""
        follower = self.machine.follower
        if follower.cgroups or self.waits:
            return True
        return any(target.process.alive() for target in follower.targets.values())

    def make_engine(self, machine: Machine) -> RunEngine:
        """Return the engine that moves for this run."""
        migration, brake = self.config.migration, self.config.brake
        share, unit_bytes = 0.0, self.unit * PAGE_BYTES
        if brake.enabled and not self.dry_run:
            share = brake.hold_back_percent / 100
        self.engine = BackgroundEngine(
            machine,
            epoch_ns=round(self.config.loop.epoch_s * NS_PER_S),
            quota_pages_per_s=migration.limit_mib_s * (1 << 20) / unit_bytes,
            batch_pages=max(1, migration.batch_pages // self.unit),
            max_tries=migration.tries,
            hold_back_share=share,
            seed=self.config.loop.seed,
        )
        return cast("RunEngine", self.engine)  # close() also says whether it is done

    def coarser(self) -> Grain | None:
        """Return larger units where memory has outgrown those at hand, else None."""
        unit = _unit(self.machine, self.config, self.unit)
        if unit <= self.unit:
            return None
        self.unit = unit
        return self.grain

    def watch(self, service: Service, step: Step) -> None:
        """Log what has happened to processes, and tell sources of other tiers.

        An observer of the service.
        """
        self.tell(self.machine.take_events())
        topology = None if step.change is None else step.change.topology
        if topology is not None:
            for chosen in self.chosen:
                if isinstance(chosen.source, Tiered):
                    chosen.source.take_tiers(topology)

    def tell(self, events: Sequence[TargetEvent]) -> None:
        """Log what has happened to processes."""
        for event in events:
            what, comm = event.kind.value, event.comm
            if event.why == OUTSIDE:
                log.debug("target", what=what, pid=event.pid, why=event.why)
            elif event.kind is EventKind.REFUSED:
                self.refused.append(event.why)
                log.warning("target", what=what, pid=event.pid, why=event.why)
            elif event.kind not in (EventKind.THREADS, EventKind.MAPPED):
                log.info("target", what=what, pid=event.pid, comm=comm)
            else:
                log.debug("target", what=what, pid=event.pid, detail=event.detail)

    def serving(self, service: Service) -> AbstractContextManager[object]:
        """Do what goes on beside a run of the service."""
        service.observers.append(self.watch)
        return nullcontext()

    def result(self) -> dict[str, Any]:
        """Return what the machine adds to a run's result."""
        machine = self.machine
        return {
            "unit_pages": self.unit,
            "sources": [chosen.to_dict() for chosen in self.chosen],
            "pids": list(self.pids()),
            "left_out_pages": machine.left_out(),
            "aliased_pages": machine.shared.aliased_pages,
            "unmovable_pages": machine.unmovable_pages(),
            "refused_targets": self.refused,
        }


@contextmanager
def open_host(
    pids: tuple[int, ...],
    cgroup: Path | None,
    config: Config,
    changes: HostChanges,
    *,
    intrusive: bool = False,
    needs_sources: bool = True,
    dry_run: bool = False,
    claims: Claims | None = None,
    cgroups: tuple[Path, ...] = (),
) -> Iterator[Host]:
    """Open this host for the processes that are named.

    Processes that are found later are claimed first, where ``claims`` is given;
    ``cgroups`` are those of tenants.

    Raises:
        TargetGoneError: A process or the cgroup is not there.
        NotPermittedError: It may not be looked into, or its pages not moved.
        UnsupportedError: One tier only, or nothing to look with.
    """
    share = config.target.canary_percent / 100
    if cgroup is not None and share < 1:
        claims = Canary(share, claims)
    with ExitStack() as stack:
        stack.enter_context(as_many_as_allowed())
        named = () if cgroup is None else (cgroup,)
        memory = config.memory
        policy = MappingPolicy(shmem=memory.shared, file=memory.files)
        everyone = (*named, *cgroups)
        follower = Follower(pids, everyone, policy=policy, claims=claims)
        stack.callback(follower.close)
        machine = LinuxMachine(
            follower,
            placement_budget_ns=placement_ns(config),
            move_all=memory.shared or memory.files,
        )
        check_tiers(machine.topology)
        chosen: tuple[Chosen, ...] = ()
        if needs_sources:
            chosen = choose_sources(machine, config, changes, intrusive=intrusive)
            for one in chosen:
                stack.callback(one.close)
                one.open()
        host = Host(machine, chosen, config, dry_run, _unit(machine, config))
        host.tell(machine.take_events())
        # The thread that moves ends before sources close and descriptors go.
        stack.callback(lambda: host.engine.close() if host.engine else None)
        yield host


def placement_ns(config: Config) -> float:
    """Return the time of an epoch for reading where pages are, from the CPU budget.

    >>> placement_ns(Config())
    2000000.0
    """
    budget_ns = config.loop.epoch_s * NS_PER_S * config.budget.cpu_percent / 100
    return PLACEMENT_SHARE * budget_ns


def _unit(machine: LinuxMachine, config: Config, now: int = 1) -> int:
    """Return the pages of a unit that keep the memory budget; say if they are more.

    Args:
        machine: What is managed.
        config: The budget.
        now: Pages of a unit so far.
    """
    budget = config.budget
    floor_bytes = budget.memory_floor_mib * (1 << 20)
    unit = choose_unit(machine.pages, budget.memory_permille, floor_bytes)
    if unit > now:
        log.info(
            "coarser",
            unit_pages=unit,
            state_bytes=round(state_bytes(machine.pages, unit)),
            budget_permille=budget.memory_permille,
        )
    return unit


def check_tiers(topology: Topology) -> None:
    """Check that there is something to move between, or that there may be.

    A node that the kernel calls possible may get memory while the daemon runs: a
    CXL device that is onlined late.

    Raises:
        UnsupportedError: There is one tier, and no node that may come.
    """
    tiers = topology.tiers
    if len(tiers) < 2:
        nodes = ", ".join(str(n) for tier in tiers for n in tier.nodes)
        may_come = [node.id for node in topology.nodes if not node.has_memory]
        if may_come:
            log.warning("one-tier", nodes=nodes, may_come=may_come)
            return
        raise UnsupportedError(
            f"this host has one memory tier (node {nodes}): nothing to move between",
            hint="swap on zram adds a compressed tier; isotherm demo needs no second"
            " one; docs/tutorial.md tries a guest that has two",
        )
