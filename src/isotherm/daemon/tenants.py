"""Tenants of a live host: whose memory is whose, what each holds, causes and pays."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
import structlog
from numpy.typing import NDArray

from isotherm.core.errors import IsothermError, UsageError
from isotherm.core.units import PAGE_BYTES
from isotherm.daemon.tenant_members import Found, read_mems, read_numa_stat
from isotherm.daemon.why_live import pid_of
from isotherm.loop.epoch import Step
from isotherm.machine.linux.targets.discover import (
    derive_descendants,
    read_members,
    read_parents,
    read_task_mark,
)
from isotherm.machine.protocol import NOT_PRESENT, Machine, Space
from isotherm.migration.ranks import rank_column
from isotherm.policy.tenant_file import Member
from isotherm.policy.tenant_ledger import TenantLedger, count_held
from isotherm.policy.tenant_market import TenantMarket
from isotherm.policy.tenants import (
    Amount,
    Labeller,
    Tenancy,
    Tenant,
    first_tier,
    last_tier,
    places,
)
from isotherm.topology.model import Topology

if TYPE_CHECKING:
    from isotherm.daemon.service import Service

#: Pages that estimates are made from, and how fast they are followed.
ASKED_PAGES: Final = 1 << 14
SMOOTH: Final = 0.2
#: Epochs from one look at the tenants' cpusets to the next: a small file each.
MEMS_EPOCHS: Final = 16

Floats = NDArray[np.float64]

log = structlog.get_logger()


@runtime_checkable
class Shared(Protocol):
    """A policy that goes on when its tenants are others."""

    def take_tenancy(self, tenancy: Tenancy) -> None:
        """Go on with these; what has been learnt stays."""
        ...


class LiveTenants:
    """The tenants of one run; an observer of its service.

    Args:
        found: Who they are.
        topology: The host's.
        fast_bytes: Capacity of the fastest tier.
        lenient: Leave out of the terms what cannot be kept here, and say so.

    Raises:
        UsageError: The guarantees are more than the tier, or a tenant is guaranteed
            memory that its cpuset forbids.
    """

    def __init__(
        self,
        found: Found,
        topology: Topology,
        fast_bytes: int,
        *,
        lenient: bool = False,
    ) -> None:
        self._found, self._fast_bytes = found, fast_bytes
        if not lenient:
            found.file.tenancy.check_capacity(fast_bytes, found.file.name)
        self._tenancy = self._bind(found, topology, lenient=lenient)
        self._unit_bytes = PAGE_BYTES
        self._rest = len(self._tenancy.tenants)
        self._label: dict[int, int] = {}
        self._mark, self._parents = "", dict[int, int]()
        self._version = 0
        self._looked_up = -1  # epoch in which members were read last
        self._epoch = 0
        self.labeller = Labeller(self._tenant_of, self._rest, lambda: self._version)
        count = self._rest + 1
        self._ledger = TenantLedger(count, rank_column(topology, 256))
        self._cpu_ns = 0.0
        self._held = np.zeros((count, 2), np.int64)  # pages: fast, all
        self._seen = np.full((count, 2), np.nan)  # accesses a second: fast, all
        self._slowdown = np.full(count, np.nan)
        self._market: TenantMarket | None = None
        self._lock = RLock()  # the loop's thread renews what others are told
        self.read_members()

    def _bind(
        self, found: Found, topology: Topology, *, lenient: bool = False
    ) -> Tenancy:
        """Return the terms with the nodes that cpusets allow.

        Args:
            found: Who they are.
            topology: The host's.
            lenient: Leave out of the terms what cannot be kept here, and say so.

        Raises:
            UsageError: A tenant is guaranteed memory that its cpuset forbids.
        """
        tenancy = found.file.tenancy
        tenants = []
        self._mems = tuple(None if c is None else read_mems(c) for c in found.cgroups)
        for tenant, cgroup, mems in zip(
            tenancy.tenants, found.cgroups, self._mems, strict=True
        ):
            bound = replace(tenant, nodes=mems)
            own = tenant.guarantee.pages(self._fast_bytes // PAGE_BYTES, 1, PAGE_BYTES)
            if lenient:
                bound = _possible(bound, topology)
            elif own and mems is not None and first_tier(bound, topology) > 0:
                fast = ", ".join(map(str, topology.tiers[0].nodes))
                raise UsageError(
                    f"{found.file.name}: tenant {tenant.name!r}: guarantee: the fastest"
                    f" tier is node {fast}, and cpuset.mems of {cgroup} allows"
                    f" {', '.join(map(str, sorted(mems)))}",
                    hint="leave guarantee out, or widen cpuset.mems",
                )
            tenants.append(bound)
        return replace(tenancy, tenants=tuple(tenants))

    def renew(self, found: Found, service: "Service") -> None:
        """Go on with other tenants, between two epochs; who stays, by name, stays.

        Costs a pass over the labels, a byte a page, and the policy some epochs until
        prices have settled for those who have come. What cannot be kept of their
        terms is left out.
        """
        tenancy = self._bind(found, service.machine.topology, lenient=True)
        place = places(tenancy.names, self._tenancy.names)
        with self._lock:
            self._take(found, tenancy, place)
        policy = service.gate.inner
        if isinstance(policy, Shared):
            policy.take_tenancy(self.tenancy(service.unit_pages))

    def _take(self, found: Found, tenancy: Tenancy, place: NDArray[np.int64]) -> None:
        came = place < 0
        self._found, self._tenancy = found, tenancy
        self._rest = len(tenancy.tenants)
        self._ledger.regroup(place)
        self._held = np.where(came[:, None], 0, self._held[place])
        self._seen = np.where(came[:, None], np.nan, self._seen[place])
        self._slowdown = np.where(came, np.nan, self._slowdown[place])
        self.read_members()
        self._version += 1
        self.labeller.regroup(self._rest)

    def tenancy(self, unit_pages: int) -> Tenancy:
        """Return the terms, in units of so many pages."""
        self._unit_bytes = unit_pages * PAGE_BYTES
        return replace(self._tenancy, page_bytes=self._unit_bytes)

    # ---- whose a page is

    def _tenant_of(self, space: Space) -> int:
        pid = pid_of(space)
        if pid is None:
            return self._rest
        if pid not in self._label and self._looked_up < self._epoch:
            self.read_members()
        return self._label.get(pid, self._rest)

    def read_members(self) -> None:
        """See which process is whose; labels change where one has moved."""
        self._looked_up = self._epoch
        label: dict[int, int] = {}
        for place, (member, cgroup) in enumerate(
            zip(self._found.file.members, self._found.cgroups, strict=True)
        ):
            for pid in self._processes(member, cgroup):
                label.setdefault(pid, place)
        if label != self._label:
            self._label = label
            self._version += 1

    def _processes(self, member: Member, cgroup: Path | None) -> Iterable[int]:
        """Return the processes of a tenant; none of a cgroup that has gone."""
        pids = set(member.pids)
        if pids:
            pids |= derive_descendants(self._parents_now(), member.pids).keys()
        if cgroup is not None:
            try:
                pids |= read_members(cgroup)
            except IsothermError as error:
                log.debug("tenant", cgroup=str(cgroup), why=error.message)
        return pids

    def _parents_now(self) -> dict[int, int]:
        """Return the parents of all processes; read again when a task has come or gone.

        All of /proc is dear where there are thousands.
        """
        mark = read_task_mark()
        if not mark or mark != self._mark:
            self._mark, self._parents = mark, read_parents()
        return self._parents

    # ---- what each holds and causes

    def observe(self, service: "Service", step: Step) -> None:
        """Take in one epoch."""
        with self._lock:
            self._observe(service, step)

    def _observe(self, service: "Service", step: Step) -> None:
        self._epoch = service.epochs + 1
        self.read_members()
        machine = service.machine
        label = self.labeller.of(machine.spaces, machine.pages)
        node = machine.placement()
        self._ledger.regrade(service.rank, service.unit_pages)
        market = getattr(service.gate.inner, "tenants", None)
        self._market = market if isinstance(market, TenantMarket) else None
        self._hold(label[: len(node)], node, service.rank, service.unit_pages)
        if step.hotness is not None:
            self._estimate(service, step, label, node)
        work = self._seen[:, 1]
        self._ledger.moved(step.outcome, label, self._market)
        self._ledger.looked(
            step.hints, label, None if np.isnan(work).all() else np.nan_to_num(work)
        )
        self._ledger.spent(max(0.0, service.costs.cpu_ns - self._cpu_ns), label)
        self._cpu_ns = service.costs.cpu_ns
        if self._epoch % MEMS_EPOCHS == 0:
            self._follow_mems(service)

    def _follow_mems(self, service: "Service") -> None:
        """Go on with the nodes that cpusets allow now, where they are others."""
        mems = tuple(None if c is None else read_mems(c) for c in self._found.cgroups)
        if mems != self._mems:
            log.info(
                "cpusets", allowed=[None if m is None else sorted(m) for m in mems]
            )
            self.renew(self._found, service)

    def _hold(
        self,
        label: NDArray[np.uint8],
        node: NDArray[np.uint8],
        rank: NDArray[np.int64],
        unit_pages: int,
    ) -> None:
        held = np.zeros((self._rest + 1, 256), np.int64)
        count_held(label, node, held)
        held[:, NOT_PRESENT] = 0
        self._held[:, 0] = held[:, rank == 0].sum(1) * unit_pages
        self._held[:, 1] = held.sum(1) * unit_pages

    def _estimate(
        self,
        service: "Service",
        step: Step,
        label: NDArray[np.uint8],
        node: NDArray[np.uint8],
    ) -> None:
        """Follow accesses and slowdown of each, from a sample of the pages."""
        view = step.hotness
        stride = max(1, len(node) // ASKED_PAGES)
        page = np.arange(service.epochs % stride, len(node), stride, dtype=np.uint32)
        page = page[node[page] != NOT_PRESENT]
        if view is None or len(page) == 0:
            return
        count = self._rest + 1
        rate = view.rate(page).astype(np.float64) * stride
        latency = service.machine.latency_ns().mean(0)
        best = latency[service.rank[: len(latency)] == 0].min()
        fast = service.rank[node[page]] == 0
        whose = label[page]
        now = np.zeros((count, 2))
        now[:, 0] = np.bincount(whose[fast], rate[fast], count)[:count]
        now[:, 1] = np.bincount(whose, rate, count)[:count]
        stall = np.bincount(whose, rate * latency[node[page]], count)[:count]
        stall = stall.astype(np.float64)
        slowdown = np.where(
            now[:, 1] > 0, stall / np.maximum(now[:, 1] * best, 1e-12), np.nan
        )
        self._seen = _followed(self._seen, now)
        self._slowdown = _followed(self._slowdown, slowdown)

    def report(self, *, nodes: bool = True) -> list[dict[str, Any]]:
        """Return every tenant, and the rest where it holds anything, in raw units.

        Args:
            nodes: Read what the kernel charges the cgroups for, too.
        """
        with self._lock:
            return self._report(nodes=nodes)

    def _report(self, *, nodes: bool) -> list[dict[str, Any]]:
        states = () if self._market is None else self._market.states
        by_name = {state.name: state for state in states}
        out = []
        slots = self._fast_bytes // PAGE_BYTES
        bills = self._ledger.bills()
        for place, tenant in enumerate(self._tenancy.all):
            held_fast, held = self._held[place].tolist()
            if place == self._rest and not held:
                continue
            state = by_name.get(tenant.name)
            rate = float(self._seen[place, 1])
            cgroup = None if place == self._rest else self._found.cgroups[place]
            on_nodes = read_numa_stat(cgroup) if nodes and cgroup else None
            own = tenant.guarantee.pages(slots, held, PAGE_BYTES)
            unit = self._unit_bytes
            out.append(
                {
                    "name": tenant.name,
                    "profile": tenant.profile,
                    "cgroup": None if cgroup is None else str(cgroup),
                    "pids": sorted(p for p, t in self._label.items() if t == place),
                    "weight": tenant.weight,
                    "bytes": held * PAGE_BYTES,
                    "fast_bytes": held_fast * PAGE_BYTES,
                    "node_bytes": on_nodes,
                    "guarantee_bytes": own * PAGE_BYTES,
                    "maximum_bytes": PAGE_BYTES
                    * tenant.maximum.pages(slots, held, PAGE_BYTES),
                    "borrowed_bytes": max(0, held_fast - own) * PAGE_BYTES,
                    "lent_bytes": max(0, min(own, held) - held_fast) * PAGE_BYTES,
                    "owed_bytes": None if state is None else state.owed_pages * unit,
                    "price_ns": None if state is None else state.price_ns,
                    "pool": None if state is None else state.pool,
                    "accesses_per_s": _known(rate),
                    "fast_share": _known(self._seen[place, 0] / rate)
                    if rate > 0
                    else None,
                    "slowdown": _known(self._slowdown[place]),
                    **asdict(bills[place]),
                }
            )
        return out


def _possible(tenant: Tenant, topology: Topology) -> Tenant:
    """Return the terms without what cannot be kept on this host; say what."""
    less: tuple[dict[str, Any], ...] = (
        {},
        {"keep_out": frozenset()},
        {"nodes": None},
    )
    for left_out in less:
        tenant = replace(tenant, **left_out)
        try:
            last_tier(tenant, topology)
        except UsageError as error:
            log.warning("tenant", name=tenant.name, why=error.message)
            continue
        break
    if first_tier(tenant, topology) > 0 and tenant.guarantee != Amount(share=0.0):
        log.warning("tenant", name=tenant.name, why="may not be in the fastest tier")
        tenant = replace(tenant, guarantee=Amount(share=0.0))
    return tenant


def _followed(before: Floats, now: Floats) -> Floats:
    """Return the smoothed figures; what is not known now stays as it was."""
    first = np.isnan(before)
    out = np.where(first, now, before + SMOOTH * (now - before))
    kept: Floats = np.where(np.isnan(now), before, out)
    return kept


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def live_tenants(found: Found | None, machine: Machine) -> LiveTenants | None:
    """Return the tenants of a run on a host; None where there are none.

    Raises:
        UsageError: As of `LiveTenants`.
    """
    if found is None:
        return None
    return LiveTenants(found, machine.topology, fast_capacity(machine))


def fast_capacity(machine: Machine) -> int:
    """Return the bytes of the fastest tier."""
    fast = list(machine.topology.tiers[0].nodes)
    return int(machine.usage().capacity_pages[fast].sum()) * PAGE_BYTES
